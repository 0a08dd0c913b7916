//! Drivers, and what all of them share.
//!
//! A driver is the agent's code for one kind of assignment. It decides nothing about generations, durability or
//! repetition: [`intake`] judges what arrives, [`work`] is the one loop that runs any driver.

pub mod intake;
pub mod work;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    blobs::Blobs,
    host::{Host, Watch},
    ledger::{Assignment, Condition, Ledger, Phase, Record, Refused, Report},
    spool::Spool,
};

/// What a driver can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Kind of assignment.
    pub kind: &'static str,
    /// Oldest and newest document version understood, inclusive.
    pub versions: (u32, u32),
    /// What the host's owner lets this kind use, by name, sorted.
    pub offers: Vec<String>,
}

/// The agent's code for one kind of assignment.
pub trait Driver: Send + Sync + 'static {
    /// What it can act on.
    fn capability(&self) -> Capability;
    /// Whether a document can be read and is allowed by the host's owner. Touches nothing.
    fn admit(&self, document: &[u8]) -> Result<(), Refused>;
    /// How it acts.
    fn act(&self) -> Act<'_>;
    /// What it shows on its host, if anything.
    fn pages(&self) -> Option<&dyn Pages> {
        None
    }
}

/// What a driver shows to people on its host, and what it takes from them. Shown is what the driver knows by itself, so
/// that it can be looked at while home is away.
pub trait Pages: Send + Sync {
    /// Path and title of each page; the first is where people come in.
    fn menu(&self) -> &'static [(&'static str, &'static str)];
    /// What a page shows, as HTML; none where there is no such page.
    fn show(&self, path: &str, visit: &Visit<'_>) -> Option<String>;
    /// All that is shown, as data, with its name.
    fn data(&self) -> (&'static str, serde_json::Value);
    /// Takes a form that one of its pages holds; none where nothing is taken.
    fn submit<'a>(
        &'a self,
        path: &'a str,
        form: &'a BTreeMap<String, String>,
        visit: &'a Visit<'a>,
    ) -> BoxFuture<'a, Option<Taken>>;
}

/// Somebody looks at a page.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// To stand in every form as `csrf`.
    pub csrf: &'a str,
    /// When, milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Home can be asked.
    pub home_is_there: bool,
}

/// What became of a form; a sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It was done.
    Done(String),
    /// It was not, for what it asks.
    Refused(String),
    /// It was not, since home is away.
    Unreachable(String),
}

/// The two manners of acting.
pub enum Act<'a> {
    /// Keeps a state.
    Standing(&'a dyn Standing),
    /// Brings work to an end.
    Once(&'a dyn Once),
}

/// Keeps the host equal to a document, one turn at a time.
pub trait Standing: Send + Sync {
    /// Observes, plans, and applies at most one action of the plan.
    fn turn<'a>(&'a self, assignment: &'a Assignment) -> BoxFuture<'a, Turn>;
    /// The same towards nothing: [`Turn::Settled`] says that no effect is left.
    fn undo<'a>(&'a self, assignment: &'a Assignment) -> BoxFuture<'a, Turn>;
}

/// Brings a piece of work to an end.
pub trait Once: Send + Sync {
    /// Does the work. When `cancel` fires it ends early; the loop then knows why.
    fn run<'a>(&'a self, work: Attempt<'a>) -> BoxFuture<'a, End>;
}

/// What one turn came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    /// The plan was empty.
    Settled(Settled),
    /// An action was carried out; observe again.
    Acted,
    /// The plan is not empty, and what stands is worth telling; observe again when it says so.
    Unsettled(Settled),
    /// Something is missing on the host, named in a sentence.
    Waiting(String),
    /// An action failed; it is tried again later.
    Failed(String),
}

/// What is told of a host: in the end that it equals its document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settled {
    /// The domain's own message.
    pub result: Bytes,
    /// What of the result is worth a report when it changes.
    pub essence: Vec<u8>,
    /// When to look again.
    pub again: Option<Duration>,
}

/// One attempt at once work.
pub struct Attempt<'a> {
    /// The work.
    pub assignment: &'a Assignment,
    /// Fires when it is to end early.
    pub cancel: CancellationToken,
    /// Takes its processes and its output.
    pub watch: &'a dyn Watch,
    /// Hears how far it is.
    pub home: &'a dyn Home,
}

/// Home, as an attempt sees it.
pub trait Home: Send + Sync {
    /// Says how far the attempt is, in the domain's own message. The newest takes the place of the one before.
    fn tell(&self, result: Bytes);
    /// For how long home was not heard of.
    fn silence(&self) -> Duration;
}

/// How an attempt ended by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// Well or badly.
    pub succeeded: bool,
    /// Facts about it.
    pub conditions: Vec<Condition>,
    /// The domain's own message.
    pub result: Bytes,
}

/// What every part of one running agent shares.
pub struct Kernel {
    /// What must not be forgotten.
    pub ledger: Ledger,
    /// What is to be said.
    pub spool: Arc<Spool>,
    /// Bytes too large for a document or a report.
    pub blobs: Arc<Blobs>,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// Drivers by kind.
    pub drivers: BTreeMap<&'static str, Arc<dyn Driver>>,
    /// Kinds the host's owner accepts, as globs.
    pub accept: Vec<String>,
    /// The state folder.
    pub state_dir: PathBuf,
    /// Wakes the work loop.
    pub wake: Notify,
    /// Home took the identity away.
    pub revoked: AtomicBool,
    skew_ms: AtomicI64,
    /// When home was last heard of, milliseconds of the host's uptime.
    heard_ms: AtomicU64,
    degraded: Mutex<Option<String>>,
}

