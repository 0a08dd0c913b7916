//! What the ledger speaks of. The types are prost messages of their own, so that a newer agent reads an older journal.

use bytes::Bytes;
use prost::{Message, Oneof};

/// Names one assignment of an agent.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Message)]
pub struct Key {
    /// Kind, `domain.noun`.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// Identity within the kind.
    #[prost(string, tag = "2")]
    pub id: String,
}

/// The age of a document. A restore of home raises the epoch, so that generations given before it are older.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Message)]
pub struct Generation {
    /// Restores of home's database.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Sequence number of the change.
    #[prost(uint64, tag = "2")]
    pub number: u64,
}

/// What home wants, or wants no more.
#[derive(Clone, PartialEq, Message)]
pub struct Assignment {
    /// Which assignment.
    #[prost(message, required, tag = "1")]
    pub key: Key,
    /// How new it is.
    #[prost(message, required, tag = "2")]
    pub generation: Generation,
    /// A piece of work to bring to an end; otherwise a state to keep.
    #[prost(bool, tag = "3")]
    pub once: bool,
    /// Version of the document's message.
    #[prost(uint32, tag = "4")]
    pub version: u32,
    /// SHA-256 of the document's bytes; empty in a withdrawal.
    #[prost(bytes = "bytes", tag = "5")]
    pub digest: Bytes,
    /// The domain's own message; empty in a withdrawal.
    #[prost(bytes = "bytes", tag = "6")]
    pub document: Bytes,
    /// This generation withdraws the assignment.
    #[prost(bool, tag = "7")]
    pub withdrawn: bool,
    /// Once: run again what a crash interrupted.
    #[prost(bool, tag = "8")]
    pub rerun: bool,
    /// Standing: withdraw it when the identity is revoked.
    #[prost(bool, tag = "9")]
    pub stop_on_revoke: bool,
    /// Once: not to be started at or after this time of home's clock, milliseconds since the Unix epoch; 0: no limit.
    #[prost(int64, tag = "10")]
    pub start_by_ms: i64,
}

/// Where an assignment stands. Numbers are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    /// Never said.
    Unspecified = 0,
    /// Something is missing on the host.
    Waiting = 1,
    /// Actions are under way, or the work runs.
    Working = 2,
    /// The host equals the document.
    Applied = 3,
    /// Standing: to be repeated. Once: ended badly.
    Failed = 4,
    /// The effect of a withdrawn one is gone.
    Gone = 5,
    /// Ended well.
    Succeeded = 6,
    /// Cut off by a crash, a stop or a revocation.
    Interrupted = 7,
    /// Withdrawn before its end.
    Cancelled = 8,
    /// Came after its start-by time.
    Late = 9,
}

/// One fact about an assignment.
#[derive(Clone, PartialEq, Message)]
pub struct Condition {
    /// What is judged, CamelCase.
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// Whether it holds.
    #[prost(bool, tag = "2")]
    pub holds: bool,
    /// One word why, CamelCase.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// One sentence for a person.
    #[prost(string, tag = "4")]
    pub message: String,
}

/// What is said of one assignment. Fields and numbers are those of the wire, so that both sides digest equal bytes.
#[derive(Clone, PartialEq, Message)]
pub struct Report {
    /// Number within the ledger; 0 before it is given one.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Kind of the assignment.
    #[prost(string, tag = "2")]
    pub kind: String,
    /// Identity of the assignment.
    #[prost(string, tag = "3")]
    pub id: String,
    /// Epoch acted on.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// Generation acted on.
    #[prost(uint64, tag = "5")]
    pub generation: u64,
    /// Where it stands.
    #[prost(enumeration = "Phase", tag = "6")]
    pub phase: i32,
    /// Facts about it.
    #[prost(message, repeated, tag = "7")]
    pub conditions: Vec<Condition>,
    /// The domain's own message.
    #[prost(bytes = "bytes", tag = "8")]
    pub result: Bytes,
    /// The agent's clock, milliseconds since the Unix epoch.
    #[prost(int64, tag = "9")]
    pub at_ms: i64,
    /// This is the end of once work.
    #[prost(bool, tag = "10")]
    pub outcome: bool,
    /// Interrupted work may have had effects.
    #[prost(bool, tag = "11")]
    pub may_have_run: bool,
    /// Attempts begun; 0: never started.
    #[prost(uint32, tag = "12")]
    pub attempt: u32,
}

/// A process group, named so that a reused number is not mistaken for it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Group {
    /// Process group, which is also its leader's process number.
    #[prost(int32, tag = "1")]
    pub pgid: i32,
    /// Start of the leader, clock ticks since boot.
    #[prost(uint64, tag = "2")]
    pub started: u64,
    /// The boot it belongs to.
    #[prost(string, tag = "3")]
    pub boot_id: String,
}

