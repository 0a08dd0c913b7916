//! The REST surface of netunicorn's mediator, for its own clients: parse, call the service, answer in its words.
//!
//! Paths, status classes, shapes and sentences are those that client 0.4.0 reads; where they differ from upstream on
//! purpose, a test holds the list. Errors become its answers here and nowhere else: a domain's refusal is a JSON string
//! with status 400, a failed log-in `{"detail": …}` with 401, a body of the wrong shape `{"detail": […]}` with 422.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Path, Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    api::Api,
    model::{FlagChange, FlagValues, Outcome, Stage, Status, Until},
    order::{Order, Unreadable},
    pickle,
    pool::{Member, Pool},
    service::{Detail, Refusal, Seen, Told, User},
    store::{self, DeploymentRow, ExperimentRow},
};
use crate::{
    error::Error,
    platform::db::clean,
    web::{Caller, Policy, Query, Role, Routes, body, form, gate::Client},
};

/// A body of `prepare`: graphs of many nodes, bytes.
const MAX_PREPARE: usize = 64 * 1024 * 1024;

/// A token lives as long as upstream's, milliseconds.
const TOKEN_LIFE: i64 = 86_400_000;

/// Experiments that one answer lists at most.
const MAX_LISTED: i64 = 10_000;

/// A client that showed a good token, and a context header that can be read.
struct Named(Caller);

/// The same, with what it may see.
struct Known {
    user: User,
}

/// An answer that is no success.
pub enum Refused {
    /// As `HTTPException` is answered.
    Detail(StatusCode, Value),
    /// A domain's refusal: a JSON string.
    Domain(String),
    /// Something went wrong here.
    Fault(Error),
}

type Answer<T> = Result<T, Refused>;

#[derive(Debug, Deserialize)]
struct Shown {
    graphs: Option<String>,
    days: Option<String>,
}

#[derive(Debug, Deserialize)]
struct CancelExecutors {
    executors: Vec<String>,
    #[serde(default)]
    cancellation_context: Value,
}

/// The routes, below `/netunicorn`.
pub fn routes(api: Api) -> Routes {
    let (known, run) = (Policy::logged_in(), Policy::operator());
    let (get, post) = (Method::GET, Method::POST);
    Routes::new()
        .foreign(post.clone(), "/netunicorn/api/v1/token", Policy::public(), refuse, token)
        .foreign(get.clone(), "/netunicorn/api/v1/verify_token", known, refuse, verify_token)
        .foreign(get.clone(), "/netunicorn/api/v1/health", known, refuse, health)
        .foreign(get.clone(), "/netunicorn/api/v1/nodes", known, refuse, nodes)
        .foreign(get.clone(), "/netunicorn/api/v1/experiment", known, refuse, experiments)
        .foreign(get.clone(), "/netunicorn/api/v1/experiment/{name}", known, refuse, experiment)
        .foreign(Method::DELETE, "/netunicorn/api/v1/experiment/{name}", run, refuse, delete)
        .foreign(
            post.clone(),
            "/netunicorn/api/v1/experiment/{name}/prepare",
            run.body_limit(MAX_PREPARE),
            refuse,
            prepare,
        )
        .foreign(post.clone(), "/netunicorn/api/v1/experiment/{name}/start", run, refuse, start)
        .foreign(post.clone(), "/netunicorn/api/v1/experiment/{name}/cancel", run, refuse, cancel)
        .foreign(post.clone(), "/netunicorn/api/v1/executors/cancel", run, refuse, cancel_executors)
        .foreign(get.clone(), "/netunicorn/api/v1/experiment/{name}/flag/{flag}", known, refuse, get_flag)
        .foreign(post, "/netunicorn/api/v1/experiment/{name}/flag/{flag}", run, refuse, set_flag)
        .foreign(get.clone(), "/netunicorn/api/v1/ui/locks", known, refuse, ui_locks)
        .foreign(get.clone(), "/netunicorn/api/v1/ui/compilations", known, refuse, ui_compilations)
        .foreign(get.clone(), "/netunicorn/api/v1/ui/running_experiments", known, refuse, ui_running)
        .foreign(get, "/netunicorn/api/v1/ui/last_experiments", known, refuse, ui_last)
        .with_state(api)
}

