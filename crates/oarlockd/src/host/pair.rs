//! A line between two processes of ours: packets, each with a descriptor if need be.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};

/// Longest packet on such a line.
pub const PACKET_BYTES_MAX: usize = 8 << 10;

/// Two ends. Neither passes into programs that are executed, unless it is handed over.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Whether a descriptor is an end of such a line.
pub fn is_end(fd: impl AsFd) -> bool {
    rustix::net::sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::SEQPACKET)
}

/// Sends a packet, with a descriptor of which the other side gets a copy of its own. `wait`: until there is room; else
/// `false` if there is none.
pub fn send(fd: impl AsFd, packet: &[u8], with: Option<&dyn AsFd>, wait: bool) -> io::Result<bool> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let with = with.map(|fd| [fd.as_fd()]);
    if let Some(with) = &with {
        assert!(control.push(SendAncillaryMessage::ScmRights(with)), "there is room for one descriptor");
    }
    let flags = if wait { SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL | SendFlags::DONTWAIT };
    loop {
        return match rustix::net::sendmsg(&fd, &[io::IoSlice::new(packet)], &mut control, flags) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::INTR) => continue,
            // Too many descriptors are under way: the other side does not take them up either.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS | rustix::io::Errno::TOOMANYREFS) => {
                Ok(false)
            }
            Err(e) => Err(e.into()),
        };
    }
}

/// What a receive call found.
#[derive(Debug)]
pub enum Received {
    /// A packet of so many bytes, and what came with it.
    Packet(usize, With),
    /// Nothing yet.
    Nothing,
    /// The other side is gone, and all that it had sent is read.
    End,
}

/// What came with a packet.
#[derive(Debug)]
pub enum With {
    /// No descriptor.
    Nothing,
    /// One.
    Descriptor(OwnedFd),
    /// One, for which this process had no room: it is lost.
    Lost,
}

/// Receives a packet without waiting.
pub fn receive(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = match rustix::net::recvmsg(&fd, &mut [io::IoSliceMut::new(buffer)], &mut control, flags) {
        Ok(message) => message,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Received::Nothing),
        // It died with packets of ours unread. What it had sent itself stands behind that.
        Err(rustix::io::Errno::CONNRESET) => return receive(fd, buffer),
        Err(e) => return Err(e.into()),
    };
    if message.bytes == 0 {
        return Ok(Received::End);
    }
    let mut with = With::Nothing;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            for descriptor in descriptors {
                with = With::Descriptor(descriptor);
            }
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        with = With::Lost;
    }
    Ok(Received::Packet(message.bytes, with))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_with_what_was_sent_along_also_after_the_sender_has_gone() {
        let (here, there) = pair().unwrap();
        assert!(is_end(&here) && !is_end(std::fs::File::open("/dev/null").unwrap()));
        let mut buffer = [0; PACKET_BYTES_MAX];
        assert!(matches!(receive(&here, &mut buffer).unwrap(), Received::Nothing));
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(&there, b"a pipe", Some(&read), true).unwrap();
        send(&there, b"alone", None, false).unwrap();
        // It goes with a packet unread.
        send(&here, b"never heard", None, false).unwrap();
        drop((there, read));
        let Received::Packet(6, With::Descriptor(read)) = receive(&here, &mut buffer).unwrap() else {
            panic!()
        };
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(rustix::io::read(&read, &mut [0u8; 4]).unwrap(), 1);
        assert!(matches!(receive(&here, &mut buffer).unwrap(), Received::Packet(5, With::Nothing)));
        assert!(matches!(receive(&here, &mut buffer).unwrap(), Received::End));
        assert!(send(&here, b"to nobody", None, true).is_err());
    }

    #[test]
    fn a_line_that_nobody_reads_is_full_some_time() {
        let (here, _there) = pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let sent = (0..100_000).take_while(|_| send(&here, b"x", Some(&null), false).unwrap()).count();
        assert!((16..100_000).contains(&sent), "{sent}");
    }
}
