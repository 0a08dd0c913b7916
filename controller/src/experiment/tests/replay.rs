//! Requests that were recorded between netunicorn's own client and mediator, asked of Muster: the same status class and the
//! same shape, but for what the list of differences names with its reason.

use axum::{Router, body::Body};
use http::Request;
use serde::Deserialize;
use serde_json::Value;
use tower::ServiceExt;

use super::rig::{Rig, served, user};
use crate::{
    access::Access,
    experiment::{
        api::Api,
        model::{FlagChange, FlagValues},
        netunicorn::routes,
        order::Order,
    },
    fleet::model::Phase,
    platform::events::Actor,
    web::Role,
};

const PASSWORD: &str = "correct horse battery";

#[derive(Debug, Deserialize)]
struct Recorded {
    name: String,
    user: String,
    /// Where the experiment that the path names stands.
    given: Option<String>,
    request: Asked,
    response: Answered,
}

#[derive(Debug, Deserialize)]
struct Asked {
    method: String,
    path: String,
    query: Option<String>,
    headers: std::collections::BTreeMap<String, String>,
    body: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Answered {
    status: u16,
    body: Value,
}

/// A difference that is meant: the recorded request, and why.
#[derive(Debug, Deserialize)]
struct Difference {
    name: String,
    reason: String,
}

struct House {
    rig: Rig,
    access: Access,
    router: Router,
}

async fn house() -> House {
    let rig = Rig::new("sqlite:").await;
    let access = Access::cheap(rig.experiments.fleet.db.clone());
    for name in ["alice", "bob"] {
        access.create_user(&Actor::controller(), name, Role::Operator, Some(PASSWORD)).await.expect("a user");
    }
    let surface = Api { experiments: rig.experiments.clone(), access: access.clone() };
    let router = served(routes(surface), &rig, &access);
    House { rig, access, router }
}

impl House {
    /// Brings the experiment of this name to where it stood.
    async fn give(&self, owner: &str, name: &str, status: &str, order: &Order) {
        let owner = user(owner);
        self.rig.experiments.prepare(&owner, name, order).await.expect("prepared");
        self.rig.round().await;
        match status {
            "preparing" => {}
            "ready" => drop(self.rig.make_ready(&owner, name).await),
            "running" => drop(self.rig.make_running(&owner, name).await),
            "finished" => {
                for executor in self.rig.make_running(&owner, name).await {
                    self.rig.ended(&executor, Phase::Succeeded, b"pickle").await;
                }
                self.rig.round().await;
            }
            other => panic!("nobody knows how to give {other}"),
        }
    }

    async fn token(&self, name: &str) -> String {
        let client = crate::web::gate::Client { address: String::new(), user_agent: String::new() };
        let entrance = self.access.enter(name, PASSWORD, &client).await.expect("enters");
        self.access.open_client_token(&entrance, "netunicorn", 60_000).await.expect("a token")
    }

    async fn ask(&self, it: &Recorded, token: &str, executors: &[String]) -> (u16, Value) {
        let path = format!(
            "/netunicorn{}{}",
            it.request.path,
            it.request.query.as_ref().map_or(String::new(), |q| format!("?{q}"))
        );
        let mut request = Request::builder().method(it.request.method.as_str()).uri(path).header("host", "localhost");
        for (name, value) in &it.request.headers {
            request = match name.as_str() {
                "authorization" => request.header(name, format!("Bearer {token}")),
                _ => request.header(name, value),
            };
        }
        let body = match &it.request.body {
            None => String::new(),
            Some(body) => match (body.get("json"), body.get("text")) {
                (Some(json), _) => json.to_string(),
                (_, Some(text)) => text.as_str().expect("text").replace("alicepw", PASSWORD),
                _ => panic!("a body is JSON or text"),
            },
        };
        // The executor that was recorded is another one here.
        let body = match executors.first() {
            Some(executor) => body.replace("19d23d27-7c5f-40b7-ad8d-0c1510dd368c", executor),
            None => body,
        };
        let answer = self.router.clone().oneshot(request.body(Body::from(body)).expect("a request")).await;
        let (parts, body) = answer.expect("a router does not fail").into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("JSON") };
        (parts.status.as_u16(), body)
    }
}

/// What of an answer a client's program depends on: the keys of objects, the kind of each value, and each sentence's words
/// without names and numbers. Lists are as their first element; null stands for any value that may be absent.
fn differs(place: &str, recorded: &Value, ours: &Value) -> Vec<String> {
    match (recorded, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let missing = a.keys().filter(|key| !b.contains_key(*key)).map(|key| format!("{place}.{key} is missing"));
            let both = a.iter().filter_map(|(key, value)| Some((key, value, b.get(key)?)));
            let deeper = both.flat_map(|(key, a, b)| differs(&format!("{place}.{key}"), a, b));
            missing.chain(deeper).collect()
        }
        (Value::Array(a), Value::Array(b)) => match (a.first(), b.first()) {
            (Some(a), Some(b)) => differs(&format!("{place}[0]"), a, b),
            (Some(_), None) => vec![format!("{place} is empty")],
            _ => vec![],
        },
        (Value::String(a), Value::String(b)) if place == "answer" || place == "answer.detail" => {
            let same = a == b;
            if same { vec![] } else { vec![format!("{place}: {a:?} became {b:?}")] }
        }
        (Value::Null, _) | (_, Value::Null) => vec![],
        (a, b) if std::mem::discriminant(a) == std::mem::discriminant(b) => vec![],
        (a, b) => vec![format!("{place}: {a} became {b}")],
    }
}

