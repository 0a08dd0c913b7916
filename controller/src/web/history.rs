//! The history for programs and for people: list, follow, verify, and a page.

use askama::Template;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, header};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::{Caller, Layout, Page, Paging, Policy, Query, Routes, gate::At, live, page};
use crate::{
    error::{Error, Result},
    platform::events::{self, Event, Filter, Source, Verified},
};

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "cursor and limit are read by Paging; they stand here so that other fields are refused")]
struct EventQuery {
    /// Only of this subject or below it: `staging` also finds `staging/x`.
    subject: Option<String>,
    /// Only of this kind or below it: `agent` also finds `agent.enrolled`.
    kind: Option<String>,
    /// Only by this actor: `user/ada`.
    actor: Option<String>,
    /// Only after this place.
    after: Option<i64>,
    /// The `next` of the page before.
    cursor: Option<String>,
    /// Items wanted, 1 to 500; 100 if not said.
    limit: Option<i64>,
}

/// The routes of the history.
pub fn routes() -> Routes {
    Routes::new()
        .add(Policy::viewer(), routes!(list))
        .add(Policy::viewer(), routes!(stream))
        .add(Policy::viewer(), routes!(verify))
        .page(Method::GET, "/events", Policy::viewer(), events_page)
}

/// Lists events, newest first; follows them with `Accept: text/event-stream`
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(EventQuery),
    responses((status = 200, body = Page<Event>)))]
async fn list(
    at: At,
    caller: Caller,
    headers: HeaderMap,
    paging: Paging,
    Query(query): Query<EventQuery>,
) -> Result<Response> {
    let wants = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    if wants.starts_with("text/event-stream") {
        return follow(at, caller, &headers, query).await;
    }
    newest(&at, filter(query), &paging).await.map(|page| Json(page).into_response())
}

/// A page of events, newest first.
async fn newest(at: &At, filter: Filter, paging: &Paging) -> Result<Page<Event>> {
    let before = match paging.after.as_str() {
        "" => None,
        text => {
            Some(text.parse().map_err(|_| Error::invalid("cursor", "give the `next` of the page before, as it was"))?)
        }
    };
    let found = events::list(&mut *at.0.db.read().await?, &Filter { before, ..filter }, paging.rows()).await?;
    Ok(paging.page(found, |event| event.seq.to_string()))
}

/// Follows events as they are committed; `Last-Event-ID` resumes
#[utoipa::path(get, path = "/api/v1/events/stream", tag = "events", params(EventQuery),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
async fn stream(at: At, caller: Caller, headers: HeaderMap, Query(query): Query<EventQuery>) -> Result<Response> {
    follow(at, caller, &headers, query).await
}

/// Computes every seal of the history anew and compares
#[utoipa::path(get, path = "/api/v1/events/verify", tag = "events", responses((status = 200, body = Verified)))]
async fn verify(At(gate): At) -> Result<Json<Verified>> {
    events::verify(&mut *gate.db.read().await?).await.map(Json)
}

async fn follow(at: At, caller: Caller, headers: &HeaderMap, query: EventQuery) -> Result<Response> {
    let mut filter = filter(query);
    if let Some(last) = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()) {
        filter.after = Some(last);
    }
    Ok(live::follow(at, caller, filter).await?.into_response())
}

fn filter(query: EventQuery) -> Filter {
    let EventQuery { subject, kind, actor, after, .. } = query;
    Filter { subject, kind, actor, after, before: None }
}

// === the page ===

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PageQuery {
    subject: String,
    kind: String,
    actor: String,
    cursor: String,
}

#[derive(Template)]
#[template(path = "web/templates/events.html")]
struct EventsPage {
    layout: Layout,
    query: PageQuery,
    page: Page<Event>,
}

impl PageQuery {
    fn is_narrow(&self) -> bool {
        [&self.subject, &self.kind, &self.actor].iter().any(|text| !text.is_empty())
    }
}

impl Event {
    /// Through what the change came; nothing where the actor says it already.
    pub(crate) fn via(&self) -> &'static str {
        match self.source {
            Source::Cli => "by command",
            Source::Console => "in the console",
            Source::Api => "by API",
            Source::Agent | Source::Controller => "",
        }
    }

    /// A value for people to read.
    pub(crate) fn pretty(&self, value: &serde_json::Value) -> String {
        serde_json::to_string_pretty(value).unwrap_or_default()
    }
}

async fn events_page(at: At, layout: Layout, paging: Paging, Query(query): Query<PageQuery>) -> Result<Response> {
    let given = |text: &str| Some(text.trim().to_owned()).filter(|t| !t.is_empty());
    let filter = Filter {
        subject: given(&query.subject),
        kind: given(&query.kind),
        actor: given(&query.actor),
        ..Filter::default()
    };
    let page = newest(&at, filter, &paging).await?;
    page::render(&EventsPage { layout: layout.title("Events"), query, page })
}
