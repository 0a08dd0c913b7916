//! The one loop that runs any driver.
//!
//! What is to be done next with an assignment follows purely from its ledger entry and its [`Slot`], see [`next`]; the
//! loop carries it out. A new generation is taken up between turns, never inside one. `Applied` is said only when a
//! turn found nothing to do for the generation held. Once work is marked as starting before it runs and its outcome is
//! durable before it is said; what a former run left in the middle is ended before anything else happens to it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Act, Attempt, Driver, End, Home, Kernel, Settled, Turn, condition, phase_of};
use crate::{
    host::{Stream, Watch},
    ledger::{
        Assignment, Entry, Generation, Group, Key, Phase, Record, Report, Stage,
        model::{Grouped, Starting},
    },
    spool::LogKey,
};

/// Once work under way at the same time; the rest waits for its turn.
const MAX_RUNNING: usize = 64;

/// So many process groups of one attempt are remembered before it is looked which of them are gone.
const GROUPS: usize = 16;

/// The loop turns at least this often, so that a watchdog fed by it sees it alive.
const IDLE_TURN: Duration = Duration::from_secs(10);

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(300);

/// What the loop knows of an assignment beside the ledger.
#[derive(Debug, Default)]
pub struct Slot {
    busy: bool,
    cancel: Option<(CancellationToken, Option<Phase>)>,
    recovered: bool,
    acted_on: Option<Generation>,
    gone: Option<Generation>,
    said: Option<(Generation, Phase, Vec<u8>)>,
    unsaved: Option<Report>,
    failures: u32,
    due: Option<Instant>,
}

/// What is true of the whole agent while a step is chosen.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For what is due.
    pub instant: Instant,
    /// Home's clock, milliseconds since the Unix epoch.
    pub home_ms: i64,
    /// Home took the identity away.
    pub revoked: bool,
}

/// What to do next with an assignment.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing, until something changes or is due.
    Rest,
    /// Standing: a turn towards the document.
    Turn,
    /// Standing: a turn towards nothing.
    Undo,
    /// Once: end what a former run left, if anything.
    Recover(Vec<Group>),
    /// Once: begin an attempt.
    Start,
    /// Once: end the attempt under way, for this outcome.
    Cancel(Phase),
    /// Once: it is over without an attempt's own word.
    Over {
        /// The outcome.
        phase: Phase,
        /// An attempt had begun.
        may_have_run: bool,
    },
    /// Once: try again to make its outcome durable.
    Save,
}

enum Happened {
    Recovered(Key),
    Ended(Key, End),
    Turned(Key, Generation, Turn),
    Undone(Key, Generation, Turn),
}

struct Work {
    kernel: Arc<Kernel>,
    slots: BTreeMap<Key, Slot>,
    running: FuturesUnordered<BoxFuture<'static, Happened>>,
    attempts: usize,
}

/// Records an attempt's processes, keeps its output and says how far it is.
struct Recorder {
    kernel: Arc<Kernel>,
    assignment: Assignment,
    log: LogKey,
    groups: Mutex<Vec<Group>>,
}

/// Runs drivers until `stop`; once work under way is then ended as interrupted. `beat` is called at each turn.
pub async fn run(kernel: Arc<Kernel>, stop: CancellationToken, mut beat: impl FnMut() + Send) {
    let mut work = Work { kernel, slots: BTreeMap::new(), running: FuturesUnordered::new(), attempts: 0 };
    let kernel = work.kernel.clone();
    loop {
        beat();
        work.step_all();
        let due = work.next_due();
        tokio::select! {
            () = kernel.wake.notified() => {}
            Some(happened) = work.running.next() => work.happened(happened),
            () = sleep_until(due) => {}
            () = stop.cancelled() => break,
        }
    }
    work.cancel_all();
    while work.attempts > 0
        && let Some(happened) = work.running.next().await
    {
        work.happened(happened);
    }
}

