//! Where tests pull the plug, or halt a loop: before and after each durable write that a promise rests on.

use std::sync::OnceLock;

/// A moment at which the process may die without breaking a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each name says before or after which write it stands")]
pub enum CrashPoint {
    BeforeEnrolCommit,
    AfterEnrolCommit,
    BeforePutCommit,
    AfterPutCommit,
    BeforeOfferCommit,
    AfterOfferCommit,
    BeforeReportsCommit,
    AfterReportsCommit,
    BeforeAcceptsCommit,
    AfterAcceptsCommit,
    BeforePlanCommit,
    AfterPlanCommit,
}

impl CrashPoint {
    /// Every point, for the test that visits each.
    pub const ALL: [Self; 12] = [
        Self::BeforeEnrolCommit,
        Self::AfterEnrolCommit,
        Self::BeforePutCommit,
        Self::AfterPutCommit,
        Self::BeforeOfferCommit,
        Self::AfterOfferCommit,
        Self::BeforeReportsCommit,
        Self::AfterReportsCommit,
        Self::BeforeAcceptsCommit,
        Self::AfterAcceptsCommit,
        Self::BeforePlanCommit,
        Self::AfterPlanCommit,
    ];
}

/// Kills this process (SIGKILL) when `MUSTER_CRASH_AT` names the point; with `hang:` before the name, whoever comes here
/// stays for good.
pub fn at(point: CrashPoint) {
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    let Some(wanted) = WANTED.get_or_init(|| std::env::var("MUSTER_CRASH_AT").ok()) else { return };
    let (name, hangs) = wanted.strip_prefix("hang:").map_or((wanted.as_str(), false), |name| (name, true));
    if name == format!("{point:?}") {
        if hangs {
            loop {
                std::thread::park();
            }
        }
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("a process may kill itself");
    }
}
