//! The UDP socket of the circuits. Datagrams may vanish here at any moment: every send error is a lost
//! datagram, which the circuits repair, and is counted.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oarlock_layout::code::Code;
use quinn_udp::{RecvMeta, UdpSocketState};

use crate::problem::{Problem, Result};

/// Most buffers per receive call. Each must hold a whole train, so more would mostly be memory.
const BATCH: usize = 8;
/// The largest UDP payload, and the largest train the kernel joins for us.
const BUFFER_BYTES: usize = 64 << 10;
/// What one send call takes: a UDP payload over IPv4.
const TRAIN_BYTES_MAX: usize = 65_507;
/// Receive calls in one turn of the engine: a flood must not keep local programs waiting.
const RECEIVES_PER_TURN: usize = 8;
/// What is asked for; the kernel gives what `net.core.rmem_max` allows.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// What the socket has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Trains handed over in one call (GSO).
    pub trains_sent: u64,
    /// Sends that failed; their datagrams are lost.
    pub send_errors: u64,
    /// Trains the kernel refused and that went datagram by datagram.
    pub gso_refused: u64,
    /// Datagrams received.
    pub received: u64,
    /// Datagrams that arrived joined to others (GRO).
    pub trains_received: u64,
}

/// The socket, with segmentation offload where the kernel has it or without where it is told not to.
pub struct Datagrams {
    socket: UdpSocket,
    offload: Option<UdpSocketState>,
    buffers: Vec<u8>,
    batch: Batch,
    counts: Counts,
}

impl Datagrams {
    /// Binds `address`. `offload` false forces the plain calls, one datagram each.
    pub fn bind(address: SocketAddr, offload: bool) -> Result<Datagrams> {
        let fail = |e: &io::Error| {
            let what = format!("cannot listen on udp {address}");
            match e.kind() {
                io::ErrorKind::AddrInUse => Problem::io(Code::AddressInUse, what, e)
                    .try_next(format!("ss -lunp 'sport = :{}' names the other program", address.port())),
                io::ErrorKind::AddrNotAvailable => Problem::io(Code::AddressNotHere, what, e),
                io::ErrorKind::PermissionDenied => Problem::io(Code::BadConfig, what, e)
                    .because("ports below 1024 need a privilege")
                    .try_next("a port above 1023"),
                _ => Problem::io(Code::Failed, what, e),
            }
        };
        let socket = UdpSocket::bind(address).map_err(|e| fail(&e))?;
        socket.set_nonblocking(true).map_err(|e| fail(&e))?;
        // Best effort: small buffers lose datagrams under load, and the circuits resend them.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        Datagrams::on(socket, offload).map_err(|e| fail(&e))
    }

    /// The socket of a run that goes on in another program, made with the same `offload`. What came meanwhile waits in it.
    pub fn resume(socket: OwnedFd, offload: bool) -> Result<Datagrams> {
        Datagrams::on(socket.into(), offload)
            .map_err(|e| Problem::io(Code::Failed, "the socket of the circuits is lost", &e))
    }

