//! Application networks, their classes, invitations and members. Who is no operator sees only what is theirs.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::{
    model::{Membership, Phase, Times},
    service::{Networks, NewInvitation, NewNetwork, standings, times_of, word},
    status::{self, Health},
    store::{
        self, AccessPointRow, BackboneRow, ClassRow, EdgeLinkRow, HomeRow, InvitationRow, MemberRow, NetworkRow, Of,
        SiteRow,
    },
};
use crate::{
    error::Result,
    fleet::{
        agents,
        model::{AgentId, InvitationId},
    },
    platform::db::Conn,
    web::{
        Body, Caller, Policy, Role, Routes,
        etag::{ETag, IfMatch},
    },
};

/// An application network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The backbone that carries it.
    pub backbone: String,
    /// Who owns it.
    pub owner: String,
    /// When it lives.
    #[serde(flatten)]
    pub times: Times,
    /// Where it stands in its time.
    pub phase: Phase,
    /// The agent whose host is its home; none: the controller's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<AgentId>,
    /// Sites that belong to it.
    pub members: i64,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// For `If-Match`.
    pub version: i64,
}

/// An application network to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Its name.
    pub name: String,
    /// The backbone that is to carry it.
    pub backbone: String,
    /// When it starts, milliseconds since the Unix epoch; now if not said.
    #[serde(default)]
    pub starts_at: Option<i64>,
    /// When it ends; never if not said.
    #[serde(default)]
    pub ends_at: Option<i64>,
    /// How long after its end it is removed, milliseconds.
    #[serde(default)]
    pub delete_delay: i64,
}

/// Where what belongs to a network as a whole is to stand.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetHome {
    /// An agent of class `network-home`, by name or id; none: the controller's host.
    #[serde(default)]
    pub agent: Option<String>,
}

/// A class of sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteClass {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
}

/// What a class is for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DescribeClass {
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// Where those who join hang on the backbone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EdgeLink {
    /// An interior site of the network's backbone.
    pub site: String,
    /// Its access point for members.
    pub access_point: String,
    /// 1 to 100; lower ones come first.
    #[serde(default = "first")]
    pub priority: i64,
}

fn first() -> i64 {
    1
}

/// An invitation to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// Its id; not the token.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Class of the sites that join.
    pub class: String,
    /// Until when they may, milliseconds since the Unix epoch.
    pub deadline_at: i64,
    /// How many may.
    pub limit: i64,
    /// How many did.
    pub used: i64,
    /// Whether the owner lets each in by hand.
    pub approval: bool,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<i64>,
    /// Where they hang on the backbone.
    pub edge_links: Vec<EdgeLink>,
}

/// An invitation to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateInvitation {
    /// What people call it.
    pub name: String,
    /// Class of the sites that join.
    pub class: String,
    /// Until when they may, milliseconds since the Unix epoch.
    pub deadline_at: i64,
    /// How many may.
    #[serde(default = "first")]
    pub limit: i64,
    /// Whether the owner lets each in by hand.
    #[serde(default)]
    pub approval: bool,
    /// Where they hang on the backbone; at least one.
    pub edge_links: Vec<EdgeLink>,
}

/// A change of an invitation: what is not said stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeInvitation {
    /// Until when sites may join, milliseconds since the Unix epoch.
    #[serde(default)]
    pub deadline_at: Option<i64>,
    /// How many may; no fewer than did.
    #[serde(default)]
    pub limit: Option<i64>,
}

/// An invitation just made, with its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invited {
    /// Its id.
    pub id: String,
    /// Give it to `muster-agent enroll`; it is shown this once.
    pub token: String,
}

/// A site of an application network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Its name, unique in its network.
    pub name: String,
    /// Name of its router.
    pub router: String,
    /// Its class.
    pub class: String,
    /// Whether it belongs.
    pub membership: Membership,
    /// How it is, and why.
    pub state: status::State,
    /// The agent that carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// When it joined, milliseconds since the Unix epoch.
    pub joined_at: i64,
    /// When it was sent away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evicted_at: Option<i64>,
}

/// A change of a member.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeMember {
    /// Another name.
    #[serde(default)]
    pub name: Option<String>,
    /// Another class.
    #[serde(default)]
    pub class: Option<String>,
}

