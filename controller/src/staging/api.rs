//! Stagings over REST: parse, call the service, render. No decisions.

mod log;

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

pub use self::log::{TAIL, output, tail};
use super::{
    model::{MaskedSettings, OperationId, Outcome, Override, OverrideKey, ProjectSpec, SettingsChange, Status, Verb},
    service::{NewStaging, Staging, Which, masked_of, status_of},
    store::{self, OperationRow, ProjectRow, StagingRow},
};
use crate::{
    error::{Error, Result},
    fleet::model::AgentId,
    platform::db::Conn,
    web::{
        Body, Caller, Page, Paging, Policy, Query, Role, Routes,
        etag::{ETag, IfMatch},
        paging::PagingQuery,
    },
};

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// How its stagings are made.
    pub spec: ProjectSpec,
    /// Who made it.
    pub owner: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// For `If-Match`.
    pub version: i64,
}

/// A project to be made.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// Its name.
    pub name: String,
    /// How its stagings are made.
    pub spec: ProjectSpec,
}

/// A staging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StagingView {
    /// Its project.
    pub project: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub status: Status,
    /// Since when, milliseconds since the Unix epoch.
    pub status_at: i64,
    /// Why; empty when there is nothing to say.
    pub status_why: String,
    /// The agent that carries it; none when that was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// What it is made with; secrets left out.
    pub settings: MaskedSettings,
    /// The operation under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<OperationView>,
    /// Who made it.
    pub owner: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was last asked to change, milliseconds since the Unix epoch.
    pub updated_at: i64,
    /// Since when it is archived, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<i64>,
    /// For `If-Match`: counts changes of settings and host. A status that changes leaves it as it is.
    pub version: i64,
}

/// A line of the action log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationView {
    /// Its id.
    pub id: OperationId,
    /// The staging's project.
    pub project: String,
    /// The staging's name.
    pub name: String,
    /// The agent that was asked.
    pub agent: AgentId,
    /// What was asked for.
    pub verb: Verb,
    /// How it ended; none while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Who asked.
    pub actor: String,
    /// From where.
    pub source: String,
    /// When it was asked for, milliseconds since the Unix epoch.
    pub requested_at: i64,
    /// When its wrapper was started, by the host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// When it ended, by the host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
    /// How long its wrapper ran, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// Exit code, where it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Signal, where one ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i64>,
    /// Who asked for its end before its time; empty when nobody did.
    pub cancelled_by: String,
    /// Why it ended so; never empty for what did not succeed.
    pub message: String,
    /// What it was done with; secrets left out.
    pub settings: MaskedSettings,
}

/// What an accepted request gives: the operation that carries it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// Follow it under `/api/v1/staging/operations/{id}`.
    pub operation: OperationId,
}

/// A staging to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateStaging {
    /// Its name: 2 to 17 characters, unique in its project.
    pub name: String,
    /// Which version of the application.
    pub tag: String,
    /// What it is made with.
    #[serde(default)]
    pub overrides: Vec<Override>,
}

/// A change of a staging.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateStaging {
    /// A new tag.
    #[serde(default)]
    pub tag: Option<String>,
    /// Overrides to add or replace.
    #[serde(default)]
    pub overrides: Vec<Override>,
    /// Overrides to take away.
    #[serde(default)]
    pub unset: Vec<OverrideKey>,
}

/// Another host for a staging.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveStaging {
    /// The agent that is to carry it.
    pub agent: AgentId,
}

/// Which stagings to list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StagingQuery {
    /// Only of this project.
    #[serde(default)]
    pub project: String,
    /// Only in this status.
    #[serde(default)]
    pub status: String,
    /// Only with this text in name, project or tag.
    #[serde(default)]
    pub search: String,
}

/// Which operations to list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OperationQuery {
    /// Only of this staging.
    #[serde(default)]
    pub name: String,
}

/// The routes of the domain.
pub fn routes(staging: Staging) -> Routes {
    let operate = Policy::owner_or(Role::Operator);
    Routes::new()
        .add(Policy::viewer(), routes!(projects))
        .add(Policy::viewer(), routes!(project))
        .add(Policy::admin().idempotent(), routes!(create_project))
        .add(Policy::admin(), routes!(put_project))
        .add(Policy::admin(), routes!(remove_project))
        .add(Policy::viewer(), routes!(stagings))
        .add(Policy::viewer(), routes!(staging_))
        .add(Policy::operator().idempotent(), routes!(create))
        .add(operate, routes!(update))
        .add(operate, routes!(delete))
        .add(operate, routes!(restore))
        .add(operate, routes!(cleanup))
        .add(operate, routes!(cancel))
        .add(Policy::admin(), routes!(relocate))
        .add(Policy::admin(), routes!(forget))
        .add(Policy::viewer(), routes!(operations))
        .add(Policy::viewer(), routes!(operation))
        .add(Policy::viewer(), routes!(log::log))
        .add(Policy::viewer(), routes!(log::raw_log))
        .add(Policy::viewer(), routes!(log::follow_log))
        .with_state(staging)
}

