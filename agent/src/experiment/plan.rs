//! Which task of a native pipeline begins when, and how the pipeline ends. Pure.
//!
//! A [`History`] holds where each task stands; [`next`] says what is to be done, which the caller carries out and writes
//! into the history: equal histories give equal actions. A task begins when everything it needs has ended as it wants;
//! when something ended otherwise, it is skipped. A repeat begins its part of the pipeline again as soon as its task
//! succeeded, before anything that needs that task sees an end.

use std::time::Duration;

/// A graph of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pipeline {
    /// In the order of the document. Needs name earlier or later ones and form no circle.
    pub tasks: Vec<Task>,
    /// A failure that no task waits for ends the pipeline.
    pub early_stopping: bool,
    /// Tasks under way at the same time; 0: no limit.
    pub parallel: usize,
}

/// One task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Task {
    /// Unique in the pipeline.
    pub name: String,
    /// What is executed.
    pub work: Work,
    /// Additional environment.
    pub variables: Vec<(String, String)>,
    /// What must have ended before.
    pub needs: Vec<Need>,
    /// Files of others.
    pub inputs: Vec<Input>,
    /// Patterns of files to keep.
    pub outputs: Vec<String>,
    /// Tries beside the first.
    pub retries: u32,
    /// Between tries.
    pub retry_delay: Duration,
    /// Limit of one try.
    pub limit: Option<Duration>,
    /// Begins a part of the pipeline again.
    pub repeat: Option<Repeat>,
}

/// What a task executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A program and its arguments.
    Command(Vec<String>),
    /// Text for the shell.
    Script(String),
}

/// A task that must have ended before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Which, by its place in the pipeline.
    pub task: usize,
    /// How.
    pub on: On,
}

/// How a needed task must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Well.
    Success,
    /// Badly.
    Failure,
    /// Anyhow, also without having begun.
    Any,
}

/// A file that another task left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Whose, by its place in the pipeline.
    pub task: usize,
    /// Where it lies there.
    pub path: String,
    /// Where it is to lie.
    pub to: String,
}

/// Begins a part of the pipeline again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// The first task of that part.
    pub from: usize,
    /// How often in all, beside the first time.
    pub times: u32,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Succeeded,
    /// Badly, its time being over included.
    Failed,
    /// Cut off.
    Cancelled,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It waits for what it needs.
    Waiting,
    /// A try is under way.
    Running,
    /// Another try is due at this time since the pipeline's begin.
    Retrying(Duration),
    /// It ended.
    Ended(Outcome),
    /// It does not begin.
    Skipped,
}

/// One task's place in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Where it stands.
    pub stand: Stand,
    /// Repeats so far.
    pub cycle: u32,
    /// Tries begun in this cycle.
    pub attempt: u32,
    /// How often it began its part again.
    repeated: u32,
}

/// Where all tasks stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// In the order of the pipeline.
    pub slots: Vec<Slot>,
    /// Why nothing begins any more.
    pub stopped: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Begin a try of a task.
    Start(usize),
    /// A task does not begin; a sentence why.
    Skip(usize, String),
    /// Cut a try off.
    Cancel(usize),
    /// Look again at this time since the pipeline's begin.
    Wake(Duration),
    /// The pipeline is over; none: it ended well, otherwise a sentence why not.
    End(Option<String>),
}

/// What is to be done next, everything that can be done at once together. Nothing while tries are under way and nothing
/// else may begin.
pub fn next(pipeline: &Pipeline, history: &History, now: Duration) -> Vec<Action> {
    let running = history.count(|stand| stand == Stand::Running);
    if history.stopped.is_some() {
        let cut = history.each(|stand| stand == Stand::Running).map(Action::Cancel);
        let why = || history.stopped.clone().unwrap_or_default();
        let skipped = history.each(Stand::is_pending).map(|task| Action::Skip(task, why()));
        let all: Vec<_> = cut.chain(skipped).collect();
        return if all.is_empty() { vec![Action::End(verdict(pipeline, history))] } else { all };
    }
    let mut room = if pipeline.parallel == 0 { usize::MAX } else { pipeline.parallel.saturating_sub(running) };
    let (mut actions, mut wake) = (Vec::new(), None::<Duration>);
    for (at, (task, slot)) in pipeline.tasks.iter().zip(&history.slots).enumerate() {
        let readiness = match slot.stand {
            Stand::Waiting => readiness(pipeline, history, task),
            Stand::Retrying(due) if due > now => {
                wake = Some(wake.map_or(due, |soonest| soonest.min(due)));
                continue;
            }
            Stand::Retrying(_) => Readiness::Ready,
            _ => continue,
        };
        match readiness {
            Readiness::Ready if room > 0 => {
                room -= 1;
                actions.push(Action::Start(at));
            }
            Readiness::Never(why) => actions.push(Action::Skip(at, why)),
            Readiness::Ready | Readiness::Waits => {}
        }
    }
    if actions.is_empty() && running == 0 && wake.is_none() {
        return vec![Action::End(verdict(pipeline, history))];
    }
    actions.extend(wake.map(Action::Wake));
    actions
}

enum Readiness {
    Ready,
    Waits,
    Never(String),
}

