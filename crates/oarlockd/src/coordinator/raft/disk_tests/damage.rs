//! A bit that is another one, anywhere in the file.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// A file with a log, a snapshot, a ballot and places that were used before: as it is while a node runs, and as it is when it has ended.
async fn written() -> (Truth, [Vec<u8>; 2]) {
    let disk = Disk::default();
    let mut store = disk.store().unwrap();
    let (mut truth, mut chance, mut term) = (Truth::default(), Chance(7), 1);
    for _ in 0..60 {
        step(&mut store, &mut truth, &mut chance, &mut term).await.unwrap();
    }
    step_ballot(&mut store, &mut truth, term + 1).await.unwrap();
    let bytes = || disk.0.lock().unwrap().bytes.clone();
    let runs = bytes();
    drop(store);
    (truth, [runs, bytes()])
}

enum Found {
    /// It says what it said before.
    Same,
    /// It is refused. Whether the bytes that were looked at last are the damaged ones.
    Refused(bool),
}

/// What comes of it when a file is opened with another bit.
fn opened(bytes: &[u8], truth: &Truth, at: usize, bit: usize) -> Result<Found, String> {
    let mut damaged = bytes.to_vec();
    damaged[at] ^= 1 << bit;
    let disk = Disk::of(damaged);
    let open = || Store::look_through(disk.clone(), Path::new("the file"));
    match catch_unwind(AssertUnwindSafe(open)).map_err(|_| format!("bit {bit} of byte {at}: a panic"))? {
        Err(why) => {
            let why = why.to_string();
            if open().is_ok() {
                return Err(format!("bit {bit} of byte {at} is refused once only: {why}"));
            }
            let place =
                why.split_once("; bytes ").and_then(|(_, it)| it.split_once(" of the file were looked at"));
            let place = place.and_then(|(it, _)| it.split_once(" to "));
            let place = place.and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)));
            match place {
                _ if !why.starts_with("the file: ") => Err(format!("bit {bit} of byte {at}: {why}")),
                Some((first, last)) => Ok(Found::Refused((first..=last).contains(&at))),
                None if why.contains("by byte 64 or 192") => Ok(Found::Refused([64, 192].contains(&at))),
                None => Err(format!("bit {bit} of byte {at}: {why}")),
            }
        }
        Ok(store) => match run(Truth::of(&store)) {
            Ok(found) if found == *truth => Ok(Found::Same),
            other => Err(format!("bit {bit} of byte {at} is taken for {other:?}")),
        },
    }
}

/// FT16: one bit is another one, anywhere. The file is refused, with its name and a place in it, or it says what it said before; most
/// of all it is not taken as it was before the last vote.
#[test]
fn a_bit_that_is_another_one_is_refused_or_nobodys() {
    let (truth, files) = run(written());
    for (bytes, state) in files.iter().zip(["runs", "has ended"]) {
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let head = (0..320).flat_map(|at| (0..8).map(move |bit| (at, bit)));
        let all = head.chain((320..=used).step_by(29).map(|at| (at, at % 8)));
        let (mut same, mut refused, mut there, mut wrong) = (0, 0, 0, Vec::new());
        for (at, bit) in all {
            match opened(bytes, &truth, at, bit) {
                Ok(Found::Same) => same += 1,
                Ok(Found::Refused(named)) => {
                    refused += 1;
                    there += u32::from(named);
                }
                Err(why) => wrong.push(why),
            }
        }
        println!(
            "the node {state}: {same} change nothing, {refused} are refused, {there} at the right place"
        );
        assert!(wrong.is_empty(), "the node {state}: {} taken otherwise, {:#?}", wrong.len(), wrong.first());
        assert!(same > 100 && refused > 100 && 10 * there > 9 * refused);
    }
}
