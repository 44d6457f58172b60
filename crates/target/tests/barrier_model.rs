//! The barrier for shared LUN state, model-checked.
//!
//! The model has what `target::message`, `target::control` and the shards do for one change that
//! takes the right to write away (say, PREEMPT): the control plane publishes the new state, sends a
//! barrier message to every shard, and answers when all shards have answered. Commands of the
//! fenced nexus arrive at any time on any shard, wait for data, wait at the gate, run on the disk.
//! A shard may end before its time; what it has on the disk goes on, and nobody hears of its end.
//!
//! What must hold: once the change is answered, no command of the fenced nexus is on the disk, and
//! none gets there. All interleavings are explored. To show that the model can fail, each rule of
//! the protocol is taken out in turn, and the checker must then find the hole.

use stateright::{Checker, Model, Property};

const SHARDS: usize = 2;
const TASKS: usize = 2;

/// A rule of the protocol that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeftOut {
    Nothing,
    /// Commands that waited for data are not checked again before they start.
    CheckAfterData,
    /// Commands that waited at the gate are not checked again before they start.
    CheckAfterGate,
    /// A shard looks at what is published in one turn and starts the command in a later one.
    OneTurn,
    /// A shard answers a barrier while commands checked earlier are on the disk.
    Drain,
    /// Commands whose session is gone, but which are on the disk, are not waited for.
    DrainAborted,
    /// The barrier is sent before the new state is published.
    PublishFirst,
    /// The control plane answers without waiting for the second shard.
    AllShards,
    /// A shard that is gone counts as one that has answered, whatever it had on the disk.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Task {
    Unborn,
    /// Let in; waits for its data.
    Receiving,
    /// Has its data; waits at the gate.
    Queued,
    /// Looked at, to be started in a later turn (only where that rule is left out).
    Chosen,
    OnDisk,
    /// Its session is gone or it was aborted; its I/O goes on.
    Aborted,
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Shard {
    tasks: [Task; TASKS],
    /// The barrier message waits in the inbox.
    mail: bool,
    /// Commands the barrier waits for; `None` before the barrier was received.
    owed: Option<[bool; TASKS]>,
    answered: bool,
    /// It has ended before its time.
    gone: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct State {
    /// The fenced nexus may not write any more.
    fenced: bool,
    sent: bool,
    done: bool,
    /// A shard went with something on the disk: the unit is marked before the shard's answer is
    /// given up.
    lost: bool,
    shards: [Shard; SHARDS],
    /// A fenced command started after the change was answered.
    broken: bool,
}

impl State {
    /// What a shard that ends before its time has on the disk goes on.
    fn die(&mut self, s: usize) {
        let shard = &mut self.shards[s];
        shard.gone = true;
        for task in &mut shard.tasks {
            match task {
                Task::OnDisk | Task::Aborted => self.lost = true,
                _ => *task = Task::Over,
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Publish,
    Send,
    Answer,
    Receive(usize),
    Reply(usize),
    Arrive(usize, usize),
    Data(usize, usize),
    Grant(usize, usize),
    Start(usize, usize),
    Abort(usize, usize),
    Finish(usize, usize),
    Die(usize),
}

struct Protocol(LeftOut);

impl Protocol {
    fn has(&self, rule: LeftOut) -> bool {
        self.0 != rule
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let shard = Shard {
            tasks: [Task::Unborn; TASKS],
            mail: false,
            owed: None,
            answered: false,
            gone: false,
        };
        vec![State {
            fenced: false,
            sent: false,
            done: false,
            lost: false,
            shards: [shard.clone(), shard],
            broken: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let may_send = state.fenced || !self.has(LeftOut::PublishFirst);
        if !state.fenced && (state.sent || self.has(LeftOut::PublishFirst)) {
            actions.push(Action::Publish);
        }
        if may_send && !state.sent {
            actions.push(Action::Send);
        }
        let enough = if self.has(LeftOut::AllShards) {
            SHARDS
        } else {
            1
        };
        // Without an answer and with something lost, the change fails: that promises nothing.
        let lost = state.lost && self.has(LeftOut::Lost);
        let settled = |shard: &Shard| shard.answered || (state.sent && shard.gone && !lost);
        if state.fenced && !state.done && state.shards.iter().take(enough).all(settled) {
            actions.push(Action::Answer);
        }
        for (s, shard) in state.shards.iter().enumerate() {
            if !shard.gone {
                actions.push(Action::Die(s));
            }
            if shard.mail && !shard.gone {
                actions.push(Action::Receive(s));
            }
            if shard.owed == Some([false; TASKS]) && !shard.answered && !shard.gone {
                actions.push(Action::Reply(s));
            }
            for (t, task) in shard.tasks.iter().enumerate() {
                if shard.gone {
                    if matches!(task, Task::OnDisk | Task::Aborted) {
                        actions.push(Action::Finish(s, t));
                    }
                    continue;
                }
                if *task == Task::OnDisk {
                    actions.push(Action::Abort(s, t));
                }
                actions.extend(match task {
                    Task::Unborn => Some(Action::Arrive(s, t)),
                    Task::Receiving => Some(Action::Data(s, t)),
                    Task::Queued => Some(Action::Grant(s, t)),
                    Task::Chosen => Some(Action::Start(s, t)),
                    Task::OnDisk | Task::Aborted => Some(Action::Finish(s, t)),
                    Task::Over => None,
                });
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let fenced = state.fenced;
        match action {
            Action::Publish => state.fenced = true,
            Action::Send => {
                state.sent = true;
                for shard in &mut state.shards {
                    shard.mail = true;
                }
            }
            Action::Answer => state.done = true,
            Action::Receive(s) => {
                let drain = self.has(LeftOut::Drain);
                let shard = &mut state.shards[s];
                shard.mail = false;
                shard.owed = Some(shard.tasks.map(|task| match task {
                    Task::OnDisk => drain,
                    Task::Aborted => drain && self.has(LeftOut::DrainAborted),
                    _ => false,
                }));
            }
            Action::Reply(s) => state.shards[s].answered = true,
            // The first check, at arrival.
            Action::Arrive(s, t) => {
                state.shards[s].tasks[t] = if fenced { Task::Over } else { Task::Receiving };
            }
            // The check when the data is there, in the turn that asks the gate.
            Action::Data(s, t) => {
                let refused = fenced && self.has(LeftOut::CheckAfterData);
                state.shards[s].tasks[t] = if refused { Task::Over } else { Task::Queued };
            }
            // The check when the gate lets it through, in the turn that starts it.
            Action::Grant(s, t) => {
                let refused = fenced
                    && self.has(LeftOut::CheckAfterGate)
                    && self.has(LeftOut::CheckAfterData);
                state.shards[s].tasks[t] = if refused {
                    Task::Over
                } else if self.has(LeftOut::OneTurn) {
                    state.broken |= state.done;
                    Task::OnDisk
                } else {
                    Task::Chosen
                };
            }
            Action::Start(s, t) => {
                state.broken |= state.done;
                state.shards[s].tasks[t] = Task::OnDisk;
            }
            Action::Abort(s, t) => state.shards[s].tasks[t] = Task::Aborted,
            Action::Die(s) => state.die(s),
            Action::Finish(s, t) => {
                let shard = &mut state.shards[s];
                shard.tasks[t] = Task::Over;
                if let Some(owed) = &mut shard.owed {
                    owed[t] = false;
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "nothing fenced starts after the answer",
                |_, state: &State| !state.broken,
            ),
            Property::always(
                "nothing fenced is on the disk after the answer",
                |_, state: &State| {
                    let on_disk = |shard: &Shard| {
                        shard.tasks.contains(&Task::OnDisk) || shard.tasks.contains(&Task::Aborted)
                    };
                    !(state.done && state.shards.iter().any(on_disk))
                },
            ),
            Property::sometimes("the change is answered", |_, state: &State| state.done),
            Property::sometimes(
                "it is answered without a shard that is gone",
                |_, state: &State| {
                    let gone = |shard: &Shard| shard.gone && !shard.answered;
                    state.done && state.shards.iter().any(gone)
                },
            ),
            Property::sometimes(
                "a command runs while the change is made",
                |_, state: &State| {
                    state.fenced
                        && state
                            .shards
                            .iter()
                            .any(|shard| shard.tasks.contains(&Task::OnDisk))
                },
            ),
        ]
    }
}

fn holes(left_out: LeftOut) -> usize {
    let checker = Protocol(left_out).checker().spawn_bfs().join();
    assert!(checker.is_done(), "not every state was visited");
    let always = [
        "nothing fenced starts after the answer",
        "nothing fenced is on the disk after the answer",
    ];
    always
        .iter()
        .filter(|name| checker.discovery(name).is_some())
        .count()
}

#[test]
fn the_protocol_holds_in_every_interleaving() {
    let checker = Protocol(LeftOut::Nothing).checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(
        checker.unique_state_count() > 1000,
        "the model is too small to mean anything"
    );
}

#[test]
fn each_rule_is_needed() {
    for rule in [
        LeftOut::CheckAfterData,
        LeftOut::CheckAfterGate,
        LeftOut::OneTurn,
        LeftOut::Drain,
        LeftOut::DrainAborted,
        LeftOut::PublishFirst,
        LeftOut::AllShards,
        LeftOut::Lost,
    ] {
        assert!(holes(rule) > 0, "without {rule:?} no hole was found");
    }
}
