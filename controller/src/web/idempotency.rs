//! Creates that may be repeated: with an `Idempotency-Key`, the same request gets the first answer again, for a day.
//!
//! The key is taken before the handler runs, so of two requests at once one runs and the other is told to wait. The run
//! goes on when the caller hangs up. Only a success is kept; what was refused may be tried again under its key. Answers
//! are sealed: some hold a token that is shown this once.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use sqlx::Row;

use super::{
    body,
    gate::{Caller, Gate},
};
use crate::{
    error::{Error, Result},
    platform::db::{Conn, Db},
};

/// Header that carries the key.
pub const HEADER: &str = "idempotency-key";

/// Answers are kept this long, milliseconds.
pub const KEPT: i64 = 86_400_000;

const PURPOSE_REQUEST: &str = "idempotency request";
const PURPOSE_ANSWER: &str = "idempotency answer";

/// Who used which key for what.
struct Claim {
    actor: String,
    key: String,
    request: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Kept {
    headers: Vec<(String, String)>,
    body: String,
}

/// Runs a handler once for its key.
pub(super) async fn run(gate: &Arc<Gate>, request: Request, next: Next) -> Response {
    let Some(key) = request.headers().get(HEADER) else { return next.run(request).await };
    let key = key.to_str().unwrap_or_default().to_owned();
    if key.is_empty() || key.len() > 200 {
        return Error::invalid("Idempotency-Key", "a key has 1 to 200 visible characters").into_response();
    }
    match begin(gate, key, request).await {
        Ok(Begun::Again(answer)) => answer,
        Ok(Begun::First(claim, request)) => {
            let gate = gate.clone();
            // The handler ends and its answer is kept, even when the caller hangs up.
            let run = tokio::spawn(async move {
                let answer = next.run(request).await;
                finish(&gate, &claim, answer).await
            });
            match run.await {
                Ok(answer) => answer,
                Err(panic) => Error::internal(panic).into_response(),
            }
        }
        Err(error) => error.into_response(),
    }
}

enum Begun {
    First(Claim, Request),
    Again(Response),
}

async fn begin(gate: &Gate, key: String, request: Request) -> Result<Begun> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(Request::from_parts(parts.clone(), body)).await?;
    let actor = parts.extensions.get::<Caller>().map(|c| c.user_id.clone()).unwrap_or_default();
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let line = format!("{} {target}\n", parts.method);
    let claim = Claim { actor, key, request: muster_pki::sha256(&[line.as_bytes(), &bytes].concat()) };
    match take(gate, &claim).await? {
        None => Ok(Begun::First(claim, Request::from_parts(parts, Body::from(bytes)))),
        Some((request, status, body)) => again(gate, &claim, &request, status, &body).map(Begun::Again),
    }
}

/// Takes the key. Some: it is taken; what stands there.
async fn take(gate: &Gate, claim: &Claim) -> Result<Option<(String, i64, String)>> {
    let sealed = BASE64_STANDARD.encode(gate.seal.seal(PURPOSE_REQUEST, &claim.request));
    let sealed = &sealed;
    gate.db
        .write(|mut tx| async move {
            let now = tx.now();
            let taken = sqlx::query(
                "insert into idempotency (actor, key, request_hash, status, body, at) values ($1, $2, $3, 0, '', $4) \
                 on conflict (actor, key) do update set request_hash = excluded.request_hash, status = 0, body = '', \
                 at = excluded.at where idempotency.at < $5 returning key",
            )
            .bind(claim.actor.clone())
            .bind(claim.key.clone())
            .bind(sealed.clone())
            .bind(now)
            .bind(now - KEPT)
            .fetch_optional(&mut *tx)
            .await?;
            if taken.is_some() {
                return tx.done(None);
            }
            let text = "select request_hash, status, body from idempotency where actor = $1 and key = $2";
            let row = sqlx::query(text).bind(claim.actor.clone()).bind(claim.key.clone());
            let row = row.fetch_one(&mut *tx).await?;
            let there = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            tx.done(Some(there))
        })
        .await
}

fn again(gate: &Gate, claim: &Claim, request: &str, status: i64, body: &str) -> Result<Response> {
    let open = |purpose, text: &str| -> Result<Vec<u8>> {
        let sealed = BASE64_STANDARD.decode(text).map_err(Error::internal)?;
        Ok(gate.seal.open(purpose, &sealed)?)
    };
    if open(PURPOSE_REQUEST, request)? != claim.request {
        return Err(Error::invalid("Idempotency-Key", "this key was used for another request; take a new one"));
    }
    if status == 0 {
        let text = "a request with this key is under way or was cut off; look for its effect before you take a new key";
        return Err(Error::Conflict(text.into()));
    }
    let kept: Kept = serde_json::from_slice(&open(PURPOSE_ANSWER, body)?).map_err(Error::internal)?;
    let status = u16::try_from(status).ok().and_then(|s| StatusCode::from_u16(s).ok());
    let mut answer = (status.unwrap_or(StatusCode::OK), kept.body).into_response();
    answer.headers_mut().clear();
    for (name, value) in kept.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            answer.headers_mut().append(name, value);
        }
    }
    Ok(answer)
}

async fn finish(gate: &Gate, claim: &Claim, answer: Response) -> Response {
    match keep(gate, claim, answer).await {
        Ok(answer) => answer,
        Err(error) => error.into_response(),
    }
}

async fn keep(gate: &Gate, claim: &Claim, answer: Response) -> Result<Response> {
    let (parts, body) = answer.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(Error::internal)?;
    let status = i64::from(parts.status.as_u16());
    let headers = parts.headers.iter().filter_map(|(n, v)| Some((n.to_string(), v.to_str().ok()?.to_owned())));
    let kept = Kept { headers: headers.collect(), body: String::from_utf8_lossy(&bytes).into_owned() };
    let kept = serde_json::to_vec(&kept).map_err(Error::internal)?;
    let kept = BASE64_STANDARD.encode(gate.seal.seal(PURPOSE_ANSWER, &kept));
    let (kept, success) = (&kept, parts.status.is_success());
    gate.db
        .write(|mut tx| async move {
            let query = if success {
                sqlx::query("update idempotency set status = $3, body = $4 where actor = $1 and key = $2")
            } else {
                sqlx::query("delete from idempotency where actor = $1 and key = $2")
            };
            let mut query = query.bind(claim.actor.clone()).bind(claim.key.clone());
            if success {
                query = query.bind(status).bind(kept.clone());
            }
            query.execute(&mut *tx).await?;
            tx.done(())
        })
        .await?;
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

/// Forgets answers older than [`KEPT`].
pub async fn forget(db: &Db) -> Result<u64> {
    db.write(|mut tx| async move {
        let before = tx.now() - KEPT;
        let gone = delete(&mut tx, before).await?;
        tx.done(gone)
    })
    .await
}

async fn delete(conn: &mut Conn, before: i64) -> Result<u64> {
    let gone = sqlx::query("delete from idempotency where at < $1").bind(before).execute(conn).await?;
    Ok(gone.rows_affected())
}
