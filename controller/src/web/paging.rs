//! Lists in pages. A cursor is opaque to callers: it is where the next page begins.

use axum::extract::FromRequestParts;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::Query;
use crate::error::{Error, Result};

/// Items of a page unless the caller says otherwise.
pub const DEFAULT_LIMIT: i64 = 100;

/// Items of a page at most.
pub const MAX_LIMIT: i64 = 500;

/// A piece of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// What is there.
    pub items: Vec<T>,
    /// Give it as `cursor` to have what follows; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The cursor that leads on from a place.
pub fn cursor(place: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(place)
}

/// Which piece of a list is asked for: `?cursor=&limit=`. Takes its two fields of the query and leaves the others alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paging {
    /// Where the piece before ended; empty at the beginning.
    pub after: String,
    /// Items wanted, 1 to [`MAX_LIMIT`].
    pub limit: i64,
}

/// How paging looks in a URL; for `params(PagingQuery)` in an operation's description.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PagingQuery {
    /// The `next` of the page before.
    pub cursor: Option<String>,
    /// Items wanted, 1 to 500; 100 if not said.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<i64>,
}

// === impl Paging ===

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Query(query) = Query::<PagingQuery>::from_request_parts(parts, state).await?;
        Self::try_from(query)
    }
}

impl TryFrom<PagingQuery> for Paging {
    type Error = Error;

    fn try_from(query: PagingQuery) -> Result<Self> {
        let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid("limit", format!("a page has 1 to {MAX_LIMIT} items")));
        }
        let cursor = query.cursor.unwrap_or_default();
        let after = BASE64_URL_SAFE_NO_PAD.decode(&cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let after = after.ok_or_else(|| Error::invalid("cursor", "give the `next` of the page before, as it was"))?;
        Ok(Self { after, limit })
    }
}

impl Paging {
    /// Rows to read: one more than the page holds tells whether another follows.
    pub fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// Makes a page of [`rows`](Self::rows) read rows. `place` gives where an item stands in the order of the list.
    pub fn page<T>(&self, mut rows: Vec<T>, place: impl Fn(&T) -> String) -> Page<T> {
        let more = rows.len() as i64 > self.limit;
        rows.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
        let next = rows.last().filter(|_| more).map(|last| cursor(&place(last)));
        Page { items: rows, next }
    }
}

// === impl Page ===

impl<T> Page<T> {
    /// The same page of other items.
    pub fn try_map<U>(self, map: impl FnMut(T) -> Result<U>) -> Result<Page<U>> {
        Ok(Page { items: self.items.into_iter().map(map).collect::<Result<_>>()?, next: self.next })
    }
}
