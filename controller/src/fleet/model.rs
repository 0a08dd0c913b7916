//! What the fleet decides, without a database and without a wire. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Result};

crate::id_type! {
    /// An agent's identity, minted at enrolment.
    AgentId
    /// An invitation's id; not the token.
    InvitationId
}

/// Labels of an agent or an invitation.
pub type Labels = BTreeMap<String, String>;

/// An agent without a stream for this long is stale, milliseconds. One that is back sooner, from a renewal, a restart of its
/// own or of home's, was never gone as far as anybody is told.
pub const STALE_AFTER: i64 = 15_000;

/// An agent without a stream for this long is offline, milliseconds.
pub const OFFLINE_AFTER: i64 = 120_000;

/// What an agent may be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Runs a router of a backbone.
    InteriorSite,
    /// Runs a router of an application network.
    MemberSite,
    /// Runs wrapper executables.
    StagingHost,
    /// Runs a network's collector and console.
    NetworkHome,
    /// Runs pipelines.
    ExperimentNode,
    /// Runs tasks of releases.
    TaskRunner,
}

/// Whether an agent can be reached, by one rule: [`liveness`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// Enrolled and never seen since.
    Never,
    /// Its stream is open, or was a moment ago.
    Online,
    /// It has no stream and may be on its way back.
    Stale,
    /// It has had no stream for two minutes.
    Offline,
}

/// What names an assignment of one agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `domain.noun`.
    pub kind: String,
    /// The domain's own id.
    pub id: String,
}

/// Whether an assignment is a state to keep or work to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Keep the host equal to the document.
    Standing,
    /// Bring it to an end exactly once.
    Once,
}

/// Where an assignment stands between home and its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not sent.
    Queued,
    /// Once: may have been sent; nothing came back.
    Offered,
    /// The agent has it durably.
    Accepted,
    /// Once: it runs.
    Running,
    /// Once: it ended, and home has the outcome.
    Finished,
}

/// What an agent says of an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Something is missing on the host.
    Waiting,
    /// Actions are under way.
    Working,
    /// Standing: the host equals the document.
    Applied,
    /// Standing: the last attempt failed. Once: it ended badly.
    Failed,
    /// Standing: withdrawn, without a trace.
    Gone,
    /// Once: it ended well.
    Succeeded,
    /// Once: a crash or a revocation cut it off.
    Interrupted,
    /// Once: withdrawn before its end.
    Cancelled,
    /// Once: it arrived after its start-by time.
    Late,
    /// Once: a person declared it lost, or its agent is gone for good.
    Lost,
}

/// One assignment as home holds it, without its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What names it.
    pub key: Key,
    /// Epoch of the database that gave out the generation.
    pub epoch: i64,
    /// Number of the event that made it so.
    pub generation: i64,
    /// Standing or once.
    pub mode: Mode,
    /// SHA-256 of the document, hexadecimal; empty when withdrawn.
    pub digest: String,
    /// Where it stands.
    pub state: State,
    /// Generation that the agent refused, and its capabilities then.
    pub refused: Option<(i64, String)>,
}

/// One assignment as the agent's ledger holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What names it.
    pub key: Key,
    /// Epoch of the generation.
    pub epoch: i64,
    /// Generation held.
    pub generation: i64,
    /// SHA-256 of the document, hexadecimal; empty when withdrawn.
    pub digest: String,
    /// Whether it is once work.
    pub once: bool,
}

/// What an agent's Hello says of its ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerView {
    /// Whether it is the ledger that once work was offered under.
    pub same_ledger: bool,
    /// What it holds.
    pub held: BTreeMap<Key, (i64, i64, String)>,
    /// Once work whose end the agent remembers.
    pub done: BTreeSet<Key>,
    /// Digest of the agent's capabilities.
    pub capability_digest: String,
}

/// What to do about one assignment when its agent comes home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: both sides agree, or the agent refused just this.
    Agree,
    /// The agent has it: note that it was accepted.
    NoteAccepted,
    /// Send it; once work is offered first.
    Send,
    /// Standing and withdrawn, and the agent holds nothing: forget it.
    Forget,
    /// Once: end it here as cancelled; the agent never had it.
    Cancel,
    /// Once: end it here as interrupted; the ledger that had it is lost.
    Interrupt,
}

// === impl Class ===

impl Class {
    /// Every class.
    pub const ALL: [Self; 6] = [
        Self::InteriorSite,
        Self::MemberSite,
        Self::StagingHost,
        Self::NetworkHome,
        Self::ExperimentNode,
        Self::TaskRunner,
    ];

    /// Its name, as written everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Self::InteriorSite => "interior-site",
            Self::MemberSite => "member-site",
            Self::StagingHost => "staging-host",
            Self::NetworkHome => "network-home",
            Self::ExperimentNode => "experiment-node",
            Self::TaskRunner => "task-runner",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name).ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            Error::invalid("class", format!("no class {name:?}; there are {all}"))
        })
    }
}