/// Chooses the next step. Pure.
pub fn next(entry: &Entry, slot: &Slot, now: Now) -> Step {
    let assignment = &entry.assignment;
    let waits = slot.due.is_some_and(|due| due > now.instant);
    match &entry.stage {
        Stage::Finished(_) | Stage::Done { .. } => Step::Rest,
        Stage::Standing => {
            let unwanted = assignment.withdrawn || (now.revoked && assignment.stop_on_revoke);
            let is_new = slot.acted_on != Some(assignment.generation);
            if slot.busy || unwanted && slot.gone == Some(assignment.generation) {
                Step::Rest
            } else if unwanted {
                if waits && !is_new && slot.failures > 0 { Step::Rest } else { Step::Undo }
            } else if is_new || slot.gone.is_some() || slot.due.is_some() && !waits {
                Step::Turn
            } else {
                Step::Rest
            }
        }
        _ if slot.unsaved.is_some() => {
            if waits {
                Step::Rest
            } else {
                Step::Save
            }
        }
        _ if slot.busy => match &slot.cancel {
            Some((_, None)) if assignment.withdrawn => Step::Cancel(Phase::Cancelled),
            Some((_, None)) if now.revoked => Step::Cancel(Phase::Interrupted),
            _ => Step::Rest,
        },
        Stage::Starting { groups, .. } if !slot.recovered => Step::Recover(groups.clone()),
        stage => {
            let begun = matches!(stage, Stage::Starting { .. });
            let late = assignment.start_by_ms > 0 && now.home_ms >= assignment.start_by_ms;
            if assignment.withdrawn {
                Step::Over { phase: Phase::Cancelled, may_have_run: begun }
            } else if now.revoked || begun && (!assignment.rerun || late) {
                Step::Over { phase: Phase::Interrupted, may_have_run: begun }
            } else if late {
                Step::Over { phase: Phase::Late, may_have_run: false }
            } else if waits {
                Step::Rest
            } else {
                Step::Start
            }
        }
    }
}

/// How long a failed turn or write waits before it is tried again.
fn retry_after(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(RETRY_MOST)
}

// === impl Work ===

impl Work {
    fn step_all(&mut self) {
        let now = Now {
            instant: Instant::now(),
            home_ms: self.kernel.home_now_ms(),
            revoked: self.kernel.revoked.load(Ordering::Relaxed),
        };
        let fresh = Slot::default();
        let (kernel, slots) = (self.kernel.clone(), &mut self.slots);
        let todo: Vec<(Entry, Step)> = kernel.ledger.read(|state| {
            slots.retain(|key, slot| slot.busy || state.entries.contains_key(key));
            let steps = state.entries.iter().map(|(key, e)| (e, next(e, slots.get(key).unwrap_or(&fresh), now)));
            steps.filter(|(_, step)| *step != Step::Rest).map(|(e, step)| (e.clone(), step)).collect()
        });
        for (entry, step) in todo {
            self.take(entry, step);
        }
    }

    fn take(&mut self, entry: Entry, step: Step) {
        let key = entry.assignment.key.clone();
        let slot = self.slots.entry(key.clone()).or_default();
        match step {
            Step::Rest => {}
            Step::Turn | Step::Undo => {
                slot.busy = true;
                if step == Step::Turn {
                    slot.gone = None;
                }
                slot.acted_on = Some(entry.assignment.generation);
                self.turn(entry, step == Step::Undo);
            }
            Step::Recover(groups) => {
                slot.busy = true;
                let host = self.kernel.host.clone();
                self.running.push(Box::pin(async move {
                    for group in groups {
                        host.end_group(&group).await;
                    }
                    Happened::Recovered(key)
                }));
            }
            Step::Start => self.start(entry),
            Step::Cancel(phase) => {
                if let Some((token, why)) = &mut slot.cancel {
                    *why = Some(phase);
                    token.cancel();
                }
            }
            Step::Over { phase, may_have_run } => {
                let mut outcome = Report::new(&entry.assignment, phase, self.kernel.host.now_ms());
                outcome.may_have_run = may_have_run;
                self.finish(&key, entry.attempt, outcome);
            }
            Step::Save => {
                if let Some(outcome) = slot.unsaved.take() {
                    self.finish(&key, entry.attempt, outcome);
                }
            }
        }
    }

