//! Anchors: what this machine can do at all, measured in the same rounds as what we do with it.

pub(crate) mod bare;
pub(crate) mod flood;
pub(crate) mod robust;
pub(crate) mod rtt;
pub(crate) mod seal;
pub(crate) mod table;
pub(crate) mod wake;

use std::net::UdpSocket;

use crate::rounds::Failure;

/// Two sockets on loopback that send to each other.
pub(crate) fn pair() -> Result<(UdpSocket, UdpSocket), Failure> {
    let open = || -> std::io::Result<(UdpSocket, UdpSocket)> {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        a.connect(b.local_addr()?)?;
        b.connect(a.local_addr()?)?;
        Ok((a, b))
    };
    open().map_err(|e| format!("two sockets on loopback: {e}"))
}
