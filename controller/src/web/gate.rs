//! The one place where policies are enforced: who asks, may they, did they mean it, is it small enough.
//!
//! In this order: Host, identity (session cookie or `Authorization: Bearer`), access, a password that must be changed,
//! forgery (CSRF), body limit, `Idempotency-Key`. A handler runs only when all of it holds.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts, Request},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use futures::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header, request::Parts};
use http_body_util::Limited;
use muster_pki::seal::SealKey;
use tokio_util::sync::CancellationToken;

use super::{
    body::{self, Limit},
    form, idempotency,
    page::{self, Layout, NavItem},
    policy::{Policy, Role},
    problem,
    url::encoded,
};
use crate::{
    error::{Error, Result},
    platform::{
        db::Db,
        events::{Actor, Source},
    },
};

/// Header that carries the CSRF token of a session.
pub const CSRF_HEADER: &str = "x-csrf-token";

/// Path of the page where people log in.
pub const LOGIN: &str = "/login";

/// Path of the page where a password is changed.
pub const PASSWORD: &str = "/account/password";

/// What the gate needs to know; one for the whole router.
pub struct Gate {
    /// The database.
    pub db: Db,
    /// Seals answers kept for repeated creates: some hold secrets.
    pub seal: Arc<SealKey>,
    /// Knows who is who.
    pub authenticate: Arc<dyn Authenticate>,
    /// Host names people use for this controller. Addresses and `localhost` are always right.
    pub hosts: Vec<String>,
    /// Whether people come over TLS.
    pub secure: bool,
    /// Whether a proxy stands in front, so that its word on addresses is believed.
    pub behind_proxy: bool,
    /// Entries of the console's navigation.
    pub nav: Vec<NavItem>,
    /// Ends live streams when the controller stops.
    pub stop: CancellationToken,
}

/// Tells who shows a credential. An expired or ended one is nobody's.
pub trait Authenticate: Send + Sync + 'static {
    /// Whose it is. `source` is where the request came from.
    fn who<'a>(&'a self, shown: Shown<'a>, source: Source) -> BoxFuture<'a, Result<Option<Caller>>>;
    /// Whether a credential that was good still is; long streams ask.
    fn still<'a>(&'a self, caller: &'a Caller) -> BoxFuture<'a, Result<bool>>;
}

/// A credential as it came.
#[derive(Debug, Clone, Copy)]
pub enum Shown<'a> {
    /// Secret of a web session.
    Session(&'a str),
    /// An API token.
    Token(&'a str),
}

/// Who makes a request. Handlers take it as an argument, or as `Option<Caller>` on public routes.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user's id.
    pub user_id: String,
    /// The user's name.
    pub name: String,
    /// What they may do by this credential.
    pub role: Role,
    /// For events.
    pub actor: Actor,
    /// By what they are known.
    pub via: Via,
    /// The password must be changed first; only said of sessions.
    pub must_change: bool,
}

/// By what somebody is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// A web session.
    Session {
        /// Its id.
        id: String,
        /// Its CSRF token.
        csrf: String,
    },
    /// An API token.
    Token {
        /// Its id.
        id: String,
    },
}

/// Where a request came from, as far as can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Address, without port.
    pub address: String,
    /// What the program calls itself, cut to 200 characters.
    pub user_agent: String,
}

/// Address of the other end of the connection; the server puts it into each request.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub IpAddr);

/// What the gate holds a route to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// Who may, and how much.
    pub policy: Policy,
    /// Refusals are pages.
    pub page: bool,
    /// Says refusals in another system's words.
    pub foreign: Option<Foreign>,
}

/// Says a refusal in another system's words, given whether a token was shown.
pub type Foreign = fn(bool, Error) -> Response;

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("hosts", &self.hosts).field("secure", &self.secure).finish_non_exhaustive()
    }
}

// === impl Gate ===

