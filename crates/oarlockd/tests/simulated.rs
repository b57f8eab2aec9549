//! Whole clusters in simulated storms, with the cryptography that the daemon uses.
//!
//! Elsewhere the simulator seals with a keyed checksum, which is a thousand times cheaper. Here every handshake is
//! Noise and every packet is sealed by the real cipher, while datagrams are lost, flipped, cut and replayed.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use oarlock_layout::seal::{PublicKey, Seal};
use oarlock_sim::{Options, run};
use oarlockd::host::key::Secret;
use oarlockd::host::seal::HostSeal;

/// The cluster secret, and a key for each machine that ever has a node's place.
fn keys(machine: u16) -> (Secret, Secret) {
    static CLUSTER: OnceLock<Secret> = OnceLock::new();
    static MACHINES: Mutex<BTreeMap<u16, Secret>> = Mutex::new(BTreeMap::new());
    let mine = MACHINES.lock().unwrap().entry(machine).or_insert_with(Secret::generate).clone();
    (CLUSTER.get_or_init(Secret::generate).clone(), mine)
}

/// Every third node has no AES in hardware.
fn seal(node: u16, _seed: u64) -> (Box<dyn Seal + Send>, PublicKey) {
    let (cluster, mine) = keys(node);
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
