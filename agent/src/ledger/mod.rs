//! What the agent must not forget: assignments, how far once work has come, outcomes, the session token.
//!
//! Every step is durable before anyone is told of it. What may follow what is decided purely in [`state`]; this file
//! puts the steps on disk in order. A ledger that cannot be read is moved aside and a new one begins under a new name:
//! home then knows that the old one was lost.

mod journal;
pub mod model;
pub mod state;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use bytes::Bytes;

use crate::{
    crash::{self, CrashPoint},
    durable,
};
use journal::{Journal, Reading};
pub use model::{Assignment, Condition, Generation, Group, Key, Phase, Reason, Record, Refused, Report};
pub use state::{Entry, Stage, State, Verdict};

/// Report numbers reserved in one durable step, so that a report of a standing assignment needs none of its own.
const RESERVE: u64 = 1 << 16;

/// The ledger of one agent. One process holds it at a time.
#[derive(Debug)]
pub struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    journal: Journal,
    next: u64,
}

/// A ledger and how it was found.
#[derive(Debug)]
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// Where a damaged predecessor lies.
    pub set_aside: Option<PathBuf>,
}

// === impl Ledger ===

impl Ledger {
    /// Opens the ledger of a state folder, or begins one.
    pub fn open(state_dir: &Path, now_ms: i64) -> io::Result<Opened> {
        let path = path(state_dir);
        let mut set_aside = None;
        match Journal::open(&path)? {
            Some((journal, Reading::Whole { records, .. })) if starts_well(&records) => {
                let mut state = State::default();
                records.into_iter().for_each(|r| state.apply(r));
                state.forget(now_ms);
                let next = state.reserved.max(1);
                return Ok(Opened { ledger: Self::new(state, journal, next), set_aside });
            }
            // A journal that was cut off before its first record holds nothing.
            Some((_, Reading::Whole { good: 0, .. })) | None => {}
            Some(_) => set_aside = Some(aside(&path, "corrupt", now_ms)?),
        }
        let ledger_id = muster_pki::hex(&muster_pki::random::<16>());
        let state = State { ledger_id, reserved: RESERVE, ..State::default() };
        let journal = Journal::create(&path, &state.records(), || crash::at(CrashPoint::BeforeLedgerBegin))?;
        crash::at(CrashPoint::AfterLedgerBegin);
        Ok(Opened { ledger: Self::new(state, journal, 1), set_aside })
    }

    /// Moves the ledger of a former identity aside. Returns where it lies, if there was one.
    pub fn retire(state_dir: &Path, now_ms: i64) -> io::Result<Option<PathBuf>> {
        let path = path(state_dir);
        if path.exists() { aside(&path, "former", now_ms).map(Some) } else { Ok(None) }
    }

    /// Looks at the state.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.lock().state)
    }

    /// Takes the steps that `decide` names, all or none, durable before this returns. On an error nothing changed.
    pub fn write(&self, decide: impl FnOnce(&State) -> Vec<Record>) -> io::Result<()> {
        let mut inner = self.lock();
        let records = decide(&inner.state);
        inner.take(records)
    }

    /// The next report number.
    pub fn number(&self) -> io::Result<u64> {
        let mut inner = self.lock();
        if inner.next >= inner.state.reserved {
            let below = inner.next + RESERVE;
            inner.take(vec![Record::Reserved(below)])?;
        }
        inner.next += 1;
        Ok(inner.next - 1)
    }

    /// Makes the token of a new session durable.
    pub fn keep_token(&self, token: Bytes) -> io::Result<()> {
        self.write(|state| if state.token == token { Vec::new() } else { vec![Record::Token(token)] })
    }

    /// Forgets once work that is over for long enough; what left is returned. A later start forgets it again.
    pub fn forget(&self, now_ms: i64) -> Vec<Key> {
        self.lock().state.forget(now_ms)
    }

    fn new(state: State, journal: Journal, next: u64) -> Self {
        Self { inner: Mutex::new(Inner { state, journal, next }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic between append and apply leaves the state older than the journal, never newer.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

// === impl Inner ===

impl Inner {
    fn take(&mut self, records: Vec<Record>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let points: Vec<_> = records.iter().filter_map(points).collect();
        points.iter().for_each(|(before, _)| crash::at(*before));
        self.journal.append(&records)?;
        points.iter().for_each(|(_, after)| crash::at(*after));
        records.into_iter().for_each(|r| self.state.apply(r));
        if self.journal.should_compact()
            && let Err(e) = self.journal.compact(&self.state.records())
        {
            tracing::warn!(error = %e, "the ledger could not be compacted and goes on as it is");
        }
        Ok(())
    }
}

/// The ledger's file.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("ledger")
}

/// What a journal says, for a reader beside the agent that owns it.
pub fn peek(state_dir: &Path) -> io::Result<Option<State>> {
    Ok(Journal::open(&path(state_dir))?.and_then(|(_, reading)| match reading {
        Reading::Whole { records, .. } => {
            let mut state = State::default();
            records.into_iter().for_each(|r| state.apply(r));
            Some(state)
        }
        Reading::Corrupt => None,
    }))
}

fn starts_well(records: &[Record]) -> bool {
    matches!(records.first(), Some(Record::Begin(begin)) if begin.format == state::FORMAT)
}

fn aside(path: &Path, why: &str, now_ms: i64) -> io::Result<PathBuf> {
    let to = path.with_extension(format!("{why}-{now_ms}"));
    fs::rename(path, &to)?;
    durable::sync_folder(path)?;
    Ok(to)
}

fn points(record: &Record) -> Option<(CrashPoint, CrashPoint)> {
    use CrashPoint as P;
    Some(match record {
        Record::Begin(_) | Record::Acknowledged(_) => return None,
        Record::Token(_) => (P::BeforeToken, P::AfterToken),
        Record::Accepted(_) => (P::BeforeAccepted, P::AfterAccepted),
        Record::Starting(_) => (P::BeforeStarting, P::AfterStarting),
        Record::Grouped(_) => (P::BeforeGroup, P::AfterGroup),
        Record::Finished(_) => (P::BeforeFinished, P::AfterFinished),
        Record::Closed(_) => (P::BeforeAcknowledged, P::AfterAcknowledged),
        Record::Dropped(_) => (P::BeforeGone, P::AfterGone),
        Record::Reserved(_) => (P::BeforeReserved, P::AfterReserved),
        Record::Revoked(_) => (P::BeforeRevoked, P::AfterRevoked),
    })
}

#[cfg(test)]
mod tests;
