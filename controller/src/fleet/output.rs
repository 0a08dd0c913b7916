//! Output of once work over REST: whole, or as it comes. Domains say which work it is, and when it has ended.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event as Sse, KeepAlive, Sse as SseAnswer},
};
use futures::{
    future::BoxFuture,
    stream::{self, Stream},
};
use http::{HeaderValue, header};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use super::{
    logs::{self, Decoder, Piece, Place, Raw},
    model::Key,
};
use crate::{
    error::{Error, Result},
    platform::db::Db,
};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// A log is over when its work has ended and nothing came for this many looks: output may follow the outcome.
const QUIET_LOOKS: u32 = 5;

/// Tells whether once work has ended: what is sent last, or none while it is under way.
pub type Ended = Arc<dyn Fn() -> BoxFuture<'static, Result<Option<Value>>> + Send + Sync>;

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

impl LogQuery {
    /// The stream that is meant; empty: both.
    pub fn stream(&self) -> Result<&str> {
        match self.stream.as_str() {
            known @ ("" | "stdout" | "stderr") => Ok(known),
            other => Err(Error::invalid("stream", format!("no stream {other:?}; there are stdout and stderr"))),
        }
    }
}

/// The whole output, byte for byte; a line stands for what was dropped. `id` is in the name it is saved by.
pub fn raw(db: &Db, key: Key, stream: &str, id: &str) -> Result<Response> {
    let suffix = if stream.is_empty() { "output" } else { stream };
    let name = format!("inline; filename=\"{id}-{suffix}.txt\"");
    let name = HeaderValue::try_from(name).map_err(Error::internal)?;
    let (db, stream) = (db.clone(), stream.to_owned());
    let rounds = stream::try_unfold(Place::default(), move |place| {
        let (db, key, stream) = (db.clone(), key.clone(), stream.clone());
        async move {
            let mut conn = db.read().await?;
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

/// Follows output until the end of its work: events `piece` and, last, `end`.
pub async fn follow(
    db: &Db,
    key: Key,
    query: &FollowQuery,
    ended: Ended,
) -> Result<SseAnswer<impl Stream<Item = Result<Sse, Infallible>> + use<>>> {
    let place = match query.tail {
        Some(bytes) => logs::place_of_tail(&mut *db.read().await?, &key, "", bytes).await?,
        None => None,
    };
    let (decoder, place) = (Decoder::default(), place.unwrap_or_default());
    let follower = Follower { db: db.clone(), key, ended, decoder, place, quiet: 0, ready: Vec::new(), over: false };
    let stream = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Ok(SseAnswer::new(stream).keep_alive(KeepAlive::new()))
}

/// Reads a log as it grows.
struct Follower {
    db: Db,
    key: Key,
    ended: Ended,
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
            if let (true, Some(end)) = (self.quiet >= QUIET_LOOKS, ended) {
                self.over = true;
                return Sse::default().event("end").json_data(end).ok();
            }
            if self.ready.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Reads what is new, and gives the end of the work when it has ended.
    async fn look(&mut self) -> Result<Option<Value>> {
        let mut conn = self.db.read().await?;
        // Once all is read, the last millisecond is read again; the decoder knows what it has seen.
        let (mut place, mut drained) = (self.place.clone(), false);
        while self.ready.is_empty() && !drained {
            let raw = logs::read(&mut conn, &self.key, "", &place, logs::ROUND).await?;
            drained = (raw.len() as i64) < logs::ROUND;
            place = raw.last().map_or(place, Raw::place);
            self.ready = raw.into_iter().filter_map(|r| self.decoder.decode(r)).collect();
        }
        drop(conn);
        self.place = if drained { place.again() } else { place };
        self.ready.reverse();
        let ended = (self.ended)().await?;
        self.quiet = if self.ready.is_empty() { self.quiet + 1 } else { 0 };
        Ok(ended)
    }
}
