//! Experiments over REST: parse, call the service, render. No decisions.

pub mod left;

use std::{collections::BTreeSet, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
};
use http::{StatusCode, request::Parts};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::{
    connector,
    model::{FlagChange, FlagValues, Outcome, Stage, Status, Until},
    node::{EnvironmentType, Node, Placed},
    run::TaskRun,
    service::{Experiments, Refusal, Seen, Told, User, status_of},
    spec::Spec,
    store::{self, ExperimentRow, FlagChangeRow, PostRow},
};
use crate::{
    access::Access,
    error::{Error, Result},
    platform::db::Conn,
    web::{Body, Caller, Page, Paging, Policy, Query, Role, Routes, paging::PagingQuery},
};

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    /// The experiments.
    pub experiments: Experiments,
    /// Who is who.
    pub access: Access,
}

/// A node that could run something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// The agent behind it; none: a connector brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Which connector brought it.
    pub connector: String,
    /// It is a template: its nodes are called like it, with a number from 1 on behind the name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_template: bool,
    /// Of a template: how many nodes its connector makes at most; none: as many as are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// The node, as clients of netunicorn know it.
    #[serde(flatten)]
    pub node: Node,
    /// What it can run.
    pub environments: Vec<EnvironmentType>,
    /// Its stream is open, or was a moment ago.
    pub online: bool,
    /// Who holds it; none: it is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// For what it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_for: Option<String>,
    /// Since when it is held, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<i64>,
}

/// An experiment in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentView {
    /// Its id.
    pub id: String,
    /// Its name; unique among its owner's.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// Where it stands.
    pub status: Status,
    /// Since when, milliseconds since the Unix epoch.
    pub status_at: i64,
    /// Why, where there is something to say.
    pub why: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When it could be started, milliseconds since the Unix epoch.
    pub ready_at: Option<i64>,
    /// When it was started, milliseconds since the Unix epoch.
    pub started_at: Option<i64>,
    /// When it ended, milliseconds since the Unix epoch.
    pub ended_at: Option<i64>,
    /// Deployments in all; one that moved counts once.
    pub deployments: i64,
    /// Deployments whose executor succeeded.
    pub succeeded: i64,
    /// Deployments that ended otherwise.
    pub failed: i64,
}

/// An experiment with its deployments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentDetail {
    /// The experiment.
    #[serde(flatten)]
    pub experiment: ExperimentView,
    /// What came of an administrator's postprocessors; none where there are none, or it has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postprocessing: Option<Postprocessing>,
    /// What runs where, in the order it was asked for.
    pub nodes: Vec<DeploymentView>,
}

/// What came of an administrator's postprocessors. They are told at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Postprocessing {
    /// How often they were told.
    pub tries: i64,
    /// When they are told next, milliseconds since the Unix epoch; none: not any more.
    pub again_at: Option<i64>,
    /// When all of them were told well, milliseconds since the Unix epoch; none: they were not.
    pub told_at: Option<i64>,
    /// What they said.
    pub message: String,
    /// Why the last try failed.
    pub error: String,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentView {
    /// Its executor's id.
    pub executor: String,
    /// Its node.
    pub node: String,
    /// Which connector brought the node.
    pub connector: String,
    /// The agent behind it.
    pub agent: Option<String>,
    /// Where it stands.
    pub stage: Stage,
    /// How far its preparation came, in a word: waiting, fetching, building, ready; while it is not sent, what it waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why, where it did not succeed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Digest of its environment.
    pub environment: String,
    /// When the node was ready, milliseconds since the Unix epoch by its clock.
    pub deployed_at: Option<i64>,
    /// When the executor began, milliseconds since the Unix epoch by the node's clock.
    pub started_at: Option<i64>,
    /// When it ended, milliseconds since the Unix epoch by the node's clock.
    pub ended_at: Option<i64>,
    /// Bytes of what the executor reported; none without a report.
    pub result_bytes: Option<u64>,
    /// It was reported after the node had been given up.
    pub result_is_late: bool,
    /// Tries of the tasks of a native pipeline, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<TaskRun>,
}

/// An experiment to be run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExperiment {
    /// Its name; unique among its owner's.
    pub name: String,
    /// What runs where.
    pub spec: Spec,
    /// Whether it starts by itself as soon as its nodes are ready.
    #[serde(default = "yes")]
    pub start: bool,
}

/// Executors to be cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelExecutors {
    /// Their ids, or the names of their nodes; none: all.
    #[serde(default)]
    pub executors: Vec<String>,
}

