//! Versions as ETags: what was read is what is changed.

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use http::{HeaderName, HeaderValue, header, request::Parts};

use crate::error::{Error, Result};

/// The `ETag` of a version: `"v3"`. A part of a response: `(ETag(version), Json(item))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ETag(pub i64);

/// The version that `If-Match` names; none when it is absent or `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IfMatch(pub Option<i64>);

impl IntoResponseParts for ETag {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        let value = HeaderValue::try_from(format!("\"v{}\"", self.0)).expect("a number makes a header value");
        parts.headers_mut().insert(header::ETAG, value);
        Ok(parts)
    }
}

impl IntoResponse for ETag {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        const NAME: HeaderName = header::IF_MATCH;
        let Some(value) = parts.headers.get(NAME) else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        let number = text.strip_prefix("\"v").and_then(|t| t.strip_suffix('"')).and_then(|t| t.parse().ok());
        // An ETag that was never given out matches nothing.
        number.map(|n| Self(Some(n))).ok_or(Error::Stale)
    }
}

impl IfMatch {
    /// Refuses when `version` is not the one named.
    pub fn check(self, version: i64) -> Result<()> {
        if self.0.is_some_and(|wanted| wanted != version) { Err(Error::Stale) } else { Ok(()) }
    }
}
