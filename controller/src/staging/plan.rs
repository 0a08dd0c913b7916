//! What is to be done about one staging, given everything that is known of it. Pure.

use super::model::{Evidence, OperationId, Outcome, ProjectSpec, Status, Verb, next};
use crate::fleet::model::Phase;

const DAY: i64 = 86_400_000;

/// People are warned this long before an archived staging is cleaned up by its retention, milliseconds.
pub const WARN_BEFORE: i64 = DAY;

/// Which wrapper is run again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Whether it is healthy.
    Check,
    /// Whether it is really archived.
    ArchiveCheck,
}

/// How an operation ended, in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How.
    pub outcome: Outcome,
    /// Exit code, where it exited.
    pub exit_code: Option<i64>,
    /// Signal, where one ended it.
    pub signal: Option<i64>,
    /// The host's clock; none when it never started.
    pub started_at: Option<i64>,
    /// The host's clock, or home's where the host did not say.
    pub ended_at: i64,
    /// Why, never empty for what did not succeed.
    pub message: String,
}

/// What an agent said last of the pending operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing, or that it has it.
    Waiting,
    /// It runs, since when by the host's clock.
    Running(i64),
    /// It ended.
    Ended(End),
}

/// The pending operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Which.
    pub id: OperationId,
    /// What was asked for.
    pub verb: Verb,
    /// What its staging was before.
    pub previous: Option<Status>,
    /// When its start was noted here.
    pub started_at: Option<i64>,
    /// What is known of it.
    pub progress: Progress,
}

/// The newest check that counts: one of the watch as it was put last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Whether it passed.
    pub passed: bool,
    /// What it said.
    pub message: String,
}

/// Everything that is known of one staging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its project.
    pub project: ProjectSpec,
    /// Where it stands.
    pub status: Status,
    /// Since when, milliseconds since the Unix epoch.
    pub status_at: i64,
    /// Since when it is archived.
    pub archived_at: Option<i64>,
    /// When people were warned of its end.
    pub retention_warned_at: Option<i64>,
    /// The operation under way.
    pub pending: Option<Pending>,
    /// What is run again and again.
    pub watch: Option<Watch>,
    /// What that found.
    pub checked: Option<Checked>,
    /// Now.
    pub now: i64,
}

/// One thing to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Note that the operation runs, since when.
    NoteStarted(OperationId, i64),
    /// Note how the operation ended.
    End(OperationId, Verb, End),
    /// Go back to the settings from before the operation.
    Revert(OperationId),
    /// Change the status, and say why.
    Become(Status, String),
    /// Run this wrapper again and again, as evidence of what came after the operation.
    Watch(Watch, Option<OperationId>),
    /// Stop doing so.
    Unwatch,
    /// It is gone from its host: forget it.
    Remove,
    /// Warn that its retention ends at this time.
    WarnOfEnd(i64),
    /// Its retention is over: clean it up.
    CleanUp,
}

/// What is to be done. Equal snapshots give equal plans.
pub fn plan(it: &Snapshot) -> Vec<Action> {
    match &it.pending {
        Some(pending) => match &pending.progress {
            Progress::Ended(end) => ended(it, pending, end),
            Progress::Running(since) if pending.started_at.is_none() => {
                [vec![Action::NoteStarted(pending.id.clone(), *since)], limit(it)].concat()
            }
            Progress::Running(_) | Progress::Waiting => limit(it),
        },
        None => settled(it),
    }
}

