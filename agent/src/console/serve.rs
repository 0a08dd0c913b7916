//! Requests: judged, answered, and given the headers that keep answers where they belong.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use askama::Template;
use axum::{
    Form, Json, Router,
    extract::{DefaultBodyLimit, FromRequest, Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{Html, IntoResponse, Redirect, Response},
};
use futures::FutureExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::timeout};

use super::{
    Console,
    door::{SESSION_MS, Session, Token},
};
use crate::driver::{Pages, Taken, Visit};

/// Where a token is traded for a session.
pub const ENTER: &str = "/enter";

const STYLE: &str = "/style.css";

/// Connections at once; more wait.
const CONNECTIONS: usize = 32;

/// From a connection's begin to its end. One connection serves one request.
const LIFE: Duration = Duration::from_secs(30);

/// From a connection's begin to the end of its request's head.
const HEAD: Duration = Duration::from_secs(10);

/// The longest form, bytes.
const FORM: usize = 16 * 1024;

/// Answers are for this browser's eyes, on this page, from this agent alone. Without any referrer a browser would not say
/// of a form where it comes from.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
    ),
];

#[derive(Template)]
#[template(path = "console/templates/base.html")]
struct Base<'a> {
    title: &'a str,
    path: &'a str,
    agent_id: &'a str,
    menu: Vec<(&'static str, &'static str)>,
    data: Vec<&'static str>,
    home: &'a str,
    home_is_there: bool,
    message: Option<(&'static str, &'a str)>,
    body: &'a str,
}

/// Serves until it is dropped.
pub async fn serve(console: Arc<Console>, listener: TcpListener) {
    let router = Router::new().fallback(answer).layer(DefaultBodyLimit::max(FORM)).with_state(console);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.join_next().now_or_never().flatten().is_some() {}
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "the console cannot take a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
            server.http1().keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEAD);
            // A browser that goes away in the middle is no matter of ours.
            let _ = timeout(LIFE, server.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
}