// === projects ===

/// Lists projects
#[utoipa::path(get, path = "/api/v1/staging/projects", tag = "staging", params(PagingQuery),
    responses((status = 200, body = Page<Project>)))]
async fn projects(State(staging): State<Staging>, paging: Paging) -> Result<Json<Page<Project>>> {
    let rows = store::projects(&mut *staging.fleet.db.read().await?, &paging.after, paging.rows()).await?;
    Ok(Json(paging.page(rows, |p| p.name.clone()).try_map(Project::try_from)?))
}

/// Shows a project
#[utoipa::path(get, path = "/api/v1/staging/projects/{project}", tag = "staging", responses((status = 200, body = Project)))]
async fn project(State(staging): State<Staging>, Path(name): Path<String>) -> Result<(ETag, Json<Project>)> {
    let row = staging.project(&mut *staging.fleet.db.read().await?, &name).await?;
    Ok((ETag(row.version), Json(row.try_into()?)))
}

/// Makes a project
#[utoipa::path(post, path = "/api/v1/staging/projects", tag = "staging", request_body = CreateProject,
    responses((status = 201, body = Project)))]
async fn create_project(
    State(staging): State<Staging>,
    caller: Caller,
    Body(new): Body<CreateProject>,
) -> Result<(StatusCode, ETag, Json<Project>)> {
    staging.create_project(&caller.actor, &new.name, &new.spec).await?;
    let row = staging.project(&mut *staging.fleet.db.read().await?, &new.name).await?;
    Ok((StatusCode::CREATED, ETag(row.version), Json(row.try_into()?)))
}

/// Makes or changes a project
#[utoipa::path(put, path = "/api/v1/staging/projects/{project}", tag = "staging",
    params(("If-Match" = Option<String>, Header)), request_body = ProjectSpec, responses((status = 200, body = Project)))]
async fn put_project(
    State(staging): State<Staging>,
    caller: Caller,
    Path(name): Path<String>,
    IfMatch(version): IfMatch,
    Body(spec): Body<ProjectSpec>,
) -> Result<(ETag, Json<Project>)> {
    staging.save_project(&caller.actor, &name, &spec, version).await?;
    let row = staging.project(&mut *staging.fleet.db.read().await?, &name).await?;
    Ok((ETag(row.version), Json(row.try_into()?)))
}

/// Removes a project without stagings
#[utoipa::path(delete, path = "/api/v1/staging/projects/{project}", tag = "staging", responses((status = 204)))]
async fn remove_project(
    State(staging): State<Staging>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    staging.remove_project(&caller.actor, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

// === stagings ===

/// Lists stagings of all projects
#[utoipa::path(get, path = "/api/v1/staging/stagings", tag = "staging", params(StagingQuery, PagingQuery),
    responses((status = 200, body = Page<StagingView>)))]
async fn stagings(
    State(staging): State<Staging>,
    Query(query): Query<StagingQuery>,
    paging: Paging,
) -> Result<Json<Page<StagingView>>> {
    Ok(Json(list(&staging, query, &paging).await?))
}

/// A page of stagings.
pub async fn list(staging: &Staging, query: StagingQuery, paging: &Paging) -> Result<Page<StagingView>> {
    if !query.status.is_empty() && Status::from_word(&query.status).is_none() {
        let all = Status::ALL.map(Status::word).join(", ");
        return Err(Error::invalid("status", format!("no status {:?}; there are {all}", query.status)));
    }
    let after = paging.after.split_once('/').map(|(p, n)| (p.into(), n.into())).unwrap_or_default();
    let filter = store::Filter { project: query.project, status: query.status, search: query.search, after };
    let mut conn = staging.fleet.db.read().await?;
    let rows = store::stagings(&mut conn, &filter, paging.rows()).await?;
    let page = paging.page(rows, |s| format!("{}/{}", s.project, s.name));
    let items = views(&mut conn, page.items).await?;
    Ok(Page { items, next: page.next })
}

/// Shows a staging
#[utoipa::path(get, path = "/api/v1/staging/projects/{project}/stagings/{name}", tag = "staging",
    responses((status = 200, body = StagingView)))]
async fn staging_(
    State(staging): State<Staging>,
    Path((project, name)): Path<(String, String)>,
) -> Result<(ETag, Json<StagingView>)> {
    let view = show(&staging, Which { project: &project, name: &name }).await?;
    Ok((ETag(view.version), Json(view)))
}

