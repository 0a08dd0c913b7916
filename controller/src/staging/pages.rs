//! The pages of stagings: the list, one staging with its actions and log, operations.

mod ask;
mod project;

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::Method;

use super::{
    api::{self, OperationView, StagingQuery, StagingView, owned, show},
    form::{self, Row},
    model::{Level, MaskedSettings, OperationId, Outcome, Status, Verb, why_not, why_not_moved},
    service::{NewStaging, Staging, Which},
    store,
};
use crate::{
    error::{Error, Result},
    fleet::logs::Tail,
    web::{
        Caller, Fields, Layout, Page, Paging, Policy, Query, Role, Routes,
        home::{Card, Figure, First, Glance},
        page::{redirect, redirect_refused, render, render_refused},
        view::{Chip, Tone, duration},
    },
};

/// Operations on a staging's page.
const OPERATIONS: i64 = 20;

/// Milliseconds.
const DAY: i64 = 86_400_000;

/// Projects in a choice, at most.
const PROJECTS: i64 = 500;

const LIST: &str = "/staging";
const STAGING: &str = "/staging/projects/{project}/stagings/{name}";

#[derive(Template)]
#[template(path = "staging/templates/list.html")]
struct ListPage {
    layout: Layout,
    live: Vec<StagingView>,
    archived: Vec<StagingView>,
    next: Option<String>,
    projects: Vec<String>,
    query: StagingQuery,
}

/// A button of a staging's page.
#[derive(Debug, PartialEq, Eq)]
struct Action {
    value: &'static str,
    label: &'static str,
    is_loss: bool,
    /// Why it cannot be asked for; none when it can.
    why_not: Option<String>,
}

#[derive(Template)]
#[template(path = "staging/templates/staging.html")]
struct StagingPage {
    layout: Layout,
    staging: StagingView,
    is_owner: bool,
    actions: Vec<Action>,
    host: String,
    operations: Page<OperationView>,
    newest: Option<OperationView>,
    output: Tail,
    /// When retention cleans it up, milliseconds since the Unix epoch.
    kept_until: Option<i64>,
}

#[derive(Template)]
#[template(path = "staging/templates/operation.html")]
struct OperationPage {
    layout: Layout,
    operation: OperationView,
    /// The host's name; none when it was removed.
    host: Option<String>,
    /// The end of each stream: its name, what it is called, its output.
    streams: [(&'static str, &'static str, Tail); 2],
}

#[derive(Template)]
#[template(path = "staging/templates/create.html")]
struct CreatePage {
    layout: Layout,
    projects: Vec<String>,
    rows: Vec<Row>,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "staging/templates/update.html")]
struct UpdatePage {
    layout: Layout,
    staging: StagingView,
    rows: Vec<Row>,
    fields: Fields,
}

/// The pages of the domain.
pub fn routes(staging: Staging) -> Routes {
    let operate = Policy::owner_or(Role::Operator);
    let (get, post) = (Method::GET, Method::POST);
    Routes::new()
        .page(get.clone(), LIST, Policy::viewer(), list)
        .page(get.clone(), "/staging/new", Policy::operator(), new)
        .page(post.clone(), "/staging/new", Policy::operator(), create)
        .page(get.clone(), STAGING, Policy::viewer(), staging_page)
        .page(post.clone(), STAGING, operate, act)
        .page(get.clone(), "/staging/projects/{project}/stagings/{name}/update", operate, edit)
        .page(post.clone(), "/staging/projects/{project}/stagings/{name}/update", operate, update)
        .page(get.clone(), "/staging/projects/{project}/stagings/{name}/cleanup", operate, ask::ask_cleanup)
        .page(post.clone(), "/staging/projects/{project}/stagings/{name}/cleanup", operate, ask::cleanup)
        .page(get.clone(), "/staging/projects/{project}/stagings/{name}/forget", Policy::admin(), ask::ask_forget)
        .page(post.clone(), "/staging/projects/{project}/stagings/{name}/forget", Policy::admin(), ask::forget)
        .page(get.clone(), "/staging/projects/{project}/stagings/{name}/cancel", operate, ask::ask_cancel)
        .page(post.clone(), "/staging/projects/{project}/stagings/{name}/cancel", operate, ask::cancel)
        .page(get.clone(), "/staging/projects/{project}/stagings/{name}/move", Policy::admin(), ask::ask_move)
        .page(post.clone(), "/staging/projects/{project}/stagings/{name}/move", Policy::admin(), ask::relocate)
        .page(get.clone(), "/staging/operations/{id}", Policy::viewer(), operation)
        .page(get.clone(), "/staging/projects", Policy::viewer(), project::projects)
        .page(get.clone(), "/staging/new-project", Policy::admin(), project::new_project)
        .page(post.clone(), "/staging/new-project", Policy::admin(), project::create_project)
        .page(get.clone(), "/staging/projects/{project}", Policy::viewer(), project::project)
        .page(post.clone(), "/staging/projects/{project}", Policy::admin(), project::save_project)
        .page(get, "/staging/projects/{project}/remove", Policy::admin(), project::ask_remove_project)
        .page(post, "/staging/projects/{project}/remove", Policy::admin(), project::remove_project)
        .with_state(staging)
}

