//! Output of operations: in pages, whole, or as it comes.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::{Path, State},
    response::{
        IntoResponse, Response,
        sse::{Event as Sse, KeepAlive, Sse as SseAnswer},
    },
};
use futures::stream::{self, Stream};
use http::{HeaderValue, header};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{OperationView, find};
use crate::{
    error::{Error, Result},
    fleet::logs::{self, Decoder, Piece, Place, Raw, Tail},
    staging::{
        model::OperationId,
        service::{Staging, operation_key},
    },
    web::{Page, Paging, Query, paging::PagingQuery},
};

/// Bytes of output on a page of the console, and at the beginning of a log that it follows.
pub const TAIL: i64 = 64 << 10;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// A log is over when its operation has ended and nothing came for this many looks: output may follow the outcome.
const QUIET_LOOKS: u32 = 5;

/// Which output to show.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Only `stdout` or `stderr`.
    #[serde(default)]
    pub stream: String,
}

/// From where on a log is followed.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FollowQuery {
    /// Begin with about this many bytes at its end instead of at its beginning.
    pub tail: Option<i64>,
}

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
    let stream = query.stream()?.to_owned();
    let suffix = if stream.is_empty() { "output" } else { &stream };
    let name = format!("inline; filename=\"{}-{suffix}.txt\"", id.0);
    let name = HeaderValue::try_from(name).map_err(Error::internal)?;
    let rounds = stream::try_unfold(Place::default(), move |place| {
        let (staging, key, stream) = (staging.clone(), operation_key(&id), stream.clone());
        async move {
            let mut conn = staging.fleet.db.read().await?;
            let rows = logs::read(&mut conn, &key, &stream, &place, logs::ROUND).await?;
            let Some(last) = rows.last().map(Raw::place) else { return Ok::<_, Error>(None) };
            let bytes: Vec<u8> = rows.into_iter().flat_map(Raw::into_bytes).collect();
            Ok(Some((bytes, last)))
        }
    });
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, axum::body::Body::from_stream(rounds)).into_response())
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
    let key = operation_key(&id);
    let place = match query.tail {
        Some(bytes) => logs::place_of_tail(&mut *staging.fleet.db.read().await?, &key, "", bytes).await?,
        None => None,
    };
    let (decoder, place) = (Decoder::default(), place.unwrap_or_default());
    let follower = Follower { staging, id, decoder, place, quiet: 0, ready: Vec::new(), over: false };
    let stream = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Ok(SseAnswer::new(stream).keep_alive(KeepAlive::new()))
}

/// Reads a log as it grows.
struct Follower {
    staging: Staging,
    id: OperationId,
    decoder: Decoder,
    place: Place,
    quiet: u32,
    ready: Vec<Piece>,
    over: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Sse> {
        if self.over {
            return None;
        }
        loop {
            if let Some(piece) = self.ready.pop() {
                return Sse::default().event("piece").json_data(piece).ok();
            }
            let ended = self.look().await.ok()?;
            if let (true, Some(operation)) = (self.quiet >= QUIET_LOOKS, ended) {
                self.over = true;
                return Sse::default().event("end").json_data(operation).ok();
            }
            if self.ready.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Reads what is new, and gives the operation when it has ended.
    async fn look(&mut self) -> Result<Option<OperationView>> {
        let key = operation_key(&self.id);
        let mut conn = self.staging.fleet.db.read().await?;
        // Once all is read, the last millisecond is read again; the decoder knows what it has seen.
        let (mut place, mut drained) = (self.place.clone(), false);
        while self.ready.is_empty() && !drained {
            let raw = logs::read(&mut conn, &key, "", &place, logs::ROUND).await?;
            drained = (raw.len() as i64) < logs::ROUND;
            place = raw.last().map_or(place, Raw::place);
            self.ready = raw.into_iter().filter_map(|r| self.decoder.decode(r)).collect();
        }
        drop(conn);
        self.place = if drained { place.again() } else { place };
        self.ready.reverse();
        let operation = find(&self.staging, &self.id).await?;
        self.quiet = if self.ready.is_empty() { self.quiet + 1 } else { 0 };
        Ok(operation.outcome.is_some().then_some(operation))
    }
}

impl LogQuery {
    fn stream(&self) -> Result<&str> {
        match self.stream.as_str() {
            known @ ("" | "stdout" | "stderr") => Ok(known),
            other => Err(Error::invalid("stream", format!("no stream {other:?}; there are stdout and stderr"))),
        }
    }
}