    fn turn(&mut self, entry: Entry, undo: bool) {
        let driver = self.kernel.drivers.get(entry.assignment.key.kind.as_str()).cloned();
        self.running.push(Box::pin(async move {
            let assignment = entry.assignment;
            let turn = match driver.as_deref().map(Driver::act) {
                Some(Act::Standing(standing)) if undo => standing.undo(&assignment).await,
                Some(Act::Standing(standing)) => standing.turn(&assignment).await,
                // What no driver knows can have left nothing behind.
                _ if undo => Turn::Settled(Settled::default()),
                _ => Turn::Waiting(format!("this agent keeps no standing {}", assignment.key.kind)),
            };
            let (key, generation) = (assignment.key, assignment.generation);
            if undo { Happened::Undone(key, generation, turn) } else { Happened::Turned(key, generation, turn) }
        }));
    }

    fn start(&mut self, entry: Entry) {
        if self.attempts >= MAX_RUNNING {
            return;
        }
        let (key, attempt) = (entry.assignment.key.clone(), entry.attempt + 1);
        let starting = Starting { key: key.clone(), attempt, boot_id: self.kernel.host.boot_id() };
        let written = self.kernel.ledger.write(|_| vec![Record::Starting(starting)]);
        self.kernel.observe_write(&written);
        let slot = self.slots.entry(key.clone()).or_default();
        if written.is_err() {
            slot.failures += 1;
            slot.due = Some(Instant::now() + retry_after(slot.failures));
            return;
        }
        let token = CancellationToken::new();
        *slot = Slot { busy: true, recovered: true, cancel: Some((token.clone(), None)), ..Slot::default() };
        let working = Report::new(&entry.assignment, Phase::Working, self.kernel.host.now_ms());
        self.kernel.say(Report { attempt, ..working });
        self.attempts += 1;
        let kernel = self.kernel.clone();
        self.running.push(Box::pin(async move {
            let log = LogKey { key: key.clone(), attempt, stream: Stream::Stdout };
            let assignment = Assignment { document: bytes::Bytes::new(), ..entry.assignment.clone() };
            let recorder = Recorder { kernel: kernel.clone(), assignment, log, groups: Mutex::default() };
            let driver = kernel.drivers.get(key.kind.as_str()).cloned();
            let end = match driver.as_deref().map(Driver::act) {
                Some(Act::Once(once)) => {
                    let (watch, home) = (&recorder, &recorder);
                    once.run(Attempt { assignment: &entry.assignment, cancel: token, watch, home }).await
                }
                _ => {
                    let message = format!("this agent cannot do {}", key.kind);
                    let conditions = vec![condition("Ready", false, "NoDriver", message)];
                    End { succeeded: false, conditions, result: bytes::Bytes::new() }
                }
            };
            Happened::Ended(key, end)
        }));
    }

    fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Recovered(key) => {
                let slot = self.slots.entry(key).or_default();
                (slot.busy, slot.recovered) = (false, true);
            }
            Happened::Ended(key, end) => self.ended(&key, end),
            Happened::Turned(key, generation, turn) => self.turned(&key, generation, turn, false),
            Happened::Undone(key, generation, turn) => self.turned(&key, generation, turn, true),
        }
    }

    fn ended(&mut self, key: &Key, end: End) {
        self.attempts -= 1;
        let slot = self.slots.entry(key.clone()).or_default();
        slot.busy = false;
        // Work that ended well before it could be cut off did end well.
        let cut = slot.cancel.take().and_then(|(_, why)| why).filter(|_| !end.succeeded);
        let Some(entry) = self.kernel.ledger.read(|state| state.entries.get(key).cloned()) else { return };
        let phase = cut.unwrap_or(phase_of(&end));
        let mut outcome = Report::new(&entry.assignment, phase, self.kernel.host.now_ms());
        (outcome.conditions, outcome.result, outcome.may_have_run) = (end.conditions, end.result, cut.is_some());
        self.finish(key, entry.attempt, outcome);
    }

    /// Makes an outcome durable, then says it.
    fn finish(&mut self, key: &Key, attempt: u32, outcome: Report) {
        let outcome = Report { outcome: true, attempt, ..outcome };
        let written = self.kernel.ledger.number().and_then(|seq| {
            let outcome = Report { seq, ..outcome.clone() };
            self.kernel.ledger.write(|_| vec![Record::Finished(outcome.clone())])?;
            self.kernel.spool.report(outcome);
            Ok(())
        });
        self.kernel.observe_write(&written);
        let slot = self.slots.entry(key.clone()).or_default();
        if written.is_err() {
            slot.unsaved = Some(outcome);
            slot.failures += 1;
            slot.due = Some(Instant::now() + retry_after(slot.failures));
        } else {
            self.slots.remove(key);
        }
    }

    fn turned(&mut self, key: &Key, generation: Generation, turn: Turn, undone: bool) {
        let kernel = self.kernel.clone();
        let held = kernel.ledger.read(|state| state.entries.get(key).map(|e| e.assignment.clone()));
        let slot = self.slots.entry(key.clone()).or_default();
        slot.busy = false;
        // A newer generation is taken up next; what the older one came to is of no interest any more.
        let Some(assignment) = held.filter(|a| a.generation == generation) else { return };
        let (phase, essence, after) = match &turn {
            Turn::Settled(settled) if undone => {
                slot.gone = Some(generation);
                (Phase::Gone, settled.essence.clone(), None)
            }
            Turn::Settled(settled) => (Phase::Applied, settled.essence.clone(), settled.again),
            Turn::Acted => (Phase::Working, Vec::new(), Some(Duration::ZERO)),
            Turn::Unsettled(told) => (Phase::Working, told.essence.clone(), told.again.or(Some(RETRY_FIRST))),
            Turn::Waiting(what) => (Phase::Waiting, what.clone().into_bytes(), None),
            Turn::Failed(why) => (Phase::Failed, why.clone().into_bytes(), None),
        };
        slot.failures = if matches!(phase, Phase::Waiting | Phase::Failed) { slot.failures + 1 } else { 0 };
        let after = if slot.failures > 0 { Some(retry_after(slot.failures)) } else { after };
        slot.due = after.and_then(|after| Instant::now().checked_add(after));
        let news = Some((generation, phase, essence));
        // An effect undone for a revocation was not withdrawn: home has nothing to hear of it.
        if slot.said == news || undone && phase == Phase::Gone && !assignment.withdrawn {
            return;
        }
        let mut report = Report::new(&assignment, phase, kernel.host.now_ms());
        match turn {
            Turn::Settled(told) | Turn::Unsettled(told) => report.result = told.result,
            Turn::Acted => {}
            Turn::Waiting(what) => report.conditions.push(condition("Ready", false, "Waiting", what)),
            Turn::Failed(why) => report.conditions.push(condition("Ready", false, "Failed", why)),
        }
        if kernel.say(report) {
            slot.said = news;
        } else {
            slot.gone = None;
            slot.due = Some(Instant::now() + RETRY_FIRST);
        }
    }

    fn cancel_all(&mut self) {
        for (token, why) in self.slots.values_mut().filter_map(|slot| slot.cancel.as_mut()) {
            why.get_or_insert(Phase::Interrupted);
            token.cancel();
        }
    }

    fn next_due(&self) -> Instant {
        let idle = Instant::now() + IDLE_TURN;
        let waiting = self.slots.values().filter(|slot| !slot.busy);
        waiting.filter_map(|slot| slot.due).min().map_or(idle, |due| due.min(idle))
    }
}

// === impl Recorder ===

impl Watch for Recorder {
    fn grouped(&self, group: Group) -> io::Result<()> {
        let mut groups = self.groups.lock().unwrap_or_else(|e| e.into_inner());
        if groups.len() >= GROUPS {
            groups.retain(|group| self.kernel.host.is_alive(group));
        }
        let grouped = Grouped { key: self.log.key.clone(), group: group.clone(), others: groups.clone() };
        let written = self.kernel.ledger.write(|_| vec![Record::Grouped(grouped)]);
        self.kernel.observe_write(&written);
        groups.push(group);
        written
    }

    fn output(&self, stream: Stream, bytes: &[u8]) {
        self.kernel.spool.output(&LogKey { stream, ..self.log.clone() }, bytes);
    }
}

impl Home for Recorder {
    fn tell(&self, result: bytes::Bytes) {
        let working = Report::new(&self.assignment, Phase::Working, self.kernel.host.now_ms());
        self.kernel.say(Report { attempt: self.log.attempt, result, ..working });
    }

    fn silence(&self) -> Duration {
        self.kernel.silence()
    }
}
