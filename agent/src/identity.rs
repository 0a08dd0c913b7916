//! Who the agent is: its id, certificate, key and whom it trusts, in `identity/` of the state folder.
//!
//! One file holds an identity whole, so that a power cut leaves the old one or the new one. A renewed certificate waits
//! beside it as a *candidate* until it has really connected; the old one is replaced only then. The key of an enrolment
//! is durable before home is asked, so that a connection cut in the middle is repeated with the same key and does not
//! cost the invitation.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Context, bail};
use muster_pki::{
    ca::BACKDATE_AGENT,
    key::Key,
    leaf::{self, Leaf},
    rotate, sha256,
    tls::{self, Trust},
};
use muster_proto::fleet::{EnrollRequest, Facts, InvitationToken, RenewRequest, enrollment_client::EnrollmentClient};
use rustls::{ClientConfig, client::Resumption, pki_types::CertificateDer};
use serde::{Deserialize, Serialize};
use tonic::{Status, transport::Channel};

use crate::{
    crash::{self, CrashPoint},
    dial, durable, host,
};

/// Tickets kept: one name, and one ticket a connection.
const TICKETS: usize = 8;

/// An identity. Prints without its key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Minted by home.
    pub agent_id: String,
    /// What the agent may be asked to do.
    pub class: String,
    /// Addresses of home, host:port.
    pub homes: Vec<String>,
    /// Roots to trust, DER in hexadecimal.
    pub roots: Vec<String>,
    /// The certificate and its issuers, DER in hexadecimal, leaf first.
    pub chain: Vec<String>,
    key_pem: String,
}

/// The identity of a running agent.
#[derive(Debug)]
pub struct Keeper {
    folder: PathBuf,
    inner: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    current: Slot,
    candidate: Option<Slot>,
}

/// An identity with the TLS configuration made from it: one, so that sessions are resumed.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The identity.
    pub identity: Identity,
    /// For connecting with it.
    pub tls: Arc<ClientConfig>,
    /// Its certificate.
    pub leaf: Leaf,
}

/// The key of an enrolment under way and the invitation it is for.
#[derive(Serialize, Deserialize)]
struct Joining {
    invitation: String,
    key_pem: String,
}

// === impl Identity ===

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("agent_id", &self.agent_id).field("class", &self.class).finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity of a state folder, if it has one.
    pub fn load(state_dir: &Path) -> anyhow::Result<Option<Self>> {
        read(&folder(state_dir).join("agent.json"))
    }

    /// Its certificate.
    pub fn leaf(&self) -> anyhow::Result<Leaf> {
        let chain = ders(&self.chain)?;
        Ok(leaf::read(chain.first().context("the identity holds no certificate")?)?)
    }

    /// TLS with this identity.
    pub fn tls(&self) -> anyhow::Result<ClientConfig> {
        let key = Key::from_pem(&self.key_pem)?;
        let own = tls::Identity { chain: ders(&self.chain)?, key: &key };
        let mut config = tls::client(&Trust::Roots(ders(&self.roots)?), Some(own))?;
        config.resumption = Resumption::in_memory_sessions(TICKETS);
        Ok(config)
    }

    fn slot(self) -> anyhow::Result<Slot> {
        Ok(Slot { tls: self.tls()?.into(), leaf: self.leaf()?, identity: self })
    }
}

// === impl Keeper ===

impl Keeper {
    /// The identity of an enrolled state folder.
    pub fn open(state_dir: &Path) -> anyhow::Result<Self> {
        let folder = folder(state_dir);
        let Some(current) = Identity::load(state_dir)? else {
            bail!("{} holds no identity; enrol first: muster-agent enroll", state_dir.display());
        };
        let candidate: Option<Identity> = read(&folder.join("candidate.json")).unwrap_or_default();
        let candidate = candidate.and_then(|c| c.slot().ok());
        Ok(Self { folder, inner: Mutex::new(Kept { current: current.slot()?, candidate }) })
    }

    /// The identity that has connected.
    pub fn current(&self) -> Slot {
        self.lock().current.clone()
    }

    /// The identity that has not connected yet.
    pub fn candidate(&self) -> Option<Slot> {
        self.lock().candidate.clone()
    }

    /// Asks home for the next certificate over a connection that shows this one, and keeps it as a candidate.
    pub async fn renew(&self, channel: Channel) -> Result<i64, Status> {
        let local = |e: &dyn std::fmt::Display| Status::internal(format!("the renewed identity cannot be kept: {e}"));
        let key = Key::generate().map_err(|e| local(&e))?;
        let csr = key.request().map_err(|e| local(&e))?.into();
        let renewed = EnrollmentClient::new(channel).renew(RenewRequest { csr }).await?.into_inner();
        let next = Identity {
            chain: hexes(&renewed.chain),
            roots: hexes(&renewed.roots),
            key_pem: key.to_pem(),
            ..self.current().identity
        };
        let bytes = serde_json::to_vec(&next).map_err(|e| local(&e))?;
        let slot = next.slot().map_err(|e| local(&e))?;
        durable::replace(&self.folder.join("candidate.json"), &bytes, || crash::at(CrashPoint::BeforeCandidate))
            .map_err(|e| local(&e))?;
        crash::at(CrashPoint::AfterCandidate);
        self.lock().candidate = Some(slot);
        Ok(renewed.server_time_ms)
    }