/// A flag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flag {
    /// Its name.
    pub name: String,
    /// Its values.
    #[serde(flatten)]
    pub values: FlagValues,
    /// When it was changed last, milliseconds since the Unix epoch.
    pub at: i64,
}

/// A change of a flag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlagHistory {
    /// The flag.
    pub name: String,
    /// Its values after the change.
    #[serde(flatten)]
    pub values: FlagValues,
    /// Who changed it: `user/<name>` or `executor/<id>`.
    pub by: String,
    /// Milliseconds since the Unix epoch.
    pub at: i64,
}

/// What to add to a flag's number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddToFlag {
    /// The number to add, which may be negative.
    pub by: i64,
}

/// What you want of experiments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whether netunicorn's clients are given graphs in each status: most of its bytes, which few programs read.
    pub graphs: bool,
}

/// Whose experiments.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OwnerQuery {
    /// An administrator names somebody else; your own otherwise.
    #[serde(default)]
    pub owner: String,
}

/// Which experiments.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ExperimentQuery {
    /// Only of this user; an administrator sees everybody's without it.
    #[serde(default)]
    pub owner: String,
    /// Only of this status.
    #[serde(default)]
    pub status: String,
    /// Only those whose name holds this.
    #[serde(default)]
    pub search: String,
}

/// Until when to wait for a flag.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// Wait at most so long, milliseconds; at most 25,000.
    #[serde(default)]
    pub wait_ms: u64,
    /// Until its text is this.
    pub until_text: Option<String>,
    /// Until its number is at least this.
    pub until_at_least: Option<i64>,
}

fn yes() -> bool {
    true
}

/// Who asks, and whose experiments are meant.
pub struct Of {
    /// Who asks; with the name of the owner that is meant.
    pub user: User,
}

/// The routes of experiments.
pub fn routes(api: Api) -> Routes {
    let known = Policy::logged_in();
    let run = Policy::operator();
    Routes::new()
        .add(known, routes!(nodes))
        .add(known, routes!(settings))
        .add(known, routes!(save_settings))
        .add(known, routes!(experiments))
        .add(run.body_limit(16 * 1024 * 1024).idempotent(), routes!(create))
        .add(known, routes!(experiment))
        .add(run, routes!(delete))
        .add(run, routes!(start))
        .add(run, routes!(cancel))
        .add(known, routes!(flags))
        .add(known, routes!(flag))
        .add(run, routes!(set_flag))
        .add(run, routes!(add_to_flag))
        .add(known, routes!(flag_history))
        .merge(left::routes())
        .merge(connector::api::routes())
        .with_state(api)
}

// === who ===

impl FromRequestParts<Api> for Of {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        let caller = <Caller as FromRequestParts<Api>>::from_request_parts(parts, api).await?;
        let Query(query) = Query::<OwnerQuery>::from_request_parts(parts, api).await?;
        Self::new(&api.access, &caller, &query.owner).await
    }
}

impl Of {
    /// The experiments of `owner`, or of whoever asks.
    pub async fn new(access: &Access, caller: &Caller, owner: &str) -> Result<Self> {
        let is_admin = caller.role == Role::Admin;
        if !owner.is_empty() && owner != caller.name && !is_admin {
            return Err(Error::Forbidden("experiments of others are for administrators; leave `owner` out".into()));
        }
        let tags = access.tags(&caller.user_id).await?;
        let name = if owner.is_empty() { caller.name.clone() } else { owner.to_owned() };
        let context = Value::Null;
        Ok(Self { user: User { name, tags, is_admin, context, actor: caller.actor.clone() } })
    }
}

// === nodes ===

/// Lists the nodes that are open to you
#[utoipa::path(get, path = "/api/v1/experiment/nodes", tag = "experiment", responses((status = 200, body = Vec<NodeView>)))]
async fn nodes(State(api): State<Api>, of: Of) -> Result<Json<Vec<NodeView>>> {
    Ok(Json(node_views(&api.experiments, &of.user).await?))
}

