//! A cluster that begins anew from a copy of its registry: nothing that only grows may fall.

mod founding;

use founding::{cluster, join, renew, start, token};
use oarlock_cluster::registry::{
    Basis, Command, Need, Out, Outcome, RUNS_SKIPPED, Refusal, Registry, VIEWS_SKIPPED,
};
use oarlock_layout::id::{Epoch, Incarnation, NodeId};
use oarlock_layout::limit::EPOCH_BITS;

const B: NodeId = NodeId(1);

/// R6: what the lost registry came to after the copy was taken is below what the new one begins with: epochs, runs, the clock.
#[test]
fn what_grew_after_the_copy_stays_below() {
    let copy = cluster(3);
    let mut lost = copy.clone();
    let mut entered = 1;
    while lost.view().epoch.0 < copy.view().epoch.0 + VIEWS_SKIPPED {
        let epoch = lost.view().epoch;
        let out = Out { node: B, incarnation: Incarnation(entered), basis: Basis::ByHand, fences: vec![] };
        assert_eq!(lost.apply(&Command::Evict { epoch, out: vec![out], note: None }), Outcome::Done);
        let (incarnation, need) = (Incarnation(entered), Need::Lease);
        let by = NodeId(0);
        lost.apply(&Command::FenceProven { node: B, incarnation, need, by, by_hand: true, who: None });
        if lost.view().epoch.0 < copy.view().epoch.0 + VIEWS_SKIPPED {
            entered += 1;
            assert_eq!(lost.apply(&start(B, entered)), Outcome::Done);
        }
    }
    let mut anew = copy.anew(Epoch(0), 7).unwrap();
    assert!(anew.view().epoch >= lost.view().epoch, "the next view of it is above all");
    assert!(anew.floor() >= lost.watermark() && anew.watermark() > anew.floor());
    assert!(anew.member(B).unwrap().entered > lost.member(B).unwrap().entered);
    assert!(anew.revision() > copy.revision());
    assert_eq!((anew.restoration(), anew.cluster()), (Some(7), copy.cluster()));

    // It is whole, and travels.
    assert_eq!(Registry::restore(&anew.snapshot()).unwrap(), anew);
    assert_ne!(copy.anew(Epoch(0), 8).unwrap().snapshot(), anew.snapshot());

    // Nobody comes in before the lease of whoever ran before is over, whoever that was.
    let incarnation = anew.member(B).unwrap().entered;
    let next = start(B, incarnation.0 + 1);
    assert_eq!(anew.apply(&next), Outcome::Refused(Refusal::StillIn { node: B, incarnation }));
    assert!(!anew.apply(&start(B, entered + 1)).changed(), "a run of before");
    assert!(!anew.apply(&renew(B, entered, 9)).changed());
    let over = Out { node: B, incarnation, basis: Basis::LeaseOver { renewal: 0 }, fences: vec![] };
    let epoch = anew.view().epoch;
    assert_eq!(anew.apply(&Command::Evict { epoch, out: vec![over], note: None }), Outcome::Done);
    assert_eq!(anew.apply(&next), Outcome::Done);
    assert_eq!(anew.view().epoch.0, epoch.0 + 2);
}

/// What somebody still knows of counts as well.
#[test]
fn it_begins_above_what_is_still_known() {
    let copy = cluster(3);
    assert_eq!(copy.anew(Epoch(5_000), 1).unwrap().view().epoch, Epoch(5_000 + VIEWS_SKIPPED));
    assert_eq!(copy.anew(Epoch((1 << EPOCH_BITS) - 1), 1), Err(Refusal::EpochsExhausted));
    assert_eq!(Registry::new().anew(Epoch(0), 1), Err(Refusal::NoCluster));
}

/// A join token that was used after the copy was taken lets nobody else in; who had left may come back under a higher number.
#[test]
fn join_tokens_are_void_and_what_was_to_be_proven_still_is() {
    let mut copy = cluster(2);
    assert_eq!(copy.apply(&token(2, 2)), Outcome::Done);
    assert!(copy.clone().apply(&join(2, 2)).changed());
    let out = Out { node: B, incarnation: Incarnation(1), basis: Basis::ByHand, fences: vec![] };
    let epoch = copy.view().epoch;
    assert_eq!(copy.apply(&Command::Evict { epoch, out: vec![out], note: None }), Outcome::Done);
    let mut anew = copy.anew(Epoch(0), 1).unwrap();
    assert_eq!(anew.apply(&join(2, 2)), Outcome::Refused(Refusal::NoSuchToken));
    assert_eq!(anew.fences().count(), 1);
    assert_eq!(anew.member(B).unwrap().entered, Incarnation(1 + RUNS_SKIPPED));
    assert!(anew.run(B).is_some(), "also whoever was out of the view may have come in since");
}
