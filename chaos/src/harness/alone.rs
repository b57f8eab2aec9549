//! One daemon is killed and comes back alone (L3): it is refused, nothing that it held is given to others,
//! and only a restart of the whole cluster heals that.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use oarlock::blocking::{Client, Guard};
use oarlock::{Kind, Mode};
use oarlock_layout::directory::master;
use oarlock_layout::id::{NodeId, SpaceId};

use crate::cluster::{Cluster, NODES};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
/// Long enough for a grant that is not due.
const VAIN: Duration = Duration::from_millis(1_200);
/// Long enough for anything that is.
const PATIENCE: Duration = Duration::from_secs(20);

/// Plays the scene. The cluster serves before and after it.
pub(super) fn play(cluster: &mut Cluster) -> Result<String, String> {
    let said = |error: oarlock::Error| error.to_string();
    let epoch = cluster.wait_until_serving(PATIENCE)?;
    let clients: Vec<Client> =
        (0..NODES).map(|n| cluster.client(n, "chaos scene")).collect::<Result<_, _>>().map_err(said)?;

    let at_b = take(&clients[B], &named("held at b", A))?;
    let at_a = take(&clients[A], &named("held at a", C))?;
    let of_b = named("decided by b", B);
    let fence_before = at_b.fence().max(at_a.fence());

    cluster.daemon(B).kill();
    if at_b.wait_lost(PATIENCE).is_none() {
        return Err("a program of the killed node was not told that its lock is lost".into());
    }
    cluster.start(B).map_err(|e| e.to_string())?;
    let message = wait_until_refused(cluster)?;
    let ok = Command::new(&cluster.oarlock)
        .arg("ok")
        .env("OARLOCK_SOCKET", cluster.places[B].socket())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|e| e.to_string())?;
    if ok.code() != Some(69) {
        return Err(format!("`oarlock ok` at the refused node ends with {ok}, not 69"));
    }

    // The others go on with everything that b does not decide and did not hold.
    let common = named("decided by c", C);
    for _ in 0..10 {
        take(&clients[A], &common)?.release().map_err(said)?;
        take(&clients[C], &common)?.release().map_err(said)?;
    }
    if let Some(why) = at_a.lost_now() {
        return Err(format!("the lock of another node was lost: {why}"));
    }
    // What b held stays held; what b decides waits; b itself says no.
    waits(&clients[A], &named("held at b", A))?;
    waits(&clients[C], &named("held at b", A))?;
    waits(&clients[C], &named("held at a", C))?;
    waits(&clients[A], &of_b)?;
    let lone = cluster
        .client(B, "chaos scene")
        .and_then(|c| c.space("default")?.lock(&of_b).timeout(VAIN).acquire());
    match lone {
        Ok(_) => return Err("the refused node granted a lock".into()),
        Err(e) if e.kind() == Kind::NotServing => {}
        Err(e) => return Err(format!("the refused node answers {e}")),
    }
    let fallen = cluster.fallen();
    if !fallen.is_empty() {
        return Err(format!("node {} ended", fallen.join(", ")));
    }

    // A restart of all heals it.
    (0..NODES).for_each(|node| cluster.daemon(node).kill());
    cluster.start_all().map_err(|e| e.to_string())?;
    let healed = cluster.wait_until_serving(PATIENCE)?;
    if at_a.wait_lost(PATIENCE).is_none() {
        return Err("a program was not told that its lock is lost by the restart".into());
    }
    if healed <= epoch {
        return Err(format!("the restart formed epoch {healed} after {epoch}"));
    }
    let again = cluster.client(C, "chaos scene").map_err(said)?;
    for name in [named("held at b", A), named("held at a", C), of_b] {
        let guard = take(&again, &name)?;
        if guard.fence() <= fence_before {
            return Err(format!("{name}: fence {} after {fence_before}", guard.fence()));
        }
    }
    Ok(format!("refused with \"{message}\"; epoch {epoch}, after the restart of all {healed}"))
}

/// A resource with this in its name that a certain node decides about.
fn named(what: &str, node: usize) -> String {
    let members = || (0..NODES as u16).map(NodeId);
    let names = (0..).map(|n| format!("alone/{what}/{n}"));
    let mut fits =
        names.filter(|name| master(SpaceId(0), name.as_bytes(), members()) == Some(NodeId(node as u16)));
    fits.next().expect("names without end")
}

fn take(client: &Client, name: &str) -> Result<Guard, String> {
    let space = client.space("default").map_err(|e| e.to_string())?;
    space.lock(name).mode(Mode::EX).timeout(PATIENCE).acquire().map_err(|e| e.to_string())
}

/// Checks that a lock is not given.
fn waits(client: &Client, name: &str) -> Result<(), String> {
    let space = client.space("default").map_err(|e| e.to_string())?;
    match space.lock(name).mode(Mode::PR).timeout(VAIN).acquire() {
        Ok(_) => Err(format!("{name} was granted")),
        Err(e) if e.kind() == Kind::TimedOut => Ok(()),
        Err(e) => Err(format!("{name} was neither granted nor waited for: {e}")),
    }
}

/// Returns what the node says about it.
fn wait_until_refused(cluster: &mut Cluster) -> Result<String, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = cluster.status(B);
        if let Ok(status) = &status
            && status["phase"] == "refused"
        {
            let text = status["reasons"][0]["text"].as_str().unwrap_or_default().to_owned();
            return match text.contains("restart") {
                true => Ok(text),
                false => Err(format!("it is refused without saying what to do: {status}")),
            };
        }
        if Instant::now() >= end || !cluster.fallen().is_empty() {
            return Err(format!("the lone node is not refused: {status:?} {}", cluster.logs()));
        }
        sleep(Duration::from_millis(20));
    }
}
