//! Problem answers for what never reaches a handler: no such route, wrong method, malformed body.

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};

use crate::error::Problem;

/// Content type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// A problem answer that [`crate::error::Error`] has no word for.
pub fn answer(status: StatusCode, kind: &str, title: &str, detail: &str, field: Option<&str>) -> Response {
    let problem = Problem {
        kind: format!("/problems/{kind}"),
        title: title.into(),
        status: status.as_u16(),
        detail: detail.into(),
        field: field.map(Into::into),
        standing: Vec::new(),
        cascade: None,
    };
    let body = serde_json::to_vec(&problem).expect("a problem is plain data");
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], body).into_response()
}

/// The answer to a panic: a fault here, logged with what it said.
pub fn panicked(cause: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = cause.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
    crate::error::Error::internal(anyhow::anyhow!("a handler panicked: {text}")).into_response()
}

/// Whether an answer is a problem.
pub fn is_problem(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes() == CONTENT_TYPE.as_bytes())
}

/// Turns bare refusals of the router into problems.
pub async fn layer(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let is_text = |r: &Response| {
        let kind = r.headers().get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).unwrap_or_default();
        kind.is_empty() || kind.starts_with("text/plain")
    };
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || !is_text(&response) {
        return response;
    }
    let (kind, title, detail) = match status {
        StatusCode::NOT_FOUND => ("not-found", "Not found", format!("there is nothing at {path}")),
        StatusCode::METHOD_NOT_ALLOWED => {
            let detail = format!("{path} does not take {method}; the header Allow says what it takes");
            ("method-not-allowed", "Method not allowed", detail)
        }
        StatusCode::BAD_REQUEST => ("malformed", "Malformed request", format!("{path} cannot be read as this route's")),
        _ => return response,
    };
    answer(status, kind, title, &detail, None)
}