/// Adds these routes.
pub fn add(routes: Routes<Networks>) -> Routes<Networks> {
    let own = Policy::owner_or(Role::Operator);
    routes
        .add(Policy::viewer(), routes!(networks))
        .add(own, routes!(network))
        .add(Policy::viewer().idempotent(), routes!(create_network))
        .add(own, routes!(set_times))
        .add(Policy::operator(), routes!(set_home))
        .add(own, routes!(end_network))
        .add(own, routes!(classes))
        .add(own, routes!(put_class))
        .add(own, routes!(invitations))
        .add(own, routes!(invite))
        .add(own, routes!(change_invitation))
        .add(own, routes!(revoke))
        .add(own, routes!(members))
        .add(own, routes!(change_member))
        .add(own, routes!(approve))
        .add(own, routes!(evict))
}

/// Lists application networks: all to operators, their own to others
#[utoipa::path(get, path = "/api/v1/network/networks", tag = "network", responses((status = 200, body = Vec<Network>)))]
pub async fn networks(State(it): State<Networks>, caller: Caller) -> Result<Json<Vec<Network>>> {
    let mut conn = it.fleet.db.read().await?;
    let rows: Vec<NetworkRow> = store::rows(&mut conn, Of::All).await?;
    let rows = rows.into_iter().filter(|r| caller.must_own(&r.owner, Role::Operator).is_ok()).collect();
    Ok(Json(views(&mut conn, rows).await?))
}

/// Shows an application network
#[utoipa::path(get, path = "/api/v1/network/networks/{network}", tag = "network", responses((status = 200, body = Network)))]
pub async fn network(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<(ETag, Json<Network>)> {
    let mut conn = it.fleet.db.read().await?;
    let row = owned(&it, &mut conn, &caller, &name).await?;
    Ok((ETag(row.version), Json(network_of(&mut conn, row).await?)))
}

/// A network as it is shown.
pub async fn network_of(conn: &mut Conn, row: NetworkRow) -> Result<Network> {
    Ok(views(conn, vec![row]).await?.swap_remove(0))
}

/// Makes an application network; it belongs to who makes it
#[utoipa::path(post, path = "/api/v1/network/networks", tag = "network", request_body = CreateNetwork,
    responses((status = 201, body = Network)))]
async fn create_network(
    State(it): State<Networks>,
    caller: Caller,
    Body(new): Body<CreateNetwork>,
) -> Result<(StatusCode, Json<Network>)> {
    let starts_at = new.starts_at.unwrap_or_else(|| it.fleet.db.clock().now());
    let times = Times { starts_at, ends_at: new.ends_at, delete_delay: new.delete_delay };
    let new = NewNetwork { name: new.name, backbone: new.backbone, owner: caller.actor.name.clone(), times };
    let row = it.create_network(&caller.actor, &new).await?;
    Ok((StatusCode::CREATED, Json(network_of(&mut *it.fleet.db.read().await?, row).await?)))
}

/// Changes when a network lives
#[utoipa::path(put, path = "/api/v1/network/networks/{network}/times", tag = "network",
    params(("If-Match" = Option<String>, Header)), request_body = Times, responses((status = 200, body = Network)))]
async fn set_times(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    IfMatch(version): IfMatch,
    Body(times): Body<Times>,
) -> Result<(ETag, Json<Network>)> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    it.set_times(&caller.actor, &name, times, version).await?;
    network(State(it), caller, Path(name)).await
}

/// Gives a network its home
#[utoipa::path(put, path = "/api/v1/network/networks/{network}/home", tag = "network", request_body = SetHome,
    responses((status = 204)))]
async fn set_home(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Body(new): Body<SetHome>,
) -> Result<StatusCode> {
    it.set_home(&caller.actor, &name, new.agent.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a network now: its links are cut, and it is removed when its delete delay is over
#[utoipa::path(post, path = "/api/v1/network/networks/{network}/end", tag = "network", responses((status = 204)))]
async fn end_network(State(it): State<Networks>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    it.end_network(&caller.actor, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the classes of a network's sites
#[utoipa::path(get, path = "/api/v1/network/networks/{network}/classes", tag = "network",
    responses((status = 200, body = Vec<SiteClass>)))]
pub async fn classes(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Vec<SiteClass>>> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(&it, &mut conn, &caller, &name).await?;
    Ok(Json(classes_of(&mut conn, &on).await?))
}

/// The classes of a network's sites.
pub async fn classes_of(conn: &mut Conn, on: &NetworkRow) -> Result<Vec<SiteClass>> {
    let rows: Vec<ClassRow> = store::by(conn, "network_id", &on.id).await?;
    Ok(rows.into_iter().map(|r| SiteClass { name: r.name, description: r.description }).collect())
}

/// Makes a class of sites, or describes it anew
#[utoipa::path(put, path = "/api/v1/network/networks/{network}/classes/{class}", tag = "network",
    request_body = DescribeClass, responses((status = 200, body = SiteClass)))]
