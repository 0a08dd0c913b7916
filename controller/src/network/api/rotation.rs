//! Rotations: replacing the authority of a backbone or of a network.

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
        rotation::{DRAIN, Step},
        service::{Line, Networks, word},
        store::{self, RotationRow},
    },
    network::owned,
};
use crate::{
    error::{Error, Result},
    platform::db::Conn,
    web::{Body, Caller, Policy, Role, Routes},
};

/// The replacement of an authority, under way or the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rotation {
    /// What is under way.
    pub step: Step,
    /// Of which level of sites, from 0, where the step goes by levels.
    pub level: i64,
    /// How many levels there are.
    pub levels: i64,
    /// When the step began, milliseconds since the Unix epoch.
    pub since_at: i64,
    /// It is held where it stands.
    pub paused: bool,
    /// Who is waited for.
    pub waits_for: Vec<WaitsFor>,
    /// Sites that were away for too long to be waited for; they are brought up to date when they come back.
    pub left_behind: Vec<String>,
    /// When it began.
    pub started_at: i64,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<i64>,
}

/// A site that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitsFor {
    /// Its name.
    pub site: String,
    /// What it lacks.
    pub why: String,
}

/// A rotation to be begun.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginRotation {
    /// How long transfers under way have to come to their ends before what is left of old connections is cut, seconds.
    #[serde(default = "an_hour")]
    pub drain_seconds: i64,
}

fn an_hour() -> i64 {
    DRAIN / 1000
}

/// Whether a rotation is to go on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRotation {
    /// Hold it where it stands.
    pub paused: bool,
}

/// Adds these routes.
pub fn add(routes: Routes<Networks>) -> Routes<Networks> {
    let own = Policy::owner_or(Role::Operator);
    routes
        .add(Policy::operator(), routes!(of_backbone))
        .add(Policy::admin(), routes!(rotate_backbone))
        .add(Policy::admin(), routes!(change_of_backbone))
        .add(own, routes!(of_network))
        .add(own, routes!(rotate_network))
        .add(own, routes!(change_of_network))
}

/// Shows the rotation of a backbone's authority, under way or the last one
#[utoipa::path(get, path = "/api/v1/network/backbones/{backbone}/rotation", tag = "network",
    responses((status = 200, body = Rotation)))]
async fn of_backbone(State(it): State<Networks>, Path(name): Path<String>) -> Result<Json<Rotation>> {
    let mut conn = it.fleet.db.read().await?;
    let line = Line::Backbone(it.backbone(&mut conn, &name).await?);
    found(&it, &mut conn, &line).await.map(Json)
}

/// Replaces a backbone's authority, step by step across its sites
#[utoipa::path(post, path = "/api/v1/network/backbones/{backbone}/rotation", tag = "network",
    request_body = BeginRotation, responses((status = 202, body = Rotation)))]
async fn rotate_backbone(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Body(new): Body<BeginRotation>,
) -> Result<(StatusCode, Json<Rotation>)> {
    let line = Line::Backbone(it.backbone(&mut *it.fleet.db.read().await?, &name).await?);
    begin(&it, &caller, &line, &new).await
}

/// Holds the rotation of a backbone's authority, or lets it go on
#[utoipa::path(patch, path = "/api/v1/network/backbones/{backbone}/rotation", tag = "network",
    request_body = ChangeRotation, responses((status = 200, body = Rotation)))]
async fn change_of_backbone(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Body(change): Body<ChangeRotation>,
) -> Result<Json<Rotation>> {
    let line = Line::Backbone(it.backbone(&mut *it.fleet.db.read().await?, &name).await?);
    it.pause_rotation(&caller.actor, &line, change.paused).await?;
    found(&it, &mut *it.fleet.db.read().await?, &line).await.map(Json)
}

/// Shows the rotation of a network's authority, under way or the last one
#[utoipa::path(get, path = "/api/v1/network/networks/{network}/rotation", tag = "network",
    responses((status = 200, body = Rotation)))]
async fn of_network(State(it): State<Networks>, caller: Caller, Path(name): Path<String>) -> Result<Json<Rotation>> {
    let mut conn = it.fleet.db.read().await?;
    let line = Line::Network(owned(&it, &mut conn, &caller, &name).await?);
    found(&it, &mut conn, &line).await.map(Json)
}

/// Replaces a network's authority, step by step across its sites
#[utoipa::path(post, path = "/api/v1/network/networks/{network}/rotation", tag = "network",
    request_body = BeginRotation, responses((status = 202, body = Rotation)))]
async fn rotate_network(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Body(new): Body<BeginRotation>,
) -> Result<(StatusCode, Json<Rotation>)> {
    let line = Line::Network(owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?);
    begin(&it, &caller, &line, &new).await
}

/// Holds the rotation of a network's authority, or lets it go on
#[utoipa::path(patch, path = "/api/v1/network/networks/{network}/rotation", tag = "network",
    request_body = ChangeRotation, responses((status = 200, body = Rotation)))]
async fn change_of_network(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Body(change): Body<ChangeRotation>,
) -> Result<Json<Rotation>> {
    let line = Line::Network(owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?);
    it.pause_rotation(&caller.actor, &line, change.paused).await?;
    found(&it, &mut *it.fleet.db.read().await?, &line).await.map(Json)
}

async fn begin(
    it: &Networks,
    caller: &Caller,
    line: &Line,
    new: &BeginRotation,
) -> Result<(StatusCode, Json<Rotation>)> {
    it.rotate(&caller.actor, line, new.drain_seconds.saturating_mul(1000)).await?;
    Ok((StatusCode::ACCEPTED, Json(found(it, &mut *it.fleet.db.read().await?, line).await?)))
}

async fn found(it: &Networks, conn: &mut Conn, line: &Line) -> Result<Rotation> {
    let found = rotation_of(it, conn, line).await?;
    found.ok_or_else(|| Error::not_found("rotation", line.name()))
}

/// The rotation of a line that is under way, or else the last one.
pub async fn rotation_of(it: &Networks, conn: &mut Conn, line: &Line) -> Result<Option<Rotation>> {
    if let Some(facts) = it.rotation(conn, line).await? {
        let waiting = facts.standing().waits_for();
        let waiting = waiting.into_iter().map(|(seat, why)| WaitsFor { site: seat.site.clone(), why: why.into() });
        return view(facts.row(), waiting.collect(), facts.levels()).map(Some);
    }
    let all: Vec<RotationRow> = store::by(conn, "line", &line.name()).await?;
    all.first().map(|row| view(row, Vec::new(), 0)).transpose()
}

fn view(row: &RotationRow, waits_for: Vec<WaitsFor>, levels: i64) -> Result<Rotation> {
    Ok(Rotation {
        step: word(&row.step)?,
        level: row.level,
        levels,
        since_at: row.since,
        paused: row.paused == 1,
        waits_for,
        left_behind: serde_json::from_str(&row.left_behind).map_err(Error::internal)?,
        started_at: row.started_at,
        finished_at: row.finished_at,
    })
}
