use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{Json, Router, body::Body as HttpBody, extract::State, response::Response};
use http::{Method, Request, StatusCode, header};
use muster_pki::seal::SealKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::{
    Body, Caller, Fields, Gate, Layout, Page, Paging, Policy, Query, Role, Routes,
    etag::{ETag, IfMatch},
    gate::{Client, Shown, Via},
    history, page, serve,
};
use crate::{
    access::Access,
    error::{Error, Result},
    platform::{
        db::Db,
        events::{Actor, Source},
    },
    testing::{engines, fresh},
    web::Authenticate,
};

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Thing {
    name: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Part {
    size: i64,
}

#[derive(Clone, Default)]
struct Made(Arc<AtomicU64>);

#[utoipa::path(post, path = "/api/v1/things", request_body = Thing, responses((status = 201, body = Value)))]
async fn make(State(made): State<Made>, Body(thing): Body<Thing>) -> Result<(StatusCode, Json<Value>)> {
    if thing.name == "wrong" {
        return Err(Error::invalid("name", "take another"));
    }
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let n = made.0.fetch_add(1, Ordering::SeqCst) + 1;
    Ok((StatusCode::CREATED, Json(json!({"name": thing.name, "n": n}))))
}

#[utoipa::path(get, path = "/api/v1/things", responses((status = 200, body = Page<i64>)))]
async fn list(paging: Paging) -> Json<Page<i64>> {
    let after = paging.after.parse().unwrap_or(0);
    let rows = (after + 1..=7).take(usize::try_from(paging.rows()).unwrap_or(0)).collect();
    Json(paging.page(rows, i64::to_string))
}

#[utoipa::path(put, path = "/api/v1/things", responses((status = 200)))]
async fn change(IfMatch(version): IfMatch) -> Result<ETag> {
    IfMatch(version).check(3)?;
    Ok(ETag(4))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct Asked {
    size: Option<i64>,
}

#[utoipa::path(get, path = "/api/v1/ask", params(Asked), responses((status = 200)))]
async fn ask(Query(asked): Query<Asked>) -> Json<Option<i64>> {
    Json(asked.size)
}

#[utoipa::path(get, path = "/api/v1/panic", responses((status = 200)))]
async fn panic() -> StatusCode {
    panic!("on purpose")
}

#[derive(askama::Template)]
#[template(
    ext = "html",
    source = r#"{% extends "web/templates/base.html" %}{% block content %}<p>{{ fields.error("name") }}|{{ fields.text("name") }}</p>{% endblock %}"#
)]
struct TestPage {
    layout: Layout,
    fields: Fields,
}

async fn show(layout: Layout) -> Result<Response> {
    page::render(&TestPage { layout, fields: Fields::default() })
}

async fn submit(layout: Layout, mut fields: Fields) -> Result<Response> {
    if fields.text("name") == "good" {
        return Ok(page::redirect("/page", "made"));
    }
    fields.refuse(Error::invalid("name", "take another"))?;
    page::render_refused(&TestPage { layout, fields })
}

/// A house with one user of each role, and a way to ask it.
struct House {
    db: Db,
    access: Access,
    router: Router,
    made: Made,
    gate: Arc<Gate>,
}

