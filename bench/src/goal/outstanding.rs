//! Goal 10: remote pairs through the asynchronous API, with many calls outstanding in each client.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::Setting;
use super::programs::CLIENTS;
use crate::anchor::flood::{self, Calls, MESSAGES};
use crate::cluster::{Cluster, FORGETFUL, cpu_of, keys};
use crate::machine::{Cpus, pin};
use crate::report::{Bound, Line};
use crate::rounds::{Contender, Failure, alternate};

/// Calls outstanding in each client.
const OUTSTANDING: usize = 64;
/// Messages between nodes that a pair needs: ask, grant, give back, and its answer or acknowledgement.
const MESSAGES_PER_PAIR: f64 = 4.0;

/// Against what `sendmmsg` carries of messages of 64 bytes, counted in pairs of four messages.
pub(crate) fn run(setting: &Setting) -> Result<Vec<Line>, Failure> {
    let (cpus, window) = (setting.cpus, setting.plan.window);
    let cluster = Cluster::start(cpus, true)?;
    let table = alternate(
        &setting.plan,
        &mut [
            Contender::new("eight clients, 64 outstanding each", || {
                let before = cluster.counter("messages_sent")?;
                let rate = pairs(&cluster, cpus, window)?;
                let messages = cluster.counter("messages_sent")? - before;
                Ok(vec![rate, messages / (rate * window.as_secs_f64())])
            }),
            Contender::new("sendmmsg", || {
                let datagrams = flood::flood(cpus, Calls::Batched, window)?[0];
                Ok(vec![datagrams * MESSAGES as f64 / MESSAGES_PER_PAIR])
            }),
        ],
    )?;
    let line = Line::new(
        "remote pairs, 8 asynchronous clients, 64 outstanding each",
        "pairs/s",
        table.metric(0, 0).median,
        &table,
    )
    .goal(10)
    .mode("adaptive")
    .against(
        "sendmmsg, 4 messages a pair",
        Some(table.metric(1, 0).median),
        Some(table.ratio((0, 0), (1, 0))),
    )
    .stretch(Bound::AtLeast(0.15))
    .also("messages_per_pair", table.metric(0, 1).median);
    Ok(vec![line])
}

/// Pairs a second of all clients together.
fn pairs(cluster: &Cluster, cpus: Cpus, window: Duration) -> Result<f64, Failure> {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let failure = Mutex::new(None);
    let rate = thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (stop, done, failure) = (&stop, &done, &failure);
            scope.spawn(move || {
                let node = client % 2;
                pin(cpu_of(cpus, node));
                if let Err(why) = client_pairs(cluster, client, stop, done) {
                    *failure.lock().expect("no panic") = Some(why);
                    stop.store(true, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(window / 5);
        let (began, before) = (Instant::now(), done.load(Ordering::Relaxed));
        thread::sleep(window);
        let pairs = done.load(Ordering::Relaxed) - before;
        let rate = pairs as f64 / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        rate
    });
    failure.into_inner().expect("no panic").map_or(Ok(rate), Err)
}

fn client_pairs(
    cluster: &Cluster,
    client: usize,
    stop: &AtomicBool,
    done: &AtomicU64,
) -> Result<(), Failure> {
    let node = client % 2;
    // Two names for each call, so that a name is asked for again only after its release has gone out.
    let keys = keys(1, 1 - node, 100 + client, 2 * OUTSTANDING);
    let socket = cluster.socket(node);
    let mut executor = Executor::new();
    let space = executor.run_one(async { oarlock::Client::connect(socket).await?.space(FORGETFUL).await });
    let space = space.map_err(|e| e.to_string())?;
    let calls = keys.chunks(2).map(|keys| {
        let space = &space;
        async move {
            let mut turn = 0usize;
            while !stop.load(Ordering::Relaxed) {
                let guard = space.lock(&keys[turn % 2]).acquire().await.map_err(|e| e.to_string())?;
                drop(guard);
                done.fetch_add(1, Ordering::Relaxed);
                turn += 1;
            }
            Ok(())
        }
    });
    executor.run_all(calls.collect())
}

/// Polls what was woken, and sleeps when nothing was. As little as an executor can be.
struct Executor {
    thread: Thread,
}

struct Call {
    woken: AtomicBool,
    thread: Thread,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.thread.unpark();
        }
    }
}

impl Executor {
    fn new() -> Executor {
        Executor { thread: thread::current() }
    }

    fn call(&self) -> Arc<Call> {
        Arc::new(Call { woken: AtomicBool::new(true), thread: self.thread.clone() })
    }

    fn run_one<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let call = self.call();
        let waker = Waker::from(call.clone());
        loop {
            if call.woken.swap(false, Ordering::SeqCst)
                && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return value;
            }
            thread::park();
        }
    }

    fn run_all<F: Future<Output = Result<(), Failure>>>(&mut self, futures: Vec<F>) -> Result<(), Failure> {
        let mut running: Vec<(Pin<Box<F>>, Arc<Call>)> =
            futures.into_iter().map(|future| (Box::pin(future), self.call())).collect();
        let mut result = Ok(());
        while !running.is_empty() {
            let mut moved = false;
            running.retain_mut(|(future, call)| {
                if !call.woken.swap(false, Ordering::SeqCst) {
                    return true;
                }
                moved = true;
                let waker = Waker::from(call.clone());
                match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Pending => true,
                    Poll::Ready(end) => {
                        if end.is_err() {
                            result = end;
                        }
                        false
                    }
                }
            });
            if !moved && !running.is_empty() {
                thread::park();
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executor_runs_what_is_woken_until_all_are_done() {
        let count = AtomicU64::new(0);
        let call = |n: u64| {
            let count = &count;
            async move {
                for _ in 0..n {
                    let mut first = true;
                    std::future::poll_fn(|context| {
                        if std::mem::take(&mut first) {
                            let waker = context.waker().clone();
                            thread::spawn(move || waker.wake());
                            return Poll::Pending;
                        }
                        Poll::Ready(())
                    })
                    .await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                if n == 3 { Err("three".to_owned()) } else { Ok(()) }
            }
        };
        let mut executor = Executor::new();
        let result = executor.run_all(vec![call(1), call(3), call(5)]);
        assert_eq!((result, count.load(Ordering::Relaxed)), (Err("three".into()), 9));
        assert_eq!(executor.run_one(async { 7 }), 7);
    }
}
