//! Backbones, interior sites, access points and links.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::{
    super::{
        model::{AccessKind, Deployment, Standing, deployment},
        service::{Networks, NewAccessPoint, NewLink, What, standings, word},
        status::{self, RouterState},
        store::{self, AccessPointRow, BackboneRow, LinkRow, Of, SiteRow},
    },
    removal::{Cascade, removed},
};
use crate::{
    error::{Problem, Result},
    fleet::model::AgentId,
    platform::db::Conn,
    web::{Body, Caller, Policy, Query, Routes},
};

/// A backbone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backbone {
    /// Its name.
    pub name: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// A backbone to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBackbone {
    /// Its name.
    pub name: String,
}

/// An interior site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Site {
    /// Its name, unique in its backbone.
    pub name: String,
    /// Name of its router.
    pub router: String,
    /// Where it stands on its way into the backbone.
    pub deployment: Deployment,
    /// What it waits for; empty when it is deployed.
    pub waits_for: String,
    /// How it is, and why.
    pub state: status::State,
    /// The agent that carries it out, once one has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Where others may connect.
    pub access_points: Vec<AccessPoint>,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// An interior site to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSite {
    /// Its name, unique in its backbone.
    pub name: String,
}

/// An access point of an interior site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessPoint {
    /// Its name, unique at its site.
    pub name: String,
    /// For whom it is.
    pub kind: AccessKind,
    /// What others dial: a DNS name or an IP address.
    pub host: String,
    /// The IP address that is bound; empty for every one.
    #[serde(default)]
    pub bind: String,
    /// The first port.
    pub port: i64,
    /// How many ports from there on: one for peers; for members as many as there may be networks at it.
    #[serde(default = "one")]
    pub ports: i64,
}

fn one() -> i64 {
    1
}

/// A link between two interior sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// Its id.
    pub id: String,
    /// The site that makes it.
    pub from: String,
    /// The site it leads to.
    pub to: String,
    /// That site's access point.
    pub access_point: String,
    /// What it costs: traffic takes the cheapest way.
    pub cost: i64,
}

/// A link to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateLink {
    /// The site that makes it.
    pub from: String,
    /// The site it leads to.
    pub to: String,
    /// That site's access point; may be left out where it has one for peers.
    #[serde(default)]
    pub access_point: String,
    /// What it costs: traffic takes the cheapest way.
    #[serde(default = "one")]
    pub cost: i64,
}

/// A token that is shown this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Give it to `muster-agent enroll`.
    pub token: String,
}

/// Adds these routes.
pub fn add(routes: Routes<Networks>) -> Routes<Networks> {
    routes
        .add(Policy::viewer(), routes!(backbones))
        .add(Policy::admin().idempotent(), routes!(create_backbone))
        .add(Policy::admin(), routes!(remove_backbone))
        .add(Policy::viewer(), routes!(sites))
        .add(Policy::viewer(), routes!(site))
        .add(Policy::admin().idempotent(), routes!(create_site))
        .add(Policy::admin(), routes!(remove_site))
        .add(Policy::admin(), routes!(invite_site))
        .add(Policy::admin().idempotent(), routes!(create_access_point))
        .add(Policy::admin(), routes!(remove_access_point))
        .add(Policy::viewer(), routes!(links))
        .add(Policy::admin().idempotent(), routes!(create_link))
        .add(Policy::admin(), routes!(remove_link))
}

/// Lists backbones
#[utoipa::path(get, path = "/api/v1/network/backbones", tag = "network", responses((status = 200, body = Vec<Backbone>)))]
pub async fn backbones(State(it): State<Networks>) -> Result<Json<Vec<Backbone>>> {
    let rows: Vec<BackboneRow> = store::rows(&mut *it.fleet.db.read().await?, Of::All).await?;
    Ok(Json(rows.into_iter().map(Backbone::from).collect()))
}

/// Makes a backbone
#[utoipa::path(post, path = "/api/v1/network/backbones", tag = "network", request_body = CreateBackbone,
    responses((status = 201, body = Backbone)))]
async fn create_backbone(
    State(it): State<Networks>,
    caller: Caller,
    Body(new): Body<CreateBackbone>,
) -> Result<(StatusCode, Json<Backbone>)> {
    let row = it.create_backbone(&caller.actor, &new.name).await?;
    Ok((StatusCode::CREATED, Json(row.into())))
}

/// Removes a backbone; what stands on it only by `cascade`
#[utoipa::path(delete, path = "/api/v1/network/backbones/{backbone}", tag = "network", params(Cascade),
    responses((status = 204), (status = 409, body = Problem)))]
async fn remove_backbone(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Query(how): Query<Cascade>,
) -> Result<StatusCode> {
    removed(&it, &caller, &What::Backbone(name), &how).await
}

/// Lists the interior sites of a backbone, with their access points
#[utoipa::path(get, path = "/api/v1/network/backbones/{backbone}/sites", tag = "network",
    responses((status = 200, body = Vec<Site>)))]
