//! The API of the fleet: invitations, agents, what they hold and how they fare.

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::{
    Fleet,
    desired::{Condition, Envelope, Report},
    model::{AgentId, Class, InvitationId, Labels, Liveness, Mode, Phase, State as Stands},
    service::{NewInvitation, Removal, labels_of},
    store::{self, AgentFilter, AgentRow, InvitationRow},
};
use crate::{
    error::{Error, Result},
    web::{
        Body, Caller, Page, Paging, Policy, Query, Routes,
        etag::{ETag, IfMatch},
        paging::PagingQuery,
    },
};

/// An invitation is open this long unless its maker says otherwise, seconds: a day.
const OPEN_FOR: i64 = 86_400;

/// Whether agents may still join by an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InvitationState {
    /// They may.
    Open,
    /// As many joined as may.
    UsedUp,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

/// An invitation, without its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// Id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What those who join may be asked to do.
    pub class: Class,
    /// Labels of those who join.
    pub labels: Labels,
    /// How many may join.
    pub max_uses: i64,
    /// How many joined.
    pub used: i64,
    /// Whether they still may.
    pub state: InvitationState,
    /// When it ends, milliseconds since the Unix epoch.
    pub expires_at: i64,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<i64>,
    /// The identity it brings back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_agent: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: i64,
}

/// An invitation to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvitationOrder {
    /// What people call it.
    pub name: String,
    /// What those who join may be asked to do.
    pub class: Class,
    /// Labels of those who join.
    #[serde(default)]
    pub labels: Labels,
    /// How many may join; one if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<i64>,
    /// Open for this long; a day if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<i64>,
    /// Brings this agent back instead of making new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_agent: Option<String>,
}

/// An invitation that was made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InvitationCreated {
    /// The invitation.
    pub invitation: Invitation,
    /// Its token; shown this once.
    pub token: String,
}

/// An agent in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may be asked to do.
    pub class: Class,
    /// Labels.
    pub labels: Labels,
    /// Whether it can be reached.
    pub liveness: Liveness,
    /// Since when, milliseconds since the Unix epoch.
    pub liveness_at: i64,
    /// Its identity was taken away.
    pub is_revoked: bool,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<i64>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revoke_reason: String,
    /// Version of its program; empty before its first stream.
    pub agent_version: String,
    /// Name of its host.
    pub hostname: String,
    /// The invitation it joined by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation_id: Option<String>,
    /// When it joined.
    pub enrolled_at: i64,
    /// For `If-Match`.
    pub version: i64,
}

/// What a host is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Facts {
    /// Name of the host.
    pub hostname: String,
    /// Operating system.
    pub os: String,
    /// Kernel.
    pub kernel: String,
    /// Architecture.
    pub arch: String,
    /// Processors.
    pub cpus: u64,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Changes with each boot.
    pub boot_id: String,
}

/// A kind of assignment that an agent takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Capability {
    /// The kind.
    pub kind: String,
    /// Oldest version of its document.
    pub oldest_version: u64,
    /// Newest version of its document.
    pub newest_version: u64,
    /// What it has to offer, such as wrapper folders.
    pub offers: Vec<String>,
}

/// What an agent says of an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReportInfo {
    /// Generation acted on.
    pub generation: i64,
    /// Where it stands.
    pub phase: Phase,
    /// What is judged about it.
    pub conditions: Vec<Condition>,
    /// By the agent's clock, milliseconds since the Unix epoch.
    pub at: i64,
    /// When home had it.
    pub received_at: i64,
    /// Once: this is the end.
    pub is_outcome: bool,
    /// Once, interrupted: it may have had effects.
    pub may_have_run: bool,
    /// Once: which attempt, from 1; 0 when it never started.
    pub attempt: i64,
}

/// Why an agent does not take an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusalInfo {
    /// One word.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// An assignment of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Holding {
    /// `domain.noun`.
    pub kind: String,
    /// The domain's own id.
    pub id: String,
    /// Standing or once.
    pub mode: Mode,
    /// Where it stands between home and the agent.
    pub state: Stands,
    /// Generation that is wanted.
    pub desired_generation: i64,
    /// Generation that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// It is to be undone.
    pub is_withdrawn: bool,
    /// SHA-256 of the document, hexadecimal; empty when withdrawn.
    pub digest: String,
    /// The newest report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportInfo>,
    /// Why the agent refused, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalInfo>,
}

