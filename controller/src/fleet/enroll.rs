//! From an invitation to an identity, and from an identity to its successor.

use muster_pki::{ca, standing::Standing};
use muster_proto::fleet::{
    EnrollRequest, EnrollResponse, RenewRequest, RenewResponse, enrollment_server::Enrollment, refusal::Reason,
};
use rustls_pki_types::CertificateDer;
use tonic::{Request, Response, Status};

use super::{
    Fleet,
    desired::{Document, OnInterrupt, OnRevoke},
    listen::Peer,
    model::{AgentId, Key, Labels, Mode},
    session::judge,
    store::{self, AgentRow, InvitationRow},
    wire,
};
use crate::{
    error::{Error, Result},
    platform::{crash::CrashPoint, db::Tx, events::Actor, id},
};

/// The same key with the same token gets the same identity again this long, milliseconds: a cut connection must not burn
/// a token.
const GRACE: i64 = 3_600_000;

/// The two calls that end in a certificate.
#[derive(Debug, Clone)]
pub struct EnrollmentService {
    /// The house they lead into.
    pub fleet: Fleet,
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let request = request.into_inner();
        let fleet = &self.fleet;
        let (agent, class, chain) = fleet
            .db
            .write(|mut tx| {
                let request = &request;
                async move {
                    let enrolled = enroll(fleet, &mut tx, request).await?;
                    tx.crash_points(CrashPoint::BeforeEnrolCommit, CrashPoint::AfterEnrolCommit);
                    tx.done(enrolled)
                }
            })
            .await?;
        Ok(Response::new(EnrollResponse {
            agent_id: agent.0,
            class,
            chain: bytes(&chain),
            roots: bytes(&fleet.certificates.house().roots),
            server_time_ms: fleet.db.clock().now(),
            homes: fleet.homes.to_vec(),
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let peer = peer(&request)?;
        let fleet = &self.fleet;
        let now = fleet.db.clock().now();
        let leaf = peer.leaf.ok_or_else(|| no_certificate(now))?;
        let judged = judge(fleet, &leaf).await?;
        if !judged.may_renew() {
            return Err(refusal(judged, now).into());
        }
        let agent = leaf.agent_id.clone().ok_or_else(|| refusal(Standing::Unknown, now))?;
        let csr = request.into_inner().csr;
        let chain = fleet
            .db
            .write(|mut tx| {
                let (csr, agent) = (&csr, &agent);
                async move {
                    if !store::lock_agent(&mut tx, &AgentId(agent.clone())).await? {
                        return Err(refusal(Standing::Unknown, tx.now()));
                    }
                    let chain = fleet.certificates.issue_agent(&mut tx, csr, agent).await?;
                    tx.done(chain)
                }
            })
            .await?;
        Ok(Response::new(RenewResponse {
            chain: bytes(&chain),
            roots: bytes(&fleet.certificates.house().roots),
            server_time_ms: now,
        }))
    }
}

/// One enrolment: (identity, class, certificate chain).
async fn enroll(
    fleet: &Fleet,
    tx: &mut Tx,
    request: &EnrollRequest,
) -> Result<(AgentId, String, Vec<CertificateDer<'static>>)> {
    let now = tx.now();
    let key_hash = ca::request_key_hash(&request.csr)?;
    let refuse = |why: &str| Error::refused(Reason::Invitation, why, now);
    let secret_hash = muster_pki::hex(&muster_pki::sha256(&request.secret));
    let found = store::find_invitation(tx, &secret_hash).await?;
    let invitation = found.ok_or_else(|| refuse("home knows no such invitation; ask for a new one"))?;
    let took = store::take_use(tx, &invitation.id, now).await?;
    // The row of the invitation is locked from here on, so that no second try of this key comes between.
    if let Some((agent, at)) = store::find_enrolment(tx, &invitation.id, &key_hash).await? {
        if took {
            give_back(tx, &invitation.id).await?;
        }
        if now - at > GRACE || invitation.revoked_at.is_some() {
            return Err(refuse("this key has used the invitation before; ask for a new invitation"));
        }
        let chain = fleet.certificates.issue_agent(tx, &request.csr, &agent).await?;
        return Ok((AgentId(agent), invitation.class, chain));
    }
    if !took {
        return Err(refuse(&why_over(&invitation, now)));
    }
    let facts = wire::facts(request.facts.as_ref());
    let agent = match &invitation.for_agent {
        Some(agent) => readmit(tx, &AgentId(agent.clone())).await?,
        None => mint(fleet, tx, &invitation, &facts).await?,
    };
    store::insert_enrolment(tx, &invitation.id, &key_hash, &agent.0, now).await?;
    let kind = if invitation.for_agent.is_some() { "agent.readmitted" } else { "agent.enrolled" };
    let after = serde_json::json!({
        "class": invitation.class, "invitation": invitation.id, "hostname": facts["hostname"], "key": key_hash,
    });
    let seq = tx.record(Actor::agent(&agent).change(kind, format!("agent/{agent}")).after(after)).await?;
    fleet.desired.put(tx, seq, std::slice::from_ref(&agent), &settings_key(), &fleet.settings()).await?;
    let chain = fleet.certificates.issue_agent(tx, &request.csr, &agent.0).await?;
    Ok((agent, invitation.class, chain))
}

async fn give_back(tx: &mut Tx, invitation: &str) -> Result<()> {
    sqlx::query("update fleet_invitation set used = used - 1 where id = $1")
        .bind(invitation)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn mint(fleet: &Fleet, tx: &mut Tx, invitation: &InvitationRow, facts: &serde_json::Value) -> Result<AgentId> {
    let now = tx.now();
    let agent = AgentId(id::fresh(now));
    let hostname = facts["hostname"].as_str().unwrap_or_default();
    let name = if hostname.is_empty() { agent.0.as_str() } else { hostname };
    let labels: Labels = serde_json::from_str(&invitation.labels).map_err(Error::internal)?;
    let row = AgentRow {
        id: agent.0.clone(),
        name: name.into(),
        class: invitation.class.clone(),
        labels: invitation.labels.clone(),
        invitation_id: Some(invitation.id.clone()),
        enrolled_at: now,
        standing: "ok".into(),
        revoked_at: None,
        revoke_reason: String::new(),
        agent_version: String::new(),
        facts: facts.to_string(),
        capabilities: "[]".into(),
        capability_digest: String::new(),
        ledger_id: String::new(),
        liveness: "never".into(),
        liveness_at: now,
        version: 1,
    };
    store::insert_agent(tx, &row, &labels).await?;
    tracing::info!(
        agent = agent.0,
        class = invitation.class,
        trust_domain = fleet.certificates.trust_domain(),
        "enrolled"
    );
    Ok(agent)
}

async fn readmit(tx: &mut Tx, agent: &AgentId) -> Result<AgentId> {
    if !store::lock_agent(tx, agent).await? {
        return Err(Error::refused(
            Reason::Invitation,
            "the identity this invitation brings back has been removed",
            tx.now(),
        ));
    }
    store::save_readmitted(tx, agent).await?;
    Ok(agent.clone())
}

/// Why an invitation gives no identity any more, with what would be right.
fn why_over(invitation: &InvitationRow, now: i64) -> String {
    let why = if invitation.revoked_at.is_some() {
        "has been revoked"
    } else if invitation.deadline <= now {
        "is past its deadline"
    } else {
        "is used up"
    };
    format!("the invitation {:?} {why}; ask for a new one", invitation.name)
}

/// The kernel's own document: what every agent is told about its home.
pub(super) fn settings_key() -> Key {
    Key { kind: muster_proto::KIND_SETTINGS.into(), id: "settings".into() }
}

/// Wraps the settings for the door.
pub(super) fn settings_document(bytes: Vec<u8>) -> Document {
    Document {
        mode: Mode::Standing,
        version: 1,
        bytes,
        on_interrupt: OnInterrupt::Report,
        on_revoke: OnRevoke::Keep,
        start_by: 0,
        blobs: Vec::new(),
        store_bytes: 0,
    }
}

/// The refusal that goes with a judgement.
pub(super) fn refusal(standing: Standing, now: i64) -> Error {
    let (reason, message) = match standing {
        Standing::Ok => (Reason::Unspecified, "nothing is wrong"),
        Standing::Expired => (Reason::Expired, "the certificate has expired; renew it"),
        Standing::ExpiredBeyondGrace => (
            Reason::ExpiredBeyondGrace,
            "the certificate expired too long ago to be renewed; enrol with a new invitation",
        ),
        Standing::NotYetValid => {
            (Reason::NotYetValid, "the certificate is not valid yet; one of the two clocks is wrong")
        }
        Standing::Revoked => (Reason::Revoked, "this identity has been revoked"),
        Standing::Superseded => {
            (Reason::Superseded, "a newer certificate of this identity is in use; is there a copy of this host?")
        }
        Standing::Unknown => {
            (Reason::Unknown, "home does not know this identity; it was removed, or home was restored")
        }
    };
    Error::refused(reason, message, now)
}

/// Who calls without a certificate where one is needed.
pub(super) fn no_certificate(now: i64) -> Error {
    Error::refused(Reason::NoCertificate, "this call needs the agent's certificate", now)
}

/// Who is at the other end of a call's connection.
pub(super) fn peer<T>(request: &Request<T>) -> Result<Peer> {
    let peer = request.extensions().get::<Peer>().cloned();
    peer.ok_or_else(|| Error::internal(anyhow::anyhow!("a call without a connection")))
}

fn bytes(chain: &[CertificateDer<'static>]) -> Vec<bytes::Bytes> {
    chain.iter().map(|c| bytes::Bytes::copy_from_slice(c)).collect()
}