/// One staging, or the error that there is none.
pub async fn show(staging: &Staging, which: Which<'_>) -> Result<StagingView> {
    let mut conn = staging.fleet.db.read().await?;
    let row = store::fetch_staging(&mut conn, which.project, which.name).await?;
    let row = row.ok_or_else(|| Error::not_found("staging", format!("{}/{}", which.project, which.name)))?;
    let mut views = views(&mut conn, vec![row]).await?;
    Ok(views.swap_remove(0))
}

/// Makes a staging
#[utoipa::path(post, path = "/api/v1/staging/projects/{project}/stagings", tag = "staging", request_body = CreateStaging,
    responses((status = 202, body = Accepted)))]
async fn create(
    State(staging): State<Staging>,
    caller: Caller,
    Path(project): Path<String>,
    Body(new): Body<CreateStaging>,
) -> Result<(StatusCode, Json<Accepted>)> {
    let new = NewStaging { project, name: new.name, tag: new.tag, overrides: new.overrides };
    accepted(staging.create(&caller.actor, &new).await?)
}

/// Changes a staging's tag or overrides
#[utoipa::path(patch, path = "/api/v1/staging/projects/{project}/stagings/{name}", tag = "staging",
    params(("If-Match" = Option<String>, Header)), request_body = UpdateStaging, responses((status = 202, body = Accepted)))]
async fn update(
    State(staging): State<Staging>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
    IfMatch(version): IfMatch,
    Body(change): Body<UpdateStaging>,
) -> Result<(StatusCode, Json<Accepted>)> {
    let which = owned(&staging, &caller, &project, &name).await?;
    let change = SettingsChange { tag: change.tag, set: change.overrides, unset: change.unset };
    accepted(staging.update(&caller.actor, which, &change, version).await?)
}

/// Archives a staging: stops it and keeps its data
#[utoipa::path(post, path = "/api/v1/staging/projects/{project}/stagings/{name}/delete", tag = "staging",
    responses((status = 202, body = Accepted)))]
async fn delete(
    State(staging): State<Staging>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Accepted>)> {
    let which = owned(&staging, &caller, &project, &name).await?;
    accepted(staging.delete(&caller.actor, which).await?)
}

/// Brings an archived staging back with its last settings
#[utoipa::path(post, path = "/api/v1/staging/projects/{project}/stagings/{name}/restore", tag = "staging",
    responses((status = 202, body = Accepted)))]
async fn restore(
    State(staging): State<Staging>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Accepted>)> {
    let which = owned(&staging, &caller, &project, &name).await?;
    accepted(staging.restore(&caller.actor, which).await?)
}

/// Removes an archived staging with its data
#[utoipa::path(post, path = "/api/v1/staging/projects/{project}/stagings/{name}/cleanup", tag = "staging",
    responses((status = 202, body = Accepted)))]
async fn cleanup(
    State(staging): State<Staging>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Accepted>)> {
    let which = owned(&staging, &caller, &project, &name).await?;
    accepted(staging.cleanup(&caller.actor, which).await?)
}

/// Ends the pending operation
#[utoipa::path(post, path = "/api/v1/staging/projects/{project}/stagings/{name}/cancel", tag = "staging",
    responses((status = 202, body = Accepted)))]
async fn cancel(
    State(staging): State<Staging>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Accepted>)> {
    let which = owned(&staging, &caller, &project, &name).await?;
    accepted(staging.cancel(&caller.actor, which).await?)
}

/// Gives an archived or failed staging another host; its data stays where it is
#[utoipa::path(post, path = "/api/v1/staging/projects/{project}/stagings/{name}/move", tag = "staging",
    params(("If-Match" = Option<String>, Header)), request_body = MoveStaging, responses((status = 200, body = StagingView)))]
async fn relocate(
    State(staging): State<Staging>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
    IfMatch(version): IfMatch,
    Body(to): Body<MoveStaging>,
) -> Result<(ETag, Json<StagingView>)> {
    let which = Which { project: &project, name: &name };
    staging.relocate(&caller.actor, which, &to.agent, version).await?;
    let view = show(&staging, which).await?;
    Ok((ETag(view.version), Json(view)))
}

/// Drops a staging whose host is gone, without running anything
#[utoipa::path(post, path = "/api/v1/staging/projects/{project}/stagings/{name}/forget", tag = "staging",
    responses((status = 204)))]