fn ended(it: &Snapshot, pending: &Pending, end: &End) -> Vec<Action> {
    let (verb, outcome) = (pending.verb, end.outcome);
    let mut actions = vec![Action::End(pending.id.clone(), verb, end.clone())];
    match (verb, outcome, pending.previous) {
        (Verb::Cleanup, Outcome::Succeeded, _) => actions.push(Action::Remove),
        (Verb::Cleanup, ..) => {}
        // Nothing was changed on the host: a staging that was to be made never was, another is what it was.
        (Verb::Create, Outcome::Refused, _) => actions.push(Action::Remove),
        (_, _, Some(previous)) if changed_nothing(end) => {
            actions.push(Action::Revert(pending.id.clone()));
            // Once its time was over it has failed; only a check, or the archive it never left, says otherwise.
            if it.status.is_pending() || previous == Status::Archived {
                actions.push(Action::Become(previous, end.message.clone()));
            }
            if previous != Status::Archived {
                actions.push(Action::Watch(Watch::Check, Some(pending.id.clone())));
            }
        }
        (Verb::Delete, Outcome::Succeeded, _) if it.status == Status::DeletePending => {
            actions.push(Action::Watch(Watch::ArchiveCheck, Some(pending.id.clone())));
        }
        _ => {
            if let Some(status) = next(it.status, Evidence::Ended(verb, outcome)) {
                actions.push(Action::Become(status, end.message.clone()));
            }
            actions.push(Action::Watch(Watch::Check, Some(pending.id.clone())));
        }
    }
    actions
}

/// Whether an operation ended before it touched the host: refused by `tag_check`, cancelled or late before its start, or
/// impossible to start. What may have run does not count.
pub fn changed_nothing(end: &End) -> bool {
    let may_have_run = matches!(end.outcome, Outcome::Succeeded | Outcome::Interrupted | Outcome::Lost);
    let never_started = end.started_at.is_none() && end.exit_code.is_none() && end.signal.is_none();
    end.outcome == Outcome::Refused || (never_started && !may_have_run)
}

/// A pending staging whose time is over has failed, whatever its operation does.
fn limit(it: &Snapshot) -> Vec<Action> {
    if !it.status.is_pending() || it.now - it.status_at <= it.project.pending_limit_seconds * 1000 {
        return Vec::new();
    }
    let Some(status) = next(it.status, Evidence::LimitPassed) else { return Vec::new() };
    let said = match (&it.pending, &it.checked) {
        (Some(_), _) => "its operation has not ended".to_owned(),
        (None, Some(checked)) => format!("the last check said: {}", checked.message),
        (None, None) => "no check came back".to_owned(),
    };
    let why = format!("not done within {} seconds; {said}", it.project.pending_limit_seconds);
    let mut actions = vec![Action::Become(status, why)];
    if it.pending.is_none() && it.watch != Some(Watch::Check) {
        actions.push(Action::Watch(Watch::Check, None));
    }
    actions
}

/// No operation is under way: checks speak, then the clock.
fn settled(it: &Snapshot) -> Vec<Action> {
    let evidence = match (&it.watch, &it.checked) {
        (Some(Watch::Check), Some(checked)) => Some((Evidence::Check(checked.passed), checked)),
        (Some(Watch::ArchiveCheck), Some(checked)) => Some((Evidence::ArchiveCheck(checked.passed), checked)),
        _ => None,
    };
    let becomes = evidence.and_then(|(e, checked)| next(it.status, e).map(|status| (status, checked)));
    match becomes {
        Some((Status::Archived, _)) => vec![Action::Become(Status::Archived, String::new()), Action::Unwatch],
        Some((status @ Status::Running, _)) => vec![Action::Become(status, String::new())],
        Some((status, checked)) => vec![Action::Become(status, format!("its check failed: {}", checked.message))],
        None if it.status == Status::Archived => retention(it),
        None => limit(it),
    }
}

fn retention(it: &Snapshot) -> Vec<Action> {
    let (Some(days), Some(since)) = (it.project.archived_retention_days, it.archived_at) else { return Vec::new() };
    // Nobody loses a staging who was not warned in time, however short the retention was made.
    let ends = (since + days * DAY).max(it.retention_warned_at.map_or(it.now, |at| at) + WARN_BEFORE);
    match it.retention_warned_at {
        None if it.now >= since + days * DAY - WARN_BEFORE => vec![Action::WarnOfEnd(ends)],
        Some(_) if it.now >= ends => vec![Action::CleanUp],
        _ => Vec::new(),
    }
}

/// What an agent's report of an operation means. `started_ms` and `ended_ms` are the host's; 0 where it does not know.
pub fn progress(phase: Phase, outcome: bool, at: i64, end: End) -> Progress {
    match (outcome, phase) {
        (true, _) => Progress::Ended(end),
        (false, Phase::Working) => Progress::Running(at),
        (false, _) => Progress::Waiting,
    }
}