/// What the gate refuses, in the mediator's words.
fn refuse(shows_token: bool, error: Error) -> Response {
    match error {
        Error::Unauthenticated(_) => {
            unauthorized(if shows_token { "Access token not found" } else { "Not authenticated" }).into_response()
        }
        Error::Forbidden(text) => Refused::Detail(StatusCode::FORBIDDEN, json!(text)).into_response(),
        other => other.into_response(),
    }
}

// === who asks ===

impl FromRequestParts<Api> for Named {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Answer<Self> {
        let caller = <Caller as FromRequestParts<Api>>::from_request_parts(parts, api).await?;
        context(&parts.headers)?;
        Ok(Self(caller))
    }
}

impl FromRequestParts<Api> for Known {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Answer<Self> {
        let Named(caller) = Named::from_request_parts(parts, api).await?;
        let context = context(&parts.headers)?;
        let tags = api.access.tags(&caller.user_id).await?;
        let is_admin = caller.role == Role::Admin;
        Ok(Self { user: User { name: caller.name, tags, is_admin, context, actor: caller.actor } })
    }
}

/// What a client tells connectors of itself. Clients and servers of netunicorn name the header differently; both are read.
fn context(headers: &HeaderMap) -> Answer<Value> {
    let names = ["netunicorn-authentication-context", "netunicorn-auth-context"];
    let text = names.iter().find_map(|name| headers.get(*name)).map(HeaderValue::as_bytes).unwrap_or_default();
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(text).map_err(|error| {
        Refused::Detail(StatusCode::BAD_REQUEST, json!(format!("Couldn't parse the context: {error}")))
    })
}

fn unauthorized(detail: &str) -> Refused {
    Refused::Detail(StatusCode::UNAUTHORIZED, json!(detail))
}

// === handlers ===

async fn token(State(api): State<Api>, client: Client, request: Request) -> Answer<Json<Value>> {
    let bytes = body::read(request).await?;
    let fields: BTreeMap<_, _> = form::parse(&bytes).await.unwrap_or_default().into_iter().collect();
    let absent: Vec<_> = ["username", "password"].into_iter().filter(|name| !fields.contains_key(*name)).collect();
    if !absent.is_empty() {
        let missing =
            |name: &&str| json!({"type": "missing", "loc": ["body", name], "msg": "Field required", "input": null});
        let detail: Vec<_> = absent.iter().map(missing).collect();
        return Err(Refused::Detail(StatusCode::UNPROCESSABLE_ENTITY, json!(detail)));
    }
    let entered = api.access.enter(&fields["username"], &fields["password"], &client).await;
    let entrance = entered.map_err(|error| match error {
        Error::Unauthenticated(_) => unauthorized("Incorrect username or token"),
        other => other.into(),
    })?;
    if entrance.must_change {
        return Err(unauthorized("the password must be changed first, in Muster's console"));
    }
    let token = api.access.open_client_token(&entrance, "netunicorn", TOKEN_LIFE).await?;
    Ok(Json(json!({"access_token": token, "token_type": "bearer"})))
}

async fn verify_token(_: Known) -> StatusCode {
    StatusCode::OK
}

async fn health(State(api): State<Api>, _: Known) -> Answer<Json<&'static str>> {
    api.experiments.fleet.db.ping().await?;
    Ok(Json("OK"))
}

async fn nodes(State(api): State<Api>, known: Known) -> Answer<Json<Value>> {
    let pools = api.experiments.free_pools(&known.user).await?;
    Ok(Json(Pool::Countable(pools.into_iter().map(Member::Pool).collect()).json()))
}