/// What stagings say on the first page.
pub fn card(staging: Staging) -> Card {
    let look = move || {
        let staging = staging.clone();
        Box::pin(async move {
            let mut conn = staging.fleet.db.read().await?;
            let has_project = !store::projects(&mut conn, "", 1).await?.is_empty();
            Ok(glance(&store::counts_by_status(&mut conn).await?, has_project))
        }) as _
    };
    Card { title: "Stagings", href: LIST, look: Arc::new(look) }
}

fn glance(counts: &[(String, i64)], has_project: bool) -> Glance {
    let of = |wanted: fn(Status) -> bool| {
        counts.iter().filter(|(word, _)| Status::from_word(word).is_some_and(wanted)).map(|(_, n)| n).sum()
    };
    let figures = vec![
        Figure { count: of(|s| s == Status::Running), label: "running", tone: Tone::Good },
        Figure { count: of(Status::is_pending), label: "pending", tone: Tone::Busy },
        Figure { count: of(|s| s == Status::Failure), label: "failed", tone: Tone::Bad },
        Figure { count: of(|s| s == Status::Archived), label: "archived", tone: Tone::Quiet },
    ];
    let first = match (has_project, counts.is_empty()) {
        (false, _) => Some(First {
            text: "Make a project: it says which hosts carry its stagings, and which wrappers they run.",
            action: "Make a project",
            href: "/staging/new-project",
            role: Role::Admin,
        }),
        (true, true) => Some(First {
            text: "Make a staging: a preview deployment of one version of an application.",
            action: "Make a staging",
            href: "/staging/new",
            role: Role::Operator,
        }),
        (true, false) => None,
    };
    Glance { figures, first }
}

// === what things look like ===

impl Status {
    /// As a chip.
    fn chip(self) -> Chip {
        let tone = match self {
            Self::Running => Tone::Good,
            Self::Failure => Tone::Bad,
            Self::CreatePending | Self::UpdatePending | Self::DeletePending => Tone::Busy,
            Self::Archived => Tone::Quiet,
        };
        Chip { word: self.word(), tone }
    }
}

impl StagingView {
    fn href(&self) -> String {
        format!("/staging/projects/{}/stagings/{}", self.project, self.name)
    }
}

impl OperationView {
    fn chip(&self) -> Chip {
        let Some(outcome) = self.outcome else { return Chip { word: "under way", tone: Tone::Busy } };
        let tone = match outcome {
            Outcome::Succeeded => Tone::Good,
            Outcome::Failed | Outcome::TimedOut | Outcome::Lost => Tone::Bad,
            Outcome::Refused | Outcome::Interrupted | Outcome::Late => Tone::Warn,
            Outcome::Cancelled => Tone::Quiet,
        };
        Chip { word: outcome.word(), tone }
    }

    /// How its wrapper ended: exit code or signal.
    fn ending(&self) -> String {
        match (self.exit_code, self.signal) {
            (Some(code), _) => format!("exit {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => String::new(),
        }
    }

    /// Where its output is followed, from what the page shows on.
    fn stream(&self) -> String {
        format!("/api/v1/staging/operations/{}/log/stream?tail={}", self.id, api::TAIL)
    }

    /// Where its whole output is.
    fn raw(&self) -> String {
        format!("/api/v1/staging/operations/{}/log/raw", self.id)
    }

    fn took(&self) -> String {
        self.duration_ms.map(duration).unwrap_or_default()
    }
}

impl StagingPage {
    /// Where its newest output is followed.
    fn stream(&self) -> String {
        self.newest.as_ref().map(OperationView::stream).unwrap_or_default()
    }
}

impl Level {
    /// As a word.
    fn word(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Staging => "staging",
        }
    }
}