/// The nodes that are open to a user, with who holds them.
pub async fn node_views(experiments: &Experiments, user: &User) -> Result<Vec<NodeView>> {
    let pools = experiments.pools(user).await?;
    let mut conn = experiments.fleet.db.read().await?;
    let locks = store::locks(&mut conn, None).await?;
    let view = |(it, limit): (Placed, Option<Option<f64>>)| {
        let lock = locks.iter().find(|l| l.node_name == it.node.name && l.connector == it.node.connector());
        NodeView {
            agent: it.agent.map(|agent| agent.0),
            connector: it.node.connector().to_owned(),
            is_template: limit.is_some(),
            limit: limit.flatten(),
            environments: it.environments,
            online: it.online,
            held_by: lock.map(|l| l.owner.clone()),
            held_for: lock.filter(|l| user.is_admin || l.owner == user.name).map(|l| l.reason.clone()),
            held_since: lock.map(|l| l.since),
            node: it.node,
        }
    };
    let brought = pools.iter().flat_map(|(_, pool)| pool.nodes());
    let brought = brought.map(|(node, limit)| (Placed::brought(node.clone()), limit));
    let brought = brought.filter(|(it, _)| it.is_open_to(&user.tags));
    let own = experiments.nodes(&mut conn, user, true).await?.into_iter().map(|it| (it, None));
    Ok(own.chain(brought).map(view).collect())
}

// === settings ===

/// Shows what you want of experiments
#[utoipa::path(get, path = "/api/v1/experiment/settings", tag = "experiment", responses((status = 200, body = Settings)))]
async fn settings(State(api): State<Api>, of: Of) -> Result<Json<Settings>> {
    let mut conn = api.experiments.fleet.db.read().await?;
    Ok(Json(Settings { graphs: store::wants_graphs(&mut conn, &of.user.name).await? }))
}

/// Says what you want of experiments
#[utoipa::path(put, path = "/api/v1/experiment/settings", tag = "experiment", request_body = Settings,
    responses((status = 200, body = Settings)))]
async fn save_settings(State(api): State<Api>, of: Of, Body(new): Body<Settings>) -> Result<Json<Settings>> {
    api.experiments.save_settings(&of.user, new.graphs).await?;
    Ok(Json(new))
}

// === experiments ===

/// Lists experiments, newest first
#[utoipa::path(get, path = "/api/v1/experiment/experiments", tag = "experiment", params(ExperimentQuery, PagingQuery),
    responses((status = 200, body = Page<ExperimentView>)))]
async fn experiments(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<ExperimentQuery>,
    paging: Paging,
) -> Result<Json<Page<ExperimentView>>> {
    Ok(Json(list(&api.experiments, &caller, &query, &paging).await?))
}

/// A page of experiments.
pub async fn list(
    experiments: &Experiments,
    caller: &Caller,
    query: &ExperimentQuery,
    paging: &Paging,
) -> Result<Page<ExperimentView>> {
    if !query.status.is_empty() && Status::from_word(&query.status).is_none() {
        let text = "preparing, ready, running, cancelling, finished, cancelled or failed";
        return Err(Error::invalid("status", text));
    }
    let own = caller.role != Role::Admin;
    let before = match paging.after.split_once(' ') {
        Some((at, id)) => {
            Some((at.parse().map_err(|_| Error::invalid("cursor", "give the `next` of the page before"))?, id.into()))
        }
        None => None,
    };
    let owner = if own { caller.name.clone() } else { query.owner.clone() };
    let filter = store::Filter {
        owner: Some(owner).filter(|o| !o.is_empty()),
        status: query.status.clone(),
        name: query.search.clone(),
        since: 0,
        before,
    };
    let mut conn = experiments.fleet.db.read().await?;
    let rows = store::experiments(&mut conn, &filter, paging.rows()).await?;
    let page = paging.page(rows, |row| format!("{} {}", row.created_at, row.id));
    Ok(Page { items: views(&mut conn, page.items).await?, next: page.next })
}

/// Experiments with their counts.
pub async fn views(conn: &mut Conn, rows: Vec<ExperimentRow>) -> Result<Vec<ExperimentView>> {
    let ids: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
    let tallies = store::tallies(conn, &ids).await?;
    let view = |row: ExperimentRow| {
        let of = |is: &dyn Fn(&str, &str) -> bool| -> i64 {
            let mine = tallies.iter().filter(|(id, stage, outcome, _)| *id == row.id && is(stage, outcome));
            mine.map(|(.., n)| n).sum()
        };
        let (succeeded, moved) = (Outcome::Succeeded.word(), Outcome::Moved.word());
        Ok(ExperimentView {
            status: status_of(&row)?,
            deployments: of(&|_, outcome| outcome != moved),
            succeeded: of(&|_, outcome| outcome == succeeded),
            failed: of(&|stage, outcome| stage == Stage::Ended.word() && outcome != succeeded && outcome != moved),
            id: row.id,
            name: row.name,
            owner: row.owner,
            status_at: row.status_at,
            why: row.why,
            created_at: row.created_at,
            ready_at: row.ready_at,
            started_at: row.started_at,
            ended_at: row.ended_at,
        })
    };
    rows.into_iter().map(view).collect()
}