async fn experiments(
    State(api): State<Api>,
    Query(shown): Query<Shown>,
    known: Known,
) -> Answer<Json<BTreeMap<String, Box<RawValue>>>> {
    let mut conn = api.experiments.fleet.db.read().await?;
    let filter = store::Filter { owner: Some(known.user.name.clone()), ..store::Filter::default() };
    let told = told(&mut conn, &shown, &known.user).await?;
    let mut all = BTreeMap::new();
    for row in store::experiments(&mut conn, &filter, MAX_LISTED).await? {
        let name = row.name.clone();
        all.insert(name, information(&api.experiments.detail(&mut conn, row, told).await?)?);
    }
    Ok(Json(all))
}

async fn experiment(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(shown): Query<Shown>,
    known: Known,
) -> Answer<Json<Box<RawValue>>> {
    let experiments = &api.experiments;
    let mut conn = experiments.fleet.db.read().await?;
    let row = experiments.find(&mut conn, &known.user.name, &name).await?;
    let told = told(&mut conn, &shown, &known.user).await?;
    Ok(Json(information(&experiments.detail(&mut conn, row, told).await?)?))
}

async fn prepare(
    State(api): State<Api>,
    Path(name): Path<String>,
    known: Known,
    request: Request,
) -> Answer<Json<String>> {
    let bytes = body::read(request).await?;
    let order = Order::read(&bytes)?;
    drop(bytes);
    api.experiments.prepare(&known.user, &name, &order).await?;
    Ok(Json(name))
}

async fn start(
    State(api): State<Api>,
    Path(name): Path<String>,
    known: Known,
    request: Request,
) -> Answer<Json<String>> {
    let context = connectors_context(request).await?;
    api.experiments.start(&known.user, &name, &context).await?;
    Ok(Json(name))
}

async fn cancel(
    State(api): State<Api>,
    Path(name): Path<String>,
    known: Known,
    request: Request,
) -> Answer<Json<&'static str>> {
    let context = connectors_context(request).await?;
    api.experiments.cancel(&known.user, &name, &context).await?;
    Ok(Json("Executors cancellation started"))
}

async fn cancel_executors(State(api): State<Api>, known: Known, request: Request) -> Answer<Json<&'static str>> {
    let bytes = body::read(request).await?;
    let wanted: CancelExecutors =
        serde_json::from_slice(&bytes).map_err(|error| unprocessable(&["body"], &error.to_string()))?;
    let context = &wanted.cancellation_context;
    if !(context.is_null() || context.is_object()) {
        return Err(unprocessable(&["body", "cancellation_context"], "Input should be a valid dictionary"));
    }
    api.experiments.cancel_executors(&known.user, &wanted.executors, context).await?;
    Ok(Json("Executors cancellation started"))
}

async fn delete(State(api): State<Api>, Path(name): Path<String>, known: Known) -> Answer<Json<Value>> {
    api.experiments.delete(&known.user, &name).await?;
    Ok(Json(Value::Null))
}

async fn get_flag(
    State(api): State<Api>,
    Path((name, flag)): Path<(String, String)>,
    Named(caller): Named,
) -> Answer<Json<FlagValues>> {
    let found = api.experiments.flag(&caller.name, &name, &flag, &Until::default(), Duration::ZERO).await?;
    Ok(Json(found))
}

async fn set_flag(
    State(api): State<Api>,
    Path((name, flag)): Path<(String, String)>,
    known: Known,
    request: Request,
) -> Answer<Json<Value>> {
    let bytes = body::read(request).await?;
    let values = flag_values(&bytes)?;
    api.experiments.change_flag(&known.user, &name, &flag, &FlagChange::Set(values)).await?;
    Ok(Json(Value::Null))
}

// === what netunicorn's own pages read ===

async fn ui_locks(State(api): State<Api>, known: Known) -> Answer<Json<Value>> {
    let mut conn = api.experiments.fleet.db.read().await?;
    let owner = (!known.user.is_admin).then_some(known.user.name.as_str());
    let locks = store::locks(&mut conn, owner).await?;
    let line = |lock: store::LockRow| json!({"node_name": lock.node_name, "username": lock.owner, "connector": lock.connector});
    Ok(Json(locks.into_iter().map(line).collect()))
}