/// Names in the database of the closed sets above: the same words as in the API.
macro_rules! words {
    ($($ty:ident { $($variant:ident = $word:literal),+ $(,)? })+) => {$(
        impl $ty {
            /// The word for it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// What a word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    )+};
}

words! {
    Mode { Standing = "standing", Once = "once" }
    State { Queued = "queued", Offered = "offered", Accepted = "accepted", Running = "running", Finished = "finished" }
    Phase {
        Waiting = "waiting", Working = "working", Applied = "applied", Failed = "failed", Gone = "gone",
        Succeeded = "succeeded", Interrupted = "interrupted", Cancelled = "cancelled", Late = "late", Lost = "lost",
    }
    Liveness { Never = "never", Online = "online", Stale = "stale", Offline = "offline" }
}

// === impl Wanted ===

impl Wanted {
    /// Once work that must be offered, in a transaction of its own, before it is sent. A withdrawal runs nothing, and what
    /// it withdraws may move on meanwhile: it is sent as it is.
    pub fn is_new_once(&self) -> bool {
        self.mode == Mode::Once && !self.digest.is_empty() && matches!(self.state, State::Queued | State::Offered)
    }

    /// Whether the agent lacks it: not accepted yet, or withdrawn while it was at work.
    pub fn is_to_be_sent(&self) -> bool {
        match self.state {
            State::Queued | State::Offered => true,
            State::Accepted | State::Running => self.mode == Mode::Once && self.digest.is_empty(),
            State::Finished => false,
        }
    }
}

/// The published rule: online while a stream is open and for [`STALE_AFTER`] beyond; then stale; offline when none has been
/// open for [`OFFLINE_AFTER`]. `lost_at` is when the last stream ended.
pub fn liveness(open: bool, lost_at: Option<i64>, now: i64) -> Liveness {
    match (open, lost_at) {
        (true, _) => Liveness::Online,
        (false, None) => Liveness::Never,
        (false, Some(at)) if now - at < STALE_AFTER => Liveness::Online,
        (false, Some(at)) if now - at < OFFLINE_AFTER => Liveness::Stale,
        (false, Some(_)) => Liveness::Offline,
    }
}

/// What to do about one assignment, given what the agent's ledger holds and the database's `epoch`.
///
/// Nothing that may have run is sent again: once work that was offered under a lost ledger, or that a ledger no longer
/// knows after it had accepted it, ends as interrupted. So does work put before home was restored when the ledger is not
/// the one that home remembers: another may have run it.
pub fn step(wanted: &Wanted, ledger: &LedgerView, epoch: i64) -> Step {
    let refused = (wanted.generation, ledger.capability_digest.clone());
    if wanted.refused.as_ref() == Some(&refused) || wanted.state == State::Finished {
        return Step::Agree;
    }
    let held = ledger.held.get(&wanted.key);
    match wanted.mode {
        Mode::Standing => match held {
            Some((epoch, generation, _)) if (*epoch, *generation) > (wanted.epoch, wanted.generation) => Step::Agree,
            Some((epoch, generation, digest)) => {
                let same = (*epoch, *generation, digest) == (wanted.epoch, wanted.generation, &wanted.digest);
                match (same, wanted.state) {
                    (true, State::Queued) => Step::NoteAccepted,
                    (true, _) => Step::Agree,
                    (false, _) => Step::Send,
                }
            }
            None if wanted.digest.is_empty() => Step::Forget,
            None => Step::Send,
        },
        Mode::Once => {
            let known = held.is_some() || ledger.done.contains(&wanted.key);
            let withdrawn = wanted.digest.is_empty();
            let withdrawal_held = held.is_some_and(|(_, _, digest)| digest.is_empty());
            match (wanted.state, known) {
                // A finished one says so by its report, which the agent repeats until it is acknowledged.
                (_, true) if withdrawn && held.is_some() && !withdrawal_held => Step::Send,
                // Home acknowledged the outcome and was restored from before: asked again, the agent says it again.
                (_, true) if held.is_none() => Step::Send,
                (State::Queued | State::Offered, true) => Step::NoteAccepted,
                (_, true) => Step::Agree,
                (State::Queued, false) if withdrawn => Step::Cancel,
                (State::Queued, false) if !ledger.same_ledger && wanted.epoch < epoch => Step::Interrupt,
                (State::Queued, false) => Step::Send,
                (State::Offered, false) if !ledger.same_ledger => Step::Interrupt,
                (State::Offered, false) if withdrawn => Step::Cancel,
                (State::Offered, false) => Step::Send,
                (_, false) => Step::Interrupt,
            }
        }
    }
}

/// What an agent holds that home does not know. From an older epoch it is adopted: kept running and shown, since home was
/// restored from before it was given out.
pub fn adopted<'a>(known: &BTreeSet<&Key>, held: &'a [Held], epoch: i64) -> Vec<&'a Held> {
    held.iter().filter(|h| h.epoch < epoch && !known.contains(&h.key)).collect()
}

/// Whether labels carry every pair asked for.
pub fn matches(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Checks the keys and values of labels.
pub fn check_labels(field: &str, labels: &Labels) -> Result<()> {
    let word = |text: &str, least: usize| {
        text.len() >= least
            && text.len() <= 63
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'))
    };
    for (key, value) in labels {
        if !word(key, 1) || !word(value, 0) {
            return Err(Error::invalid(
                format!("{field}.{key}"),
                "a label is made of at most 63 letters, digits, '-', '_', '.' and '/'",
            ));
        }
    }
    Ok(())
}

/// Reads `key=value,key=value`.
pub fn parse_labels(field: &str, text: &str) -> Result<Labels> {
    let mut labels = Labels::new();
    for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| Error::invalid(field, format!("{pair:?} is not key=value")))?;
        labels.insert(key.trim().into(), value.trim().into());
    }
    check_labels(field, &labels)?;
    Ok(labels)
}
