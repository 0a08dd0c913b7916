//! Live updates: the history as server-sent events. A client that comes back names the last event it had and misses none.

use std::{convert::Infallible, time::Duration};

use axum::response::sse::{Event as Sse, KeepAlive, Sse as SseAnswer};
use futures::stream::{self, Stream};

use super::gate::{At, Caller};
use crate::{
    error::Result,
    platform::events::{self, Event, Filter},
};

/// Events read at once.
const PIECE: i64 = 200;

/// How often a quiet stream says that it is there, and asks whether its caller may still listen.
const HEARTBEAT: Duration = Duration::from_secs(15);

struct Follower {
    at: At,
    caller: Caller,
    filter: Filter,
    head: tokio::sync::watch::Receiver<i64>,
    ready: std::collections::VecDeque<Event>,
}

/// Follows the history from `filter.after` on; from now on, when there is none. Ends when the credential does, or the
/// controller.
pub async fn follow(
    at: At,
    caller: Caller,
    mut filter: Filter,
) -> Result<SseAnswer<impl Stream<Item = Result<Sse, Infallible>>>> {
    let head = at.0.db.wake().head();
    if filter.after.is_none() {
        filter.after = Some(events::head(&mut *at.0.db.read().await?).await?);
    }
    let follower = Follower { at, caller, filter, head, ready: std::collections::VecDeque::new() };
    let stream = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(as_sse(&event)), follower))
    });
    Ok(SseAnswer::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}

impl Follower {
    /// The next event; none when the stream is over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            self.head.mark_unchanged();
            match self.read().await {
                Ok(true) if !self.ready.is_empty() => continue,
                Ok(true) => {}
                // The client comes back by itself and goes on where it was.
                Ok(false) | Err(_) => return None,
            }
            tokio::select! {
                changed = self.head.changed() => changed.ok()?,
                () = tokio::time::sleep(HEARTBEAT) => {}
                () = self.at.0.stop.cancelled() => return None,
            }
        }
    }

    /// Reads what is new. False: the caller may not listen any more.
    async fn read(&mut self) -> Result<bool> {
        if !self.at.0.authenticate.still(&self.caller).await? {
            return Ok(false);
        }
        let found = events::follow(&mut *self.at.0.db.read().await?, &self.filter, PIECE).await?;
        if let Some(last) = found.last() {
            self.filter.after = Some(last.seq);
        }
        self.ready.extend(found);
        Ok(true)
    }
}

fn as_sse(event: &Event) -> Sse {
    let data = serde_json::to_string(event).expect("an event is plain data");
    Sse::default().id(event.seq.to_string()).event("change").data(data)
}
