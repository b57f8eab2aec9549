//! The daemon's cryptography with a tally: how often it sealed and opened, and how many bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oarlock_layout::seal::{
    Arrival, Initiation, Keys, MAC_BYTES, MacKey, NotAuthentic, PublicKey, Response, Seal, TAG_BYTES,
};
use oarlockd::host::seal::HostSeal;

/// What was sealed and opened so far, by all keys of one node.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    seals: AtomicU64,
    opens: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    /// Packets sealed, packets opened, and bytes of both.
    pub(crate) fn read(&self) -> [u64; 3] {
        [&self.seals, &self.opens, &self.bytes].map(|n| n.load(Ordering::Relaxed))
    }

    fn note(&self, which: &AtomicU64, bytes: usize) {
        which.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A seal that counts what its keys do, and is otherwise the daemon's.
pub(crate) struct CountedSeal {
    seal: HostSeal,
    tally: Arc<Tally>,
}

impl CountedSeal {
    pub(crate) fn new(seal: HostSeal, tally: Arc<Tally>) -> CountedSeal {
        CountedSeal { seal, tally }
    }
}

impl Seal for CountedSeal {
    fn initiate(
        &mut self,
        to: &PublicKey,
        prologue: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Box<dyn Initiation + Send> {
        let inner = self.seal.initiate(to, prologue, payload, out);
        Box::new(Counted { inner, tally: self.tally.clone() })
    }

    fn respond(&mut self, prologue: &[u8], message: &[u8]) -> Result<Arrival, NotAuthentic> {
        let Arrival { key, payload, response } = self.seal.respond(prologue, message)?;
        let response = Box::new(Counted { inner: response, tally: self.tally.clone() });
        Ok(Arrival { key, payload, response })
    }

    fn mac(&self, key: MacKey<'_>, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        self.seal.mac(key, parts)
    }

    fn restore(&self, exported: &[u8]) -> Result<Box<dyn Keys + Send>, NotAuthentic> {
        Ok(Box::new(Counted { inner: self.seal.restore(exported)?, tally: self.tally.clone() }))
    }
}

struct Counted<T: ?Sized> {
    tally: Arc<Tally>,
    inner: Box<T>,
}

impl Initiation for Counted<dyn Initiation + Send> {
    fn finish(&mut self, message: &[u8]) -> Result<(Vec<u8>, Box<dyn Keys + Send>), NotAuthentic> {
        let (payload, keys) = self.inner.finish(message)?;
        Ok((payload, Box::new(Counted { inner: keys, tally: self.tally.clone() })))
    }
}

impl Response for Counted<dyn Response + Send> {
    fn accept(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Box<dyn Keys + Send> {
        let inner = self.inner.accept(payload, out);
        Box::new(Counted { inner, tally: self.tally.clone() })
    }
}

impl Keys for Counted<dyn Keys + Send> {
    fn seal(&mut self, number: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_BYTES] {
        self.tally.note(&self.tally.seals, body.len());
        self.inner.seal(number, header, body)
    }

    fn open(&mut self, number: u64, header: &[u8], sealed: &mut [u8]) -> Result<(), NotAuthentic> {
        self.tally.note(&self.tally.opens, sealed.len());
        self.inner.open(number, header, sealed)
    }

    fn export(&self) -> Vec<u8> {
        self.inner.export()
    }
}