    fn on(socket: UdpSocket, offload: bool) -> io::Result<Datagrams> {
        let offload = match offload {
            true => Some(UdpSocketState::new((&socket).into())?),
            false => None,
        };
        Ok(Datagrams {
            socket,
            offload,
            buffers: vec![0; BATCH * BUFFER_BYTES],
            batch: Batch::ONE,
            counts: Counts::default(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The most segments one train may have; 1 without offload.
    pub fn segments_max(&self) -> usize {
        self.offload.as_ref().map_or(1, UdpSocketState::max_gso_segments)
    }

    /// Whether the kernel joins arriving datagrams.
    pub fn joins(&self) -> bool {
        self.offload.as_ref().is_some_and(|o| o.gro_segments() > 1)
    }

    /// Hands waiting datagrams to `each`, within a bound; the socket stays ready if there are more. Returns how many
    /// there were.
    pub fn receive(&mut self, mut each: impl FnMut(SocketAddr, &mut [u8])) -> io::Result<usize> {
        let before = self.counts.received;
        for _ in 0..RECEIVES_PER_TURN {
            let full = match &self.offload {
                Some(offload) => {
                    let batch = self.batch.size;
                    let mut metas = [RecvMeta::default(); BATCH];
                    let mut slices = self.buffers.chunks_mut(BUFFER_BYTES).map(IoSliceMut::new);
                    let mut slices: [IoSliceMut<'_>; BATCH] =
                        std::array::from_fn(|_| slices.next().expect("one slice a buffer"));
                    match offload.recv((&self.socket).into(), &mut slices[..batch], &mut metas[..batch]) {
                        Ok(n) => {
                            self.batch = self.batch.after(n);
                            for (slice, meta) in slices.iter_mut().zip(&metas).take(n) {
                                let stride = meta.stride.max(1);
                                self.counts.trains_received += u64::from(meta.len > stride);
                                // An empty one has no chunk, but it came.
                                if meta.len == 0 {
                                    self.counts.received += 1;
                                    each(meta.addr, &mut []);
                                }
                                for datagram in slice[..meta.len].chunks_mut(stride) {
                                    self.counts.received += 1;
                                    each(meta.addr, datagram);
                                }
                            }
                            // One that was asked for and came is mostly all there is.
                            n == batch && batch > 1
                        }
                        Err(e) => return quiet(e).map(|()| (self.counts.received - before) as usize),
                    }
                }
                None => {
                    let mut n = 0;
                    while n < BATCH {
                        match self.socket.recv_from(&mut self.buffers[..BUFFER_BYTES]) {
                            Ok((bytes, from)) => {
                                self.counts.received += 1;
                                n += 1;
                                each(from, &mut self.buffers[..bytes]);
                            }
                            Err(e) => return quiet(e).map(|()| (self.counts.received - before) as usize),
                        }
                    }
                    true
                }
            };
            if !full {
                // The socket was empty after this call; asking again would cost a call to hear it.
                break;
            }
        }
        Ok((self.counts.received - before) as usize)
    }

    /// Sends one datagram, or a train of equal segments of `segment` bytes (the last may be shorter).
    pub fn send(&mut self, to: SocketAddr, bytes: &[u8], segment: Option<usize>) {
        let segment = segment.filter(|s| *s > 0 && *s < bytes.len());
        if let (Some(offload), Some(size)) = (&self.offload, segment) {
            let segments = offload.max_gso_segments().min(TRAIN_BYTES_MAX / size).max(1);
            for train in bytes.chunks(size * segments) {
                let sent = offload.try_send((&self.socket).into(), &transmit(to, train, Some(size)));
                match sent {
                    Ok(()) => {
                        self.counts.sent += train.len().div_ceil(size) as u64;
                        self.counts.trains_sent += 1;
                    }
                    Err(_) => {
                        // Some kernels and drivers refuse the first train, some any: the same bytes again,
                        // one by one. What the kernel did take of it arrives twice, which circuits expect.
                        self.counts.gso_refused += 1;
                        for datagram in train.chunks(size) {
                            Self::send_one(&self.socket, &mut self.counts, to, datagram);
                        }
                    }
                }
            }
            return;
        }
        for datagram in bytes.chunks(segment.unwrap_or(bytes.len()).max(1)) {
            Self::send_one(&self.socket, &mut self.counts, to, datagram);
        }
    }

    fn send_one(socket: &UdpSocket, counts: &mut Counts, to: SocketAddr, datagram: &[u8]) {
        match socket.send_to(datagram, to) {
            Ok(_) => counts.sent += 1,
            Err(_) => counts.send_errors += 1,
        }
    }
}

/// How many buffers the next receive call gets. Where one datagram at a time arrives, a call for more would look into
/// the empty socket again before it returns, and that is felt in each round trip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Batch {
    size: usize,
    /// Calls for one that got one, since more were asked for.
    singles: u32,
}

impl Batch {
    /// After so many single datagrams it is tried whether more are waiting.
    const SINGLES: u32 = 16;

    const ONE: Batch = Batch { size: 1, singles: 0 };

    /// What a call that filled so many buffers teaches.
    fn after(self, filled: usize) -> Batch {
        match self.size {
            1 if self.singles < Batch::SINGLES => Batch { size: 1, singles: self.singles + 1 },
            size if filled == size => Batch { size: (size * 2).min(BATCH), singles: 0 },
            size if filled * 2 <= size => Batch { size: (size / 2).max(1), singles: 0 },
            _ => self,
        }
    }
}

fn transmit(to: SocketAddr, contents: &[u8], segment_size: Option<usize>) -> quinn_udp::Transmit<'_> {
    quinn_udp::Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None }
}

/// An empty socket is no error, nor is a message about a datagram sent earlier.
fn quiet(e: io::Error) -> io::Result<()> {
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused => Ok(()),
        _ => Err(e),
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn local() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn receive_until(d: &mut Datagrams, n: usize) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        let end = Instant::now() + Duration::from_secs(5);
        while got.len() < n && Instant::now() < end {
            d.receive(|_, bytes| got.push(bytes.to_vec())).unwrap();
        }
        got
    }

    /// One suite for both ways: what is sent as a train arrives as the same datagrams with and without
    /// offload on either side.
    #[test]
    fn a_train_arrives_as_its_datagrams_with_and_without_offload() {
        for (fast_from, fast_to) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut a = Datagrams::bind(local(), fast_from).unwrap();
            let mut b = Datagrams::bind(local(), fast_to).unwrap();
            let to = b.address().unwrap();
            let bytes: Vec<u8> = (0..10_500).map(|i| (i / 1000) as u8).collect();
            a.send(to, &bytes, Some(1000));
            let got = receive_until(&mut b, 11);
            let sizes: Vec<_> = got.iter().map(Vec::len).collect();
            assert_eq!(sizes, [vec![1000; 10], vec![500]].concat(), "{fast_from} {fast_to}");
            assert_eq!(got.concat(), bytes);
            assert_eq!(a.counts().sent, 11);
            if !fast_from {
                assert_eq!(a.counts().trains_sent, 0);
            }
        }
    }