/// Prepares an experiment, and starts it when its nodes are ready
#[utoipa::path(post, path = "/api/v1/experiment/experiments", tag = "experiment", request_body = NewExperiment,
    responses((status = 201, body = ExperimentDetail), (status = 200, body = ExperimentDetail, description = "It was there already")))]
async fn create(
    State(api): State<Api>,
    of: Of,
    Body(new): Body<NewExperiment>,
) -> Result<(StatusCode, Json<ExperimentDetail>)> {
    let made =
        api.experiments.run(&of.user, &new.name, &new.spec, new.start).await.map_err(|refusal| match refusal {
            Refusal::Other(Error::Invalid { field, message }) if field != "name" => {
                Error::invalid(format!("spec.{field}"), message)
            }
            Refusal::Sentence(text) => Error::Conflict(text),
            other => other.into(),
        })?;
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(show(&api.experiments, &of.user.name, &new.name).await?)))
}

/// Shows an experiment
#[utoipa::path(get, path = "/api/v1/experiment/experiments/{name}", tag = "experiment",
    params(("name" = String, Path), OwnerQuery), responses((status = 200, body = ExperimentDetail)))]
async fn experiment(State(api): State<Api>, of: Of, Path(name): Path<String>) -> Result<Json<ExperimentDetail>> {
    Ok(Json(show(&api.experiments, &of.user.name, &name).await?))
}

/// An experiment with its deployments.
pub async fn show(experiments: &Experiments, owner: &str, name: &str) -> Result<ExperimentDetail> {
    let mut conn = experiments.fleet.db.read().await?;
    let row = experiments.find(&mut conn, owner, name).await?;
    let mut view = views(&mut conn, vec![row.clone()]).await?;
    let post = store::fetch_post(&mut conn, &row.id).await?;
    let detail = experiments.detail(&mut conn, row, Told { graphs: false, results: false }).await?;
    Ok(ExperimentDetail {
        postprocessing: post.map(Postprocessing::from),
        experiment: view.swap_remove(0),
        nodes: detail.deployments.into_iter().map(DeploymentView::from).collect(),
    })
}

impl From<PostRow> for Postprocessing {
    fn from(row: PostRow) -> Self {
        Self { tries: row.tries, again_at: row.due_at, told_at: row.told_at, message: row.message, error: row.error }
    }
}

impl From<Seen> for DeploymentView {
    fn from(seen: Seen) -> Self {
        Self {
            executor: seen.row.id,
            node: seen.row.node_name,
            connector: seen.row.connector,
            agent: seen.row.agent_id,
            stage: seen.stage,
            step: seen.step,
            outcome: seen.outcome,
            message: seen.row.message,
            environment: seen.row.environment_digest,
            deployed_at: seen.row.deployed_at,
            started_at: seen.row.started_at,
            ended_at: seen.row.ended_at,
            result_bytes: seen.result_bytes,
            result_is_late: seen.row.result_late == 1,
            runs: seen.runs,
        }
    }
}

/// Deletes an experiment that is not under way
#[utoipa::path(delete, path = "/api/v1/experiment/experiments/{name}", tag = "experiment",
    params(("name" = String, Path), OwnerQuery), responses((status = 204)))]
async fn delete(State(api): State<Api>, of: Of, Path(name): Path<String>) -> Result<StatusCode> {
    api.experiments.delete(&of.user, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts an experiment that is ready; one that runs stays as it is
#[utoipa::path(post, path = "/api/v1/experiment/experiments/{name}/start", tag = "experiment",
    params(("name" = String, Path), OwnerQuery), responses((status = 200, body = ExperimentDetail)))]
async fn start(State(api): State<Api>, of: Of, Path(name): Path<String>) -> Result<Json<ExperimentDetail>> {
    match api.experiments.start(&of.user, &name, &Value::Null).await {
        Ok(()) | Err(Refusal::NotReady(_, Status::Running)) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    Ok(Json(show(&api.experiments, &of.user.name, &name).await?))
}

/// Cancels an experiment, or some of its executors
#[utoipa::path(post, path = "/api/v1/experiment/experiments/{name}/cancel", tag = "experiment",
    params(("name" = String, Path), OwnerQuery), request_body = CancelExecutors,
    responses((status = 200, body = ExperimentDetail)))]
