//! Output of operations: in pages, whole, or as it comes.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    response::{Response, sse::Event as Sse, sse::Sse as SseAnswer},
};
use futures::stream::Stream;

use super::find;
use crate::{
    error::{Error, Result},
    fleet::{
        logs::{self, Piece, Tail},
        output::{self, FollowQuery, LogQuery},
    },
    staging::{
        model::OperationId,
        service::{Staging, operation_key},
    },
    web::{Page, Paging, Query, paging::PagingQuery},
};

/// Bytes of output on a page of the console, and at the beginning of a log that it follows.
pub const TAIL: i64 = 64 << 10;

/// Shows the output of an operation, in the order it came, in pages of about 1 MiB at most
#[utoipa::path(get, path = "/api/v1/staging/operations/{id}/log", tag = "staging", params(LogQuery, PagingQuery),
    responses((status = 200, body = Page<Piece>)))]
pub(super) async fn log(
    State(staging): State<Staging>,
    Path(id): Path<OperationId>,
    Query(query): Query<LogQuery>,
    paging: Paging,
) -> Result<Json<Page<Piece>>> {
    find(&staging, &id).await?;
    Ok(Json(output(&staging, &id, query.stream()?, &paging).await?))
}

/// A page of an operation's output.
pub async fn output(staging: &Staging, id: &OperationId, stream: &str, paging: &Paging) -> Result<Page<Piece>> {
    logs::page(&mut *staging.fleet.db.read().await?, &operation_key(id), stream, paging).await
}

/// The end of an operation's output.
pub async fn tail(staging: &Staging, id: &OperationId, stream: &str) -> Result<Tail> {
    logs::tail(&mut *staging.fleet.db.read().await?, &operation_key(id), stream, TAIL).await
}

/// Gives the whole output of an operation, byte for byte; a line stands for what was dropped
#[utoipa::path(get, path = "/api/v1/staging/operations/{id}/log/raw", tag = "staging", params(LogQuery),
    responses((status = 200, description = "The output as it is", content_type = "text/plain")))]
pub(super) async fn raw_log(
    State(staging): State<Staging>,
    Path(id): Path<OperationId>,
    Query(query): Query<LogQuery>,
) -> Result<Response> {
    find(&staging, &id).await?;
    output::raw(&staging.fleet.db, operation_key(&id), query.stream()?, &id.0)
}

/// Follows the output of an operation until its end
#[utoipa::path(get, path = "/api/v1/staging/operations/{id}/log/stream", tag = "staging", params(FollowQuery),
    responses((status = 200, description = "Events `piece` and, last, `end`", content_type = "text/event-stream")))]
pub(super) async fn follow_log(
    State(staging): State<Staging>,
    Path(id): Path<OperationId>,
    Query(query): Query<FollowQuery>,
) -> Result<SseAnswer<impl Stream<Item = Result<Sse, Infallible>>>> {
    find(&staging, &id).await?;
    let (db, key) = (staging.fleet.db.clone(), operation_key(&id));
    let ended: output::Ended = Arc::new(move || {
        let (staging, id) = (staging.clone(), id.clone());
        Box::pin(async move {
            let operation = find(&staging, &id).await?;
            let over = operation.outcome.is_some().then(|| serde_json::to_value(operation));
            over.transpose().map_err(Error::internal)
        })
    });
    output::follow(&db, key, &query, ended).await
}
