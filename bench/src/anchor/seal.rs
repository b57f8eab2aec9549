//! What sealing costs: the cipher of circuits on one CPU, and nothing else.

use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::rounds::Failure;

/// Associated data of a packet: its header in clear.
const HEADER_BYTES: usize = 24;

/// Nanoseconds to seal and to open a body of `bytes`, by AES-256-GCM.
pub(crate) fn seal_and_open(bytes: usize, window: Duration) -> Result<[f64; 2], Failure> {
    let key = || UnboundKey::new(&AES_256_GCM, &[7; 32]).map(LessSafeKey::new).map_err(|e| e.to_string());
    let (sealing, opening) = (key()?, key()?);
    let header = [1; HEADER_BYTES];
    let nonce = |number: u64| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    };
    // In batches: reading the clock costs as much as sealing a short packet.
    const BATCH: usize = 64;
    let mut packets = vec![vec![3; bytes]; BATCH];
    let (mut sealed, mut opened, mut count) = (Duration::ZERO, Duration::ZERO, 0u64);
    let end = Instant::now() + window;
    while count == 0 || Instant::now() < end {
        let began = Instant::now();
        for (at, packet) in packets.iter_mut().enumerate() {
            packet.truncate(bytes);
            let tag = sealing
                .seal_in_place_separate_tag(nonce(count + at as u64), Aad::from(header), packet)
                .map_err(|e| format!("sealing: {e}"))?;
            packet.extend_from_slice(tag.as_ref());
        }
        let between = Instant::now();
        for (at, packet) in packets.iter_mut().enumerate() {
            opening
                .open_in_place(nonce(count + at as u64), Aad::from(header), packet)
                .map_err(|e| format!("opening: {e}"))?;
        }
        sealed += between - began;
        opened += between.elapsed();
        count += BATCH as u64;
    }
    Ok([sealed, opened].map(|time| time.as_nanos() as f64 / count as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least of several: on a machine that others use one measurement of some milliseconds says nothing.
    #[test]
    fn longer_packets_cost_more() {
        let cost = |bytes| {
            let tries = (0..10).map(|_| seal_and_open(bytes, Duration::from_millis(2)).unwrap());
            tries.reduce(|least, one| [least[0].min(one[0]), least[1].min(one[1])]).expect("ten")
        };
        let (short, long) = (cost(64), cost(DATAGRAM));
        assert!(short[0] > 1.0 && long[0] > short[0] && long[1] > short[1], "{short:?} {long:?}");
    }

    const DATAGRAM: usize = super::super::flood::DATAGRAM_BYTES;
}
