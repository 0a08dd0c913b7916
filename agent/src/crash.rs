//! Places at which a test may cut the agent off.
//!
//! Every durable write has a point before and a point after it. With `MUSTER_CRASH_AT` set to a point's name the
//! process kills itself there, as a power cut would; with `hang:` before the name it stops there for good, as a fault would
//! of which only a watchdog can know. Unset, a point costs one comparison.

use std::sync::OnceLock;

use rustix::process::{Signal, getpid, kill_process};

macro_rules! points {
    ($($name:ident = $text:literal, $doc:literal;)*) => {
        /// One place beside a durable write.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum CrashPoint {
            $(#[doc = $doc] $name,)*
        }

        impl CrashPoint {
            /// Every point, for the test that visits them all.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name to put into `MUSTER_CRASH_AT`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

points! {
    BeforeLedgerBegin = "before_ledger_begin", "A new ledger is not yet written.";
    AfterLedgerBegin = "after_ledger_begin", "A new ledger is durable.";
    BeforeAccepted = "before_accepted", "An assignment is decided on, its record not yet durable.";
    AfterAccepted = "after_accepted", "An assignment is durable, home not yet told.";
    BeforeStarting = "before_starting", "Once work is about to be marked as starting.";
    AfterStarting = "after_starting", "Once work is marked as starting, nothing runs yet.";
    BeforeGroup = "before_group", "A process waits at its gate, its group not yet recorded.";
    AfterGroup = "after_group", "The process group is recorded, the gate not yet open.";
    BeforeFinished = "before_finished", "Once work ended, its outcome not yet durable.";
    AfterFinished = "after_finished", "The outcome is durable, home not yet told.";
    BeforeAcknowledged = "before_acknowledged", "Home has an outcome, the ledger does not know it.";
    AfterAcknowledged = "after_acknowledged", "The ledger knows that home has an outcome.";
    BeforeGone = "before_gone", "Home knows that an effect is gone, the ledger still holds it.";
    AfterGone = "after_gone", "A withdrawn assignment has left the ledger.";
    BeforeReserved = "before_reserved", "A run of report numbers is about to be reserved.";
    AfterReserved = "after_reserved", "A run of report numbers is reserved.";
    BeforeRevoked = "before_revoked", "Home took the identity away, the ledger does not know it.";
    AfterRevoked = "after_revoked", "The ledger knows that home took the identity away.";
    BeforeToken = "before_token", "A session token arrived and is not yet durable.";
    AfterToken = "after_token", "The session token is durable.";
    BeforeCompaction = "before_compaction", "The compacted journal is written, not yet in place.";
    AfterCompaction = "after_compaction", "The compacted journal is in place.";
    BeforeCandidate = "before_candidate", "A renewed certificate arrived and is not yet durable.";
    AfterCandidate = "after_candidate", "The renewed certificate is durable as a candidate.";
    BeforePromotion = "before_promotion", "The candidate has connected and is not yet the identity.";
    AfterPromotion = "after_promotion", "The candidate is the identity.";
    BeforeJoiningKey = "before_joining_key", "The key of an enrolment is not yet durable.";
    AfterJoiningKey = "after_joining_key", "The key of an enrolment is durable, home not yet asked.";
    BeforeEnrolled = "before_enrolled", "Home gave an identity, it is not yet durable.";
    AfterEnrolled = "after_enrolled", "The identity is durable.";
}

/// Ends the process here, or halts it, when the environment names this point.
pub fn at(point: CrashPoint) {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    let Some(chosen) = CHOSEN.get_or_init(|| std::env::var("MUSTER_CRASH_AT").ok()) else { return };
    let (name, hangs) = chosen.strip_prefix("hang:").map_or((chosen.as_str(), false), |name| (name, true));
    if name == point.name() {
        if hangs {
            loop {
                std::thread::park();
            }
        }
        let _ = kill_process(getpid(), Signal::KILL);
    }
}
