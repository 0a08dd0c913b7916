//! Pages of the console: the layout every page stands in, and what is done to an answer on its way out.
//!
//! A page's template extends `web/templates/base.html` and has a field `layout: Layout`; its handler takes the layout as
//! an argument, gives it a title, and answers `layout.title("Fleet").render(&template)` or [`render`].

use std::{convert::Infallible, sync::Arc};

use askama::Template;
use axum::{
    extract::{FromRequestParts, Request},
    response::{Html, IntoResponse, Redirect, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderValue, StatusCode, header, request::Parts};
use serde::{Deserialize, Serialize};

use super::{
    assets,
    gate::{Caller, Gate, cookie, gate_of},
    policy::Role,
    problem,
    view::When,
};
use crate::error::{Error, Problem, Result};

/// An entry of the navigation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NavItem {
    /// What it says.
    pub label: &'static str,
    /// Where it leads; pages below it show it as current.
    pub href: &'static str,
    /// Who sees it.
    pub role: Role,
}

/// What every page shows around its own content. An extractor.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Title of the page.
    pub title: String,
    /// Who is logged in.
    pub user: Option<Caller>,
    /// A message of the page before, shown once.
    pub flash: Option<Flash>,
    /// `light`, `dark` or `auto`.
    pub theme: &'static str,
    /// Path of the page.
    pub path: String,
    /// When it is looked at, milliseconds since the Unix epoch.
    pub now: i64,
    /// The last event known before anything of it was read; 0: none is known here yet.
    pub head: i64,
    nav: Arc<[NavItem]>,
}

/// A message shown once on the next page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flash {
    /// Something went wrong.
    pub is_error: bool,
    /// What is said.
    pub text: String,
}

#[derive(Template)]
#[template(path = "web/templates/problem.html")]
struct ProblemPage {
    layout: Layout,
    problem: Problem,
}

// === impl Layout ===

impl Layout {
    pub(super) fn of(parts: &Parts, gate: &Gate) -> Self {
        let flash = cookie(&parts.headers, "flash").and_then(|v| BASE64_URL_SAFE_NO_PAD.decode(v).ok());
        let theme = cookie(&parts.headers, "theme").unwrap_or_default();
        Self {
            title: "Muster".into(),
            user: None,
            flash: flash.and_then(|v| serde_json::from_slice(&v).ok()),
            theme: ["light", "dark"].into_iter().find(|t| *t == theme).unwrap_or("auto"),
            path: parts.uri.path().into(),
            now: gate.db.clock().now(),
            head: *gate.db.wake().head().borrow(),
            nav: gate.nav.clone().into(),
        }
    }

    /// With a title.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// The entries of the navigation that this person sees.
    pub fn nav(&self) -> Vec<&NavItem> {
        let role = self.user.as_ref().map(|c| c.role);
        self.nav.iter().filter(|item| role.is_some_and(|r| r >= item.role)).collect()
    }