/// An agent with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentDetail {
    /// As in the list.
    pub agent: Agent,
    /// Its host.
    pub facts: Facts,
    /// What it takes.
    pub capabilities: Vec<Capability>,
    /// What it holds, and what it says of it.
    pub holdings: Vec<Holding>,
}

/// What an agent measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleInfo {
    /// By the agent's clock, milliseconds since the Unix epoch.
    pub at: i64,
    /// Busy share of all processors, 0 to 1.
    pub cpu: f64,
    /// Memory in use, bytes.
    pub memory_used_bytes: u64,
    /// Memory there is, bytes.
    pub memory_total_bytes: u64,
    /// Of the file system with the agent's state: in use, bytes.
    pub disk_used_bytes: u64,
    /// Of that file system: its size, bytes.
    pub disk_total_bytes: u64,
    /// Load average over a minute.
    pub load1: f64,
    /// Received since boot, bytes.
    pub network_received_bytes: u64,
    /// Sent since boot, bytes.
    pub network_sent_bytes: u64,
    /// The agent's own resident memory, bytes.
    pub agent_rss_bytes: u64,
}

/// A change of an agent; what is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentChange {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All of its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
}

/// Why an agent's identity is taken away.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// In words, for the history and for the agent's page.
    pub reason: String,
}

/// How many agents of a class are in a liveness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Count {
    /// Class.
    pub class: Class,
    /// Liveness.
    pub liveness: Liveness,
    /// How many.
    pub count: i64,
}

/// The fleet in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// Agents in good standing.
    pub agents: i64,
    /// Of these, those that are online.
    pub online: i64,
    /// By class and liveness.
    pub counts: Vec<Count>,
}

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "cursor and limit are read by Paging; they stand here so that other fields are refused")]
struct AgentQuery {
    /// Only of this class.
    class: Option<Class>,
    /// Only in this liveness.
    liveness: Option<Liveness>,
    /// Only with these labels: `key=value`, several separated by commas.
    label: Option<String>,
    /// Only with this text in name, id or labels.
    search: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
    /// Items wanted, 1 to 500; 100 if not said.
    limit: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RemovalQuery {
    /// Even if it holds something.
    #[serde(default)]
    force: bool,
}

/// The routes of the fleet.
pub fn routes(fleet: Fleet) -> Routes {
    Routes::new()
        .add(Policy::viewer(), routes!(summary))
        .add(Policy::viewer(), routes!(invitations))
        .add(Policy::operator().idempotent(), routes!(invite))
        .add(Policy::viewer(), routes!(invitation))
        .add(Policy::operator(), routes!(revoke_invitation))
        .add(Policy::viewer(), routes!(agents))
        .add(Policy::viewer(), routes!(agent))
        .add(Policy::operator(), routes!(change_agent))
        .add(Policy::admin(), routes!(remove_agent))
        .add(Policy::admin(), routes!(revoke_agent))
        .add(Policy::viewer(), routes!(samples))
        .with_state(fleet)
}

// === for pages and handlers alike ===

impl Fleet {
    /// Invitations, oldest first, after an id.
    pub async fn list_invitations(&self, after: &str, limit: i64) -> Result<Vec<Invitation>> {
        let now = self.db.clock().now();
        let rows = store::invitations(&mut *self.db.read().await?, after, limit).await?;
        rows.into_iter().map(|row| invitation_info(row, now)).collect()
    }

    /// Agents that pass a filter, by id.
    pub async fn list_agents(&self, filter: &AgentFilter, limit: i64) -> Result<Vec<Agent>> {
        let rows = store::agents(&mut *self.db.read().await?, filter, limit).await?;
        rows.into_iter().map(|row| self.agent_info(row)).collect()
    }