async fn put_class(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, name)): Path<(String, String)>,
    Body(new): Body<DescribeClass>,
) -> Result<Json<SiteClass>> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    it.save_class(&caller.actor, &network, &name, &new.description).await?;
    Ok(Json(SiteClass { name, description: new.description }))
}

/// Lists a network's invitations
#[utoipa::path(get, path = "/api/v1/network/networks/{network}/invitations", tag = "network",
    responses((status = 200, body = Vec<Invitation>)))]
pub async fn invitations(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Vec<Invitation>>> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(&it, &mut conn, &caller, &name).await?;
    Ok(Json(invitations_of(&mut conn, &on).await?))
}

/// The invitations to a network.
pub async fn invitations_of(conn: &mut Conn, on: &NetworkRow) -> Result<Vec<Invitation>> {
    let rows: Vec<InvitationRow> = store::by(conn, "network_id", &on.id).await?;
    let ids: Vec<_> = rows.iter().map(|r| r.id.clone()).collect();
    let links: Vec<EdgeLinkRow> = store::rows(conn, Of::Each("invitation_id", &ids)).await?;
    let points: Vec<_> = links.iter().map(|l| l.access_point_id.clone()).collect();
    let points: Vec<AccessPointRow> = store::rows(conn, Of::Each("id", &points)).await?;
    let sites: Vec<SiteRow> = store::by(conn, "backbone_id", &on.backbone_id).await?;
    let edge_link = |link: &EdgeLinkRow| {
        let point = points.iter().find(|p| p.id == link.access_point_id)?;
        let site = sites.iter().find(|s| s.id == point.site_id)?.name.clone();
        Some(EdgeLink { site, access_point: point.name.clone(), priority: link.priority })
    };
    let mut views = Vec::new();
    for row in rows {
        let Some(terms) = agents::invitation(conn, &InvitationId(row.id.clone())).await? else { continue };
        views.push(Invitation {
            name: terms.name,
            class: row.class,
            deadline_at: terms.deadline,
            limit: terms.limit,
            used: terms.used,
            approval: row.approval == 1,
            revoked_at: terms.revoked_at,
            edge_links: links.iter().filter(|l| l.invitation_id == row.id).filter_map(edge_link).collect(),
            id: row.id,
        });
    }
    Ok(views)
}

/// Invites sites to a network
#[utoipa::path(post, path = "/api/v1/network/networks/{network}/invitations", tag = "network",
    request_body = CreateInvitation, responses((status = 201, body = Invited)))]
async fn invite(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Body(new): Body<CreateInvitation>,
) -> Result<(StatusCode, Json<Invited>)> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    let new = NewInvitation {
        name: new.name,
        class: new.class,
        deadline: new.deadline_at,
        limit: new.limit,
        approval: new.approval,
        edge_links: new.edge_links.into_iter().map(|l| (l.site, l.access_point, l.priority)).collect(),
    };
    let (id, token) = it.invite(&caller.actor, &name, &new).await?;
    Ok((StatusCode::CREATED, Json(Invited { id, token })))
}

/// Changes how many may join by an invitation, and until when
#[utoipa::path(patch, path = "/api/v1/network/networks/{network}/invitations/{id}", tag = "network",
    request_body = ChangeInvitation, responses((status = 204)))]
async fn change_invitation(
    State(it): State<Networks>,
    caller: Caller,
    Path((name, id)): Path<(String, String)>,
    Body(ChangeInvitation { deadline_at, limit }): Body<ChangeInvitation>,
) -> Result<StatusCode> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    it.change_invitation(&caller.actor, &name, &id, (limit, deadline_at)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes an invitation; those who joined by it stay
#[utoipa::path(delete, path = "/api/v1/network/networks/{network}/invitations/{id}", tag = "network",
    responses((status = 204)))]