// === impl Kernel ===

impl Kernel {
    /// The shared part of an agent.
    pub fn new(
        ledger: Ledger,
        spool: Arc<Spool>,
        blobs: Arc<Blobs>,
        host: Arc<dyn Host>,
        drivers: Vec<Arc<dyn Driver>>,
        accept: Vec<String>,
        state_dir: PathBuf,
    ) -> Self {
        let revoked = AtomicBool::new(ledger.read(|state| state.revoked));
        let heard_ms = AtomicU64::new(millis(host.uptime()));
        Self {
            ledger,
            spool,
            blobs,
            host,
            drivers: drivers.into_iter().map(|d| (d.capability().kind, d)).collect(),
            accept,
            state_dir,
            wake: Notify::new(),
            revoked,
            skew_ms: AtomicI64::new(0),
            heard_ms,
            degraded: Mutex::new(None),
        }
    }

    /// What this agent can act on, as far as its owner accepts it.
    pub fn capabilities(&self) -> Vec<Capability> {
        self.drivers.values().map(|d| d.capability()).filter(|c| self.accepts(c.kind)).collect()
    }

    /// Whether the owner accepts a kind.
    pub fn accepts(&self, kind: &str) -> bool {
        self.accept.iter().any(|glob| matches(glob, kind))
    }

    /// Home's clock as far as it is known, milliseconds since the Unix epoch.
    pub fn home_now_ms(&self) -> i64 {
        self.host.now_ms() + self.skew_ms()
    }

    /// How far home's clock is ahead of the host's, milliseconds.
    pub fn skew_ms(&self) -> i64 {
        self.skew_ms.load(Ordering::Relaxed)
    }

    /// Learns home's clock.
    pub fn learn_time(&self, home_ms: i64) {
        self.skew_ms.store(home_ms - self.host.now_ms(), Ordering::Relaxed);
    }

    /// Home said something.
    pub fn hear(&self) {
        self.heard_ms.store(millis(self.host.uptime()), Ordering::Relaxed);
    }

    /// For how long home was not heard of; before it first was, since the agent began.
    pub fn silence(&self) -> Duration {
        let heard_ms = self.heard_ms.load(Ordering::Relaxed);
        self.host.uptime().saturating_sub(Duration::from_millis(heard_ms))
    }

    /// Sets or clears the revocation; the work loop acts on it, whether it can be made durable or not.
    pub fn set_revoked(&self, revoked: bool) {
        if self.revoked.swap(revoked, Ordering::Relaxed) != revoked {
            let written = self.ledger.write(|_| vec![Record::Revoked(revoked)]);
            self.observe_write(&written);
            self.wake.notify_one();
        }
    }

    /// Remembers what a durable write came to: a disk that is full makes the agent degraded, not dead.
    pub fn observe_write(&self, written: &std::io::Result<()>) {
        let mut degraded = self.degraded.lock().unwrap_or_else(|e| e.into_inner());
        *degraded = written.as_ref().err().map(|e| format!("the state folder cannot be written: {e}"));
        if let Some(why) = degraded.as_deref() {
            tracing::error!(why, "degraded");
        }
    }

    /// Why the agent cannot do all it should, in a sentence.
    pub fn degraded(&self) -> Option<String> {
        let failing = self.spool.is_failing().then(|| "output cannot be kept: the state folder is full".to_owned());
        self.degraded.lock().unwrap_or_else(|e| e.into_inner()).clone().or(failing)
    }

    /// Numbers a report and leaves it to be said. While the ledger cannot give numbers nothing is said.
    pub(crate) fn say(&self, mut report: Report) -> bool {
        match self.ledger.number() {
            Ok(seq) => {
                report.seq = seq;
                report.conditions.extend(self.degraded().map(|why| condition("Degraded", true, "StateFolder", why)));
                self.spool.report(report);
                true
            }
            Err(e) => {
                self.observe_write(&Err(e));
                false
            }
        }
    }

    /// Home has every report up to a number.
    pub fn acknowledge(&self, up_to: u64) {
        let gone = self.spool.acknowledge(up_to);
        let now = self.host.now_ms();
        let written = self.ledger.write(|state| state.acknowledge(up_to, &gone, now));
        self.observe_write(&written);
    }
}

/// A condition from its parts.
pub fn condition(r#type: &str, holds: bool, reason: &str, message: impl Into<String>) -> Condition {
    Condition { r#type: r#type.into(), holds, reason: reason.into(), message: message.into() }
}

/// Whether a glob with `*` matches all of a text.
pub fn matches(glob: &str, text: &str) -> bool {
    match glob.split_once('*') {
        None => glob == text,
        Some((head, tail)) => text
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|n| rest.is_char_boundary(n) && matches(tail, &rest[n..]))),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Phase of an attempt that ended by itself.
pub(crate) fn phase_of(end: &End) -> Phase {
    if end.succeeded { Phase::Succeeded } else { Phase::Failed }
}

#[cfg(test)]
mod tests;