/// The ledger begins.
#[derive(Clone, PartialEq, Message)]
pub struct Begin {
    /// Version of the journal's format.
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// Random name of this ledger, hexadecimal.
    #[prost(string, tag = "2")]
    pub ledger_id: String,
}

/// An attempt is about to begin.
#[derive(Clone, PartialEq, Message)]
pub struct Starting {
    /// Which assignment.
    #[prost(message, required, tag = "1")]
    pub key: Key,
    /// Attempt, from 1.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
    /// The boot it begins in.
    #[prost(string, tag = "3")]
    pub boot_id: String,
}

/// A process group of the attempt under way begins.
#[derive(Clone, PartialEq, Message)]
pub struct Grouped {
    /// Which assignment.
    #[prost(message, required, tag = "1")]
    pub key: Key,
    /// Its processes.
    #[prost(message, required, tag = "2")]
    pub group: Group,
    /// Those that may still be there beside it; what is not named is gone.
    #[prost(message, repeated, tag = "3")]
    pub others: Vec<Group>,
}

/// Home has the outcome.
#[derive(Clone, PartialEq, Message)]
pub struct Closed {
    /// Which assignment.
    #[prost(message, required, tag = "1")]
    pub key: Key,
    /// When, milliseconds since the Unix epoch.
    #[prost(int64, tag = "2")]
    pub at_ms: i64,
}

/// Home knows that the effect of a withdrawn standing assignment is gone.
#[derive(Clone, PartialEq, Message)]
pub struct Dropped {
    /// Which assignment.
    #[prost(message, required, tag = "1")]
    pub key: Key,
    /// The withdrawal.
    #[prost(message, required, tag = "2")]
    pub generation: Generation,
}

/// One durable step.
#[derive(Clone, PartialEq, Oneof)]
pub enum Record {
    /// First of every journal.
    #[prost(message, tag = "1")]
    Begin(Begin),
    /// The token of the newest session.
    #[prost(bytes = "bytes", tag = "2")]
    Token(Bytes),
    /// A put or a withdrawal is held.
    #[prost(message, tag = "3")]
    Accepted(Assignment),
    /// Once work begins an attempt.
    #[prost(message, tag = "4")]
    Starting(Starting),
    /// The attempt has processes, or more of them.
    #[prost(message, tag = "5")]
    Grouped(Grouped),
    /// Once work is over; the outcome.
    #[prost(message, tag = "6")]
    Finished(Report),
    /// Home has the outcome.
    #[prost(message, tag = "7")]
    Closed(Closed),
    /// A withdrawn standing assignment leaves.
    #[prost(message, tag = "8")]
    Dropped(Dropped),
    /// Report numbers below this one may have been used.
    #[prost(uint64, tag = "9")]
    Reserved(u64),
    /// Home has every report up to this number.
    #[prost(uint64, tag = "10")]
    Acknowledged(u64),
    /// Home took the identity away, or gave it back.
    #[prost(bool, tag = "11")]
    Revoked(bool),
}

/// A record as prost wants it written.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Line {
    #[prost(oneof = "Record", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub record: Option<Record>,
}

/// Records that became durable together or not at all.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Frame {
    #[prost(message, repeated, tag = "1")]
    pub lines: Vec<Line>,
}

/// Why an assignment is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No driver for the kind.
    UnknownKind,
    /// The document's version is not understood.
    UnknownVersion,
    /// The host's owner does not allow it.
    NotAllowed,
    /// The document cannot be read.
    Malformed,
    /// A newer generation is held.
    Older,
    /// The same generation is held with other bytes, or a once document changed.
    Conflict,
    /// No more can be held.
    Full,
    /// The digest does not match the bytes.
    Digest,
}

/// A refusal and its sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why, for home.
    pub reason: Reason,
    /// Why, with what would be right.
    pub message: String,
}

// === impl Key ===

impl Key {
    /// A key from its parts.
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self { kind: kind.into(), id: id.into() }
    }
}

// === impl Report ===

impl Report {
    /// A report that is not numbered yet.
    pub fn new(assignment: &Assignment, phase: Phase, at_ms: i64) -> Self {
        Self {
            kind: assignment.key.kind.clone(),
            id: assignment.key.id.clone(),
            epoch: assignment.generation.epoch,
            generation: assignment.generation.number,
            phase: phase.into(),
            at_ms,
            ..Self::default()
        }
    }

    /// Which assignment it speaks of.
    pub fn key(&self) -> Key {
        Key::new(&self.kind, &self.id)
    }

    /// SHA-256 of the encoded report, its number left out: equal outcomes have equal digests however often they are sent.
    pub fn digest(&self) -> [u8; 32] {
        muster_pki::sha256(&Self { seq: 0, ..self.clone() }.encode_to_vec())
    }
}

// === impl Refused ===

impl Refused {
    /// A refusal with its sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}