pub async fn sites(State(it): State<Networks>, Path(backbone): Path<String>) -> Result<Json<Vec<Site>>> {
    Ok(Json(sites_of(&it, &mut *it.fleet.db.read().await?, &backbone).await?))
}

/// Shows an interior site
#[utoipa::path(get, path = "/api/v1/network/backbones/{backbone}/sites/{site}", tag = "network",
    responses((status = 200, body = Site)))]
pub async fn site(State(it): State<Networks>, Path((backbone, name)): Path<(String, String)>) -> Result<Json<Site>> {
    let mut conn = it.fleet.db.read().await?;
    let row = it.site(&mut conn, &backbone, &name).await?;
    let sites = sites_of(&it, &mut conn, &backbone).await?;
    let found = sites.into_iter().find(|s| s.router == row.router);
    found.map(Json).ok_or_else(|| crate::error::Error::not_found("site", name))
}

/// Makes an interior site
#[utoipa::path(post, path = "/api/v1/network/backbones/{backbone}/sites", tag = "network", request_body = CreateSite,
    responses((status = 201, body = Site)))]
async fn create_site(
    State(it): State<Networks>,
    caller: Caller,
    Path(backbone): Path<String>,
    Body(new): Body<CreateSite>,
) -> Result<(StatusCode, Json<Site>)> {
    it.create_site(&caller.actor, &backbone, &new.name).await?;
    Ok((StatusCode::CREATED, site(State(it), Path((backbone, new.name))).await?))
}

/// Removes an interior site; what stands on it only by `cascade`
#[utoipa::path(delete, path = "/api/v1/network/backbones/{backbone}/sites/{site}", tag = "network", params(Cascade),
    responses((status = 204), (status = 409, body = Problem)))]
async fn remove_site(
    State(it): State<Networks>,
    caller: Caller,
    Path((backbone, site)): Path<(String, String)>,
    Query(how): Query<Cascade>,
) -> Result<StatusCode> {
    removed(&it, &caller, &What::Site(backbone, site), &how).await
}

/// Makes the invitation by which a site's agent joins; one made before is revoked
#[utoipa::path(post, path = "/api/v1/network/backbones/{backbone}/sites/{site}/invitation", tag = "network",
    responses((status = 201, body = Token)))]
async fn invite_site(
    State(it): State<Networks>,
    caller: Caller,
    Path((backbone, site)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Token>)> {
    let token = it.invite_site(&caller.actor, &backbone, &site).await?;
    Ok((StatusCode::CREATED, Json(Token { token })))
}

/// Makes an access point
#[utoipa::path(post, path = "/api/v1/network/backbones/{backbone}/sites/{site}/access-points", tag = "network",
    request_body = AccessPoint, responses((status = 201, body = AccessPoint)))]
async fn create_access_point(
    State(it): State<Networks>,
    caller: Caller,
    Path((backbone, site)): Path<(String, String)>,
    Body(new): Body<AccessPoint>,
) -> Result<(StatusCode, Json<AccessPoint>)> {
    let AccessPoint { name, kind, host, bind, port, ports } = new;
    let new = NewAccessPoint { name, kind, host, bind, port, ports };
    let row = it.create_access_point(&caller.actor, &backbone, &site, &new).await?;
    Ok((StatusCode::CREATED, Json(row.try_into()?)))
}

/// Removes an access point; what stands on it only by `cascade`
#[utoipa::path(delete, path = "/api/v1/network/backbones/{backbone}/sites/{site}/access-points/{name}", tag = "network",
    params(Cascade), responses((status = 204), (status = 409, body = Problem)))]
async fn remove_access_point(
    State(it): State<Networks>,
    caller: Caller,
    Path((backbone, site, name)): Path<(String, String, String)>,
    Query(how): Query<Cascade>,
) -> Result<StatusCode> {
    removed(&it, &caller, &What::AccessPoint(backbone, site, name), &how).await
}

/// Lists the links of a backbone
#[utoipa::path(get, path = "/api/v1/network/backbones/{backbone}/links", tag = "network",
    responses((status = 200, body = Vec<Link>)))]
async fn links(State(it): State<Networks>, Path(backbone): Path<String>) -> Result<Json<Vec<Link>>> {
    let mut conn = it.fleet.db.read().await?;
    let on = it.backbone(&mut conn, &backbone).await?;
    Ok(Json(links_of(&mut conn, &on.id).await?))
}