    /// An agent with all that is known of it.
    pub async fn agent_detail(&self, id: &AgentId) -> Result<AgentDetail> {
        let row = self.agent(&mut *self.db.read().await?, id).await?;
        let holdings = self.holdings(id).await?;
        Ok(AgentDetail {
            facts: facts_of(&row),
            capabilities: serde_json::from_str(&row.capabilities).map_err(Error::internal)?,
            holdings: holdings.into_iter().map(holding_info).collect(),
            agent: self.agent_info(row)?,
        })
    }

    /// What an agent measured of late, oldest first; kept by the replica that has its stream.
    pub fn sample_infos(&self, id: &AgentId) -> Vec<SampleInfo> {
        self.registry.samples(id).into_iter().map(SampleInfo::from).collect()
    }

    /// The fleet in numbers.
    pub async fn summary(&self) -> Result<Summary> {
        let rows = store::counts(&mut *self.db.read().await?).await?;
        let count = |(class, liveness, count): (String, String, i64)| {
            Ok(Count { class: class_of(&class)?, liveness: liveness_of(&liveness)?, count })
        };
        let counts = rows.into_iter().map(count).collect::<Result<Vec<_>>>()?;
        let online = counts.iter().filter(|c| c.liveness == Liveness::Online).map(|c| c.count).sum();
        Ok(Summary { agents: counts.iter().map(|c| c.count).sum(), online, counts })
    }

    fn agent_info(&self, row: AgentRow) -> Result<Agent> {
        let id = AgentId(row.id.clone());
        // The streams here know better than the row, which is written a moment later.
        let known = self.registry.liveness(&id, self.db.clock().now());
        Ok(Agent {
            class: class_of(&row.class)?,
            labels: labels_of(&row)?,
            liveness: known.map_or_else(|| liveness_of(&row.liveness), Ok)?,
            hostname: facts_of(&row).hostname,
            id: row.id,
            name: row.name,
            liveness_at: row.liveness_at,
            is_revoked: row.standing == "revoked",
            revoked_at: row.revoked_at,
            revoke_reason: row.revoke_reason,
            agent_version: row.agent_version,
            invitation_id: row.invitation_id,
            enrolled_at: row.enrolled_at,
            version: row.version,
        })
    }
}

// === handlers ===

/// The fleet in numbers
#[utoipa::path(get, path = "/api/v1/fleet", tag = "fleet", responses((status = 200, body = Summary)))]
async fn summary(State(fleet): State<Fleet>) -> Result<Json<Summary>> {
    fleet.summary().await.map(Json)
}

/// Lists invitations
#[utoipa::path(get, path = "/api/v1/invitations", tag = "fleet", params(PagingQuery),
    responses((status = 200, body = Page<Invitation>)))]
async fn invitations(State(fleet): State<Fleet>, paging: Paging) -> Result<Json<Page<Invitation>>> {
    let found = fleet.list_invitations(&paging.after, paging.rows()).await?;
    Ok(Json(paging.page(found, |i| i.id.clone())))
}

/// Makes an invitation; its token is shown this once
#[utoipa::path(post, path = "/api/v1/invitations", tag = "fleet", request_body = InvitationOrder,
    responses((status = 201, body = InvitationCreated)))]
async fn invite(
    State(fleet): State<Fleet>,
    caller: Caller,
    Body(order): Body<InvitationOrder>,
) -> Result<(StatusCode, Json<InvitationCreated>)> {
    let new = NewInvitation {
        name: order.name,
        class: order.class,
        labels: order.labels,
        max_uses: order.max_uses.unwrap_or(1),
        life: order.expires_in_seconds.unwrap_or(OPEN_FOR).saturating_mul(1000),
        for_agent: order.for_agent.map(AgentId),
    };
    let (row, token) = fleet.invite(&caller.actor, &new).await?;
    let invitation = invitation_info(row, fleet.db.clock().now())?;
    Ok((StatusCode::CREATED, Json(InvitationCreated { invitation, token })))
}

/// Shows an invitation
#[utoipa::path(get, path = "/api/v1/invitations/{id}", tag = "fleet", params(("id" = String, Path)),
    responses((status = 200, body = Invitation)))]
