//! A program changes the mode of what it holds: `lower`, `raise` and `ask_convert` of `caller.rs`.

use oarlock_layout::segment::{Stage, State};
use oarlock_shm::planted::Bug;

use crate::state::{At, Message};
use crate::step::Step;

impl Step<'_> {
    // ----- Caller::lower --------------------------------------------------------------------------------

    pub fn lower(&mut self, at: At) {
        let to = self.wanted();
        let from = self.world.callers[self.number].mode;
        match at {
            At::Lower => {
                let hold = self.hold();
                let lowering = hold.to(Stage::Lowering, Some(from), Some(to));
                if self.exchange(hold, lowering).is_err() {
                    // not_by_itself
                    return self.lost();
                }
                self.believe(Some(to));
                self.set_own(lowering);
                self.go(At::LowerWord);
            }
            At::LowerWord => {
                self.world.callers[self.number].now = self.world.word;
                self.go(At::LowerOwn);
            }
            At::LowerOwn => {
                if self.state() != self.own() {
                    self.forget_word();
                    return self.go(At::Lowered);
                }
                let shut = self.now().shut() && !self.bug(Bug::NoShut);
                self.go(if shut { At::LowerBack } else { At::LowerExchange });
            }
            At::LowerBack => {
                let (lowering, hold) = (self.own(), self.hold());
                self.forget_word();
                if self.exchange(lowering, hold).is_err() {
                    return self.go(At::Lowered);
                }
                // Whoever asks to hold less acts under no more from then on.
                self.go(At::Ask);
            }
            At::LowerExchange => {
                let now = self.now();
                let then = self.without(now, from).with(to).expect("there is room");
                if !self.exchange_word(now, then) {
                    return self.go(At::LowerWord);
                }
                self.uncounted(now, from);
                self.considered(now, then, At::LowerRing, At::LowerHeld);
            }
            At::LowerRing => {
                self.world.bell = true;
                self.go(At::LowerHeld);
            }
            At::LowerHeld => {
                let lowering = self.own();
                let held = lowering.to(Stage::Held, Some(to), None);
                let _ = self.exchange(lowering, held);
                self.keep_hold(held, to);
                self.next();
            }
            At::Lowered => {
                let held = self.own().to(Stage::Held, Some(to), None);
                if self.state() != held {
                    return self.lost();
                }
                self.keep_hold(held, to);
                self.next();
            }
            _ => unreachable!("not of a way down"),
        }
    }

    // ----- Caller::raise, raised, ask_convert -----------------------------------------------------------

    pub fn raise(&mut self, at: At) {
        let to = self.wanted();
        let from = self.world.callers[self.number].mode;
        match at {
            At::Raise => {
                let hold = self.hold();
                let raising = hold.to(Stage::Raising, Some(from), Some(to));
                if self.exchange(hold, raising).is_err() {
                    return self.lost();
                }
                self.set_own(raising);
                self.go(At::RaiseWord);
            }
            At::RaiseWord => {
                self.world.callers[self.number].now = self.world.word;
                self.go(At::RaiseOwn);
            }
            At::RaiseOwn => {
                if self.state() != self.own() {
                    self.forget_word();
                    return self.go(At::Raised);
                }
                let now = self.now();
                let less = now.without(from);
                let blocked = !less.open_to(to) || !now.covers(to);
                self.go(if blocked { At::RaiseBack } else { At::RaiseExchange });
            }
            At::RaiseBack => {
                let (raising, hold) = (self.own(), self.hold());
                self.forget_word();
                if self.exchange(raising, hold).is_err() {
                    return self.go(At::Raised);
                }
                self.set_own(State(0));
                self.go(At::Ask);
            }
            At::RaiseExchange => {
                let now = self.now();
                let then = self.without(now, from).with(to).expect("there is room");
                if !self.exchange_word(now, then) {
                    return self.go(At::RaiseWord);
                }
                self.uncounted(now, from);
                self.forget_word();
                self.go(At::RaiseHeld);
            }
            At::RaiseHeld => {
                let raising = self.own();
                let held = raising.to(Stage::Held, Some(to), None);
                if self.exchange(raising, held).is_err() {
                    return self.go(At::Raised);
                }
                self.keep_hold(held, to);
                self.go(At::RaisedEpoch);
            }
            At::RaisedEpoch => {
                if self.world.epoch != 0 {
                    return self.lost();
                }
                self.go(At::RaisedLiving);
            }
            At::RaisedLiving => {
                if !self.living() {
                    return self.lost();
                }
                self.believe(Some(to));
                if self.bug(Bug::NoGateReread) { self.next() } else { self.go(At::RaisedWord) }
            }
            At::RaisedWord => {
                if self.world.word.gate() {
                    return self.go(At::Ring);
                }
                self.next();
            }
            At::Raised => {
                if self.state() != self.hold() {
                    return self.lost();
                }
                self.set_own(State(0));
                self.go(At::Ask);
            }
            At::Ask => {
                let hold = self.hold();
                let asking = hold.to(Stage::Asking, Some(from), Some(to));
                self.set_own(State(0));
                if self.exchange(hold, asking).is_err() {
                    return self.lost();
                }
                self.go(At::AskSend);
            }
            At::AskSend => {
                self.world.post(self.session, Message::Convert(to));
                self.go(At::LookConvert);
            }
            At::AskBack => {
                // A slip: the program takes the old mode back by itself.
                let asking = self.state();
                if asking.stage() == Some(Stage::Asking) {
                    let _ = self.exchange(asking, asking.to(Stage::Held, asking.mode(), None));
                }
                self.go(At::LookConvert);
            }
            At::LookConvert => {
                let now = self.state();
                if now.stage() != Some(Stage::Held) {
                    return self.lost();
                }
                let mode = now.mode().expect("a mode is held");
                self.keep_hold(now, mode);
                self.believe(Some(mode));
                self.world.answered &= !(1 << self.session);
                self.next();
            }
            _ => unreachable!("not of a way up"),
        }
    }
}
