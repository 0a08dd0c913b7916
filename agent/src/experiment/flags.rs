//! Flags, asked of home.
//!
//! Each call has one request id, under which it is asked until home answers: home applies it once, however often it is
//! asked. While home is away the question waits with the others of this agent.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{
    model::{Awaited, Flag, FlagQuestion},
    wire,
};
use crate::{
    ledger::Key,
    spool::{Answer, Spool},
};

/// Version of the question's message.
const VERSION: u32 = 1;

/// Calls that wait for a flag at the same time; the rest of an agent's questions is for calls that do not.
const WAITS: usize = 32;

/// The longest home is to hold one question.
const HOLD: Duration = Duration::from_secs(25);

const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(5);

/// Asks home of flags.
pub struct Flags {
    spool: Arc<Spool>,
    waits: Semaphore,
}

/// What a caller waits for.
#[derive(Debug, Default, Deserialize)]
pub struct Wait {
    /// So long at most, milliseconds; 0: not at all.
    #[serde(default)]
    wait_ms: u64,
    /// Until its text is this.
    until_text: Option<String>,
    /// Until its number is at least this.
    until_at_least: Option<i64>,
}

/// What a caller adds.
#[derive(Debug, Deserialize)]
pub struct By {
    /// So much.
    #[serde(default = "one")]
    pub by: i64,
}

/// A flag's values, as executors read and write them.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Values {
    #[serde(default)]
    text_value: Option<String>,
    #[serde(default)]
    int_value: i64,
}

// === impl Flags ===

impl Flags {
    /// Asks through a spool.
    pub fn new(spool: Arc<Spool>) -> Self {
        Self { spool, waits: Semaphore::new(WAITS) }
    }

    /// The values of a flag, once it is as awaited or the time is over.
    pub async fn get(&self, key: Key, name: &str, wait: Wait) -> Response {
        let deadline = Instant::now() + Duration::from_millis(wait.wait_ms.min(365 * 24 * 3_600_000));
        let until = Awaited { text: wait.until_text, at_least: wait.until_at_least };
        loop {
            let place = match wait.wait_ms {
                0 => None,
                _ => self.waits.acquire().await.ok(),
            };
            let left = deadline.saturating_duration_since(Instant::now()).min(HOLD);
            let wait_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
            let asked = Instant::now();
            match self.ask(&key, name, FlagQuestion::Get { wait_ms, until: until.clone() }).await {
                Ok(found) => {
                    let is_met = found.as_ref().is_some_and(|flag| until.is_met_by(flag));
                    if is_met || wait_ms == 0 || Instant::now() >= deadline {
                        return found.map_or_else(unset, shown);
                    }
                }
                Err(why) => return refused(&why),
            }
            drop(place);
            // A home that does not hold questions is not asked in a circle.
            let early = asked + RETRY_FIRST.min(left);
            tokio::time::sleep_until(early).await;
        }
    }

    /// Sets a flag, as the body says.
    pub async fn set(&self, key: Key, name: &str, body: &[u8]) -> Response {
        let values: Values = match serde_json::from_slice(body) {
            Ok(values) => values,
            Err(e) => {
                let detail =
                    serde_json::json!({"detail": [{"type": "value_error", "loc": ["body"], "msg": e.to_string()}]});
                return (StatusCode::UNPROCESSABLE_ENTITY, Json(detail)).into_response();
            }
        };
        let flag = Flag { text: values.text_value, number: values.int_value };
        self.change(&key, name, FlagQuestion::Set(flag)).await
    }

    /// Adds to a flag.
    pub async fn add(&self, key: Key, name: &str, by: i64) -> Response {
        self.change(&key, name, FlagQuestion::Add(by)).await
    }

    async fn change(&self, key: &Key, name: &str, question: FlagQuestion) -> Response {
        match self.ask(key, name, question).await {
            Ok(_) => Json(()).into_response(),
            Err(why) => refused(&why),
        }
    }

    /// What home says of a flag: none when it was never set, an error when it refuses.
    async fn ask(&self, key: &Key, name: &str, question: FlagQuestion) -> Result<Option<Flag>, String> {
        let request_id = muster_pki::hex(&muster_pki::random::<16>());
        let body = wire::flag_ask(name, &question, &request_id);
        let mut pause = RETRY_FIRST;
        loop {
            match self.spool.ask(key.clone(), VERSION, body.clone()).await {
                Answer::Ok(answer) => return wire::flag_answer(&answer),
                Answer::Denied(why) | Answer::Unknown(why) => return Err(why),
                Answer::Unavailable(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(RETRY_MOST);
        }
    }
}

/// A flag that was never set, or is not the caller's own.
pub fn unset() -> Response {
    (StatusCode::NOT_FOUND, Json(())).into_response()
}

fn shown(flag: Flag) -> Response {
    Json(Values { text_value: flag.text, int_value: flag.number }).into_response()
}

fn refused(why: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(why)).into_response()
}

fn one() -> i64 {
    1
}
