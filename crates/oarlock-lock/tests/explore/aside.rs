//! Spaces side by side: each is explored by one thread, as many at once as there are cores.

use std::collections::BTreeMap;
use std::sync::{Mutex, mpsc};
use std::thread;

/// Works on each item and says what came of it, in the order of the items. `see` returns whether to go on: what has begun ends.
pub(crate) fn side_by_side<T: Send, R: Send>(
    items: Vec<T>,
    work: impl Fn(T) -> R + Sync,
    mut see: impl FnMut(R) -> bool,
) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let left = Mutex::new(items.into_iter().enumerate());
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (send, left, work) = (send.clone(), &left, &work);
            scope.spawn(move || {
                loop {
                    let next = left.lock().expect("nobody panics with it").next();
                    let Some((place, item)) = next else { break };
                    if send.send((place, work(item))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        let (mut early, mut next) = (BTreeMap::new(), 0);
        for (place, result) in &receive {
            early.insert(place, result);
            while let Some(result) = early.remove(&next) {
                next += 1;
                if !see(result) {
                    drop(receive);
                    return;
                }
            }
        }
    });
}
