//! Whole clusters in simulated storms, with the cryptography that the daemon uses.
//!
//! Elsewhere the simulator seals with a keyed checksum, which is a thousand times cheaper. Here every handshake is
//! Noise and every packet is sealed by the real cipher, while datagrams are lost, flipped, cut and replayed.

use std::sync::OnceLock;

use oarlock_layout::seal::{PublicKey, Seal};
use oarlock_sim::{Options, run};
use oarlockd::host::key::Secret;
use oarlockd::host::seal::HostSeal;

/// The cluster secret, then a key for each node.
fn keys() -> &'static [Secret] {
    static KEYS: OnceLock<Vec<Secret>> = OnceLock::new();
    KEYS.get_or_init(|| (0..17).map(|_| Secret::generate()).collect())
}

/// Every third node has no AES in hardware.
fn seal(node: u16, _seed: u64) -> (Box<dyn Seal + Send>, PublicKey) {
    let (cluster, mine) = (&keys()[0], &keys()[usize::from(node) + 1]);
    let seal = HostSeal::with_aes(mine.bytes(), cluster.bytes(), !node.is_multiple_of(3));
    (Box::new(seal), PublicKey(mine.public()))
}

#[test]
fn clusters_with_real_cryptography_keep_their_promises_in_storms() {
    let options = Options { seconds: 20, crypto: Some(seal), ..Options::default() };
    for seed in (0..120).step_by(20) {
        let report = run(seed, &options);
        assert!(report.findings.is_empty(), "{report}");
        assert!(report.load.grants > 1_000, "hardly anything happened: {:?}", report.load);
    }
}
