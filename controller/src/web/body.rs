//! Bodies and queries whose mistakes are named: the field by its path, and what would be right.

use std::error::Error as _;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{StatusCode, header, request::Parts};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{policy::BODY_LIMIT, problem};
use crate::error::{Error, Result};

/// The largest body of the route a request is at; the gate sets it.
#[derive(Debug, Clone, Copy)]
pub struct Limit(pub usize);

/// A body of JSON. Unknown fields are refused where `T` denies them: let every `T` do so.
#[derive(Debug, Clone, Copy)]
pub struct Body<T>(pub T);

/// The query of a URL.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

// === impl Body ===

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().is_some_and(|t| t.trim() == "application/json" || t.trim().ends_with("+json")) {
            let detail = format!("the body is {kind:?}; send application/json");
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(problem::answer(status, "unsupported-media-type", "Unsupported media type", &detail, None));
        }
        let bytes = read(request).await.map_err(IntoResponse::into_response)?;
        parse(&bytes).map(Self).map_err(|answer| *answer)
    }
}

/// Reads a body whole.
pub async fn read(request: Request) -> Result<Bytes> {
    let limit = request.extensions().get::<Limit>().map_or(BODY_LIMIT, |l| l.0);
    axum::body::to_bytes(request.into_body(), limit).await.map_err(|error| {
        // A limit may stand within a limit, each wrapping the error of the other.
        let mut cause = error.source();
        while let Some(found) = cause.filter(|c| !c.is::<LengthLimitError>()) {
            cause = found.source();
        }
        let too_large = cause.is_some();
        if too_large { Error::TooLarge { limit } } else { Error::invalid("body", "it ended before its end") }
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Box<Response>> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value).map_err(|e| serde_path_to_error::Error::new(root(), e)));
    value.map_err(|error| match error.inner().classify() {
        serde_json::error::Category::Data => mistake("", &error).into_response().into(),
        _ => {
            let detail = format!("the body is not JSON: {}", error.inner());
            problem::answer(StatusCode::BAD_REQUEST, "malformed", "Malformed request", &detail, None).into()
        }
    })
}

fn root() -> serde_path_to_error::Path {
    serde_path_to_error::Track::new().path()
}

/// Reads a value that lies at `prefix` of a larger document, as a manifest's `spec`.
pub fn from_value<T: DeserializeOwned>(prefix: &str, value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| mistake(prefix, &error))
}

/// The field and the words of a mistake.
fn mistake(prefix: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> Error {
    let path = error.path().to_string();
    let text = error.inner().to_string();
    let text = text.split(" at line ").next().unwrap_or_default().to_owned();
    let mut field: Vec<_> = [prefix, path.as_str()].into_iter().filter(|p| !p.is_empty() && *p != ".").collect();
    let named = ["unknown field `", "missing field `"].iter().find_map(|s| text.strip_prefix(s)?.split('`').next());
    if let Some(named) = named
        && field.last().is_none_or(|last| last.rsplit('.').next() != Some(named))
    {
        field.push(named);
    }
    let field = field.join(".");
    Error::invalid(if field.is_empty() { "body".into() } else { field }, text)
}

// === impl Query ===

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let read = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        read.map(|q| Self(q.0)).map_err(|error| {
            let text = error.body_text();
            let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            let named =
                ["unknown field `", "missing field `"].iter().find_map(|s| text.strip_prefix(s)?.split('`').next());
            match (named, text.split_once(": ")) {
                (Some(named), _) => Error::invalid(named, text),
                (None, Some((field, message))) => Error::invalid(field, message),
                (None, None) => Error::invalid("query", text),
            }
        })
    }
}
