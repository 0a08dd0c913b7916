//! What executors leave: their output, what they reported, and the files of their tasks.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response, sse::Event as Sse, sse::Sse as SseAnswer},
};
use futures::stream::{self, Stream};
use http::{HeaderValue, header};
use muster_proto::{KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::{Api, DeploymentView, show};
use crate::{
    error::{Error, Result},
    experiment::{
        environment,
        model::{ExecutorId, ExperimentId, Stage},
        service::{Experiments, key, stage_of},
        store::{self, DeploymentRow, ExperimentRow},
    },
    fleet::{
        logs::{self, Piece},
        model::Key,
        output::{self, FollowQuery, LogQuery},
    },
    platform::db::Conn,
    web::{Caller, Page, Paging, Policy, Query, Role, Routes, paging::PagingQuery},
};

/// Whose output.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WorkQuery {
    /// `deployment`: what making its environment printed, wherever its image is built while it waits for that; `image`:
    /// what building its image printed; `executor`, if not said: what the executor did.
    #[serde(default)]
    pub of: String,
}

impl WorkQuery {
    async fn key(&self, conn: &mut Conn, row: &DeploymentRow) -> Result<Key> {
        match self.of.as_str() {
            "" | "executor" => Ok(key(KIND_EXPERIMENT_EXECUTOR, &row.id)),
            "deployment" => environment::output(conn, row).await,
            "image" => {
                let work = environment::build_of(conn, row).await?;
                work.ok_or_else(|| Error::not_found("build of an image for", &row.id))
            }
            other => {
                let text = format!("no output of {other:?}; there are deployment, image and executor");
                Err(Error::invalid("of", text))
            }
        }
    }
}

/// The routes; their state is the API's.
pub fn routes() -> Routes<Api> {
    let known = Policy::logged_in();
    Routes::new()
        .add(known, routes!(log))
        .add(known, routes!(raw_log))
        .add(known, routes!(follow_log))
        .add(known, routes!(result))
        .add(known, routes!(artifact))
}

/// A deployment that belongs to whoever asks, or to anybody for an administrator.
pub async fn find(
    experiments: &Experiments,
    caller: &Caller,
    executor: &ExecutorId,
) -> Result<(ExperimentRow, DeploymentRow)> {
    let none = || Error::not_found("executor", &executor.0);
    let mut conn = experiments.fleet.db.read().await?;
    let row = store::fetch_deployment(&mut conn, executor).await?.ok_or_else(none)?;
    let experiment = store::fetch_experiment(&mut conn, &ExperimentId(row.experiment_id.clone())).await?;
    let experiment = experiment.filter(|e| e.owner == caller.name || caller.role == Role::Admin).ok_or_else(none)?;
    Ok((experiment, row))
}

/// Shows the output of an executor, in the order it came, in pages of about 1 MiB at most
#[utoipa::path(get, path = "/api/v1/experiment/executors/{executor}/log", tag = "experiment",
    params(("executor" = String, Path), WorkQuery, LogQuery, PagingQuery), responses((status = 200, body = Page<Piece>)))]
async fn log(
    State(api): State<Api>,
    caller: Caller,
    Path(executor): Path<ExecutorId>,
    Query(work): Query<WorkQuery>,
    Query(query): Query<LogQuery>,
    paging: Paging,
) -> Result<Json<Page<Piece>>> {
    let (_, row) = find(&api.experiments, &caller, &executor).await?;
    let mut conn = api.experiments.fleet.db.read().await?;
    let key = work.key(&mut conn, &row).await?;
    Ok(Json(logs::page(&mut conn, &key, query.stream()?, &paging).await?))
}

/// Gives the whole output of an executor, byte for byte; a line stands for what was dropped
#[utoipa::path(get, path = "/api/v1/experiment/executors/{executor}/log/raw", tag = "experiment",
    params(("executor" = String, Path), WorkQuery, LogQuery),
    responses((status = 200, description = "The output as it is", content_type = "text/plain")))]
async fn raw_log(
    State(api): State<Api>,
    caller: Caller,
    Path(executor): Path<ExecutorId>,
    Query(work): Query<WorkQuery>,
    Query(query): Query<LogQuery>,
) -> Result<Response> {
    let (_, row) = find(&api.experiments, &caller, &executor).await?;
    let db = &api.experiments.fleet.db;
    let key = work.key(&mut *db.read().await?, &row).await?;
    output::raw(db, key, query.stream()?, &executor.0)
}