impl House {
    async fn new(url: &str) -> Self {
        let db = fresh(url).await;
        let access = Access::cheap(db.clone());
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            let made = access.create_user(&Actor::controller(), role.word(), role, Some("a long password")).await;
            made.expect("a user");
        }
        let made = Made::default();
        let (router, _) = Routes::new()
            .add(Policy::operator().idempotent().body_limit(2000), routes!(make))
            .add(Policy::viewer(), routes!(list))
            .add(Policy::viewer(), routes!(change))
            .add(Policy::public(), routes!(ask))
            .add(Policy::public(), routes!(panic))
            .page(Method::GET, "/page", Policy::viewer(), show)
            .page(Method::POST, "/page", Policy::viewer(), submit)
            .with_state(made.clone())
            .merge(history::routes())
            .split();
        let gate = Arc::new(Gate {
            db: db.clone(),
            seal: SealKey::new(&SealKey::generate()).into(),
            authenticate: Arc::new(access.clone()),
            hosts: vec!["muster.example".into()],
            secure: true,
            behind_proxy: false,
            nav: vec![],
            stop: CancellationToken::new(),
        });
        Self { router: serve::dress(router, gate.clone()), db, access, made, gate }
    }

    async fn session(&self, role: Role) -> (String, Caller) {
        let client = Client { address: String::new(), user_agent: String::new() };
        let entrance = self.access.enter(role.word(), "a long password", &client).await.expect("enters");
        let secret = self.access.open_session(&entrance, &client, None).await.expect("a session");
        let caller = self.access.who(Shown::Session(&secret), Source::Console).await.expect("an answer");
        (format!("__Host-muster={secret}"), caller.expect("is known"))
    }

    async fn ask(&self, request: Request<HttpBody>) -> (StatusCode, http::HeaderMap, String) {
        let answer = self.router.clone().oneshot(request).await.expect("a router does not fail");
        let (parts, body) = answer.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
        (parts.status, parts.headers, String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn problem(&self, request: Request<HttpBody>) -> (StatusCode, Value) {
        let (status, headers, body) = self.ask(request).await;
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json", "{body}");
        (status, serde_json::from_str(&body).expect("JSON"))
    }
}

fn get(path: &str) -> http::request::Builder {
    Request::get(path).header(header::HOST, "localhost:8080")
}

fn empty(request: http::request::Builder) -> Request<HttpBody> {
    request.body(HttpBody::empty()).expect("a request")
}

fn post(cookie: &str, csrf: &str, body: &str) -> Request<HttpBody> {
    keyed(cookie, csrf, "", body)
}

fn keyed(cookie: &str, csrf: &str, key: &str, body: &str) -> Request<HttpBody> {
    let mut request = Request::post("/api/v1/things")
        .header(header::HOST, "muster.example")
        .header(header::COOKIE, cookie)
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-csrf-token", csrf);
    if !key.is_empty() {
        request = request.header("idempotency-key", key);
    }
    request.body(HttpBody::from(body.to_owned())).expect("a request")
}

#[tokio::test]
async fn who_is_not_known_or_may_not_is_refused() {
    let house = House::new("sqlite:").await;
    let (status, problem) = house.problem(empty(get("/api/v1/things"))).await;
    assert_eq!((status, problem["type"].as_str()), (StatusCode::UNAUTHORIZED, Some("/problems/unauthenticated")));
    let request = empty(get("/api/v1/things").header(header::AUTHORIZATION, "Bearer muster_x_y"));
    assert_eq!(house.problem(request).await.0, StatusCode::UNAUTHORIZED);
    let (cookie, viewer) = house.session(Role::Viewer).await;
    assert_eq!(house.ask(empty(get("/api/v1/things").header(header::COOKIE, &cookie))).await.0, StatusCode::OK);
    let (status, problem) = house.problem(post(&cookie, viewer.csrf(), "{}")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("operator")), "{problem}");
}