    #[test]
    fn one_datagram_at_a_time_is_asked_for_alone_and_a_flood_in_batches() {
        let mut batch = Batch::ONE;
        let more = |size| Batch { size, singles: 0 };
        for _ in 0..Batch::SINGLES {
            assert_eq!(batch.size, 1);
            batch = batch.after(1);
        }
        assert_eq!((batch.after(1), more(2).after(1), more(2).after(2)), (more(2), more(1), more(4)));
        assert_eq!([8, 5, 4, 0].map(|filled| more(8).after(filled).size), [8, 8, 4, 4]);
        let mut a = Datagrams::bind(local(), true).unwrap();
        let mut b = Datagrams::bind(local(), true).unwrap();
        let to = b.address().unwrap();
        (0..200u8).for_each(|n| a.send(to, &[n], None));
        let got = receive_until(&mut b, 200);
        assert!(got.iter().enumerate().all(|(n, bytes)| bytes[..] == [n as u8]), "in order, none twice");
        assert_eq!(got.len(), 200);
    }

    /// More segments than the kernel cuts, and more bytes than a datagram may have.
    #[test]
    fn a_long_train_is_cut_into_trains_that_the_kernel_takes() {
        let mut a = Datagrams::bind(local(), true).unwrap();
        let mut b = Datagrams::bind(local(), true).unwrap();
        let bytes: Vec<u8> = (0..1400 * 80).map(|i| (i / 1400) as u8).collect();
        a.send(b.address().unwrap(), &bytes, Some(1400));
        assert_eq!(receive_until(&mut b, 80).concat(), bytes);
        let counts = a.counts();
        assert_eq!((counts.sent, counts.gso_refused, counts.send_errors), (80, 0, 0));
        assert!(a.segments_max() == 1 || counts.trains_sent == 2, "{counts:?}");
    }

    #[test]
    fn a_send_that_fails_is_a_lost_datagram() {
        let mut a = Datagrams::bind(local(), true).unwrap();
        // Larger than any datagram: the kernel refuses it.
        a.send(a.address().unwrap(), &vec![0; 70_000], None);
        assert_eq!((a.counts().sent, a.counts().send_errors), (0, 1));
        a.send(a.address().unwrap(), b"next", None);
        assert_eq!(receive_until(&mut a, 1), [b"next"]);
    }

    #[test]
    fn an_empty_datagram_arrives_with_and_without_offload() {
        for offload in [true, false] {
            let mut d = Datagrams::bind(local(), offload).unwrap();
            let stranger = UdpSocket::bind(local()).unwrap();
            for bytes in [&b""[..], b"", b"x", b""] {
                stranger.send_to(bytes, d.address().unwrap()).unwrap();
            }
            assert_eq!(receive_until(&mut d, 4), [&b""[..], b"", b"x", b""]);
            assert_eq!(d.counts().received, 4);
        }
    }

    #[test]
    fn an_address_in_use_and_one_of_another_machine_have_their_own_codes() {
        let a = Datagrams::bind(local(), false).unwrap();
        let taken = Datagrams::bind(a.address().unwrap(), false).err().unwrap();
        assert_eq!(taken.code, Code::AddressInUse);
        let foreign = Datagrams::bind("192.0.2.1:7401".parse().unwrap(), false).err().unwrap();
        assert_eq!(foreign.code, Code::AddressNotHere);
    }
}