    /// The candidate has connected: it is the identity.
    pub fn promote(&self) -> anyhow::Result<()> {
        let mut kept = self.lock();
        if let Some(candidate) = kept.candidate.clone() {
            self.save(&candidate.identity)?;
            durable::remove(&self.folder.join("candidate.json"))?;
            (kept.current, kept.candidate) = (candidate, None);
        }
        Ok(())
    }

    /// The candidate is of no use.
    pub fn discard(&self) -> io::Result<()> {
        self.lock().candidate = None;
        durable::remove(&self.folder.join("candidate.json"))
    }

    /// Takes what home says of itself. Returns whether anything changed.
    pub fn learn(&self, roots: &[Vec<u8>], homes: &[String]) -> anyhow::Result<bool> {
        let mut kept = self.lock();
        let mut next = kept.current.identity.clone();
        next.roots = hexes(roots);
        if !homes.is_empty() {
            next.homes = homes.to_vec();
        }
        if (&next.roots, &next.homes) == (&kept.current.identity.roots, &kept.current.identity.homes) {
            return Ok(false);
        }
        let slot = next.slot()?;
        self.save(&slot.identity)?;
        kept.current = slot;
        Ok(true)
    }

    fn save(&self, identity: &Identity) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(identity)?;
        durable::replace(&self.folder.join("agent.json"), &bytes, || crash::at(CrashPoint::BeforePromotion))?;
        crash::at(CrashPoint::AfterPromotion);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// When a certificate is to be renewed, milliseconds of home's clock; `jitter` lies in 0..1.
pub fn renew_at(leaf: &Leaf, jitter: f64) -> i64 {
    rotate::renew_at(leaf.not_before, leaf.not_after, BACKDATE_AGENT, jitter)
}

/// Trades an invitation for an identity, durable when this returns. Each home of the token is tried once.
///
/// # Errors
/// What home said, or why none answered. Repeating the call is harmless.
pub async fn enroll(state_dir: &Path, token: &InvitationToken, facts: &host::Facts) -> anyhow::Result<Identity> {
    let folder = folder(state_dir);
    durable::folder(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let key = joining_key(&folder, token)?;
    let pin = <[u8; 32]>::try_from(token.root_sha256.as_ref()).context("the invitation pins no root")?;
    let config = Arc::new(tls::client(&Trust::Pin(pin), None)?);
    let mut last = anyhow::anyhow!("the invitation names no home");
    for home in &token.homes {
        let channel = match dial::channel(home, config.clone()).await {
            Ok(channel) => channel,
            Err(e) => {
                last = anyhow::anyhow!(e);
                continue;
            }
        };
        let request =
            EnrollRequest { secret: token.secret.clone(), csr: key.request()?.into(), facts: Some(wire(facts)) };
        match EnrollmentClient::new(channel).enroll(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let homes = if answer.homes.is_empty() { token.homes.clone() } else { answer.homes };
                let identity = Identity {
                    agent_id: answer.agent_id,
                    class: answer.class,
                    homes,
                    roots: hexes(&answer.roots),
                    chain: hexes(&answer.chain),
                    key_pem: key.to_pem(),
                };
                identity.clone().slot().context("home gave an identity that cannot be used")?;
                let bytes = serde_json::to_vec(&identity)?;
                durable::replace(&folder.join("agent.json"), &bytes, || crash::at(CrashPoint::BeforeEnrolled))?;
                crash::at(CrashPoint::AfterEnrolled);
                durable::remove(&folder.join("candidate.json"))?;
                durable::remove(&folder.join("joining.json"))?;
                return Ok(identity);
            }
            Err(status) => last = anyhow::anyhow!("{home}: {}", status.message()),
        }
    }
    Err(last)
}

/// What a host is, for the wire.
pub fn wire(facts: &host::Facts) -> Facts {
    Facts {
        hostname: facts.hostname.clone(),
        os: facts.os.clone(),
        kernel: facts.kernel.clone(),
        arch: facts.arch.clone(),
        cpus: facts.cpus,
        memory_bytes: facts.memory_bytes,
        boot_id: facts.boot_id.clone(),
    }
}

fn joining_key(folder: &Path, token: &InvitationToken) -> anyhow::Result<Key> {
    let path = folder.join("joining.json");
    let invitation = muster_pki::hex(&sha256(&token.secret));
    if let Ok(Some(Joining { invitation: known, key_pem })) = read::<Joining>(&path)
        && known == invitation
    {
        return Ok(Key::from_pem(&key_pem)?);
    }
    let key = Key::generate()?;
    let bytes = serde_json::to_vec(&Joining { invitation, key_pem: key.to_pem() })?;
    durable::replace(&path, &bytes, || crash::at(CrashPoint::BeforeJoiningKey))?;
    crash::at(CrashPoint::AfterJoiningKey);
    Ok(key)
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("identity")
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> anyhow::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => {
            Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", path.display())),
    }
}

fn hexes<T: AsRef<[u8]>>(ders: &[T]) -> Vec<String> {
    ders.iter().map(|der| muster_pki::hex(der.as_ref())).collect()
}

fn ders(hexes: &[String]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|text| u8::from_str_radix(text, 16).ok());
    let der = |hex: &String| hex.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>();
    hexes.iter().map(|hex| Ok(der(hex).context("a certificate of the identity is damaged")?.into())).collect()
}

#[cfg(test)]
mod tests;