#[tokio::test]
async fn a_change_by_cookie_needs_the_csrf_token() {
    let house = House::new("sqlite:").await;
    let (cookie, operator) = house.session(Role::Operator).await;
    let body = r#"{"name": "a", "parts": []}"#;
    assert_eq!(house.problem(post(&cookie, "", body)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(house.problem(post(&cookie, "other", body)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(house.ask(post(&cookie, operator.csrf(), body)).await.0, StatusCode::CREATED);
    let mut foreign = post(&cookie, operator.csrf(), body);
    foreign.headers_mut().insert("sec-fetch-site", "cross-site".parse().expect("a value"));
    assert_eq!(house.problem(foreign).await.0, StatusCode::FORBIDDEN);
    assert_eq!(house.made.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn another_host_is_refused() {
    let house = House::new("sqlite:").await;
    for (host, status) in [
        ("muster.example", StatusCode::OK),
        ("MUSTER.example.:443", StatusCode::OK),
        ("192.0.2.1:8080", StatusCode::OK),
        ("[::1]:8080", StatusCode::OK),
        ("evil.example", StatusCode::MISDIRECTED_REQUEST),
        ("", StatusCode::MISDIRECTED_REQUEST),
    ] {
        let request = Request::get("/api/v1/ask").header(header::HOST, host).body(HttpBody::empty());
        assert_eq!(house.ask(request.expect("a request")).await.0, status, "{host}");
    }
}

#[tokio::test]
async fn a_mistake_in_a_body_is_named_by_its_path() {
    let house = House::new("sqlite:").await;
    let (cookie, operator) = house.session(Role::Operator).await;
    for (body, status, field) in [
        (r#"{"name": "a", "parts": [{"size": "x"}]}"#, StatusCode::UNPROCESSABLE_ENTITY, "parts[0].size"),
        (r#"{"name": "a", "parts": [{"size": 1, "colour": 2}]}"#, StatusCode::UNPROCESSABLE_ENTITY, "parts[0].colour"),
        (r#"{"name": "a", "partz": []}"#, StatusCode::UNPROCESSABLE_ENTITY, "partz"),
        (r#"{"parts": []}"#, StatusCode::UNPROCESSABLE_ENTITY, "name"),
        (r#"{"name": "wrong", "parts": []}"#, StatusCode::UNPROCESSABLE_ENTITY, "name"),
        (r#"[]"#, StatusCode::UNPROCESSABLE_ENTITY, "body"),
        (r#"{"name"#, StatusCode::BAD_REQUEST, ""),
        (r#"{"name": "a", "parts": []} more"#, StatusCode::BAD_REQUEST, ""),
    ] {
        let (found, problem) = house.problem(post(&cookie, operator.csrf(), body)).await;
        assert_eq!((found, problem["field"].as_str().unwrap_or_default()), (status, field), "{body}: {problem}");
    }
    let large = format!(r#"{{"name": "{}", "parts": []}}"#, "x".repeat(3000));
    assert_eq!(house.problem(post(&cookie, operator.csrf(), &large)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let mut text = post(&cookie, operator.csrf(), "{}");
    text.headers_mut().insert(header::CONTENT_TYPE, "text/plain".parse().expect("a value"));
    assert_eq!(house.problem(text).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_off_too() {
    let house = House::new("sqlite:").await;
    let (cookie, operator) = house.session(Role::Operator).await;
    let pieces = (0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 100]));
    let mut request = post(&cookie, operator.csrf(), "");
    *request.body_mut() = HttpBody::from_stream(futures::stream::iter(pieces));
    assert_eq!(house.problem(request).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn bare_refusals_are_problems() {
    let house = House::new("sqlite:").await;
    assert_eq!(house.problem(empty(get("/nowhere"))).await.0, StatusCode::NOT_FOUND);
    let delete = Request::delete("/api/v1/ask").header(header::HOST, "localhost").body(HttpBody::empty());
    let (status, headers, body) = house.ask(delete.expect("a request")).await;
    assert_eq!(
        (status, headers[header::CONTENT_TYPE].as_bytes()),
        (StatusCode::METHOD_NOT_ALLOWED, &b"application/problem+json"[..])
    );
    assert_eq!(headers[header::ALLOW], "GET,HEAD", "{body}");
    let (status, problem) = house.problem(empty(get("/api/v1/ask?size=x"))).await;
    assert_eq!((status, problem["field"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some("size")), "{problem}");
    let (_, problem) = house.problem(empty(get("/api/v1/ask?colour=x"))).await;
    assert_eq!(problem["field"], "colour", "{problem}");
    assert_eq!(house.problem(empty(get("/api/v1/panic"))).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    let (_, headers, _) = house.ask(empty(get("/api/v1/ask"))).await;
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().expect("text");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe-inline"), "{policy}");
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let house = House::new("sqlite:").await;
    let (cookie, _) = house.session(Role::Viewer).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/things?limit=3&cursor={cursor}");
        let (status, _, body) = house.ask(empty(get(&path).header(header::COOKIE, &cookie))).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let page: Page<i64> = serde_json::from_str(&body).expect("a page");
        seen.extend(page.items);
        match page.next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
    for wrong in ["limit=0", "limit=501", "limit=x", "cursor=%21"] {
        let request = empty(get(&format!("/api/v1/things?{wrong}")).header(header::COOKIE, &cookie));
        assert_eq!(house.problem(request).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
}

#[tokio::test]
async fn a_stale_version_is_refused() {
    let house = House::new("sqlite:").await;
    let (cookie, viewer) = house.session(Role::Viewer).await;
    for (tag, status) in [
        ("\"v3\"", StatusCode::OK),
        ("*", StatusCode::OK),
        ("\"v2\"", StatusCode::PRECONDITION_FAILED),
        ("nonsense", StatusCode::PRECONDITION_FAILED),
    ] {
        let request = Request::put("/api/v1/things")
            .header(header::HOST, "localhost")
            .header(header::COOKIE, &cookie)
            .header("x-csrf-token", viewer.csrf())
            .header(header::IF_MATCH, tag)
            .body(HttpBody::empty());
        let (found, headers, _) = house.ask(request.expect("a request")).await;
        assert_eq!(found, status, "{tag}");
        if status == StatusCode::OK {
            assert_eq!(headers[header::ETAG], "\"v4\"");
        }
    }
}

#[tokio::test]
async fn a_repeated_create_gets_the_first_answer() {
    for url in engines() {
        let house = House::new(&url).await;
        let (cookie, operator) = house.session(Role::Operator).await;
        let (csrf, body) = (operator.csrf(), r#"{"name": "a", "parts": []}"#);
        let first = house.ask(keyed(&cookie, csrf, "k1", body)).await;
        let again = house.ask(keyed(&cookie, csrf, "k1", body)).await;
        assert_eq!((first.0, &first.2), (again.0, &again.2));
        assert_eq!(again.1[header::CONTENT_TYPE], "application/json");
        assert_eq!(house.made.0.load(Ordering::SeqCst), 1);
        let other = r#"{"name": "b", "parts": []}"#;
        let (status, problem) = house.problem(keyed(&cookie, csrf, "k1", other)).await;
        assert_eq!((status, problem["field"].as_str()), (StatusCode::UNPROCESSABLE_ENTITY, Some("Idempotency-Key")));
        let refused = r#"{"name": "wrong", "parts": []}"#;
        assert_eq!(house.problem(keyed(&cookie, csrf, "k2", refused)).await.0, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(house.ask(keyed(&cookie, csrf, "k2", body)).await.0, StatusCode::CREATED, "a refusal is not kept");
        house.db.clock().shift(super::idempotency::KEPT + 1000);
        let (cookie, operator) = house.session(Role::Operator).await;
        house.ask(keyed(&cookie, operator.csrf(), "k1", body)).await;
        assert_eq!(house.made.0.load(Ordering::SeqCst), 3, "after a day the key is free");
        house.db.clock().shift(super::idempotency::KEPT + 1000);
        assert_eq!(super::idempotency::forget(&house.db).await.expect("forgets"), 2);
    }
}

#[tokio::test]
async fn of_many_creates_at_once_with_one_key_one_is_done() {
    for url in engines() {
        let house = House::new(&url).await;
        let (cookie, operator) = house.session(Role::Operator).await;
        let body = r#"{"name": "a", "parts": []}"#;
        let all = (0..8).map(|_| house.ask(keyed(&cookie, operator.csrf(), "k", body)));
        let answers = futures::future::join_all(all).await;
        assert_eq!(house.made.0.load(Ordering::SeqCst), 1);
        for (status, _, body) in &answers {
            assert!(matches!(*status, StatusCode::CREATED | StatusCode::CONFLICT), "{status} {body}");
        }
        assert!(answers.iter().any(|(status, ..)| *status == StatusCode::CREATED));
    }
}

#[tokio::test]
async fn a_kept_answer_is_sealed() {
    let house = House::new("sqlite:").await;
    let (cookie, operator) = house.session(Role::Operator).await;
    house.ask(keyed(&cookie, operator.csrf(), "k", r#"{"name": "topsecret", "parts": []}"#)).await;
    let row: (String,) = sqlx::query_as("select body from idempotency")
        .fetch_one(&mut *house.db.read().await.expect("a connection"))
        .await
        .expect("a row");
    assert!(row.0.len() > 50 && !row.0.contains("topsecret"), "{}", row.0);
}

#[tokio::test]
async fn a_page_leads_to_the_log_in_and_keeps_what_was_typed() {
    let house = House::new("sqlite:").await;
    let (status, headers, _) = house.ask(empty(get("/page?a=1&b=2"))).await;
    assert_eq!(
        (status, headers[header::LOCATION].as_bytes()),
        (StatusCode::SEE_OTHER, &b"/login?next=/page%3Fa%3D1%26b%3D2"[..])
    );
    let (cookie, viewer) = house.session(Role::Viewer).await;
    let send = |csrf: &str, name: &str| {
        Request::post("/page")
            .header(header::HOST, "localhost")
            .header(header::COOKIE, &cookie)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(HttpBody::from(format!("name={name}&csrf={csrf}")))
            .expect("a request")
    };
    let (status, headers, body) = house.ask(send("other", "x")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert!(body.contains("out of date"), "{body}");
    let (status, _, body) = house.ask(send(viewer.csrf(), "%3Cb%3E")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains("take another|&#60;b&#62;"), "{body}");
    let (status, headers, _) = house.ask(send(viewer.csrf(), "good")).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let flash = headers[header::SET_COOKIE].to_str().expect("text").split(';').next().expect("a value").to_owned();
    let request = empty(get("/page").header(header::COOKIE, format!("{cookie}; {flash}")));
    let (_, headers, body) = house.ask(request).await;
    assert!(body.contains("<p class=\"flash\" role=\"status\">made</p>"), "{body}");
    assert!(headers[header::SET_COOKIE].to_str().expect("text").starts_with("flash=;"), "it is shown once");
}

#[tokio::test]
async fn who_must_change_the_password_can_do_nothing_else() {
    let house = House::new("sqlite:").await;
    let (_, password) = house.access.create_user(&Actor::controller(), "new", Role::Admin, None).await.expect("made");
    let client = Client { address: String::new(), user_agent: String::new() };
    let entrance = house.access.enter("new", &password.expect("made up"), &client).await.expect("enters");
    let secret = house.access.open_session(&entrance, &client, None).await.expect("a session");
    let cookie = format!("__Host-muster={secret}");
    let request = empty(get("/api/v1/things").header(header::COOKIE, &cookie));
    assert_eq!(house.problem(request).await.0, StatusCode::FORBIDDEN);
    let (status, headers, _) = house.ask(empty(get("/page").header(header::COOKIE, &cookie))).await;
    assert_eq!((status, headers[header::LOCATION].as_bytes()), (StatusCode::SEE_OTHER, &b"/account/password"[..]));
}

#[tokio::test]
async fn a_live_stream_resumes_and_ends_with_its_session() {
    use futures::StreamExt;
    for url in engines() {
        let house = House::new(&url).await;
        let (cookie, viewer) = house.session(Role::Viewer).await;
        let request = empty(
            get("/api/v1/events?kind=test")
                .header(header::COOKIE, &cookie)
                .header(header::ACCEPT, "text/event-stream")
                .header("last-event-id", "0"),
        );
        let write = async |n: i64| {
            let change = &Actor::controller().change("test.done", format!("test/{n}"));
            let written = house.db.write(|mut tx| async move {
                let seq = tx.record(change.clone()).await?;
                tx.done(seq)
            });
            written.await.expect("written")
        };
        let first = write(1).await;
        let answer = house.router.clone().oneshot(request).await.expect("a router does not fail");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
        let mut stream = answer.into_body().into_data_stream();
        let mut next = async || {
            let piece = tokio::time::timeout(std::time::Duration::from_secs(10), stream.next()).await.expect("in time");
            piece.map(|p| String::from_utf8_lossy(&p.expect("bytes")).into_owned())
        };
        let text = next().await.expect("what was missed");
        assert!(text.contains(&format!("id: {first}")) && text.contains("test/1"), "{text}");
        let second = write(2).await;
        let text = next().await.expect("what is new");
        assert!(text.contains(&format!("id: {second}")), "{text}");
        house.access.log_out(&viewer).await.expect("ended");
        assert_eq!(next().await, None, "a stream ends with its session");
        let (cookie, _) = house.session(Role::Viewer).await;
        let answer = house.ask(empty(get("/api/v1/events?limit=1").header(header::COOKIE, &cookie)));
        let page: Page<Value> = serde_json::from_str(&answer.await.2).expect("a page");
        assert_eq!(page.items[0]["kind"], "session.opened");
        house.gate.stop.cancel();
    }
}

#[test]
fn an_owner_or_a_higher_role_owns() {
    let caller = |role| Caller {
        user_id: "u1".into(),
        name: "ada".into(),
        role,
        actor: Actor { name: "user/ada".into(), source: Source::Api },
        via: Via::Token { id: "t".into() },
        must_change: false,
    };
    assert!(caller(Role::Viewer).must_own("user/ada", Role::Admin).is_ok());
    assert!(caller(Role::Operator).must_own("user/bob", Role::Admin).is_err());
    assert!(caller(Role::Admin).must_own("user/bob", Role::Admin).is_ok());
}

#[test]
fn nobody_is_led_elsewhere() {
    for (path, to) in [("/a?b", "/a?b"), ("//evil", "/"), ("https://evil", "/"), ("/\\evil", "/"), ("", "/")] {
        assert_eq!(page::local(path), to);
    }
}

#[test]
fn differences_name_their_fields() {
    let (a, b) = (json!({"tag": "v1", "n": {"x": 1}}), json!({"tag": "v2", "n": {"x": 1, "y": 2}}));
    let found = super::manifest::differences("spec", &a, &b);
    let fields: Vec<_> = found.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(fields, ["spec.n.y", "spec.tag"]);
    assert!(super::manifest::differences("spec", &a, &a).is_empty());
}

#[test]
fn times_and_sizes_are_said_as_people_say_them() {
    use super::view::{Chip, Tone, When, bytes, duration};
    let now = 1_700_000_000_000;
    for (ago, said) in [
        (0, "just now"),
        (4_999, "just now"),
        (59_000, "59 s ago"),
        (61_000, "1 min ago"),
        (7_200_000, "2 h ago"),
        (86_400_000, "1 day ago"),
        (10 * 86_400_000, "10 days ago"),
        (-7_200_000, "in 2 h"),
    ] {
        assert_eq!(When { at: now - ago, now }.relative(), said);
    }
    let when = When { at: now, now }.to_string();
    assert_eq!(when, r#"<time datetime="2023-11-14T22:13:20Z" title="2023-11-14 22:13:20 UTC">just now</time>"#);
    assert_eq!(When { at: i64::MAX, now }.full(), "1970-01-01T00:00:00Z", "what is no time is no reason to fail");
    assert_eq!([bytes(1023), bytes(1024), bytes(3 << 30)], ["1023 B", "1.0 KiB", "3.0 GiB"]);
    assert_eq!([duration(999), duration(1250), duration(184_000)], ["999 ms", "1.2 s", "3 min 4 s"]);
    let chip = Chip { word: "used_<b>", tone: Tone::Warn }.to_string();
    assert_eq!(chip, r#"<span class="chip warn" data-status="used_&#60;b&#62;">used &#60;b&#62;</span>"#);
}

#[test]
fn a_browser_is_called_by_its_name() {
    let edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36 Edg/140.0";
    assert_eq!(super::view::browser(edge), "Edge on Windows");
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
    assert_eq!(super::view::browser(firefox), "Firefox on Linux");
    assert_eq!(super::view::browser("curl/8"), "curl/8");
}