async fn revoke(
    State(it): State<Networks>,
    caller: Caller,
    Path((name, id)): Path<(String, String)>,
) -> Result<StatusCode> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    it.revoke_invitation(&caller.actor, &name, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists a network's sites
#[utoipa::path(get, path = "/api/v1/network/networks/{network}/members", tag = "network",
    responses((status = 200, body = Vec<Member>)))]
pub async fn members(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Vec<Member>>> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(&it, &mut conn, &caller, &name).await?;
    Ok(Json(members_of(&mut conn, &on).await?))
}

/// Renames a member, or gives it another class
#[utoipa::path(patch, path = "/api/v1/network/networks/{network}/members/{member}", tag = "network",
    request_body = ChangeMember, responses((status = 204)))]
async fn change_member(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, member)): Path<(String, String)>,
    Body(change): Body<ChangeMember>,
) -> Result<StatusCode> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    it.amend(&caller.actor, &network, &member, change.name.as_deref(), change.class.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets in a site that waits for approval
#[utoipa::path(post, path = "/api/v1/network/networks/{network}/members/{member}/approve", tag = "network",
    responses((status = 204)))]
async fn approve(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, member)): Path<(String, String)>,
) -> Result<StatusCode> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    it.approve(&caller.actor, &network, &member).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a site away for good: its links are cut at once
#[utoipa::path(post, path = "/api/v1/network/networks/{network}/members/{member}/evict", tag = "network",
    responses((status = 204)))]
async fn evict(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, member)): Path<(String, String)>,
) -> Result<StatusCode> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    it.evict(&caller.actor, &network, &member).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A network of the caller's, or one that an operator may see. What is another's is not there for anybody else.
pub async fn owned(it: &Networks, conn: &mut Conn, caller: &Caller, name: &str) -> Result<NetworkRow> {
    let row = it.network(conn, name).await?;
    match caller.must_own(&row.owner, Role::Operator) {
        Ok(()) => Ok(row),
        Err(_) => Err(crate::error::Error::not_found("application network", name)),
    }
}

async fn views(conn: &mut Conn, rows: Vec<NetworkRow>) -> Result<Vec<Network>> {
    let backbones: Vec<BackboneRow> = store::rows(conn, Of::All).await?;
    let backbones: BTreeMap<_, _> = backbones.into_iter().map(|b| (b.id, b.name)).collect();
    let ids: Vec<_> = rows.iter().map(|r| r.id.clone()).collect();
    let mut counts = store::member_counts(conn, &ids).await?;
    let homes: Vec<HomeRow> = store::rows(conn, Of::Each("network_id", &ids)).await?;
    let mut homes: BTreeMap<_, _> =
        homes.into_iter().filter_map(|h| Some((h.network_id, AgentId(h.agent_id?)))).collect();
    let mut views = Vec::new();
    for row in rows {
        let times = times_of(&row);
        views.push(Network {
            backbone: backbones.get(&row.backbone_id).cloned().unwrap_or_default(),
            phase: word(&row.phase)?,
            home: homes.remove(&row.id),
            members: counts.remove(&row.id).unwrap_or_default(),
            name: row.name,
            owner: row.owner,
            times,
            created_at: row.created_at,
            version: row.version,
        });
    }
    Ok(views)
}

/// The sites of a network as they stand.
pub async fn members_of(conn: &mut Conn, on: &NetworkRow) -> Result<Vec<Member>> {
    let rows: Vec<MemberRow> = store::by(conn, "network_id", &on.id).await?;
    let standings = standings(conn, rows.iter().map(|m| (&m.id, m.agent_id.as_ref()))).await?;
    let phase = word(&on.phase)?;
    let view = |row: MemberRow| {
        let membership = word(&row.membership)?;
        let why = |why: &str| status::State { health: Health::Waiting, why: why.into(), router: None };
        let state = match membership {
            Membership::Asking => why("waits for the owner's approval"),
            Membership::Evicted => why("evicted"),
            Membership::Member => standings.state(&row.id, row.agent_id.as_ref(), Some(phase)),
        };
        Ok(Member {
            membership,
            state,
            id: row.id,
            name: row.name,
            router: row.router,
            class: row.class,
            agent: row.agent_id.map(AgentId),
            joined_at: row.joined_at,
            evicted_at: row.evicted_at,
        })
    };
    rows.into_iter().map(view).collect()
}