async fn cancel(
    State(api): State<Api>,
    of: Of,
    Path(name): Path<String>,
    Body(wanted): Body<CancelExecutors>,
) -> Result<Json<ExperimentDetail>> {
    let experiments = &api.experiments;
    if wanted.executors.is_empty() {
        experiments.cancel(&of.user, &name, &Value::Null).await?;
    } else {
        let shown = show(experiments, &of.user.name, &name).await?;
        let wanted: BTreeSet<_> = wanted.executors.into_iter().collect();
        let meant = shown.nodes.iter().filter(|d| wanted.contains(&d.executor) || wanted.contains(&d.node));
        let meant: Vec<_> = meant.map(|d| d.executor.clone()).collect();
        if meant.is_empty() {
            return Err(Error::invalid("executors", "none of these is an executor or a node of the experiment"));
        }
        experiments.cancel_executors(&of.user, &meant, &Value::Null).await?;
    }
    Ok(Json(show(experiments, &of.user.name, &name).await?))
}

// === flags ===

/// Lists the flags of an experiment
#[utoipa::path(get, path = "/api/v1/experiment/experiments/{name}/flags", tag = "experiment",
    params(("name" = String, Path), OwnerQuery), responses((status = 200, body = Vec<Flag>)))]
async fn flags(State(api): State<Api>, of: Of, Path(name): Path<String>) -> Result<Json<Vec<Flag>>> {
    let mut conn = api.experiments.fleet.db.read().await?;
    let row = api.experiments.find(&mut conn, &of.user.name, &name).await?;
    let flags = store::flags(&mut conn, &row.id).await?;
    Ok(Json(flags.into_iter().map(|(name, values, at)| Flag { name, values, at }).collect()))
}

/// Shows a flag, or waits until it is as it should be
#[utoipa::path(get, path = "/api/v1/experiment/experiments/{name}/flags/{flag}", tag = "experiment",
    params(("name" = String, Path), ("flag" = String, Path), OwnerQuery, WaitQuery),
    responses((status = 200, body = FlagValues)))]
async fn flag(
    State(api): State<Api>,
    of: Of,
    Path((name, flag)): Path<(String, String)>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<FlagValues>> {
    let until = Until { text: query.until_text, at_least: query.until_at_least };
    let wait = Duration::from_millis(query.wait_ms);
    Ok(Json(api.experiments.flag(&of.user.name, &name, &flag, &until, wait).await?))
}

/// Sets a flag
#[utoipa::path(put, path = "/api/v1/experiment/experiments/{name}/flags/{flag}", tag = "experiment",
    params(("name" = String, Path), ("flag" = String, Path), OwnerQuery), request_body = FlagValues,
    responses((status = 200, body = FlagValues)))]
async fn set_flag(
    State(api): State<Api>,
    of: Of,
    Path((name, flag)): Path<(String, String)>,
    Body(values): Body<FlagValues>,
) -> Result<Json<FlagValues>> {
    let applied = api.experiments.change_flag(&of.user, &name, &flag, &FlagChange::Set(values)).await?;
    Ok(Json(applied.values))
}

/// Adds to a flag's number; an unset one counts as 0
#[utoipa::path(post, path = "/api/v1/experiment/experiments/{name}/flags/{flag}/add", tag = "experiment",
    params(("name" = String, Path), ("flag" = String, Path), OwnerQuery), request_body = AddToFlag,
    responses((status = 200, body = FlagValues)))]
async fn add_to_flag(
    State(api): State<Api>,
    of: Of,
    Path((name, flag)): Path<(String, String)>,
    Body(add): Body<AddToFlag>,
) -> Result<Json<FlagValues>> {
    let applied = api.experiments.change_flag(&of.user, &name, &flag, &FlagChange::Add(add.by)).await?;
    Ok(Json(applied.values))
}

/// Lists the last thousand changes of an experiment's flags, newest first
#[utoipa::path(get, path = "/api/v1/experiment/experiments/{name}/flag-history", tag = "experiment",
    params(("name" = String, Path), OwnerQuery), responses((status = 200, body = Vec<FlagHistory>)))]
async fn flag_history(State(api): State<Api>, of: Of, Path(name): Path<String>) -> Result<Json<Vec<FlagHistory>>> {
    let mut conn = api.experiments.fleet.db.read().await?;
    let row = api.experiments.find(&mut conn, &of.user.name, &name).await?;
    let view = |row: FlagChangeRow| FlagHistory {
        name: row.name,
        values: FlagValues { text_value: row.text_value, int_value: row.int_value },
        by: row.changed_by,
        at: row.at,
    };
    Ok(Json(store::flag_changes(&mut conn, &row.id, 1000).await?.into_iter().map(view).collect()))
}
