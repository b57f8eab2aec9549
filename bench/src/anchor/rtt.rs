//! Round trips between two CPUs: by UDP, asleep and spinning, and by futex.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::futex;

use super::pair;
use crate::machine::{Cpus, pin};
use crate::rounds::{Failure, Times};

/// As long as a small lock message.
const BYTES: usize = 64;
/// Operations before the first that counts.
pub(crate) const WARM: usize = 200;

/// How a thread waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// In the kernel, the CPU is free.
    Sleep,
    /// Asking again and again.
    Spin,
}

impl Wait {
    /// One word for the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Wait::Sleep => "sleeping",
            Wait::Spin => "spinning",
        }
    }
}

/// Round trips of a datagram to the other CPU and back: median and 99th percentile in microseconds.
pub(crate) fn udp(cpus: Cpus, wait: Wait, window: Duration) -> Result<Vec<f64>, Failure> {
    let (a, b) = pair()?;
    let spin = wait == Wait::Spin;
    let setup = |socket: &UdpSocket| -> io::Result<()> {
        socket.set_nonblocking(spin)?;
        // So that nothing hangs if a datagram should be lost after all.
        socket.set_read_timeout(Some(Duration::from_secs(1)))
    };
    setup(&a).and_then(|()| setup(&b)).map_err(|e| e.to_string())?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            pin(cpus.1);
            let mut buffer = [0; BYTES];
            while !stop.load(Ordering::Relaxed) {
                if receive(&b, &mut buffer, stop).is_ok() {
                    let _ = b.send(&buffer);
                }
            }
        });
        let client = scope.spawn(move || {
            pin(cpus.0);
            let mut buffer = [0; BYTES];
            let times = measure(window, || {
                a.send(&buffer).map_err(|e| e.to_string())?;
                receive(&a, &mut buffer, stop).map_err(|e| format!("no echo: {e}"))
            });
            stop.store(true, Ordering::Relaxed);
            let _ = a.send(&buffer);
            times
        });
        client.join().expect("no panic")?.percentiles().map(Vec::from)
    })
}

fn receive(socket: &UdpSocket, buffer: &mut [u8], stop: &AtomicBool) -> io::Result<()> {
    loop {
        match socket.recv(buffer) {
            Ok(_) => return Ok(()),
            // Only a spinning socket says so at once; a sleeping one has waited for a second.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && !stop.load(Ordering::Relaxed) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Repeats an operation for a while and takes the time of each.
pub(crate) fn measure(
    window: Duration,
    mut operation: impl FnMut() -> Result<(), Failure>,
) -> Result<Times, Failure> {
    for _ in 0..WARM {
        operation()?;
    }
    let mut times = Times::default();
    let end = Instant::now() + window;
    loop {
        let began = Instant::now();
        operation()?;
        let done = Instant::now();
        times.push(done - began);
        if done >= end {
            return Ok(times);
        }
    }
}

/// Round trips of a word that two sleeping threads on two CPUs wait for in turn.
pub(crate) fn futex(cpus: Cpus, window: Duration) -> Result<Vec<f64>, Failure> {
    const STOP: u32 = u32::MAX;
    let (there, back) = (AtomicU32::new(0), AtomicU32::new(0));
    let flags = futex::Flags::PRIVATE;
    let set = |word: &AtomicU32, value: u32| {
        word.store(value, Ordering::SeqCst);
        futex::wake(word, flags, 1).map(|_| ()).map_err(|e| format!("futex: {e}"))
    };
    let leave = |word: &AtomicU32, value: u32| {
        loop {
            let now = word.load(Ordering::SeqCst);
            if now != value {
                return now;
            }
            // Woken, or not asleep because the word has changed already: the loop sees which.
            let _ = futex::wait(word, flags, value, None);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpus.1);
            let mut seen = 0;
            loop {
                seen = leave(&there, seen);
                if seen == STOP || set(&back, seen).is_err() {
                    return;
                }
            }
        });
        let client = scope.spawn(|| {
            pin(cpus.0);
            let mut turn = 0;
            let times = measure(window, || {
                set(&there, turn + 1)?;
                leave(&back, turn);
                turn += 1;
                Ok(())
            });
            set(&there, STOP)?;
            times
        });
        client.join().expect("no panic")?.percentiles().map(Vec::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_trip_takes_time_and_ends() {
        let cpus = Cpus::find().unwrap();
        let window = Duration::from_millis(20);
        for times in [udp(cpus, Wait::Sleep, window), udp(cpus, Wait::Spin, window), futex(cpus, window)] {
            let times = times.unwrap();
            assert!(times[0] > 0.1 && times[1] >= times[0], "{times:?}");
        }
    }
}