async fn answer(State(console): State<Arc<Console>>, request: Request) -> Response {
    let mut response = console.respond(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

// === impl Console ===

impl Console {
    async fn respond(&self, request: Request) -> Response {
        if !names_this_host(request.headers()) {
            return plain(
                StatusCode::MISDIRECTED_REQUEST,
                "this console is served under 127.0.0.1 and localhost alone",
            );
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if method == Method::GET && path == STYLE {
            return ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css")).into_response();
        }
        let token = match Token::read(&self.kernel.state_dir) {
            Ok(Some(token)) => token,
            Ok(None) => return self.closed(StatusCode::UNAUTHORIZED, "No session is open."),
            Err(e) => return plain(StatusCode::INTERNAL_SERVER_ERROR, format!("the console's token: {e}")),
        };
        if method == Method::GET && path == ENTER {
            return self.enter(&token, request.uri());
        }
        let now_ms = self.kernel.host.now_ms();
        if method == Method::GET
            && let Some(name) = path.strip_prefix("/api/")
        {
            let is_let_in = bearer(request.headers()).is_some_and(|shown| token.is(shown))
                || self.session(&token, request.headers(), now_ms).is_some();
            return if is_let_in { self.data(name, now_ms) } else { unauthorized() };
        }
        let Some(session) = self.session(&token, request.headers(), now_ms) else {
            return self.closed(StatusCode::UNAUTHORIZED, "No session is open.");
        };
        match method {
            Method::GET => self.show(&path, &session, now_ms, None, StatusCode::OK),
            Method::POST => self.submit(&path, &session, now_ms, request).await,
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, "pages are read and forms are sent"),
        }
    }

    fn enter(&self, token: &Token, uri: &Uri) -> Response {
        let shown = Query::<BTreeMap<String, String>>::try_from_uri(uri).ok();
        if !shown.and_then(|Query(mut shown)| shown.remove("token")).is_some_and(|shown| token.is(&shown)) {
            return self.closed(StatusCode::FORBIDDEN, "This address lets nobody in, or does so no more.");
        }
        let (name, session) = (self.cookie_name(), token.session(self.kernel.host.now_ms()));
        let seconds = SESSION_MS / 1000;
        let cookie = format!("{name}={}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict", session.cookie);
        ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
    }

    /// Cookies are shared by all ports of a host, so that each console needs a name of its own.
    fn cookie_name(&self) -> String {
        let port = self.report.borrow().address.map_or(0, |address| address.port());
        format!("muster-console-{port}")
    }

    fn session(&self, token: &Token, headers: &HeaderMap, now_ms: i64) -> Option<Session> {
        let name = self.cookie_name();
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(found, _)| *found == name).and_then(|(_, value)| token.known(value, now_ms))
    }

    async fn submit(&self, path: &str, session: &Session, now_ms: i64, request: Request) -> Response {
        if !comes_from_here(request.headers()) {
            return plain(StatusCode::FORBIDDEN, "this form was sent by a page of somebody else");
        }
        let form = match Form::<BTreeMap<String, String>>::from_request(request, &()).await {
            Ok(Form(form)) => form,
            Err(refused) => return plain(refused.status(), refused.body_text()),
        };
        let is_ours =
            |shown: &String| muster_pki::sha256(shown.as_bytes()) == muster_pki::sha256(session.csrf.as_bytes());
        if !form.get("csrf").is_some_and(is_ours) {
            return plain(
                StatusCode::FORBIDDEN,
                "this form is of another session; go back, load the page again and repeat",
            );
        }
        let visit = self.visit(session, now_ms);
        for pages in self.pages() {
            if let Some(taken) = pages.submit(path, &form, &visit).await {
                let (status, kind, message) = match &taken {
                    Taken::Done(message) => (StatusCode::OK, "good", message),
                    Taken::Refused(message) => (StatusCode::CONFLICT, "bad", message),
                    Taken::Unreachable(message) => (StatusCode::SERVICE_UNAVAILABLE, "bad", message),
                };
                return self.show(path, session, now_ms, Some((kind, message)), status);
            }
        }
        plain(StatusCode::NOT_FOUND, "nothing is taken here")
    }

    fn show(
        &self,
        path: &str,
        session: &Session,
        now_ms: i64,
        message: Option<(&'static str, &str)>,
        status: StatusCode,
    ) -> Response {
        let menu: Vec<_> = self.pages().flat_map(|pages| pages.menu().iter().copied()).collect();
        let path = if path == "/" { menu.first().map_or(path, |(first, _)| first) } else { path };
        let visit = self.visit(session, now_ms);
        let body = self.pages().find_map(|pages| pages.show(path, &visit));
        let title = menu.iter().find(|(at, _)| *at == path).map(|(_, title)| *title);
        match (body, title) {
            (Some(body), Some(title)) => self.page(status, title, path, menu, message, &body),
            _ if path == "/" => self.page(status, "Nothing here", path, menu, message, NOTHING),
            _ => plain(StatusCode::NOT_FOUND, "there is no such page"),
        }
    }

    fn page(
        &self,
        status: StatusCode,
        title: &str,
        path: &str,
        menu: Vec<(&'static str, &'static str)>,
        message: Option<(&'static str, &str)>,
        body: &str,
    ) -> Response {
        let link = self.link.borrow().clone();
        let home_is_there = link.connected;
        let (home, agent_id) = (link.home.as_str(), self.agent_id.as_str());
        let data = self.pages().map(|pages| pages.data().0).collect();
        let base = Base { title, path, agent_id, menu, data, home, home_is_there, message, body };
        match base.render() {
            Ok(html) => (status, Html(html)).into_response(),
            Err(e) => plain(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        }
    }

    /// For whoever is not let in.
    fn closed(&self, status: StatusCode, why: &str) -> Response {
        let body = format!(
            "<div class=\"card narrow\"><h1>Not let in</h1><p>{why}</p><p>On this host, as root or as the agent's \
             user, run</p><pre>muster-agent console</pre><p>and open the address that it prints.</p></div>"
        );
        self.page(status, "Not let in", "", Vec::new(), None, &body)
    }

    fn data(&self, name: &str, now_ms: i64) -> Response {
        let Some((_, mut data)) = self.pages().map(Pages::data).find(|(known, _)| *known == name) else {
            return (StatusCode::NOT_FOUND, Json(serde_json::json!({"error": "there is no such data"})))
                .into_response();
        };
        data["agent_id"] = self.agent_id.as_str().into();
        data["at_ms"] = now_ms.into();
        data["home"] = serde_json::json!(*self.link.borrow());
        Json(data).into_response()
    }

    fn visit<'a>(&self, session: &'a Session, now_ms: i64) -> Visit<'a> {
        Visit { csrf: &session.csrf, now_ms, home_is_there: self.link.borrow().connected }
    }

    fn pages(&self) -> impl Iterator<Item = &dyn Pages> {
        self.kernel.drivers.values().filter_map(|driver| driver.pages())
    }
}

const NOTHING: &str = "<p class=\"empty\">This agent holds nothing that it shows.</p>";

/// Whether the Host header names this host, under which nobody else's page can be served. Its port is free, since people
/// come through forwarded ports too.
fn names_this_host(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    matches!(name, "127.0.0.1" | "localhost") && port.bytes().all(|b| b.is_ascii_digit())
}

/// Whether what changes something was sent by a page of this console, as far as the browser says.
fn comes_from_here(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    match headers.get(header::ORIGIN) {
        Some(origin) => origin.as_bytes() == format!("http://{}", text(header::HOST)).as_bytes(),
        None => true,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn unauthorized() -> Response {
    let error = "show the console's token as `Authorization: Bearer`, or a session's cookie";
    (StatusCode::UNAUTHORIZED, Json(serde_json::json!({"error": error}))).into_response()
}

fn plain(status: StatusCode, why: impl Into<String>) -> Response {
    (status, why.into()).into_response()
}