impl Gate {
    /// Name of the session cookie. The prefix keeps other hosts and plain HTTP from setting it.
    pub fn session_cookie(&self) -> &'static str {
        if self.secure { "__Host-muster" } else { "muster" }
    }

    /// A `Set-Cookie` value. `max_age` in seconds; 0 takes the cookie away.
    pub fn set_cookie(&self, name: &str, value: &str, max_age: i64) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age}{secure}")
    }

    fn knows_host(&self, host: &str) -> bool {
        let name = host_name(host);
        let local = name == "localhost" || name.ends_with(".localhost");
        // A name may be rebound to this address by its owner, an address may not.
        local || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || self.hosts.contains(&name)
    }

    pub(super) async fn identify(&self, headers: &HeaderMap) -> Result<Option<Caller>> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(|v| v.strip_prefix("Bearer ")).map(str::trim);
            let token = token.ok_or_else(|| Error::Unauthenticated("Authorization takes `Bearer muster_…`".into()))?;
            let is_cli = text(headers, header::USER_AGENT).starts_with("muster/");
            let source = if is_cli { Source::Cli } else { Source::Api };
            let caller = self.authenticate.who(Shown::Token(token), source).await?;
            let refusal = || Error::Unauthenticated("this token is unknown, expired or revoked".into());
            return caller.map(Some).ok_or_else(refusal);
        }
        match cookie(headers, self.session_cookie()) {
            Some(secret) => self.authenticate.who(Shown::Session(&secret), Source::Console).await,
            None => Ok(None),
        }
    }
}

// === impl Caller ===

impl Caller {
    /// Refuses whoever is neither the owner, named as in events, nor of this role.
    pub fn must_own(&self, owner: &str, role: Role) -> Result<()> {
        if self.actor.name == owner || self.role >= role {
            return Ok(());
        }
        Err(Error::Forbidden(format!("this belongs to somebody else; it takes the role {}", role.word())))
    }