async fn invitation(State(fleet): State<Fleet>, Path(id): Path<String>) -> Result<Json<Invitation>> {
    let id = InvitationId(id);
    let row = store::fetch_invitation(&mut *fleet.db.read().await?, &id).await?;
    let row = row.ok_or_else(|| Error::not_found("invitation", id.0))?;
    invitation_info(row, fleet.db.clock().now()).map(Json)
}

/// Revokes an invitation; those who joined by it stay
#[utoipa::path(delete, path = "/api/v1/invitations/{id}", tag = "fleet", params(("id" = String, Path)),
    responses((status = 204)))]
async fn revoke_invitation(State(fleet): State<Fleet>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode> {
    fleet.revoke_invitation(&caller.actor, &InvitationId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists agents
#[utoipa::path(get, path = "/api/v1/agents", tag = "fleet", params(AgentQuery), responses((status = 200, body = Page<Agent>)))]
async fn agents(
    State(fleet): State<Fleet>,
    paging: Paging,
    Query(query): Query<AgentQuery>,
) -> Result<Json<Page<Agent>>> {
    let filter = AgentFilter {
        class: query.class.map(|c| c.name().to_owned()).unwrap_or_default(),
        liveness: query.liveness.map(|l| l.word().to_owned()).unwrap_or_default(),
        labels: parse_labels(query.label.as_deref().unwrap_or_default())?,
        search: query.search.unwrap_or_default(),
        after: paging.after.clone(),
    };
    let found = fleet.list_agents(&filter, paging.rows()).await?;
    Ok(Json(paging.page(found, |a| a.id.clone())))
}

/// Shows an agent with what it holds
#[utoipa::path(get, path = "/api/v1/agents/{id}", tag = "fleet", params(("id" = String, Path)),
    responses((status = 200, body = AgentDetail)))]
async fn agent(State(fleet): State<Fleet>, Path(id): Path<String>) -> Result<(ETag, Json<AgentDetail>)> {
    let detail = fleet.agent_detail(&AgentId(id)).await?;
    Ok((ETag(detail.agent.version), Json(detail)))
}

/// Changes an agent's name and labels
#[utoipa::path(patch, path = "/api/v1/agents/{id}", tag = "fleet",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = AgentChange,
    responses((status = 200, body = Agent)))]
async fn change_agent(
    State(fleet): State<Fleet>,
    caller: Caller,
    Path(id): Path<String>,
    IfMatch(version): IfMatch,
    Body(change): Body<AgentChange>,
) -> Result<(ETag, Json<Agent>)> {
    let id = AgentId(id);
    let row = fleet.agent(&mut *fleet.db.read().await?, &id).await?;
    let name = change.name.unwrap_or_else(|| row.name.clone());
    let labels = change.labels.map_or_else(|| labels_of(&row), Ok)?;
    // Without If-Match the change still rests on what was read here, not on what another wrote since.
    let version = version.unwrap_or(row.version);
    let version = fleet.relabel(&caller.actor, &id, &name, &labels, Some(version)).await?;
    let row = fleet.agent(&mut *fleet.db.read().await?, &id).await?;
    Ok((ETag(version), Json(fleet.agent_info(row)?)))
}

/// Takes an agent's identity away; its stream is cut at once
#[utoipa::path(post, path = "/api/v1/agents/{id}/revoke", tag = "fleet", params(("id" = String, Path)),
    request_body = Revocation, responses((status = 204)))]
async fn revoke_agent(
    State(fleet): State<Fleet>,
    caller: Caller,
    Path(id): Path<String>,
    Body(why): Body<Revocation>,
) -> Result<StatusCode> {
    if why.reason.trim().is_empty() || why.reason.len() > 1000 {
        return Err(Error::invalid("reason", "say why, in 1 to 1000 characters"));
    }
    fleet.revoke_agent(&caller.actor, &AgentId(id), why.reason.trim()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes an agent and everything about it
#[utoipa::path(delete, path = "/api/v1/agents/{id}", tag = "fleet", params(("id" = String, Path), RemovalQuery),
    responses((status = 204)))]