    /// Whether an entry leads to this page or to one above it.
    pub fn is_current(&self, item: &NavItem) -> bool {
        self.path == item.href || self.path.strip_prefix(item.href).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The CSRF token for forms: `<input type="hidden" name="csrf" value="{{ layout.csrf() }}">`.
    pub fn csrf(&self) -> &str {
        self.user.as_ref().map_or("", Caller::csrf)
    }

    /// Whether this person has at least the role of that word: for buttons that others should not see.
    pub fn may(&self, role: &str) -> bool {
        let role = Role::from_word(role);
        self.user.as_ref().is_some_and(|c| role.is_some_and(|r| c.role >= r))
    }

    /// A moment, milliseconds since the Unix epoch, as this page says it.
    pub fn when(&self, at: &i64) -> When {
        When { at: *at, now: self.now }
    }

    /// URL of the stylesheet.
    pub fn style(&self) -> String {
        assets::style()
    }

    /// URL of the script.
    pub fn script(&self) -> String {
        assets::script()
    }

    /// Version of the controller.
    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Layout {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let layout = parts.extensions.get::<Self>().cloned();
        layout.ok_or_else(|| Error::internal(anyhow::anyhow!("a page was added without its policy")))
    }
}

/// Renders a page.
pub fn render(template: &impl Template) -> Result<Response> {
    Ok(Html(template.render().map_err(Error::internal)?).into_response())
}

/// Renders a form that was refused: the same page, with status 422.
pub fn render_refused(template: &impl Template) -> Result<Response> {
    Ok((StatusCode::UNPROCESSABLE_ENTITY, render(template)?).into_response())
}

/// Leads on after a form, with a message.
pub fn redirect(to: &str, message: impl Into<String>) -> Response {
    flash(to, Flash { is_error: false, text: message.into() })
}

/// Leads on after a form that came to nothing, with the reason. A fault of the controller's own is not hidden so.
pub fn redirect_refused(to: &str, error: Error) -> Result<Response> {
    match error {
        Error::Internal(_) | Error::Unauthenticated(_) => Err(error),
        other => Ok(flash(to, Flash { is_error: true, text: other.to_string() })),
    }
}

fn flash(to: &str, flash: Flash) -> Response {
    let json = serde_json::to_vec(&flash).expect("a message is plain data");
    let value = format!("flash={}; Path=/; HttpOnly; SameSite=Lax; Max-Age=60", BASE64_URL_SAFE_NO_PAD.encode(json));
    ([(header::SET_COOKIE, value)], Redirect::to(to)).into_response()
}

/// Makes a refusal a page, and takes away a message that was shown.
pub(super) async fn finish(answer: Response, mut layout: Layout) -> Response {
    let mut answer = if problem::is_problem(&answer) { refusal(answer, &mut layout).await } else { answer };
    let is_page = answer.headers().get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"text/html"));
    if is_page {
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if layout.flash.is_some() {
            let gone = HeaderValue::from_static("flash=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
            answer.headers_mut().append(header::SET_COOKIE, gone);
        }
    }
    answer
}

async fn refusal(answer: Response, layout: &mut Layout) -> Response {
    let (parts, body) = answer.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let Ok(problem) = serde_json::from_slice::<Problem>(&bytes) else { return (parts, bytes).into_response() };
    let page = ProblemPage { layout: layout.clone().title(problem.title.clone()), problem };
    let mut page = match render(&page) {
        Ok(page) => page,
        Err(error) => return error.into_response(),
    };
    *page.status_mut() = parts.status;
    if let Some(wait) = parts.headers.get(header::RETRY_AFTER) {
        page.headers_mut().insert(header::RETRY_AFTER, wait.clone());
    }
    page
}

/// Answers for paths that lead nowhere: a page for people, a problem for programs.
pub(super) async fn nothing(request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let accept = parts.headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    let is_for_people = accept.contains("text/html") && !parts.uri.path().starts_with("/api/");
    let gate = match gate_of(&parts.extensions) {
        Ok(gate) if is_for_people => gate,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let mut layout = Layout::of(&parts, &gate);
    layout.user = gate.identify(&parts.headers).await.ok().flatten();
    let error = Error::NotFound { what: "page", name: layout.path.clone() };
    finish(error.into_response(), layout).await
}

/// Sets the theme: `POST /theme` with `theme` and `back`.
pub async fn set_theme(fields: super::Fields) -> Result<Response, Infallible> {
    let theme = ["light", "dark"].into_iter().find(|t| *t == fields.text("theme")).unwrap_or("auto");
    let cookie = format!("theme={theme}; Path=/; HttpOnly; SameSite=Lax; Max-Age=31536000");
    let to = local(fields.text("back"));
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(to)).into_response())
}

/// A path of this site, or the first page: nobody is led elsewhere by a link.
pub fn local(path: &str) -> &str {
    let is_local = path.starts_with('/') && !path.starts_with("//") && !path.contains(['\\', '\n', '\r']);
    if is_local { path } else { "/" }
}