/// The links of a backbone, by its id.
pub async fn links_of(conn: &mut Conn, backbone: &str) -> Result<Vec<Link>> {
    let sites: Vec<SiteRow> = store::by(conn, "backbone_id", backbone).await?;
    let ids: Vec<_> = sites.iter().map(|s| s.id.clone()).collect();
    let points: Vec<AccessPointRow> = store::rows(conn, Of::Each("site_id", &ids)).await?;
    let rows: Vec<LinkRow> = store::rows(conn, Of::Each("site_id", &ids)).await?;
    let names: BTreeMap<_, _> = sites.into_iter().map(|s| (s.id, s.name)).collect();
    let points: BTreeMap<_, _> = points.into_iter().map(|p| (p.id.clone(), p)).collect();
    let link = |row: LinkRow| {
        let point = points.get(&row.access_point_id)?;
        let (from, to) = (names.get(&row.site_id)?.clone(), names.get(&point.site_id)?.clone());
        Some(Link { id: row.id, from, to, access_point: point.name.clone(), cost: row.cost })
    };
    Ok(rows.into_iter().filter_map(link).collect())
}

/// Makes a link
#[utoipa::path(post, path = "/api/v1/network/backbones/{backbone}/links", tag = "network", request_body = CreateLink,
    responses((status = 201, body = Link)))]
async fn create_link(
    State(it): State<Networks>,
    caller: Caller,
    Path(backbone): Path<String>,
    Body(new): Body<CreateLink>,
) -> Result<(StatusCode, Json<Link>)> {
    let CreateLink { from, to, access_point, cost } = new;
    let new = NewLink { from, to, access_point, cost };
    let row = it.create_link(&caller.actor, &backbone, &new).await?;
    let point: Option<AccessPointRow> = store::one(&mut *it.fleet.db.read().await?, "id", &row.access_point_id).await?;
    let access_point = point.map(|p| p.name).unwrap_or_default();
    Ok((StatusCode::CREATED, Json(Link { id: row.id, from: new.from, to: new.to, access_point, cost: row.cost })))
}

/// Removes a link
#[utoipa::path(delete, path = "/api/v1/network/backbones/{backbone}/links/{id}", tag = "network",
    responses((status = 204)))]
async fn remove_link(
    State(it): State<Networks>,
    caller: Caller,
    Path((backbone, id)): Path<(String, String)>,
) -> Result<StatusCode> {
    removed(&it, &caller, &What::Link(backbone, id), &Cascade::default()).await
}

/// The interior sites of a backbone as they stand.
pub async fn sites_of(it: &Networks, conn: &mut Conn, backbone: &str) -> Result<Vec<Site>> {
    let on = it.backbone(conn, backbone).await?;
    let sites: Vec<SiteRow> = store::by(conn, "backbone_id", &on.id).await?;
    let ids: Vec<_> = sites.iter().map(|s| s.id.clone()).collect();
    let points: Vec<AccessPointRow> = store::rows(conn, Of::Each("site_id", &ids)).await?;
    let links: Vec<LinkRow> = store::rows(conn, Of::Each("site_id", &ids)).await?;
    let standings = standings(conn, sites.iter().map(|s| (&s.id, s.agent_id.as_ref()))).await?;
    let is = |id: &String, state: RouterState| standings.told(id).is_some_and(|told| told.router.state == state);
    let runs = |id: &String| is(id, RouterState::Running) || is(id, RouterState::Silent);
    let site_of = |point: &String| points.iter().find(|p| p.id == *point).map(|p| &p.site_id);
    let linked = |one: &String, other: &String| {
        let from_to = |l: &LinkRow, a: &String, b: &String| l.site_id == *a && site_of(&l.access_point_id) == Some(b);
        links.iter().any(|l| from_to(l, one, other) || from_to(l, other, one))
    };
    let mut views = Vec::new();
    for row in &sites {
        let own: Vec<_> = points.iter().filter(|p| p.site_id == row.id).cloned().collect();
        let standing = Standing {
            runs: runs(&row.id),
            rendered: is(&row.id, RouterState::Rendered),
            deployed_neighbour: ids.iter().any(|other| runs(other) && linked(&row.id, other)),
            has_way: !own.is_empty() || links.iter().any(|l| l.site_id == row.id),
        };
        let (deployment, waits_for) = deployment(standing);
        views.push(Site {
            name: row.name.clone(),
            router: row.router.clone(),
            deployment,
            waits_for: waits_for.into(),
            state: standings.state(&row.id, row.agent_id.as_ref(), None),
            agent: row.agent_id.clone().map(AgentId),
            access_points: own.into_iter().map(AccessPoint::try_from).collect::<Result<_>>()?,
            created_at: row.created_at,
        });
    }
    Ok(views)
}

impl From<BackboneRow> for Backbone {
    fn from(row: BackboneRow) -> Self {
        Self { name: row.name, created_at: row.created_at }
    }
}

impl TryFrom<AccessPointRow> for AccessPoint {
    type Error = crate::error::Error;

    fn try_from(row: AccessPointRow) -> Result<Self> {
        let AccessPointRow { name, host, bind, port, ports, .. } = row;
        Ok(Self { name, kind: word(&row.kind)?, host, bind, port, ports })
    }
}