    /// The CSRF token for forms; empty without a session.
    pub fn csrf(&self) -> &str {
        match &self.via {
            Via::Session { csrf, .. } => csrf,
            Via::Token { .. } => "",
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(log_in_first)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Client {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let gate = gate_of(&parts.extensions)?;
        let peer = parts.extensions.get::<PeerAddress>().map(|p| p.0.to_string());
        // The nearest proxy adds its client at the end; what stands before may be anybody's invention.
        let told = parts.headers.get_all("x-forwarded-for").iter().next_back().and_then(|v| v.to_str().ok());
        let told = told.and_then(|v| v.rsplit(',').next()).and_then(|v| v.trim().parse::<IpAddr>().ok());
        let address = told.filter(|_| gate.behind_proxy).map(|a| a.to_string()).or(peer).unwrap_or_default();
        let user_agent = text(&parts.headers, header::USER_AGENT).chars().take(200).collect();
        Ok(Self { address, user_agent })
    }
}

/// The gate of a request.
pub fn gate_of(extensions: &http::Extensions) -> Result<Arc<Gate>> {
    let gate = extensions.get::<Arc<Gate>>().cloned();
    gate.ok_or_else(|| Error::internal(anyhow::anyhow!("the router was built without a gate")))
}

/// The gate as an argument of a handler: `At(gate): At`.
#[derive(Debug, Clone)]
pub struct At(pub Arc<Gate>);

impl<S: Send + Sync> FromRequestParts<S> for At {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        gate_of(&parts.extensions).map(Self)
    }
}

// === the gate ===

/// Why a request does not reach its handler.
enum Halt {
    /// It is refused.
    Refused(Error),
    /// It is answered here.
    Answered(Box<Response>),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Enforces one route's rule around its handler.
pub(super) async fn guard(rule: Rule, request: Request, next: Next) -> Response {
    let gate = match gate_of(request.extensions()) {
        Ok(gate) => gate,
        Err(error) => return error.into_response(),
    };
    let (parts, body) = request.into_parts();
    let shows_token = parts.headers.contains_key(header::AUTHORIZATION);
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let is_get = parts.method == Method::GET;
    let mut layout = Layout::of(&parts, &gate);
    let answer = match admit(&gate, rule, Request::from_parts(parts, body), &mut layout).await {
        Ok(request) if rule.policy.idempotent => idempotency::run(&gate, request, next).await,
        Ok(request) => next.run(request).await,
        Err(Halt::Answered(answer)) => return *answer,
        Err(Halt::Refused(Error::Unauthenticated(_))) if rule.page && is_get => return to_login(&target),
        Err(Halt::Refused(error)) => match rule.foreign {
            Some(say) => say(shows_token, error),
            None => error.into_response(),
        },
    };
    if rule.page { page::finish(answer, layout).await } else { answer }
}

async fn admit(gate: &Gate, rule: Rule, mut request: Request, layout: &mut Layout) -> Result<Request, Halt> {
    check_host(gate, &request)?;
    let caller = match gate.identify(request.headers()).await {
        // A cookie of a session that is over is no reason to refuse what is open to anybody.
        Err(Error::Unauthenticated(_)) if rule.policy.access.admits(None) => None,
        other => other?,
    };
    layout.user.clone_from(&caller);
    if !rule.policy.access.admits(caller.as_ref().map(|c| c.role)) {
        return Err(Halt::Refused(match &caller {
            None => log_in_first(),
            Some(caller) => {
                Error::Forbidden(format!("this takes the role {}; yours is {}", rule.policy.access, caller.role.word()))
            }
        }));
    }
    if caller.as_ref().is_some_and(|c| c.must_change) && !rule.policy.before_change {
        if rule.page {
            return Err(Halt::Answered(Redirect::to(PASSWORD).into_response().into()));
        }
        return Err(Error::Forbidden("change your password first: PUT /api/v1/me/password".into()).into());
    }
    request = limited(request, rule.policy.body_limit)?;
    if !is_safe(request.method()) {
        request = check_forgery(request, caller.as_ref()).await?;
    }
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    request.extensions_mut().insert(layout.clone());
    Ok(request)
}

fn check_host(gate: &Gate, request: &Request) -> Result<(), Halt> {
    let host = text(request.headers(), header::HOST);
    let host = request.uri().authority().map_or(host, ToString::to_string);
    if gate.knows_host(&host) {
        return Ok(());
    }
    let detail = format!("this controller is not called {host:?}; if it is, add the name to `hosts` in its settings");
    let status = StatusCode::MISDIRECTED_REQUEST;
    Err(Halt::Answered(problem::answer(status, "misdirected", "Not this host", &detail, None).into()))
}

fn limited(request: Request, limit: usize) -> Result<Request> {
    let told = request.headers().get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|length| length > limit) {
        return Err(Error::TooLarge { limit });
    }
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(Limit(limit));
    Ok(Request::from_parts(parts, Body::new(Limited::new(body, limit))))
}

/// Whether a change was meant by who is logged in here. Tokens are not sent by browsers of themselves, cookies are.
async fn check_forgery(request: Request, caller: Option<&Caller>) -> Result<Request> {
    let refusal = || Error::Forbidden("the form is out of date; load the page again and repeat it".into());
    let csrf = match caller.map(|c| &c.via) {
        Some(Via::Token { .. }) => return Ok(request),
        Some(Via::Session { csrf, .. }) => Some(csrf.clone()),
        None => None,
    };
    if request.headers().get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(refusal());
    }
    let Some(csrf) = csrf else { return Ok(request) };
    if let Some(shown) = request.headers().get(CSRF_HEADER) {
        return if same(shown.as_bytes(), csrf.as_bytes()) { Ok(request) } else { Err(refusal()) };
    }
    if !form::is_form(request.headers()) {
        return Err(Error::Forbidden(format!("with a session cookie a change needs the header {CSRF_HEADER}")));
    }
    let (parts, body) = request.into_parts();
    let bytes = body::read(Request::from_parts(parts.clone(), body)).await?;
    let fields = form::parse(&bytes).await?;
    let shown = fields.iter().find(|(name, _)| name == "csrf").map(|(_, value)| value.as_str());
    if !shown.is_some_and(|shown| same(shown.as_bytes(), csrf.as_bytes())) {
        return Err(refusal());
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

fn to_login(target: &str) -> Response {
    // Slashes may stand in a query, and people read it.
    let next: Vec<_> = target.split('/').map(encoded).collect();
    Redirect::to(&format!("{LOGIN}?next={}", next.join("/"))).into_response()
}

fn log_in_first() -> Error {
    Error::Unauthenticated("log in first, or send `Authorization: Bearer muster_…`".into())
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The name in `name:port`, in lower case.
fn host_name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The value of a cookie.
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.to_owned())
    })
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

/// Compares without telling where the difference is.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}