async fn ui_compilations(State(api): State<Api>, known: Known) -> Answer<Json<Value>> {
    let experiments = &api.experiments;
    let mut conn = experiments.fleet.db.read().await?;
    let filter = of(&known, Status::Preparing.word());
    let mut lines = Vec::new();
    for row in store::experiments(&mut conn, &filter, MAX_LISTED).await? {
        let detail = experiments.detail(&mut conn, row, Told { graphs: false, results: false }).await?;
        for seen in detail.deployments.iter().filter(|d| d.step == "building") {
            let document: Value = serde_json::from_str(&seen.row.document).map_err(Error::internal)?;
            lines.push(json!({
                "username": detail.row.owner, "experiment_name": detail.row.name, "experiment_id": detail.row.id,
                "compilation_id": seen.row.id, "architecture": document["node"]["architecture"],
            }));
        }
    }
    Ok(Json(lines.into()))
}

async fn ui_running(State(api): State<Api>, known: Known) -> Answer<Json<Value>> {
    let mut conn = api.experiments.fleet.db.read().await?;
    let mut rows = Vec::new();
    for status in [Status::Preparing, Status::Running, Status::Cancelling] {
        rows.extend(store::experiments(&mut conn, &of(&known, status.word()), MAX_LISTED).await?);
    }
    lines(&mut conn, rows).await
}

async fn ui_last(State(api): State<Api>, Query(shown): Query<Shown>, known: Known) -> Answer<Json<Value>> {
    let wrong = || unprocessable(&["query", "days"], "Input should be a valid integer");
    let days: i64 = shown.days.as_deref().map_or(Ok(14), str::parse).map_err(|_| wrong())?;
    let db = &api.experiments.fleet.db;
    let since = db.clock().now().saturating_sub(days.saturating_mul(86_400_000));
    let filter = store::Filter { since, ..of(&known, "") };
    let mut conn = db.read().await?;
    let rows = store::experiments(&mut conn, &filter, MAX_LISTED).await?;
    lines(&mut conn, rows).await
}

fn of(known: &Known, status: &str) -> store::Filter {
    let owner = (!known.user.is_admin).then(|| known.user.name.clone());
    store::Filter { owner, status: status.into(), ..store::Filter::default() }
}

async fn lines(conn: &mut crate::platform::db::Conn, mut rows: Vec<ExperimentRow>) -> Answer<Json<Value>> {
    rows.sort_by_key(|row| std::cmp::Reverse((row.started_at, row.created_at)));
    let ids: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
    let nodes = store::nodes_of(conn, &ids).await?;
    let line = |row: ExperimentRow| {
        let error = (row.status == Status::Failed.word()).then_some(row.why);
        json!({
            "username": row.owner,
            "experiment_name": row.name,
            "status": Status::from_word(&row.status).map_or("ExperimentStatus.UNKNOWN", Status::client_name),
            "error": error,
            "creation_time": python_time(Some(row.created_at)),
            "start_time": python_time(row.started_at),
            "nodes": nodes.get(&row.id).map(|n| n.join(", ")).unwrap_or_default(),
            "experiment_id": row.id,
        })
    };
    Ok(Json(rows.into_iter().map(line).collect()))
}

/// A time as Python prints one without a zone; UTC.
fn python_time(at: Option<i64>) -> String {
    let at = at.and_then(|at| Timestamp::from_millisecond(at).ok());
    at.map_or_else(|| "None".into(), |at| at.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string())
}

// === what clients read ===

