//! Forms of pages: what was typed is kept, and what is wrong with it stands beside its field.

use std::collections::BTreeMap;

use axum::{
    extract::{FromRequest, Request},
    response::Response,
};
use http::{HeaderMap, Method, header};

use super::body;
use crate::error::{Error, Result};

/// What was typed into a form, and what is wrong with it. An extractor; also [`Fields::default`] for an empty form.
///
/// A handler reads with [`text`](Self::text), calls a service, and on an error gives the form back by
/// [`refuse`](Self::refuse); a template writes `{{ fields.text("name") }}` and `{{ fields.error("name") }}`.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    values: Vec<(String, String)>,
    errors: BTreeMap<String, String>,
}

// === impl Fields ===

impl Fields {
    /// A form filled in beforehand.
    pub fn filled<const N: usize>(values: [(&str, String); N]) -> Self {
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { values, errors: BTreeMap::new() }
    }

    /// What was typed, without white space around it; empty if nothing was.
    pub fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// What was typed, to the letter: for secrets.
    pub fn raw(&self, name: &str) -> &str {
        self.values.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// Every value of a repeated field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.values.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Whether a box was ticked.
    pub fn is_on(&self, name: &str) -> bool {
        self.values.iter().any(|(n, _)| n == name)
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> Result<i64> {
        self.text(name).parse().map_err(|_| Error::invalid(name, "a whole number is needed"))
    }

    /// A whole number, or none where nothing was typed.
    pub fn number_if_any(&self, name: &str) -> Result<Option<i64>> {
        if self.text(name).is_empty() { Ok(None) } else { self.number(name).map(Some) }
    }

    /// `key=value` pairs, one to a line or separated by commas.
    pub fn pairs(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let lines = self.text(name).split(['\n', ',']).map(str::trim).filter(|l| !l.is_empty());
        let pair = |line: &str| {
            let (key, value) =
                line.split_once('=').ok_or_else(|| Error::invalid(name, format!("{line:?} is not `key=value`")))?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        };
        lines.map(pair).collect()
    }

    /// What is wrong with a field; empty if nothing is.
    pub fn error(&self, name: &str) -> &str {
        self.errors.get(name).map_or("", String::as_str)
    }

    /// What is wrong with the form as a whole; empty if nothing is.
    pub fn general_error(&self) -> &str {
        self.error("")
    }

    /// Takes an error to its field. One that is not the typist's to mend is given back.
    pub fn refuse(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Invalid { field, message } => {
                let place = self.place_of(&field).map(str::to_owned);
                let text = if place.is_some() { message } else { format!("{field}: {message}") };
                self.errors.insert(place.unwrap_or_default(), text);
            }
            Error::Conflict(_) | Error::Standing(_) | Error::Stale | Error::Busy { .. } => {
                self.errors.insert(String::new(), error.to_string());
            }
            other => return Err(other),
        }
        Ok(())
    }

    /// The field that an error's path leads to: itself, or the one whose text holds it, as `labels` holds `labels.pool`.
    fn place_of(&self, path: &str) -> Option<&str> {
        let leads_to = |name: &&str| path.strip_prefix(name).is_some_and(|r| r.is_empty() || r.starts_with(['.', '[']));
        self.values.iter().map(|(name, _)| name.as_str()).filter(leads_to).max_by_key(|name| name.len())
    }
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        use axum::response::IntoResponse;
        let read = async {
            if !is_form(request.headers()) {
                return Err(Error::invalid("body", "a form is sent as application/x-www-form-urlencoded"));
            }
            parse(&body::read(request).await?).await
        };
        let values = read.await.map_err(IntoResponse::into_response)?;
        Ok(Self { values, errors: BTreeMap::new() })
    }
}

/// Whether a request carries a form.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).unwrap_or_default();
    kind.starts_with("application/x-www-form-urlencoded")
}

/// The fields of a form, in order.
pub async fn parse(bytes: &[u8]) -> Result<Vec<(String, String)>> {
    let request = Request::builder()
        .method(Method::POST)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(bytes.to_vec().into())
        .map_err(Error::internal)?;
    let fields = axum::Form::<Vec<(String, String)>>::from_request(request, &()).await;
    fields.map(|f| f.0).map_err(|e| Error::invalid("body", e.body_text()))
}
