//! How many datagrams a second go from one CPU to the other, if nothing is asked of them.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

use super::pair;
use crate::machine::{Cpus, pin};
use crate::rounds::Failure;

/// A full datagram, as circuits send them.
pub(crate) const DATAGRAM_BYTES: usize = 1400;
/// Messages of 64 bytes in a full datagram.
pub(crate) const MESSAGES: usize = 21;
/// Datagrams of one call.
const BATCH: usize = 64;
/// Datagrams that may be on their way: floods that overrun the receiver measure how fast one can lose.
const WINDOW: u64 = 512;
/// Room for that many on both sides.
const BUFFER_BYTES: usize = 4 << 20;
/// How long a receiver waits before it looks whether the sender is done.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// By which system calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Calls {
    /// One datagram each.
    Single,
    /// `sendmmsg` and `recvmmsg`, 64 datagrams each.
    Batched,
    /// One train each, cut and joined by the kernel.
    Trains,
}

/// Datagrams received in a second.
pub(crate) fn flood(cpus: Cpus, calls: Calls, window: Duration) -> Result<Vec<f64>, Failure> {
    let (from, to) = pair()?;
    for socket in [&from, &to] {
        // As much as the kernel gives; the window does the rest.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(socket, BUFFER_BYTES);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket, BUFFER_BYTES);
    }
    to.set_read_timeout(Some(Duration::from_millis(50))).map_err(|e| e.to_string())?;
    let received = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            pin(cpus.1);
            receive(&to, calls, &received, &done)
        });
        let sender = scope.spawn(|| {
            pin(cpus.0);
            let sent = send(&from, calls, window, &received);
            done.store(true, Ordering::Release);
            sent
        });
        let time = sender.join().expect("no panic")?;
        receiver.join().expect("no panic")?;
        Ok(vec![received.load(Ordering::Acquire) as f64 / time.as_secs_f64()])
    })
}

fn send(
    socket: &UdpSocket,
    calls: Calls,
    window: Duration,
    received: &AtomicU64,
) -> Result<Duration, Failure> {
    let state = UdpSocketState::new(socket.into()).map_err(|e| e.to_string())?;
    // Making the state has also made it one that does not block.
    socket.set_nonblocking(false).map_err(|e| e.to_string())?;
    let train = match calls {
        Calls::Single => 1,
        Calls::Batched => BATCH,
        Calls::Trains => (65_000 / DATAGRAM_BYTES).min(state.max_gso_segments()),
    };
    let bytes = vec![7; DATAGRAM_BYTES * train];
    let destination = socket.peer_addr().map_err(|e| e.to_string())?;
    let began = Instant::now();
    let (mut sent, mut stuck_at) = (0, began);
    while began.elapsed() < window {
        if sent >= received.load(Ordering::Relaxed) + WINDOW {
            // Lost datagrams never come back: after a while the window is taken to be empty.
            if stuck_at.elapsed() > Duration::from_millis(5) {
                sent = received.load(Ordering::Relaxed);
            }
            std::hint::spin_loop();
            continue;
        }
        let result = match calls {
            Calls::Single => socket.send(&bytes).map(drop),
            Calls::Batched => send_batch(socket, &bytes),
            Calls::Trains => {
                let size = Some(DATAGRAM_BYTES);
                let transmit =
                    Transmit { destination, ecn: None, contents: &bytes, segment_size: size, src_ip: None };
                state.try_send(socket.into(), &transmit)
            }
        };
        result.map_err(|e| format!("sending: {e}"))?;
        sent += train as u64;
        stuck_at = Instant::now();
    }
    Ok(began.elapsed())
}

fn send_batch(socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
    let slices: Vec<[IoSlice<'_>; 1]> = bytes.chunks(DATAGRAM_BYTES).map(|b| [IoSlice::new(b)]).collect();
    let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
        slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut headers: Vec<MMsgHdr<'_>> =
        slices.iter().zip(&mut controls).map(|(slice, control)| MMsgHdr::new(slice, control)).collect();
    sendmmsg(socket, &mut headers, SendFlags::empty())?;
    Ok(())
}

fn receive(socket: &UdpSocket, calls: Calls, received: &AtomicU64, done: &AtomicBool) -> Result<(), Failure> {
    if calls == Calls::Single {
        let mut buffer = [0; 2 * DATAGRAM_BYTES];
        return count(received, done, || socket.recv(&mut buffer).map(|_| 1));
    }
    // The kernel joins datagrams for whoever asks, which making the state does. What was sent in single
    // datagrams stays single: loopback has nothing that would join them.
    let state = UdpSocketState::new(socket.into()).map_err(|e| e.to_string())?;
    let (buffers, size) =
        if calls == Calls::Trains { (8, 1 << 16) } else { (BATCH_SIZE, 2 * DATAGRAM_BYTES) };
    let mut buffer = vec![0; buffers * size];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    count(received, done, || {
        let mut slices: Vec<IoSliceMut<'_>> = buffer.chunks_mut(size).map(IoSliceMut::new).collect();
        loop {
            match state.recv(socket.into(), &mut slices, &mut metas) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let mut wanted = [PollFd::new(socket, PollFlags::IN)];
                    if rustix::event::poll(&mut wanted, Some(&PAUSE))? == 0 {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
                Ok(n) => {
                    return Ok(metas[..n]
                        .iter()
                        .map(|meta| meta.len.div_ceil(meta.stride.max(1)) as u64)
                        .sum());
                }
            }
        }
    })
}

/// Receives until nothing comes any more after the sender is done.
fn count(
    received: &AtomicU64,
    done: &AtomicBool,
    mut receive: impl FnMut() -> io::Result<u64>,
) -> Result<(), Failure> {
    loop {
        match receive() {
            Ok(datagrams) => {
                received.fetch_add(datagrams, Ordering::Release);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if done.load(Ordering::Acquire) {
                    return Ok(());
                }
            }
            Err(e) => return Err(format!("receiving: {e}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_arrive_by_every_kind_of_call() {
        for calls in [Calls::Single, Calls::Batched, Calls::Trains] {
            let rate = flood(Cpus::find().unwrap(), calls, Duration::from_millis(200)).unwrap();
            assert!(rate[0] > 100.0, "{calls:?}: {rate:?}");
        }
    }
}