/// What a client knows of an experiment: `ExperimentExecutionInformation`. Stored documents are carried as they are: most
/// of the time of a large answer would be spent on taking them apart.
fn information(detail: &Detail) -> Answer<Box<RawValue>> {
    let documents = detail.deployments.iter().map(|seen| Document::of(&seen.row, seen.graph.as_deref()));
    let documents = documents.collect::<Result<Vec<_>, _>>()?;
    let execution_result = match detail.status {
        Status::Preparing | Status::Ready => Outcomes::None,
        Status::Failed => Outcomes::Why(&detail.row.why),
        Status::Running | Status::Cancelling | Status::Finished | Status::Cancelled => {
            let pairs = detail.deployments.iter().zip(&documents);
            Outcomes::Each(pairs.map(|(seen, document)| Ended::of(seen, document)).collect())
        }
    };
    let deployment_context: &RawValue = serde_json::from_str(&detail.row.context).map_err(Error::internal)?;
    let information = Information {
        status: detail.status.number(),
        experiment: Asked { deployment_map: &documents, deployment_context },
        execution_result,
    };
    Ok(to_raw_value(&information).map_err(Error::internal)?)
}

#[derive(Serialize)]
struct Information<'a> {
    status: u8,
    experiment: Asked<'a>,
    execution_result: Outcomes<'a>,
}

#[derive(Serialize)]
struct Asked<'a> {
    deployment_map: &'a [Document<'a>],
    deployment_context: &'a RawValue,
}

/// What came of an experiment: nothing yet, why it failed, or each deployment's end.
#[derive(Serialize)]
#[serde(untagged)]
enum Outcomes<'a> {
    None,
    Why(&'a str),
    Each(Vec<Ended<'a>>),
}

/// What clients and connectors know of a deployment: `Deployment`.
#[derive(Serialize)]
pub struct Document<'a> {
    /// What was asked for, but for what changes.
    #[serde(flatten)]
    asked: BTreeMap<Cow<'a, str>, &'a RawValue>,
    prepared: bool,
    error: Option<&'a str>,
    #[serde(serialize_with = "as_base64")]
    execution_graph: Option<&'a [u8]>,
}

/// What a deployment came to: `DeploymentExecutionResult`.
#[derive(Serialize)]
struct Ended<'a> {
    node: Option<&'a RawValue>,
    #[serde(serialize_with = "as_base64")]
    execution_graph: Option<&'a [u8]>,
    result: Option<String>,
    error: Option<&'a str>,
}

impl<'a> Document<'a> {
    /// A deployment, with its graph where it is told.
    pub fn of(row: &'a DeploymentRow, graph: Option<&'a [u8]>) -> Result<Self, Error> {
        let mut asked: BTreeMap<Cow<'a, str>, &'a RawValue> =
            serde_json::from_str(&row.document).map_err(Error::internal)?;
        asked.retain(|key, _| !matches!(key.as_ref(), "prepared" | "error" | "execution_graph"));
        let has_failed = Outcome::from_word(&row.outcome).is_some_and(|o| o != Outcome::Succeeded);
        let is_refused = has_failed && row.started_at.is_none();
        let error = is_refused.then_some(row.message.as_str());
        Ok(Self { asked, prepared: row.deployed_at.is_some(), error, execution_graph: graph })
    }
}

impl<'a> Ended<'a> {
    fn of(seen: &'a Seen, document: &Document<'a>) -> Self {
        let failed = seen.stage == Stage::Ended && seen.outcome != Some(Outcome::Succeeded);
        let native = || {
            let is_native = !seen.row.pipeline.is_empty() && !seen.runs.is_empty();
            is_native.then(|| BASE64_STANDARD.encode(pickle::result(!failed, &seen.runs)))
        };
        Self {
            node: document.asked.get("node").copied(),
            execution_graph: document.execution_graph,
            result: seen.result.as_ref().map(|bytes| BASE64_STANDARD.encode(bytes)).or_else(native),
            error: failed.then_some(seen.row.message.as_str()),
        }
    }
}

/// Bytes in base64; without any, empty text.
fn as_base64<S: serde::Serializer>(bytes: &Option<&[u8]>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&bytes.map(|bytes| BASE64_STANDARD.encode(bytes)).unwrap_or_default())
}