/// The buttons of a staging, each with the reason why it is off.
fn actions(staging: &StagingView, is_admin: bool) -> Vec<Action> {
    let pending =
        staging.pending.as_ref().map(|p| format!("{} is pending; wait for its end, or cancel it", p.verb.word()));
    let button = |value, label, why_not: Option<String>| Action {
        value,
        label,
        is_loss: value == "cleanup",
        why_not: pending.clone().or(why_not),
    };
    let action = |value, label, verb| button(value, label, why_not(staging.status, verb));
    let mut actions = vec![
        action("update", "Update…", Verb::Update),
        action("archive", "Archive", Verb::Delete),
        action("restore", "Restore", Verb::Restore),
        action("cleanup", "Clean up…", Verb::Cleanup),
    ];
    if is_admin {
        actions.push(button("move", "Move…", why_not_moved(staging.status)));
    }
    let why_not = match &staging.pending {
        None => Some("nothing is pending; there is nothing to cancel".to_owned()),
        Some(p) => (!p.cancelled_by.is_empty()).then(|| "its end was asked for already".to_owned()),
    };
    actions.push(Action { value: "cancel", label: "Cancel…", is_loss: false, why_not });
    actions
}

// === stagings ===

async fn list(
    State(staging): State<Staging>,
    layout: Layout,
    Query(query): Query<StagingQuery>,
    paging: Paging,
) -> Result<Response> {
    let page = api::list(&staging, query.clone(), &paging).await?;
    let (archived, live) = page.items.into_iter().partition(|s| s.status == Status::Archived);
    let projects = project_names(&staging).await?;
    render(&ListPage { layout: layout.title("Stagings"), live, archived, next: page.next, projects, query })
}

impl ListPage {
    fn is_narrow(&self) -> bool {
        [&self.query.project, &self.query.status, &self.query.search].iter().any(|text| !text.is_empty())
    }
}

async fn project_names(staging: &Staging) -> Result<Vec<String>> {
    let rows = store::projects(&mut *staging.fleet.db.read().await?, "", PROJECTS).await?;
    Ok(rows.into_iter().map(|p| p.name).collect())
}

async fn staging_page(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    Path((project, name)): Path<(String, String)>,
    paging: Paging,
) -> Result<Response> {
    let view = show(&staging, Which { project: &project, name: &name }).await?;
    let paging = Paging { limit: OPERATIONS, ..paging };
    let operations = api::history(&staging, &project, &name, &paging).await?;
    let newest = operations.items.first().filter(|_| paging.after.is_empty()).cloned();
    let output = match &newest {
        Some(newest) => api::tail(&staging, &newest.id, "").await?,
        None => Tail::default(),
    };
    let spec = staging.project(&mut *staging.fleet.db.read().await?, &project).await?.spec()?;
    let kept_until = view.archived_at.zip(spec.archived_retention_days).map(|(at, days)| at + days * DAY);
    let host = match &view.agent {
        Some(agent) => staging.fleet.agent(&mut *staging.fleet.db.read().await?, agent).await?.name,
        None => String::new(),
    };
    render(&StagingPage {
        is_owner: caller.must_own(&view.owner, Role::Operator).is_ok(),
        actions: actions(&view, layout.may("admin")),
        layout: layout.title(format!("{project}/{name}")),
        staging: view,
        host,
        operations,
        newest,
        output,
        kept_until,
    })
}