async fn remove_agent(
    State(fleet): State<Fleet>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<RemovalQuery>,
) -> Result<StatusCode> {
    fleet.remove_agent(&caller.actor, &Removal { agent: AgentId(id), force: query.force }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What an agent measured of late, oldest first
#[utoipa::path(get, path = "/api/v1/agents/{id}/samples", tag = "fleet", params(("id" = String, Path)),
    responses((status = 200, body = Vec<SampleInfo>)))]
async fn samples(State(fleet): State<Fleet>, Path(id): Path<String>) -> Result<Json<Vec<SampleInfo>>> {
    let id = AgentId(id);
    fleet.agent(&mut *fleet.db.read().await?, &id).await?;
    Ok(Json(fleet.sample_infos(&id)))
}

// === rows and texts ===

/// Labels in `key=value,key=value`.
pub fn parse_labels(text: &str) -> Result<Labels> {
    let pair = |pair: &str| {
        let split = pair.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
        split.ok_or_else(|| Error::invalid("label", format!("{pair:?} is not `key=value`")))
    };
    text.split(',').map(str::trim).filter(|p| !p.is_empty()).map(pair).collect()
}

fn invitation_info(row: InvitationRow, now: i64) -> Result<Invitation> {
    let state = match &row {
        InvitationRow { revoked_at: Some(_), .. } => InvitationState::Revoked,
        row if row.used >= row.max_uses => InvitationState::UsedUp,
        row if now >= row.deadline => InvitationState::Expired,
        _ => InvitationState::Open,
    };
    Ok(Invitation {
        class: class_of(&row.class)?,
        labels: serde_json::from_str(&row.labels).map_err(Error::internal)?,
        id: row.id,
        name: row.name,
        max_uses: row.max_uses,
        used: row.used,
        state,
        expires_at: row.deadline,
        revoked_at: row.revoked_at,
        for_agent: row.for_agent,
        created_by: row.created_by,
        created_at: row.created_at,
    })
}

fn holding_info((envelope, report): (Envelope, Option<Report>)) -> Holding {
    let wanted = envelope.wanted;
    Holding {
        kind: wanted.key.kind,
        id: wanted.key.id,
        mode: wanted.mode,
        state: wanted.state,
        desired_generation: wanted.generation,
        observed_generation: report.as_ref().map(|r| r.generation).filter(|g| *g > 0),
        is_withdrawn: wanted.digest.is_empty(),
        digest: wanted.digest,
        report: report.map(ReportInfo::from),
        refusal: envelope.refusal.map(|(reason, message)| RefusalInfo { reason, message }),
    }
}

/// What stands in the row before a first stream is no fact.
fn facts_of(row: &AgentRow) -> Facts {
    serde_json::from_str(&row.facts).unwrap_or_default()
}

fn class_of(word: &str) -> Result<Class> {
    serde_json::from_value(word.into()).map_err(Error::internal)
}

fn liveness_of(word: &str) -> Result<Liveness> {
    serde_json::from_value(word.into()).map_err(Error::internal)
}

impl From<Report> for ReportInfo {
    fn from(report: Report) -> Self {
        Self {
            generation: report.generation,
            phase: report.phase,
            conditions: report.conditions,
            at: report.at,
            received_at: report.received_at,
            is_outcome: report.outcome,
            may_have_run: report.may_have_run,
            attempt: report.attempt,
        }
    }
}

impl From<muster_proto::fleet::Sample> for SampleInfo {
    fn from(sample: muster_proto::fleet::Sample) -> Self {
        Self {
            at: sample.at_ms,
            cpu: sample.cpu,
            memory_used_bytes: sample.memory_used_bytes,
            memory_total_bytes: sample.memory_total_bytes,
            disk_used_bytes: sample.disk_used_bytes,
            disk_total_bytes: sample.disk_total_bytes,
            load1: sample.load1,
            network_received_bytes: sample.network_received_bytes,
            network_sent_bytes: sample.network_sent_bytes,
            agent_rss_bytes: sample.agent_rss_bytes,
        }
    }
}