#[tokio::test]
async fn recorded_requests_are_answered_as_they_were_but_for_the_listed_differences() {
    let recorded: Vec<Recorded> = serde_json::from_str(include_str!("recorded.json")).expect("recorded requests");
    let listed: Vec<Difference> =
        serde_json::from_str(include_str!("differences.json")).expect("a list of differences");
    assert!(listed.iter().all(|d| d.reason.len() > 20), "each difference has its reason");
    let prepare = recorded.iter().find(|it| it.name == "life_POST_prepare").and_then(|it| it.request.body.as_ref());
    let order = Order::read(prepare.expect("was recorded")["json"].to_string().as_bytes()).expect("can be read");
    let (mut unlisted, mut found) = (Vec::new(), Vec::new());
    for it in &recorded {
        let house = house().await;
        let name = it.request.path.split('/').nth(4).filter(|_| it.request.path.contains("/experiment/"));
        let name = name.unwrap_or("mix").to_owned();
        if let Some(status) = &it.given {
            house.give(&it.user, &name, status, &order).await;
        }
        let wants_executor = it.request.path == "/api/v1/executors/cancel" && it.response.status == 200;
        let executors = if wants_executor { house.rig.executors(&user(&it.user), &name).await } else { Vec::new() };
        if it.request.method == "GET" && it.request.path.contains("/flag/") && it.response.status == 200 {
            let set = FlagChange::Set(FlagValues { text_value: Some("täxt".into()), int_value: -7 });
            house.rig.experiments.change_flag(&user(&it.user), &name, "f1", &set).await.expect("set");
        }
        if it.name == "life_GET_status_3_with_results" {
            for executor in house.rig.executors(&user(&it.user), &name).await {
                house.rig.working(&executor, b"pickle").await;
            }
        }
        let is_unknown = it.response.status == 401;
        let token = if is_unknown { "unknown".into() } else { house.token(&it.user).await };
        let (status, body) = house.ask(it, &token, &executors).await;
        let mut differences = differs("answer", &it.response.body, &body);
        if status / 100 != it.response.status / 100 {
            differences.insert(0, format!("status {} became {status}", it.response.status));
        }
        if !differences.is_empty() {
            found.push(it.name.clone());
            if !listed.iter().any(|d| d.name == it.name) {
                unlisted.push(format!("{}: {}", it.name, differences.join("; ")));
            }
        }
    }
    assert!(unlisted.is_empty(), "differences that are not listed:\n{}", unlisted.join("\n"));
    let unneeded: Vec<_> = listed.iter().filter(|d| !found.contains(&d.name)).map(|d| &d.name).collect();
    assert!(unneeded.is_empty(), "listed, and no difference any more: {unneeded:?}");
}

#[tokio::test]
async fn a_clients_token_is_its_own_and_a_viewer_changes_nothing() {
    let house = house().await;
    let (one, two) = (house.token("alice").await, house.token("alice").await);
    assert_ne!(one, two);
    for token in [&one, &two] {
        let request = Request::get("/netunicorn/api/v1/verify_token").header("host", "localhost");
        let request =
            request.header("authorization", format!("Bearer {token}")).body(Body::empty()).expect("a request");
        let answer = house.router.clone().oneshot(request).await.expect("an answer");
        assert_eq!(answer.status(), 200, "logging in again ends no other program's token");
    }
    house.access.create_user(&Actor::controller(), "eve", Role::Viewer, Some(PASSWORD)).await.expect("a user");
    let token = house.token("eve").await;
    let request = Request::post("/netunicorn/api/v1/experiment/x/start").header("host", "localhost");
    let request = request.header("authorization", format!("Bearer {token}")).body(Body::empty()).expect("a request");
    assert_eq!(house.router.clone().oneshot(request).await.expect("an answer").status(), 403);
}

#[tokio::test]
async fn graphs_are_left_out_where_a_request_or_its_user_says_so() {
    let house = house().await;
    let ada = user("alice");
    house.rig.ready(&ada, "x", &["lo-1"]).await;
    let token = house.token("alice").await;
    let graph = async |query: &str| {
        let path = format!("/netunicorn/api/v1/experiment/x{query}");
        let request = Request::get(path).header("host", "localhost").header("authorization", format!("Bearer {token}"));
        let answer = house.router.clone().oneshot(request.body(Body::empty()).expect("a request")).await;
        let body = axum::body::to_bytes(answer.expect("an answer").into_body(), usize::MAX).await.expect("a body");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        body["experiment"]["deployment_map"][0]["execution_graph"].as_str().expect("text").to_owned()
    };
    assert_eq!(graph("").await, "gASVBQAAAAAAAACMAXiULg==");
    assert_eq!(graph("?graphs=0").await, "");
    house.rig.experiments.save_settings(&ada, false).await.expect("saved");
    assert_eq!(graph("").await, "");
    assert_eq!(graph("?graphs=1").await, "gASVBQAAAAAAAACMAXiULg==");
}
