//! The client processes: twelve places, four at each node, each filled again when its process is killed.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oarlock_sim::Random;

use crate::client::{Options, Phase};
use crate::clock;
use crate::cluster::{Cluster, NODES, Process};
use crate::story::Deaths;

/// How many client processes there are at a time.
pub(super) const PLACES: usize = 12;

/// All clients.
pub(super) struct Crew {
    sockets: Vec<PathBuf>,
    pub(super) diaries: PathBuf,
    places: Vec<Option<(u32, Process)>>,
    next: u32,
    random: Random,
    /// Who was killed.
    pub(super) deaths: Deaths,
    /// Who asks its node for every lock.
    pub(super) socket_only: BTreeSet<u32>,
}

impl Crew {
    /// Starts them all.
    pub(super) fn start(cluster: &Cluster, random: Random) -> io::Result<Crew> {
        let diaries = cluster.dir().join("diaries");
        std::fs::create_dir(&diaries)?;
        let sockets = cluster.places.iter().map(|p| p.socket()).collect();
        let places = (0..PLACES).map(|_| None).collect();
        let (deaths, socket_only) = (Deaths::new(), BTreeSet::new());
        let mut crew = Crew { sockets, diaries, places, next: 0, random, deaths, socket_only };
        for place in 0..PLACES {
            crew.fill(place)?;
        }
        Ok(crew)
    }

    fn fill(&mut self, place: usize) -> io::Result<()> {
        let node = place % NODES;
        let number = self.next;
        self.next += 1;
        let options = Options {
            number,
            node: node as u16,
            socket: self.sockets[node].clone(),
            diaries: self.diaries.clone(),
            seed: self.random.below(u64::MAX),
            anchor: place < NODES,
            // At each node both kinds, and as many.
            attached: (place / NODES).is_multiple_of(2),
        };
        if !options.attached {
            self.socket_only.insert(number);
        }
        self.places[place] = Some((number, Process::of(options.command()?.spawn()?)));
        Ok(())
    }

    /// Kills one, whatever it is at, and puts another in its place.
    pub(super) fn kill_one(&mut self) -> io::Result<()> {
        let place = self.random.below(PLACES as u64) as usize;
        let (number, mut process) = self.places[place].take().expect("every place is filled");
        let at = clock::now();
        process.kill();
        self.deaths.insert(number, at);
        self.fill(place)
    }

    /// Kills them all.
    pub(super) fn abandon(&mut self) {
        for (number, process) in self.places.iter_mut().flatten() {
            self.deaths.insert(*number, clock::now());
            process.kill();
        }
    }

    /// Stops one from running for a while. Returns its number.
    pub(super) fn pause_one(&mut self) -> u32 {
        let place = self.random.below(PLACES as u64) as usize;
        let (number, process) = self.places[place].as_ref().expect("every place is filled");
        process.pause();
        *number
    }

    /// Lets it run again, if it was not killed meanwhile.
    pub(super) fn resume(&self, number: u32) {
        if let Some((_, process)) = self.places.iter().flatten().find(|(n, _)| *n == number) {
            process.resume();
        }
    }

    /// Tells all clients what they are at.
    pub(super) fn enter(&mut self, phase: Phase) {
        for (_, process) in self.places.iter_mut().flatten() {
            let input = process.child().stdin.as_mut().expect("clients have an input");
            // One that has ended is found by `fallen`.
            let _ = writeln!(input, "{}", phase.word());
        }
    }

    /// Clients that have ended though nobody ended them.
    pub(super) fn fallen(&mut self) -> Vec<u32> {
        self.places.iter_mut().flatten().filter_map(|(n, p)| (!p.is_alive()).then_some(*n)).collect()
    }

    /// Waits for all of them to end in peace. Returns those that did not.
    pub(super) fn wait(&mut self, patience: Duration) -> Vec<String> {
        let end = Instant::now() + patience;
        let mut stuck = Vec::new();
        for (number, process) in self.places.iter_mut().flatten() {
            match process.wait(end.saturating_duration_since(Instant::now())) {
                Some(status) if status.success() => {}
                Some(status) => stuck.push(format!("client {number} ended with {status}")),
                None => stuck.push(format!("client {number} does not end")),
            }
        }
        stuck
    }
}
