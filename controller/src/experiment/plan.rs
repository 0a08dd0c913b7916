//! What is to be done about one experiment, given everything that is known of it. Pure.

use std::collections::BTreeSet;

use super::{
    environment::Provision,
    model::{Evidence, Outcome, Stage, Status, next},
};
use crate::fleet::model::AgentId;

/// How much longer than it may be silent a node is waited for before another one begins, milliseconds: its agent sees within
/// 45 seconds that home is away and has 10 to look at the time and 10 to end what runs; the rest is for clocks that differ.
const MARGIN: i64 = 90_000;

/// Everything that is known of an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it stands.
    pub status: Status,
    /// It starts by itself as soon as it is ready.
    pub starts: bool,
    /// Its deployments, in their order.
    pub deployments: Vec<Seen>,
    /// Since when home is here to see who is away, milliseconds since the Unix epoch: before that, nodes had no home.
    pub here_since: i64,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

/// Everything that is known of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it stands.
    pub stage: Stage,
    /// A person cancelled it alone.
    pub is_cancelled: bool,
    /// It was given up and may yet be heard of.
    pub is_given_up: bool,
    /// Since when its node has had no stream, milliseconds since the Unix epoch; none: it has one.
    pub away_since: Option<i64>,
    /// A node away for longer than this is given up, milliseconds.
    pub keep_alive: i64,
    /// Its agent ended it because home was away for longer than its lease.
    pub lease_ended: bool,
    /// The free nodes that may take it over, the best first; none: it stays where it is.
    pub takers: Option<Vec<AgentId>>,
    /// Whether there is what its environment is made from.
    pub provision: Provision,
    /// What the node said of the work under way: of the deployment while it deploys, of the executor from its start on.
    pub told: Told,
}

/// What a node said of a piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Nothing, or that it has it.
    Nothing,
    /// It is under way, since when by the node's clock.
    Working(i64),
    /// It ended, and what it left is on its way here since this time, milliseconds since the Unix epoch.
    Arriving(End, i64),
    /// It ended.
    Ended(End),
}

/// How a piece of work ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How.
    pub outcome: Outcome,
    /// Why, where it did not succeed.
    pub message: String,
    /// When it began by the node's clock, if it did.
    pub started_at: Option<i64>,
    /// When it ended by the node's clock, or home's where the node did not say.
    pub ended_at: i64,
}

/// What is to be done; a number names a deployment by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these their deployments.
    Deploy(Vec<usize>),
    /// It is ready to start.
    NoteDeployed(usize, End),
    /// Send these their executors.
    Start(Vec<usize>),
    /// It runs, since when.
    NoteRunning(usize, i64),
    /// It is over.
    End(usize, End),
    /// It is over as far as anybody waits; its node is told to stop when it is back.
    GiveUp(usize, End),
    /// It is over there, or given up, and this agent begins it anew.
    Move(usize, AgentId, End),
    /// What was given up ended after all: keep its result as late.
    KeepLate(usize, End),
    /// The experiment's status changes, and why.
    Become(Status, String),
}

impl Snapshot {
    /// Places of deployments whose node does not do them: it is away for too long, or ended them with its lease.
    pub fn lost(&self) -> Vec<usize> {
        let is_lost = |seen: &Seen| seen.stage != Stage::Ended && (seen.lease_ended || is_away_too_long(self, seen));
        (0..self.deployments.len()).filter(|n| is_lost(&self.deployments[*n])).collect()
    }
}

/// The actions that lead on from here. Empty when there is nothing to do.
pub fn plan(it: &Snapshot) -> Vec<Action> {
    let mut actions = Vec::new();
    let (mut deploy, mut start) = (Vec::new(), Vec::new());
    let mut after: Vec<(Stage, String)> = Vec::with_capacity(it.deployments.len());
    let mut taken = BTreeSet::new();
    for (n, seen) in it.deployments.iter().enumerate() {
        let stops = it.status == Status::Cancelling || seen.is_cancelled;
        let step = step(it, seen, stops, &taken);
        let message = match &step {
            Some(Step::End(end) | Step::GiveUp(end)) => end.message.clone(),
            _ => String::new(),
        };
        let stage = match step {
            None => seen.stage,
            Some(Step::Deploy) => {
                deploy.push(n);
                Stage::Deploying
            }
            Some(Step::Start) => {
                start.push(n);
                Stage::Starting
            }
            Some(Step::NoteDeployed(end)) => {
                actions.push(Action::NoteDeployed(n, end));
                Stage::Deployed
            }
            Some(Step::NoteRunning(at)) => {
                actions.push(Action::NoteRunning(n, at));
                Stage::Running
            }
            Some(Step::End(end)) => {
                actions.push(Action::End(n, end));
                Stage::Ended
            }
            Some(Step::GiveUp(end)) => {
                actions.push(Action::GiveUp(n, end));
                Stage::Ended
            }
            Some(Step::Move(agent, end)) => {
                taken.insert(agent.clone());
                after.push((Stage::Waiting, String::new()));
                actions.push(Action::Move(n, agent, end));
                Stage::Ended
            }
            Some(Step::KeepLate(end)) => {
                actions.push(Action::KeepLate(n, end));
                Stage::Ended
            }
        };
        after.push((stage, message));
    }
    if !deploy.is_empty() {
        actions.push(Action::Deploy(deploy));
    }
    if !start.is_empty() {
        actions.push(Action::Start(start));
    }
    if let Some((status, why)) = become_what(it, &after) {
        actions.push(Action::Become(status, why));
    }
    actions
}