async fn forget(
    State(staging): State<Staging>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Result<StatusCode> {
    staging.forget(&caller.actor, Which { project: &project, name: &name }).await?;
    Ok(StatusCode::NO_CONTENT)
}

// === operations ===

/// Lists a project's operations, newest first, those of stagings that are gone among them
#[utoipa::path(get, path = "/api/v1/staging/projects/{project}/operations", tag = "staging",
    params(OperationQuery, PagingQuery), responses((status = 200, body = Page<OperationView>)))]
async fn operations(
    State(staging): State<Staging>,
    Path(project): Path<String>,
    Query(query): Query<OperationQuery>,
    paging: Paging,
) -> Result<Json<Page<OperationView>>> {
    Ok(Json(history(&staging, &project, &query.name, &paging).await?))
}

/// A page of operations.
pub async fn history(staging: &Staging, project: &str, name: &str, paging: &Paging) -> Result<Page<OperationView>> {
    let mut conn = staging.fleet.db.read().await?;
    let rows = store::operations(&mut conn, project, name, &paging.after, paging.rows()).await?;
    paging.page(rows, |o| o.id.clone()).try_map(OperationView::try_from)
}

/// Shows an operation
#[utoipa::path(get, path = "/api/v1/staging/operations/{id}", tag = "staging", responses((status = 200, body = OperationView)))]
async fn operation(State(staging): State<Staging>, Path(id): Path<OperationId>) -> Result<Json<OperationView>> {
    Ok(Json(find(&staging, &id).await?))
}

/// One operation, or the error that there is none.
pub async fn find(staging: &Staging, id: &OperationId) -> Result<OperationView> {
    let row = store::fetch_operation(&mut *staging.fleet.db.read().await?, id).await?;
    row.ok_or_else(|| Error::not_found("operation", &id.0))?.try_into()
}

// === pieces ===

fn accepted(operation: OperationId) -> Result<(StatusCode, Json<Accepted>)> {
    Ok((StatusCode::ACCEPTED, Json(Accepted { operation })))
}

/// Which staging, once its caller may act on it.
pub async fn owned<'a>(staging: &Staging, caller: &Caller, project: &'a str, name: &'a str) -> Result<Which<'a>> {
    let row = store::fetch_staging(&mut *staging.fleet.db.read().await?, project, name).await?;
    let row = row.ok_or_else(|| Error::not_found("staging", format!("{project}/{name}")))?;
    caller.must_own(&row.owner, Role::Operator)?;
    Ok(Which { project, name })
}

async fn views(conn: &mut Conn, rows: Vec<StagingRow>) -> Result<Vec<StagingView>> {
    let ids: Vec<_> = rows.iter().map(|r| r.operation_id.clone()).filter(|id| !id.is_empty()).collect();
    let mut operations = if ids.is_empty() { Vec::new() } else { store::operations_by_id(conn, &ids).await? };
    let mut views = Vec::with_capacity(rows.len());
    for row in rows {
        let at = operations.iter().position(|o| o.id == row.operation_id);
        let pending = at.map(|at| operations.swap_remove(at).try_into()).transpose()?;
        views.push(StagingView {
            status: status_of(&row)?,
            settings: serde_json::from_value(masked_of(&row)?).map_err(Error::internal)?,
            agent: row.agent_id.map(AgentId),
            pending,
            project: row.project,
            name: row.name,
            status_at: row.status_at,
            status_why: row.status_why,
            owner: row.owner,
            created_at: row.created_at,
            updated_at: row.updated_at,
            archived_at: row.archived_at,
            version: row.version,
        });
    }
    Ok(views)
}

impl TryFrom<ProjectRow> for Project {
    type Error = Error;

    fn try_from(row: ProjectRow) -> Result<Self> {
        let spec = row.spec()?;
        Ok(Self { name: row.name, spec, owner: row.owner, created_at: row.created_at, version: row.version })
    }
}

impl TryFrom<OperationRow> for OperationView {
    type Error = Error;

    fn try_from(row: OperationRow) -> Result<Self> {
        let unknown = |word: &str| Error::internal(anyhow::anyhow!("the database holds the word {word:?}"));
        Ok(Self {
            verb: Verb::from_word(&row.verb).ok_or_else(|| unknown(&row.verb))?,
            outcome: Outcome::from_word(&row.outcome),
            duration_ms: row.started_at.zip(row.ended_at).map(|(from, to)| (to - from).max(0)),
            settings: serde_json::from_str(&row.settings_masked).map_err(Error::internal)?,
            id: OperationId(row.id),
            project: row.project,
            name: row.name,
            agent: AgentId(row.agent_id),
            actor: row.actor,
            source: row.source,
            requested_at: row.requested_at,
            started_at: row.started_at,
            ended_at: row.ended_at,
            exit_code: row.exit_code,
            signal: row.signal,
            cancelled_by: row.cancelled_by,
            message: row.message,
        })
    }
}
