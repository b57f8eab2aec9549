//! The first lock of docs/library.md.

use std::time::Duration;

use oarlock::{Mode, blocking::Client};

fn main() -> oarlock::Result<()> {
    let client = Client::connect_default()?;
    let space = client.space("default")?;
    let guard = space.lock("greeting").mode(Mode::EX).timeout(Duration::from_secs(10)).acquire()?;
    println!("{} holds \"greeting\" with fence {}", client.node(), guard.fence());
    guard.release()
}
