//! What the journal says, and what may follow. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use muster_proto::{MAX_DOCUMENT, MAX_HELD};

use super::model::{
    Assignment, Begin, Closed, Dropped, Generation, Group, Grouped, Key, Reason, Record, Refused, Report, Starting,
};

/// How long a finished once assignment is remembered after home has its outcome, milliseconds.
pub const REMEMBER_MS: i64 = 30 * 24 * 3_600_000;

/// Finished once assignments remembered at most: beyond it the oldest leave, so that no host's habits fill its memory.
pub const REMEMBER: usize = 4096;

/// Version of the journal's format.
pub const FORMAT: u32 = 1;

/// Everything the agent must not forget.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Random name of this ledger; empty before its first record.
    pub ledger_id: String,
    /// Token of the newest session; empty before the first.
    pub token: Bytes,
    /// Every assignment held and every once assignment remembered.
    pub entries: BTreeMap<Key, Entry>,
    /// Reports up to this number are at home.
    pub acknowledged: u64,
    /// Report numbers below this one may have been used.
    pub reserved: u64,
    /// Home took the identity away.
    pub revoked: bool,
}

/// One assignment.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The newest generation taken.
    pub assignment: Assignment,
    /// How far it has come.
    pub stage: Stage,
    /// Attempts begun.
    pub attempt: u32,
}

/// How far an assignment has come.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// A state to keep, or after a withdrawal to undo.
    Standing,
    /// Once: to be started.
    Accepted,
    /// Once: an attempt began.
    Starting {
        /// The boot it began in.
        boot_id: String,
        /// Its process groups that may still be there.
        groups: Vec<Group>,
    },
    /// Once: over, and home may not know it.
    Finished(Report),
    /// Once: over, and home has the outcome.
    Done {
        /// The outcome, for a home that asks again.
        outcome: Report,
        /// Since when home has it, milliseconds since the Unix epoch.
        at_ms: i64,
    },
}

/// What to do with an assignment that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Make it durable, then accept and act.
    Accept,
    /// It is held already: accept, do nothing.
    Same,
    /// It is over: accept, and say the outcome again.
    Ended,
    /// Refuse.
    Refuse(Refused),
}

// === impl State ===

impl State {
    /// Judges an assignment that arrived.
    pub fn admit(&self, new: &Assignment) -> Verdict {
        if let Err(refused) = check_bytes(new) {
            return Verdict::Refuse(refused);
        }
        let Some(entry) = self.entries.get(&new.key) else {
            return if self.held().count() < MAX_HELD {
                Verdict::Accept
            } else {
                refuse(Reason::Full, format!("the agent holds {MAX_HELD} assignments, as many as it may"))
            };
        };
        let old = &entry.assignment;
        let same_bytes = old.digest == new.digest && old.withdrawn == new.withdrawn;
        if new.generation < old.generation {
            let (epoch, number) = (old.generation.epoch, old.generation.number);
            refuse(Reason::Older, format!("the agent holds generation {number} of epoch {epoch}, which is newer"))
        } else if old.once != new.once {
            refuse(Reason::Conflict, "an assignment does not change between standing and once; use a new id")
        } else if new.once {
            admit_once(entry, new)
        } else if new.generation > old.generation {
            Verdict::Accept
        } else if same_bytes {
            Verdict::Same
        } else {
            refuse(Reason::Conflict, "the agent holds this generation with other bytes")
        }
    }

