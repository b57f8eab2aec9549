//! Plays on a stage without a cluster: one holder for each resource, and every answer after a fixed time.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use oarlock_layout::code::Code;
use oarlock_layout::flags::Flags;
use oarlock_layout::id::Epoch;
use oarlock_layout::time::Instant;
use oarlock_layout::token::{Fence, Token};
use oarlock_story::table::{Command, Place, Promise};
use oarlock_story::{Action, News, Outcome, Report, Stage, Told, perform, read};

/// Every lock excludes every other, and whoever comes first is first.
#[derive(Default)]
struct Toy {
    now: u64,
    news: VecDeque<(u64, News)>,
    queues: BTreeMap<String, VecDeque<(usize, u32)>>,
    names: BTreeMap<(usize, u32), String>,
    serial: u64,
    acted: Vec<Action>,
}

const DELAY: u64 = 50_000;

impl Toy {
    fn tell(&mut self, flow: usize, what: Told) {
        self.news.push_back((self.now + DELAY, News { flow, what }));
    }

    fn grant(&mut self, (flow, handle): (usize, u32)) {
        self.serial += 1;
        let token = Token { fence: Fence::new(Epoch(1), self.serial), local: 0 };
        let mode = oarlock_layout::mode::Mode::EX;
        self.tell(flow, Told::Granted { handle, mode, token, value: None });
    }

    fn leave(&mut self, key: (usize, u32)) {
        let Some(name) = self.names.get(&key).cloned() else { return };
        let queue = self.queues.get_mut(&name).unwrap();
        let first = queue.front() == Some(&key);
        queue.retain(|k| *k != key);
        if let Some(next) = queue.front().copied().filter(|_| first) {
            self.grant(next);
        }
    }
}

impl Stage for Toy {
    fn refuses(&self, _: &Command) -> Option<String> {
        None
    }

    fn now(&self) -> Instant {
        Instant(self.now)
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match &action {
            Action::Lock { flow, handle, resource, flags, .. } => {
                let key = (*flow, *handle);
                let queue = self.queues.entry(resource.name.clone()).or_default();
                if flags.contains(Flags::NOQUEUE) && !queue.is_empty() {
                    self.tell(*flow, Told::Failed { handle: *handle, code: Code::Busy });
                } else {
                    queue.push_back(key);
                    let alone = queue.len() == 1;
                    self.names.insert(key, resource.name.clone());
                    if alone {
                        self.grant(key);
                    }
                }
            }
            Action::Unlock { flow, handle, .. } => {
                self.leave((*flow, *handle));
                self.tell(*flow, Told::Released { handle: *handle });
            }
            Action::Kill { flow } => {
                let locks: Vec<_> = self.names.keys().copied().filter(|(f, _)| f == flow).collect();
                locks.into_iter().for_each(|key| self.leave(key));
            }
            // It takes all sessions with it, and another one can be had at once.
            Action::KillNode(_) => {
                self.queues.clear();
                self.tell(0, Told::Lost);
            }
            Action::Attach { flow } => self.tell(*flow, Told::Attached),
            _ => {}
        }
        self.acted.push(action);
        Ok(())
    }

    fn counter(&mut self, _: &str, node: Place) -> Result<u64, String> {
        Ok(u64::from(node.0) + self.serial)
    }

    fn broken(&mut self, promise: Promise) -> Vec<String> {
        if promise == Promise::Order { vec!["an order that is not".into()] } else { Vec::new() }
    }

