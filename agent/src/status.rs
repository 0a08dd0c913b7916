//! What the running agent says of itself to people on its host: `status.json` in the state folder.

use std::{fs, io, path::Path, sync::atomic::Ordering};

use serde::{Deserialize, Serialize};

use crate::{
    console,
    driver::Kernel,
    identity::Keeper,
    ledger::{Stage, State},
    link,
};

/// One look at a running agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Identity.
    pub agent_id: String,
    /// Class.
    pub class: String,
    /// Version of the program.
    pub version: String,
    /// Process of the agent.
    pub pid: u32,
    /// When this was written, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// End of the certificate, milliseconds since the Unix epoch.
    pub certificate_until_ms: i64,
    /// How far home's clock is ahead, milliseconds.
    pub skew_ms: i64,
    /// Home took the identity away.
    pub revoked: bool,
    /// Why the agent cannot do all it should.
    pub degraded: Option<String>,
    /// How the stream to home fares.
    pub link: link::Report,
    /// How the console fares.
    #[serde(default)]
    pub console: console::Report,
    /// What the ledger holds.
    pub holds: Holds,
}

/// What a ledger holds, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// Name of the ledger.
    pub ledger_id: String,
    /// States to keep.
    pub standing: usize,
    /// Once work to be started.
    pub waiting: usize,
    /// Once work under way.
    pub running: usize,
    /// Outcomes that home may not have.
    pub unacknowledged: usize,
    /// Once work that is over and remembered.
    pub remembered: usize,
}

// === impl Status ===

impl Status {
    /// Looks at a running agent.
    pub fn of(kernel: &Kernel, keeper: &Keeper, link: link::Report, console: console::Report) -> Self {
        let current = keeper.current();
        Self {
            agent_id: current.identity.agent_id,
            class: current.identity.class,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            at_ms: kernel.host.now_ms(),
            certificate_until_ms: current.leaf.not_after,
            skew_ms: kernel.skew_ms(),
            revoked: kernel.revoked.load(Ordering::Relaxed),
            degraded: kernel.degraded(),
            link,
            console,
            holds: kernel.ledger.read(Holds::of),
        }
    }

    /// Writes the file whole. It needs not survive a power cut.
    pub fn write(&self, state_dir: &Path) -> io::Result<()> {
        let beside = state_dir.join("status.tmp");
        fs::write(&beside, serde_json::to_vec_pretty(self)?)?;
        fs::rename(beside, state_dir.join("status.json"))
    }

    /// Reads the file; none when no agent has run here.
    pub fn read(state_dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(state_dir.join("status.json")) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// One line for a service manager.
    pub fn line(&self) -> String {
        let home = if self.link.connected { "connected to" } else { "waiting for" };
        let mut line =
            format!("{home} {}; {} standing, {} running", self.link.home, self.holds.standing, self.holds.running);
        if self.revoked {
            line.push_str("; revoked");
        }
        if let Some(why) = &self.degraded {
            line.push_str(&format!("; degraded: {why}"));
        }
        line
    }
}

// === impl Holds ===

impl Holds {
    /// Counts what a ledger holds.
    pub fn of(state: &State) -> Self {
        let mut holds = Self { ledger_id: state.ledger_id.clone(), ..Self::default() };
        for entry in state.entries.values() {
            let count = match entry.stage {
                Stage::Standing => &mut holds.standing,
                Stage::Accepted => &mut holds.waiting,
                Stage::Starting { .. } => &mut holds.running,
                Stage::Finished(_) => &mut holds.unacknowledged,
                Stage::Done { .. } => &mut holds.remembered,
            };
            *count += 1;
        }
        holds
    }
}