    /// Takes one durable step. Steps that fit nothing held change nothing.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Begin(Begin { ledger_id, .. }) => self.ledger_id = ledger_id,
            Record::Token(token) => self.token = token,
            Record::Reserved(below) => self.reserved = self.reserved.max(below),
            Record::Revoked(revoked) => self.revoked = revoked,
            Record::Acknowledged(up_to) => self.acknowledged = self.acknowledged.max(up_to),
            Record::Accepted(assignment) => self.accept(assignment),
            Record::Starting(Starting { key, attempt, boot_id }) => {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.attempt = attempt;
                    entry.stage = Stage::Starting { boot_id, groups: Vec::new() };
                }
            }
            Record::Grouped(Grouped { key, group, mut others }) => {
                if let Some(Stage::Starting { groups, .. }) = self.entries.get_mut(&key).map(|e| &mut e.stage) {
                    others.push(group);
                    *groups = others;
                }
            }
            Record::Finished(outcome) => {
                if let Some(entry) = self.entries.get_mut(&outcome.key()) {
                    entry.assignment.document = Bytes::new();
                    entry.stage = Stage::Finished(outcome);
                }
            }
            Record::Closed(Closed { key, at_ms }) => {
                if let Some(entry) = self.entries.get_mut(&key)
                    && let Stage::Finished(outcome) = &entry.stage
                {
                    entry.stage = Stage::Done { outcome: outcome.clone(), at_ms };
                }
            }
            Record::Dropped(Dropped { key, generation }) => {
                if self.entries.get(&key).is_some_and(|e| e.assignment.generation == generation) {
                    self.entries.remove(&key);
                }
            }
        }
    }

    /// The steps that lead to this state and no further: what a compacted journal holds.
    pub fn records(&self) -> Vec<Record> {
        let mut out = vec![Record::Begin(Begin { format: FORMAT, ledger_id: self.ledger_id.clone() })];
        out.push(Record::Token(self.token.clone()));
        out.push(Record::Reserved(self.reserved));
        out.push(Record::Acknowledged(self.acknowledged));
        out.push(Record::Revoked(self.revoked));
        for (key, entry) in &self.entries {
            out.push(Record::Accepted(entry.assignment.clone()));
            let (key, attempt) = (key.clone(), entry.attempt);
            let boot_id = match &entry.stage {
                Stage::Starting { boot_id, .. } => boot_id.clone(),
                _ => String::new(),
            };
            if attempt > 0 {
                out.push(Record::Starting(Starting { key: key.clone(), attempt, boot_id }));
            }
            match &entry.stage {
                Stage::Standing | Stage::Accepted => {}
                Stage::Starting { groups, .. } => {
                    let newest = groups.split_last().map(|(group, others)| (group.clone(), others.to_vec()));
                    out.extend(newest.map(|(group, others)| Record::Grouped(Grouped { key, group, others })));
                }
                Stage::Finished(outcome) => out.push(Record::Finished(outcome.clone())),
                Stage::Done { outcome, at_ms } => {
                    out.push(Record::Finished(outcome.clone()));
                    out.push(Record::Closed(Closed { key, at_ms: *at_ms }));
                }
            }
        }
        out
    }

    /// Forgets what is over for long enough, or is one too many. Returns what left.
    pub fn forget(&mut self, now_ms: i64) -> Vec<Key> {
        let mut done: Vec<(i64, Key)> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| match entry.stage {
                Stage::Done { at_ms, .. } => Some((at_ms, key.clone())),
                _ => None,
            })
            .collect();
        done.sort();
        let excess = done.len().saturating_sub(REMEMBER);
        let old = |at: i64| at.saturating_add(REMEMBER_MS) <= now_ms;
        let leaving = done.into_iter().enumerate().filter(|(n, (at, _))| *n < excess || old(*at));
        let keys: Vec<Key> = leaving.map(|(_, (_, key))| key).collect();
        keys.iter().for_each(|key| {
            self.entries.remove(key);
        });
        keys
    }

    /// Assignments held: all but those that are over and known to be.
    pub fn held(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter().filter(|(_, entry)| !matches!(entry.stage, Stage::Done { .. }))
    }

    /// Once assignments that are over, with their outcomes.
    pub fn done(&self) -> impl Iterator<Item = (&Key, &Entry, &Report)> {
        self.entries.iter().filter_map(|(key, entry)| match &entry.stage {
            Stage::Done { outcome, .. } => Some((key, entry, outcome)),
            _ => None,
        })
    }

    /// Outcomes that home may not have.
    pub fn outcomes(&self) -> impl Iterator<Item = &Report> {
        self.entries.values().filter_map(|entry| match &entry.stage {
            Stage::Finished(outcome) => Some(outcome),
            _ => None,
        })
    }

    /// The steps that follow from home's word that it has every report up to a number, `gone` being the withdrawals
    /// whose end was reported by it. None when nothing durable changes.
    pub fn acknowledge(&self, up_to: u64, gone: &[(Key, Generation)], now_ms: i64) -> Vec<Record> {
        let closed = self.outcomes().filter(|o| o.seq <= up_to).map(|o| Closed { key: o.key(), at_ms: now_ms });
        let mut out: Vec<Record> = closed.map(Record::Closed).collect();
        let held = |key: &Key, generation| {
            self.entries.get(key).is_some_and(|e| e.assignment.withdrawn && e.assignment.generation == generation)
        };
        let left = gone.iter().filter(|(key, generation)| held(key, *generation)).cloned();
        out.extend(left.map(|(key, generation)| Record::Dropped(Dropped { key, generation })));
        if !out.is_empty() {
            out.push(Record::Acknowledged(up_to));
        }
        out
    }

    fn accept(&mut self, assignment: Assignment) {
        match self.entries.get_mut(&assignment.key) {
            Some(entry) if assignment.once => {
                // A withdrawal carries no document, but work under way must be able to read its own.
                let kept = std::mem::take(&mut entry.assignment);
                let document = if assignment.withdrawn { kept.document } else { assignment.document };
                entry.assignment = Assignment { document, ..assignment };
            }
            Some(entry) => entry.assignment = assignment,
            None => {
                let stage = if assignment.once { Stage::Accepted } else { Stage::Standing };
                self.entries.insert(assignment.key.clone(), Entry { assignment, stage, attempt: 0 });
            }
        }
    }
}

fn admit_once(entry: &Entry, new: &Assignment) -> Verdict {
    let old = &entry.assignment;
    match (&entry.stage, new.generation > old.generation) {
        // Whatever home asks of work that is over, its outcome is the answer.
        (Stage::Done { .. }, _) | (Stage::Finished(_), true) => Verdict::Ended,
        (_, true) if new.withdrawn => Verdict::Accept,
        (_, true) if !old.withdrawn && old.digest == new.digest => Verdict::Accept,
        (_, false) if old.withdrawn == new.withdrawn && old.digest == new.digest => Verdict::Same,
        _ => refuse(Reason::Conflict, "the document of a once assignment does not change; use a new id"),
    }
}

fn check_bytes(new: &Assignment) -> Result<(), Refused> {
    if new.withdrawn {
        return Ok(());
    }
    if new.document.len() > MAX_DOCUMENT {
        let message = format!("the document has {} bytes; at most {MAX_DOCUMENT} are taken", new.document.len());
        return Err(Refused::new(Reason::Malformed, message));
    }
    if muster_pki::sha256(&new.document) != *new.digest {
        return Err(Refused::new(Reason::Digest, "the digest is not that of the document's bytes"));
    }
    Ok(())
}

fn refuse(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict::Refuse(Refused::new(reason, message))
}