/// Whether graphs are told: what the request says, else what the user wants.
async fn told(conn: &mut crate::platform::db::Conn, shown: &Shown, user: &User) -> Answer<Told> {
    let graphs = match shown.graphs.as_deref() {
        Some(word) => word != "0",
        None => store::wants_graphs(conn, &user.name).await?,
    };
    Ok(Told { graphs, results: true })
}

// === bodies ===

/// A context for connectors: nothing, or an object.
async fn connectors_context(request: Request) -> Answer<Value> {
    let bytes = body::read(request).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    match serde_json::from_slice(&bytes) {
        Ok(context @ (Value::Null | Value::Object(_))) => Ok(context),
        Ok(_) => Err(unprocessable(&["body"], "Input should be a valid dictionary")),
        Err(error) => Err(unprocessable(&["body"], &format!("JSON decode error: {error}"))),
    }
}

/// Values of a flag as a client sends them.
pub fn flag_values(bytes: &[u8]) -> Answer<FlagValues> {
    let body: Value =
        serde_json::from_slice(bytes).map_err(|e| unprocessable(&["body"], &format!("JSON decode error: {e}")))?;
    let Value::Object(fields) = body else {
        return Err(unprocessable(&["body"], "Input should be a valid dictionary or object to extract fields from"));
    };
    let text_value = match fields.get("text_value") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(clean(text)),
        Some(_) => return Err(unprocessable(&["body", "text_value"], "Input should be a valid string")),
    };
    let int_value = match fields.get("int_value") {
        None => 0,
        Some(value) => {
            value.as_i64().ok_or_else(|| unprocessable(&["body", "int_value"], "Input should be a valid integer"))?
        }
    };
    Ok(FlagValues { text_value, int_value })
}

/// A body or query of the wrong shape, as FastAPI says it.
fn unprocessable(place: &[&str], message: &str) -> Refused {
    let kind = if message.contains("integer") { "int_type" } else { "value_error" };
    let detail = json!([{"type": kind, "loc": place, "msg": message, "input": null}]);
    Refused::Detail(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

// === impl Refused ===

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Fault(error)
    }
}

impl From<Unreadable> for Refused {
    fn from(error: Unreadable) -> Self {
        let text = format!("Couldn't parse experiment from the provided data: {error}");
        Self::Detail(StatusCode::BAD_REQUEST, json!(text))
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Domain(match refusal {
            Refusal::NoExperiment(name) => format!("Experiment {name} not found"),
            Refusal::NotReady(name, status) => {
                format!("Experiment {name} is not ready to start. Current status: {}", status.client_name())
            }
            Refusal::StillOpen(name, user, status) => {
                format!("Experiment {name} for user {user} is in status {}, cannot delete it", status.client_name())
            }
            Refusal::NothingToCancel(..) => "\"Executors [] not found\"".into(),
            Refusal::NoExecutors(ids, user) => {
                let ids: Vec<_> = ids.iter().map(|id| format!("'{id}'")).collect();
                format!(
                    "All executors already finished or no experiments found belonging to user {user} with given \
                     executors: [{}]",
                    ids.join(", ")
                )
            }
            Refusal::NoFlag(flag, name) => format!("Flag {flag} not found for experiment {name}"),
            Refusal::OtherContent(_) | Refusal::Sentence(_) => refusal.to_string(),
            Refusal::Other(Error::Internal(cause)) => return Self::Fault(Error::Internal(cause)),
            Refusal::Other(error) => error.to_string(),
        })
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Domain(text) => (StatusCode::BAD_REQUEST, Json(text)).into_response(),
            Self::Fault(error) => error.into_response(),
            Self::Detail(status, detail) => {
                let mut answer = (status, Json(json!({"detail": detail}))).into_response();
                if status == StatusCode::UNAUTHORIZED {
                    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                }
                answer
            }
        }
    }
}