/// Follows the output of an executor until its end
#[utoipa::path(get, path = "/api/v1/experiment/executors/{executor}/log/stream", tag = "experiment",
    params(("executor" = String, Path), WorkQuery, FollowQuery),
    responses((status = 200, description = "Events `piece` and, last, `end`", content_type = "text/event-stream")))]
async fn follow_log(
    State(api): State<Api>,
    caller: Caller,
    Path(executor): Path<ExecutorId>,
    Query(work): Query<WorkQuery>,
    Query(query): Query<FollowQuery>,
) -> Result<SseAnswer<impl Stream<Item = Result<Sse, Infallible>>>> {
    let (_, row) = find(&api.experiments, &caller, &executor).await?;
    let db = api.experiments.fleet.db.clone();
    let key = work.key(&mut *db.read().await?, &row).await?;
    let is_deployment = key.kind == KIND_EXPERIMENT_DEPLOYMENT;
    let ended: output::Ended = Arc::new(move || {
        let (experiments, caller, executor) = (api.experiments.clone(), caller.clone(), executor.clone());
        Box::pin(async move {
            let (experiment, row) = find(&experiments, &caller, &executor).await?;
            let over = stage_of(&row)? == Stage::Ended || is_deployment && row.deployed_at.is_some();
            if !over {
                return Ok(None);
            }
            let shown = show(&experiments, &experiment.owner, &experiment.name).await?;
            let view: Option<DeploymentView> = shown.nodes.into_iter().find(|d| d.executor == executor.0);
            view.map(serde_json::to_value).transpose().map_err(Error::internal)
        })
    });
    output::follow(&db, key, &query, ended).await
}

/// Gives what an executor reported, as it is: a pickle that only its owner should open
#[utoipa::path(get, path = "/api/v1/experiment/executors/{executor}/result", tag = "experiment",
    params(("executor" = String, Path)),
    responses((status = 200, description = "The report", content_type = "application/octet-stream")))]
async fn result(State(api): State<Api>, caller: Caller, Path(executor): Path<ExecutorId>) -> Result<Response> {
    let (_, row) = find(&api.experiments, &caller, &executor).await?;
    if row.result.is_empty() {
        return Err(Error::not_found("result", &executor.0));
    }
    blob(&api.experiments, &row.result, &format!("{}.pickle", executor.0)).await
}

/// Gives a file that a task left
#[utoipa::path(get, path = "/api/v1/experiment/executors/{executor}/artifacts/{digest}", tag = "experiment",
    params(("executor" = String, Path), ("digest" = String, Path)),
    responses((status = 200, description = "The file", content_type = "application/octet-stream")))]
async fn artifact(
    State(api): State<Api>,
    caller: Caller,
    Path((executor, digest)): Path<(ExecutorId, String)>,
) -> Result<Response> {
    let (experiment, _) = find(&api.experiments, &caller, &executor).await?;
    let shown = show(&api.experiments, &experiment.owner, &experiment.name).await?;
    let mine = shown.nodes.iter().filter(|d| d.executor == executor.0).flat_map(|d| &d.runs);
    let found = mine.flat_map(|run| &run.artifacts).find(|artifact| artifact.digest == digest);
    let found = found.ok_or_else(|| Error::not_found("artifact", &digest))?;
    let name = found.path.rsplit('/').next().unwrap_or_default().to_owned();
    blob(&api.experiments, &digest, &name).await
}

/// A blob as a download, read piece by piece.
async fn blob(experiments: &Experiments, digest: &str, name: &str) -> Result<Response> {
    let mut conn = experiments.fleet.db.read().await?;
    let reader = experiments.blobs.reader(&mut conn, digest, 0).await?;
    let reader = reader.ok_or_else(|| Error::not_found("blob", digest))?;
    let size = reader.size;
    let pieces = stream::try_unfold(reader, |mut reader| async move {
        Ok::<_, Error>(reader.next().await?.map(|piece| (piece, reader)))
    });
    // A name of a task's making stands between quotes.
    let name: String = name.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
    let name = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")).map_err(Error::internal)?;
    let kind = HeaderValue::from_static("application/octet-stream");
    let headers =
        [(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name), (header::CONTENT_LENGTH, size.into())];
    Ok((headers, Body::from_stream(pieces)).into_response())
}