fn readiness(pipeline: &Pipeline, history: &History, task: &Task) -> Readiness {
    let mut waits = false;
    for need in &task.needs {
        let name = &pipeline.tasks[need.task].name;
        let was = match history.slots[need.task].stand {
            Stand::Ended(Outcome::Succeeded) => On::Success,
            Stand::Ended(_) => On::Failure,
            Stand::Skipped if need.on == On::Any => On::Any,
            Stand::Skipped => return Readiness::Never(format!("{name} was skipped")),
            Stand::Waiting | Stand::Running | Stand::Retrying(_) => {
                waits = true;
                continue;
            }
        };
        match (need.on, was) {
            (On::Success, On::Failure) => return Readiness::Never(format!("{name} failed")),
            (On::Failure, On::Success) => return Readiness::Never(format!("{name} succeeded")),
            _ => {}
        }
    }
    if waits { Readiness::Waits } else { Readiness::Ready }
}

fn verdict(pipeline: &Pipeline, history: &History) -> Option<String> {
    let names = |wanted: fn(Stand) -> bool| {
        let names: Vec<_> = history.each(wanted).map(|at| pipeline.tasks[at].name.clone()).collect();
        names.join(", ")
    };
    let failed = names(|stand| stand == Stand::Ended(Outcome::Failed));
    if !failed.is_empty() {
        return Some(format!("failed: {failed}"));
    }
    history.stopped.clone()
}

// === impl Pipeline ===

impl Pipeline {
    /// The tasks that a repeat begins again: everything from its first task that leads to `last`, both included.
    pub fn part(&self, from: usize, last: usize) -> Vec<usize> {
        let leads = self.reach(last, |task| self.tasks[task].needs.iter().map(|need| need.task).collect());
        let follows = self.reach(from, |task| {
            let needing = |other: &usize| self.tasks[*other].needs.iter().any(|need| need.task == task);
            (0..self.tasks.len()).filter(needing).collect()
        });
        (0..self.tasks.len()).filter(|at| leads[*at] && follows[*at]).collect()
    }

    /// A circle of needs, by the names of its tasks.
    pub fn circle(&self) -> Option<String> {
        let own = |at: usize| self.tasks[at].needs.iter().map(|need| need.task).collect::<Vec<_>>();
        let in_circle = |at: &usize| own(*at).into_iter().any(|needed| self.reach(needed, own)[*at]);
        let names: Vec<_> = (0..self.tasks.len()).filter(in_circle).map(|at| self.tasks[at].name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    fn reach(&self, start: usize, onward: impl Fn(usize) -> Vec<usize>) -> Vec<bool> {
        let mut seen = vec![false; self.tasks.len()];
        let mut todo = vec![start];
        while let Some(at) = todo.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                todo.extend(onward(at));
            }
        }
        seen
    }
}

// === impl History ===

impl History {
    /// Nothing has happened.
    pub fn new(pipeline: &Pipeline) -> Self {
        let slot = Slot { stand: Stand::Waiting, cycle: 0, attempt: 0, repeated: 0 };
        Self { slots: vec![slot; pipeline.tasks.len()], stopped: None }
    }

    /// A try begins.
    pub fn started(&mut self, task: usize) {
        let slot = &mut self.slots[task];
        slot.attempt += 1;
        slot.stand = Stand::Running;
    }

    /// A task does not begin.
    pub fn skipped(&mut self, task: usize) {
        self.slots[task].stand = Stand::Skipped;
    }

    /// A try ended. What follows from it is decided here: another try, another cycle, or the end of everything.
    pub fn ended(&mut self, pipeline: &Pipeline, task: usize, outcome: Outcome, now: Duration) {
        let it = &pipeline.tasks[task];
        let slot = &mut self.slots[task];
        slot.stand = Stand::Ended(outcome);
        match outcome {
            Outcome::Failed if self.stopped.is_none() && slot.attempt <= it.retries => {
                slot.stand = Stand::Retrying(now + it.retry_delay);
            }
            Outcome::Failed if pipeline.early_stopping && !is_awaited(pipeline, task) => {
                self.stop(format!("{} failed", it.name));
            }
            Outcome::Succeeded if self.stopped.is_none() => {
                if let Some(repeat) = it.repeat.filter(|repeat| slot.repeated < repeat.times) {
                    slot.repeated += 1;
                    for again in pipeline.part(repeat.from, task) {
                        let slot = &mut self.slots[again];
                        (slot.stand, slot.attempt) = (Stand::Waiting, 0);
                        slot.cycle += 1;
                    }
                }
            }
            _ => {}
        }
    }

    /// Nothing begins any more; the first reason stands.
    pub fn stop(&mut self, why: String) {
        self.stopped.get_or_insert(why);
    }

    fn each(&self, wanted: fn(Stand) -> bool) -> impl Iterator<Item = usize> {
        self.slots.iter().enumerate().filter(move |(_, slot)| wanted(slot.stand)).map(|(at, _)| at)
    }

    fn count(&self, wanted: fn(Stand) -> bool) -> usize {
        self.each(wanted).count()
    }
}

// === impl Stand ===

impl Stand {
    fn is_pending(self) -> bool {
        matches!(self, Self::Waiting | Self::Retrying(_))
    }
}

// === impl Work ===

impl Default for Work {
    fn default() -> Self {
        Self::Command(Vec::new())
    }
}

/// Whether a task begins upon the failure of this one.
fn is_awaited(pipeline: &Pipeline, task: usize) -> bool {
    pipeline.tasks.iter().flat_map(|other| &other.needs).any(|need| need.task == task && need.on != On::Success)
}
