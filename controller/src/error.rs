//! One error for the whole controller, and the only place where it becomes an HTTP or a gRPC answer.
//!
//! Every variant but [`Error::Internal`] is the caller's to mend: its text names what is wrong and what would be right.
//! An internal error is logged here with its cause and shown without it.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use muster_proto::{
    fleet::{Refusal, refusal::Reason},
    refusal,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What can go wrong at a service's door.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of that name.
    #[error("no {what} named {name:?}")]
    NotFound {
        /// Kind of thing, in words.
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// A field of the input is wrong. Nothing was changed.
    #[error("{field}: {message}")]
    Invalid {
        /// Path of the field, as in `spec.overrides[0].key`.
        field: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The state of things forbids it. Nothing was changed.
    #[error("{0}")]
    Conflict(String),
    /// Others stand on what was to be removed. Nothing was changed.
    #[error("{0}")]
    Standing(Box<Standing>),
    /// If-Match named another version than the one there is.
    #[error("it has changed since you read it; read it again and repeat the change")]
    Stale,
    /// Who asks is not known.
    #[error("{0}")]
    Unauthenticated(String),
    /// Who asks may not.
    #[error("{0}")]
    Forbidden(String),
    /// The body is larger than this route takes.
    #[error("the body is larger than the {limit} bytes this route takes")]
    TooLarge {
        /// Limit, bytes.
        limit: usize,
    },
    /// Too many tries.
    #[error("{message}")]
    Busy {
        /// What there is too much of.
        message: String,
        /// Seconds to wait.
        retry_after_secs: u64,
    },
    /// An agent is not welcome; the refusal says why.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// The fault is here. Logged with its cause, shown without.
    #[error("something went wrong inside the controller; its log says what")]
    Internal(#[source] anyhow::Error),
}

/// The usual result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What stands on something that was to be removed, and would go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What was to be removed, in words.
    pub what: String,
    /// What stands on it, in words; what others stand on comes first.
    pub standing: Vec<String>,
    /// Says that these are known and may go: the removal is asked for again with it.
    pub cascade: String,
}

/// A problem answer (RFC 9457).
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem; stable.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// This problem, in one sentence that says what would be right.
    pub detail: String,
    /// Path of the field that is wrong, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What would have to go with what was to be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standing: Vec<String>,
    /// To ask for the removal again, of all of these: the query parameter `cascade`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cascade: Option<String>,
}

// === impl Standing ===

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (shown, more) = self.standing.split_at(self.standing.len().min(10));
        let what = &self.what;
        if shown.is_empty() {
            return write!(f, "nothing stands on {what}; it was not removed, since you asked to see that first");
        }
        write!(f, "{what} cannot go while others stand on it: {}", shown.join(", "))?;
        if !more.is_empty() {
            write!(f, " and {} more", more.len())?;
        }
        f.write_str("; remove them first")
    }
}

// === impl Error ===

impl Error {
    /// A field is wrong.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), message: message.into() }
    }

    /// The same about a field that is called otherwise here: pairs of its name there and its name here.
    #[must_use]
    pub fn renamed(self, names: &[(&str, &str)]) -> Self {
        match self {
            Self::Invalid { field, message } => {
                let name = names.iter().find(|(there, _)| *there == field).map_or(field.as_str(), |(_, here)| here);
                Self::invalid(name, message)
            }
            other => other,
        }
    }

    /// Nothing of that name.
    pub fn not_found(what: &'static str, name: impl Into<String>) -> Self {
        Self::NotFound { what, name: name.into() }
    }

    /// The fault is here.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self::Internal(cause.into())
    }

    /// An agent is refused.
    pub fn refused(reason: Reason, message: impl Into<String>, now: i64) -> Self {
        let message = message.into();
        let refusal = Refusal { reason: reason.into(), message, server_time_ms: now, retry_after_ms: 0 };
        Self::Refused(refusal.into())
    }

    /// HTTP status and the problem's kind and title.
    fn http(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NotFound { .. } => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The input is not right"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict", "The state of things forbids it"),
            Self::Standing(_) => (StatusCode::CONFLICT, "standing", "Others stand on it"),
            Self::Stale => (StatusCode::PRECONDITION_FAILED, "stale", "Changed in the meantime"),
            Self::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "unauthenticated", "Not logged in"),
            Self::Forbidden(_) | Self::Refused(_) => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large"),
            Self::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, "busy", "Too many tries"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "A fault in the controller"),
        }
    }

    /// HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        self.http().0
    }

    /// The problem answer. Logs an internal error: this is where it is handled.
    pub fn problem(&self) -> Problem {
        if let Self::Internal(cause) = self {
            tracing::error!(error = format!("{cause:#}"), "internal error");
        }
        let (status, kind, title) = self.http();
        let field = match self {
            Self::Invalid { field, .. } => Some(field.clone()),
            _ => None,
        };
        let (standing, cascade) = match self {
            Self::Standing(it) => (it.standing.clone(), Some(it.cascade.clone())),
            _ => (Vec::new(), None),
        };
        let (kind, detail) = (format!("/problems/{kind}"), self.to_string());
        Problem { kind, title: title.into(), status: status.as_u16(), detail, field, standing, cascade }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.problem()).expect("a problem is plain data");
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Self::Busy { retry_after_secs, .. } = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_secs));
        }
        if let Self::Unauthenticated(_) = self {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Refused(refusal) => refusal::into_status(&refusal),
            Error::NotFound { .. } => Self::not_found(text),
            Error::Invalid { .. } => Self::invalid_argument(text),
            Error::Conflict(_) | Error::Standing(_) | Error::Stale => Self::failed_precondition(text),
            Error::Unauthenticated(_) => Self::unauthenticated(text),
            Error::Forbidden(_) => Self::permission_denied(text),
            Error::TooLarge { .. } => Self::resource_exhausted(text),
            Error::Busy { .. } => Self::unavailable(text),
            Error::Internal(cause) => {
                tracing::error!(error = format!("{cause:#}"), "internal error");
                Self::internal(text)
            }
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::internal(error)
    }
}

impl From<muster_pki::Error> for Error {
    fn from(error: muster_pki::Error) -> Self {
        match error {
            muster_pki::Error::Refused(why) => Self::invalid("csr", why),
            other => Self::internal(other),
        }
    }
}