enum Step {
    Deploy,
    NoteDeployed(End),
    Start,
    NoteRunning(i64),
    End(End),
    GiveUp(End),
    Move(AgentId, End),
    KeepLate(End),
}

/// What is to be done about one deployment.
fn step(it: &Snapshot, seen: &Seen, stops: bool, taken: &BTreeSet<AgentId>) -> Option<Step> {
    let cancelled = || End {
        outcome: Outcome::Cancelled,
        message: Outcome::Cancelled.sentence().into(),
        started_at: None,
        ended_at: it.now,
    };
    if seen.lease_ended && seen.stage != Stage::Ended && may_move(it, seen, stops) {
        // What has ended there for certain is not waited for.
        if let (Some(agent), Told::Ended(end) | Told::Arriving(end, _)) = (taker(seen, taken), &seen.told) {
            return Some(Step::Move(agent, End { outcome: Outcome::Moved, ..end.clone() }));
        }
    }
    match (seen.stage, &arrived(it, seen, stops)) {
        (Stage::Waiting | Stage::Deployed, _) if stops => Some(Step::End(cancelled())),
        (Stage::Waiting, _) => match &seen.provision {
            Provision::There => Some(Step::Deploy),
            Provision::Awaited => is_away_too_long(it, seen).then(|| Step::End(timed_out(it))),
            Provision::Failed(why) => Some(Step::End(End {
                outcome: Outcome::NotDeployed,
                message: why.clone(),
                started_at: None,
                ended_at: it.now,
            })),
        },
        (Stage::Deployed, _) => (it.status == Status::Running).then_some(Step::Start),
        (Stage::Deploying, Told::Ended(end)) if end.outcome == Outcome::Succeeded => {
            Some(if stops { Step::End(cancelled()) } else { Step::NoteDeployed(end.clone()) })
        }
        (Stage::Ended, Told::Ended(end)) => seen.is_given_up.then(|| Step::KeepLate(end.clone())),
        (Stage::Ended, _) => None,
        (_, Told::Ended(end)) => Some(Step::End(end.clone())),
        (Stage::Starting, Told::Working(at)) if !is_away_too_long(it, seen) => Some(Step::NoteRunning(*at)),
        _ if is_away_too_long(it, seen) => give_up(it, seen, stops, taken),
        _ => None,
    }
}

/// A node is given up. What may go on elsewhere does so when the node's agent must have ended it.
fn give_up(it: &Snapshot, seen: &Seen, stops: bool, taken: &BTreeSet<AgentId>) -> Option<Step> {
    if !may_move(it, seen, stops) {
        return Some(Step::GiveUp(timed_out(it)));
    }
    if away(it, seen) < Some(seen.keep_alive + MARGIN) {
        return None;
    }
    Some(match taker(seen, taken) {
        Some(agent) => Step::Move(agent, End { outcome: Outcome::Moved, ..timed_out(it) }),
        None => Step::GiveUp(timed_out(it)),
    })
}

fn may_move(it: &Snapshot, seen: &Seen, stops: bool) -> bool {
    it.status == Status::Running && !stops && seen.takers.is_some()
}

fn taker(seen: &Seen, taken: &BTreeSet<AgentId>) -> Option<AgentId> {
    seen.takers.iter().flatten().find(|agent| !taken.contains(agent)).cloned()
}

fn timed_out(it: &Snapshot) -> End {
    End { outcome: Outcome::TimedOut, message: Outcome::TimedOut.sentence().into(), started_at: None, ended_at: it.now }
}

/// What was told, once nothing more of it is waited for. Of work that was withdrawn home takes nothing more; and what is
/// on its way for longer than the node may be silent does not come.
fn arrived(it: &Snapshot, seen: &Seen, stops: bool) -> Told {
    match &seen.told {
        Told::Arriving(end, since) if stops || seen.is_given_up || it.now - since >= seen.keep_alive => {
            let outcome = if end.outcome == Outcome::Succeeded { Outcome::Failed } else { end.outcome };
            let why = "what it left did not all arrive here";
            let message = if end.message.is_empty() { why.into() } else { format!("{}; {why}", end.message) };
            Told::Ended(End { outcome, message, ..end.clone() })
        }
        told => told.clone(),
    }
}

fn is_away_too_long(it: &Snapshot, seen: &Seen) -> bool {
    away(it, seen).is_some_and(|away| away >= seen.keep_alive)
}

/// For how long its node is away, as home saw it.
fn away(it: &Snapshot, seen: &Seen) -> Option<i64> {
    seen.away_since.map(|since| it.now - since.max(it.here_since))
}

/// What the experiment becomes when its deployments stand like this.
fn become_what(it: &Snapshot, after: &[(Stage, String)]) -> Option<(Status, String)> {
    let status = it.status;
    let all_ended = after.iter().all(|(stage, _)| *stage == Stage::Ended);
    let settled = after.iter().all(|(stage, _)| matches!(stage, Stage::Deployed | Stage::Ended));
    let evidence = match status {
        Status::Preparing if settled => Evidence::Prepared(!all_ended),
        Status::Ready | Status::Running | Status::Cancelling if all_ended => Evidence::AllEnded,
        Status::Ready if it.starts => Evidence::StartRequested,
        _ => return None,
    };
    let why = match next(status, evidence)? {
        Status::Failed => {
            let first = after.iter().map(|(_, message)| message).find(|m| !m.is_empty());
            format!("no node could be prepared: {}", first.map_or("each says why", String::as_str))
        }
        _ => String::new(),
    };
    next(status, evidence).map(|status| (status, why))
}