    fn pass(&mut self, until: Instant) -> Vec<News> {
        match self.news.front() {
            Some((at, _)) if *at <= until.0 => {
                let (at, news) = self.news.pop_front().unwrap();
                self.now = self.now.max(at);
                vec![news]
            }
            _ => {
                self.now = self.now.max(until.0);
                Vec::new()
            }
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn remarks(&mut self) -> Vec<String> {
        vec!["the stage is a toy".into()]
    }

    fn end(&mut self) -> Vec<String> {
        Vec::new()
    }
}

fn flow(name: &str, node: &str, rows: &[&str]) -> String {
    let at = if node.is_empty() { String::new() } else { format!(" at {node}") };
    format!("## flow {name}{at}\n\n| state | on | do | next |\n| - | - | - | - |\n{}\n\n", rows.join("\n"))
}

#[track_caller]
fn play(text: &str, seed: u64) -> Report {
    let story = read(text).unwrap_or_else(|faults| panic!("{}\n{text}", faults[0]));
    perform(&story, &mut Toy::default(), Some(seed))
}

#[track_caller]
fn kept(text: &str) {
    for seed in 0..10 {
        let report = play(text, seed);
        assert!(report.is_kept(), "seed {seed}: {:?}\n{}", report.outcome, report.transcript.join("\n"));
    }
}

#[track_caller]
fn fails(text: &str, why: &str) {
    let report = play(text, 0);
    let Outcome::Failed(failure) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert!(failure.to_string().contains(why), "not {why:?} but {failure}");
}

/// The rows that a flow took, without times.
fn rows(report: &Report, flow: &str) -> Vec<String> {
    let words =
        report.transcript.iter().map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "));
    words.filter(|line| line.split(' ').next() == Some(flow)).collect()
}

/// S2: out of its state, and without its event, a row does not run.
#[test]
fn a_row_runs_only_in_its_state_and_on_its_event() {
    let raiser = flow("b", "", &["| s | - | raise go; wait 5ms; raise stay | done |"]);
    let text = raiser
        + &flow(
            "a",
            "node-a",
            &[
                "| s | go | lock r EX | t |",
                // `stay` is raised while the flow is in `t`, where only `granted` and `stay` have rows.
                "| t | granted r | - | u |",
                "| t | busy r | raise wrong | done |",
                "| u | stay | expect not raised wrong; expect granted r; unlock r | done |",
            ],
        );
    kept(&text);
    let said = play(&text, 1).transcript.join("\n");
    assert!(!said.contains("raise wrong") && !said.contains("| busy r |"), "{said}");
}

/// S3: the next state is worked out from the result of the commands.
#[test]
fn the_next_state_may_hang_on_a_result() {
    let holder = flow(
        "a",
        "node-a",
        &[
            "| s | - | lock r EX; wait r; raise held | has |",
            "| has | told | expect granted r; unlock r | done |",
        ],
    );
    let rows = [
        "| s | held | lock r EX NOQUEUE; wait r | got if granted r else no if busy r else odd |",
        "| got | - | expect busy r | done |",
        "| odd | - | expect busy r | done |",
        "| no | - | expect busy r; raise told | done |",
    ];
    kept(&(holder + &flow("b", "node-b", &rows)));
    // Alone it is granted, and goes the other way.
    let alone = flow("c", "", &["| s | - | raise held | done |"]) + &flow("b", "node-b", &rows);
    fails(&alone, "expected `busy r`, but r holds EX on r");
}

/// S4: one row changed, and the other flows take the same rows as before.
#[test]
fn a_changed_row_changes_its_own_flow_only() {
    let text = |row: &str| {
        flow("a", "node-a", &["| s | - | lock p EX; wait p; let x = 1 | t |", row])
            + &flow(
                "b",
                "node-b",
                &[
                    "| s | - | lock q EX; wait q; let x = 2; raise ready | t |",
                    "| t | after 2ms | expect x == 2; unlock q; wait q | done |",
                ],
            )
            + &flow(
                "c",
                "node-b",
                &["| s | ready | lock q EX | t |", "| t | granted q | unlock q; wait q | done |"],
            )
    };
    let before = text("| t | - | expect x == 1; unlock p | done |");
    let after = text("| t | after 7ms | let x = 9; expect x == 9; unlock p; wait p; wait 3ms | done |");
    for seed in 0..10 {
        let (before, after) = (play(&before, seed), play(&after, seed));
        assert!(before.is_kept() && after.is_kept());
        assert_ne!(rows(&before, "a"), rows(&after, "a"));
        for other in ["b", "c"] {
            // Not the order of rows alone: their times as well.
            let times = |report: &Report| -> Vec<String> {
                report
                    .transcript
                    .iter()
                    .filter(|line| line.contains(&format!("  {other}  ")))
                    .cloned()
                    .collect()
            };
            assert_eq!(times(&before), times(&after), "seed {seed}");
        }
    }
}

/// S5: the same seed, the same transcript; another seed, another interleaving.
#[test]
fn a_seed_is_an_interleaving_to_the_last_letter() {
    let text = ["a", "b", "c"].map(|name| {
        flow(
            name,
            "node-a",
            &["| s | - | lock r EX | t |", "| t | granted r | expect granted r; unlock r | done |"],
        )
    });
    let text = text.concat();
    assert_eq!(play(&text, 4).transcript, play(&text, 4).transcript);
    let orders: std::collections::BTreeSet<Vec<String>> = (0..20)
        .map(|seed| {
            let lines = play(&text, seed).transcript;
            lines
                .iter()
                .filter(|l| l.contains("told: granted"))
                .map(|l| l[12..15].trim().to_string())
                .collect()
        })
        .collect();
    assert!(orders.len() > 2, "{orders:?}");
}

/// S6: an event that was raised earlier is not lost, each raise is seen once by each flow, and a barrier holds all.
#[test]
fn events_are_latched_and_barriers_hold_everybody() {
    let early = flow("a", "", &["| s | - | raise x; raise x; raise y | done |"])
        + &flow(
            "b",
            "",
            &[
                "| s | after 1s | - | t |",
                "| t | x | - | u |",
                "| u | x | expect raised y | v |",
                "| v | x | expect raised never | done |",
                "| v | y | raise never | done |",
            ],
        );
    kept(&early);
    let meet = flow("a", "", &["| s | after 3s | raise late | m |", "| m | meet here | raise gone | done |"])
        + &flow("b", "", &["| s | meet here | expect raised late | m |", "| m | gone | - | done |"])
        + &flow("c", "", &["| s | meet here | expect raised late | done |"]);
    kept(&meet);
}

/// S6: the barrier can be met again and again, and nobody runs ahead by a round.
#[test]
fn a_barrier_closes_behind_those_who_met() {
    let rounds = |name: &str, wait: &str| {
        flow(
            name,
            "",
            &[
                "| s | - | let n = 0 | m |",
                &format!("| m | meet here | let n = n + 1; wait {wait} | m if n < 3 else end |"),
                "| end | - | expect n == 3 | done |",
            ],
        )
    };
    kept(&(rounds("a", "1ms") + &rounds("b", "70ms")));
}

/// S8: all wait for each other: at once, with each flow's row and what is known of locks.
#[test]
fn a_play_in_which_nothing_can_come_ends_in_a_report() {
    let text =
        flow("a", "node-a", &["| s | - | lock r EX; wait r | t |", "| t | x | expect granted r | done |"])
            + &flow("b", "node-b", &["| s | y | lock r EX; raise x | done |"])
            + &flow("c", "", &["| s | after 1ms | - | t |", "| t | x | raise y | done |"]);
    let report = play(&text, 0);
    let Outcome::Stuck(lines) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(
        lines,
        &[
            "flow a, state t, line 6: waits for `x`",
            "flow b, state s, line 12: waits for `y`",
            "flow c, state t, line 19: waits for `x`",
            "lock a.r holds EX on r",
            "the stage is a toy"
        ]
    );
}

/// S8: an answer that does not come is waited for, but not for ever.
#[test]
fn an_answer_that_never_comes_ends_the_play_when_patience_ends() {
    let text = flow(
        "a",
        "node-a",
        &[
            "| s | - | lock r EX; wait r; lock r EX as two; expect granted r | t |",
            "| t | granted two | - | done |",
        ],
    );
    let Outcome::Stuck(lines) = play(&text, 0).outcome else { panic!("not stuck") };
    assert!(lines.contains(&"lock a.two waits for EX on r".to_string()), "{lines:?}");
}

#[test]
fn commands_that_make_no_sense_where_they_stand_fail_loudly() {
    let one = |row: &str| flow("a", "node-a", &[row, "| t | - | lock r EX; expect granted r | done |"]);
    fails(&one("| s | - | unlock r | t |"), "r was never asked for");
    fails(&one("| s | - | lock r EX; convert r PR | t |"), "cannot be converted now: it waits for EX on r");
    fails(&one("| s | - | lock r EX; lock r EX | t |"), "not given back yet");
    fails(&one("| s | - | lock r EX; wait r; unlock r; unlock r | t |"), "being given back already");
    fails(&one("| s | - | lock r EX; wait r; unlock r; wait r; unlock r | t |"), "r is over");
    fails(&one("| s | - | lock r EX; wait r; read r | t |"), "cannot read");
    fails(&one("| s | - | expect token r > 1 | t |"), "has no token");
    fails(&one("| s | - | expect history order | t |"), "an order that is not");
    fails(&one("| s | - | - | s if not granted r else t |"), "go in circles");
}

#[test]
fn a_way_on_which_nothing_is_expected_does_not_count() {
    let text = flow(
        "a",
        "node-a",
        &["| s | - | lock r EX; wait r | done if granted r else t |", "| t | - | expect granted r | done |"],
    );
    fails(&text, "nothing was expected");
}

#[test]
fn who_is_killed_does_nothing_more_and_its_locks_go() {
    let text = flow(
        "a",
        "node-a",
        &["| s | - | lock r EX; wait r; raise held | t |", "| t | killed | raise wrong | done |"],
    ) + &flow(
        "b",
        "node-b",
        &[
            "| s | held | lock r EX; wait 1ms; expect waiting r; kill a; raise killed | t |",
            "| t | granted r | expect not raised wrong; expect not granted a.r; unlock r | done |",
        ],
    );
    kept(&text);
}

/// A session that is lost takes its locks with it; after `attach` the flow has another one, and none of them.
#[test]
fn a_flow_whose_session_was_lost_attaches_again_and_begins_without_locks() {
    let hand = flow("hand", "", &["| s | in | kill node node-a | done |"]);
    let rows = |last: &str| {
        [
            "| s | - | lock r EX; wait r; raise in | holds |".to_string(),
            "| holds | lost | expect lost; expect not granted r; attach | away |".to_string(),
            format!("| away | attached | {last} | done |"),
        ]
    };
    let text = |last: &str| {
        let rows = rows(last);
        flow("anna", "node-a", &rows.iter().map(String::as_str).collect::<Vec<_>>()) + &hand
    };
    let report = play(&text("expect not lost; lock r EX; wait r; expect granted r; unlock r"), 1);
    assert!(report.is_kept(), "{:?}", report.outcome);
    assert!(report.transcript.iter().any(|line| line.contains("another session has begun")));
    // What it had before is over, and who has a session needs no other.
    for (last, why) in [("unlock r", "r is over"), ("attach", "it is not lost")] {
        let report = play(&text(last), 1);
        let Outcome::Failed(failure) = &report.outcome else { panic!("{:?}", report.outcome) };
        assert!(failure.what.contains(why), "{failure}");
    }
}
