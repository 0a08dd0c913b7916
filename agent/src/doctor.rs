//! `muster-agent doctor`: what may keep an agent from home, each with its remedy.

use std::{fmt, fs, sync::Arc, time::Duration};

use tokio::net::lookup_host;

use crate::{config::Config, dial, durable, host::Host, identity::Identity, ledger, status::Status};

/// A skew beyond this breaks certificates' times, milliseconds.
const SKEW_BAD: i64 = 3_600_000;

/// A skew beyond this is worth a word, milliseconds.
const SKEW_ODD: i64 = 30_000;

const SPACE_BAD: u64 = 16 << 20;
const SPACE_ODD: u64 = 256 << 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Worth a look.
    Warn,
    /// Keeps the agent from its work.
    Fail,
}

/// One line of the examination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// What was looked at.
    pub what: &'static str,
    /// What was found, and the remedy.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Ok => "ok  ",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        write!(f, "{grade}  {:<12} {}", self.what, self.text)
    }
}

/// Examines an agent's host.
pub async fn examine(config: &Config, host: &dyn Host) -> Vec<Finding> {
    let mut findings = vec![writable(config), space(host.free_bytes(&config.state_dir)), journal(config)];
    let status = Status::read(&config.state_dir).ok().flatten();
    match Identity::load(&config.state_dir) {
        Ok(Some(identity)) => {
            let skew = status.as_ref().map_or(0, |s| s.skew_ms);
            findings.push(certificate(&identity, host.now_ms() + skew));
            let homes = if config.homes.is_empty() { identity.homes.clone() } else { config.homes.clone() };
            for home in &homes {
                findings.extend(reach(home, &identity).await);
            }
        }
        Ok(None) => findings.push(fail("identity", "none; run muster-agent enroll with an invitation".into())),
        Err(e) => findings.push(fail("identity", format!("{e:#}; enrol again with --replace"))),
    }
    findings.extend(status.as_ref().map(clock));
    findings.push(match &status {
        Some(status) if status.revoked => fail("home says", "the identity is revoked; ask for a readmission".into()),
        Some(status) if status.link.connected => ok("home says", format!("welcome, at {}", status.link.home)),
        Some(status) => warn("home says", format!("not connected: {}", status.link.last_error)),
        None => warn("home says", "nothing yet: no agent has run on this state folder; start muster-agent run".into()),
    });
    findings
}

fn writable(config: &Config) -> Finding {
    let probe = config.state_dir.join("doctor.probe");
    let shown = config.state_dir.display();
    match durable::replace(&probe, b"probe", || ()).and_then(|()| fs::remove_file(&probe)) {
        Ok(()) => ok("state folder", format!("{shown} can be written")),
        Err(e) => fail("state folder", format!("{shown}: {e}; make it writable for the agent's user")),
    }
}

fn space(free: Option<u64>) -> Finding {
    match free {
        Some(free) if free < SPACE_BAD => fail("disk", format!("{} MiB free; make room", free >> 20)),
        Some(free) if free < SPACE_ODD => warn("disk", format!("{} MiB free; make room soon", free >> 20)),
        Some(free) => ok("disk", format!("{} MiB free", free >> 20)),
        None => warn("disk", "the free space cannot be told; look at the mount of the state folder".into()),
    }
}

fn journal(config: &Config) -> Finding {
    match ledger::peek(&config.state_dir) {
        Ok(Some(state)) => ok("ledger", format!("{} holds {} assignments", state.ledger_id, state.held().count())),
        Ok(None) if ledger::path(&config.state_dir).exists() => {
            warn("ledger", "damaged; the agent moves it aside at its next start and home is told".into())
        }
        Ok(None) => ok("ledger", "none yet".into()),
        Err(e) => fail("ledger", format!("cannot be read: {e}; let the agent's user read it")),
    }
}

fn certificate(identity: &Identity, now_ms: i64) -> Finding {
    match identity.leaf() {
        Err(e) => fail("certificate", format!("{e:#}; enrol again with --replace")),
        Ok(leaf) if now_ms < leaf.not_before => {
            fail("certificate", "its time has not begun; set this host's clock".into())
        }
        Ok(leaf) if now_ms >= leaf.not_after => {
            let hours = (now_ms - leaf.not_after) / 3_600_000;
            fail("certificate", format!("expired {hours} h ago; a running agent renews it while home's grace lasts"))
        }
        Ok(leaf) => ok("certificate", format!("valid for {} h", (leaf.not_after - now_ms) / 3_600_000)),
    }
}

fn clock(status: &Status) -> Finding {
    let (skew, seconds) = (status.skew_ms.abs(), status.skew_ms / 1000);
    let text = format!("home's clock is {seconds} s ahead of this host's");
    match skew {
        SKEW_BAD.. => fail("clock", format!("{text}; set up time synchronisation")),
        SKEW_ODD.. => warn("clock", format!("{text}; set up time synchronisation")),
        _ => ok("clock", text),
    }
}

/// Name, connection and TLS, each only when the one before it works.
async fn reach(home: &str, identity: &Identity) -> Vec<Finding> {
    let mut findings = Vec::new();
    match tokio::time::timeout(Duration::from_secs(5), lookup_host(home)).await {
        Ok(Ok(found)) => {
            let all: Vec<String> = found.map(|a| a.ip().to_string()).collect();
            findings.push(ok("name", format!("{home} is {}", all.join(", "))));
        }
        Ok(Err(e)) => return vec![fail("name", format!("{home}: {e}; correct the address or this host's DNS"))],
        Err(_) => return vec![fail("name", format!("{home}: the DNS server does not answer; look at resolv.conf"))],
    }
    let tcp = match dial::tcp(home).await {
        Ok(tcp) => tcp,
        Err(e) => {
            findings.push(fail("connection", format!("{home}: {e}; let this host reach that port")));
            return findings;
        }
    };
    findings.push(ok("connection", format!("{home} answers")));
    let tls = match identity.tls() {
        Ok(tls) => tls,
        Err(e) => {
            findings.push(fail("TLS", format!("{e:#}; enrol again with --replace")));
            return findings;
        }
    };
    findings.push(match dial::handshake(tcp, Arc::new(tls)).await {
        Ok(_) => ok("TLS", format!("{home} is home")),
        Err(e) => fail("TLS", format!("{home}: {e}; something else answers there, or its root is not trusted")),
    });
    findings
}

fn ok(what: &'static str, text: String) -> Finding {
    Finding { grade: Grade::Ok, what, text }
}

fn warn(what: &'static str, text: String) -> Finding {
    Finding { grade: Grade::Warn, what, text }
}

fn fail(what: &'static str, text: String) -> Finding {
    Finding { grade: Grade::Fail, what, text }
}