/// One form carries every button. What takes another screen leads there.
async fn act(
    State(staging): State<Staging>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
    fields: Fields,
) -> Result<Response> {
    let which = owned(&staging, &caller, &project, &name).await?;
    let here = format!("/staging/projects/{project}/stagings/{name}");
    let (asked, said) = match fields.text("verb") {
        screen @ ("update" | "cleanup" | "cancel" | "move") => {
            return Ok(Redirect::to(&format!("{here}/{screen}")).into_response());
        }
        "archive" => (staging.delete(&caller.actor, which).await, "Archiving has begun."),
        "restore" => (staging.restore(&caller.actor, which).await, "Restoring has begun."),
        other => {
            return Err(Error::invalid(
                "verb",
                format!("no verb {other:?}; there are update, archive, restore, cleanup, cancel, move"),
            ));
        }
    };
    match asked {
        Ok(_) => Ok(redirect(&here, said)),
        Err(error) => redirect_refused(&here, error),
    }
}

async fn new(State(staging): State<Staging>, layout: Layout, Query(query): Query<StagingQuery>) -> Result<Response> {
    let none = MaskedSettings { tag: String::new(), overrides: Vec::new() };
    let fields = Fields::filled([("project", query.project)]);
    let projects = project_names(&staging).await?;
    render(&CreatePage { layout: layout.title("New staging"), projects, rows: form::rows_of(&none), fields })
}

async fn create(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    mut fields: Fields,
) -> Result<Response> {
    let none = MaskedSettings { tag: String::new(), overrides: Vec::new() };
    let (project, name) = (fields.text("project").to_owned(), fields.text("name").to_owned());
    if !fields.is_on("more") {
        let made = async {
            let typed = form::overrides(&fields)?;
            let (project, name) = (project.clone(), name.clone());
            let new = NewStaging { project, name, tag: fields.text("tag").into(), overrides: typed.overrides };
            staging.create(&caller.actor, &new).await.map_err(|error| match error {
                Error::NotFound { what: "project", .. } => Error::invalid("project", "choose a project"),
                other => form::place(other, &typed.places),
            })
        };
        match made.await {
            Ok(_) => {
                let to = format!("/staging/projects/{project}/stagings/{name}");
                return Ok(redirect(&to, format!("Making {name} has begun.")));
            }
            Err(error) => fields.refuse(error)?,
        }
    }
    let (layout, projects) = (layout.title("New staging"), project_names(&staging).await?);
    let page = CreatePage { layout, projects, rows: form::rows_typed(&fields, &none), fields };
    if page.fields.is_on("more") { render(&page) } else { render_refused(&page) }
}

async fn edit(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    Path((project, name)): Path<(String, String)>,
) -> Result<Response> {
    let view = show(&staging, owned(&staging, &caller, &project, &name).await?).await?;
    let fields = Fields::filled([("tag", view.settings.tag.clone()), ("version", view.version.to_string())]);
    let rows = form::rows_of(&view.settings);
    render(&UpdatePage { layout: layout.title(format!("Update {name}")), staging: view, rows, fields })
}

async fn update(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    Path((project, name)): Path<(String, String)>,
    mut fields: Fields,
) -> Result<Response> {
    let which = owned(&staging, &caller, &project, &name).await?;
    let view = show(&staging, which).await?;
    if !fields.is_on("more") {
        let changed = async {
            let (change, places) = form::change(&fields, &view.settings)?;
            let version = Some(fields.number("version")?);
            let asked = staging.update(&caller.actor, which, &change, version).await;
            asked.map_err(|error| form::place(error, &places))
        };
        match changed.await {
            Ok(_) => return Ok(redirect(&view.href(), "Updating has begun.")),
            Err(error) => fields.refuse(error)?,
        }
    }
    let rows = form::rows_typed(&fields, &view.settings);
    let page = UpdatePage { layout: layout.title(format!("Update {name}")), staging: view, rows, fields };
    if page.fields.is_on("more") { render(&page) } else { render_refused(&page) }
}

async fn operation(State(staging): State<Staging>, layout: Layout, Path(id): Path<OperationId>) -> Result<Response> {
    let operation = api::find(&staging, &id).await?;
    let host = match staging.fleet.agent(&mut *staging.fleet.db.read().await?, &operation.agent).await {
        Ok(agent) => Some(agent.name),
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    let streams = [
        ("stdout", "Standard output", api::tail(&staging, &id, "stdout").await?),
        ("stderr", "Standard error", api::tail(&staging, &id, "stderr").await?),
    ];
    let title = format!("{} of {}/{}", operation.verb.word(), operation.project, operation.name);
    render(&OperationPage { layout: layout.title(title), operation, host, streams })
}
