//! What an administrator's processors are told of an experiment, and what their answers mean. Pure.
//!
//! A preprocessor sees an experiment before it is prepared and may change how it is deployed, never what it does or whose it
//! is. A postprocessor is told how one ended, and may say a sentence about it.

use std::collections::BTreeMap;

use muster_pki::{hex, sha256};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    order::{Deployment, Order, Work},
    store::{DeploymentRow, ExperimentRow},
};

/// What a preprocessor may change in a deployment.
const CHANGEABLE: [&str; 4] =
    ["environment_definition", "environment_definition_type", "keep_alive_timeout_minutes", "cleanup"];

/// Of a complaint so many lines and characters are told, from its end.
const COMPLAINT: (usize, usize) = (3, 500);

/// Longest sentence of a postprocessor, characters.
const MAX_MESSAGE: usize = 4096;

/// Pauses before a postprocessor that failed is tried again, milliseconds; after the last one nobody tries any more.
const PAUSES: [i64; 3] = [10_000, 60_000, 300_000];

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    message: String,
}

// === before ===

/// What a preprocessor is given.
pub fn question(owner: &str, name: &str, order: &Order) -> Value {
    let deployments: Vec<_> = order.deployments.iter().enumerate().map(|(n, d)| Value::Object(shown(n, d))).collect();
    json!({"owner": owner, "name": name, "deployment_context": order.context, "deployments": deployments})
}

fn shown(place: usize, deployment: &Deployment) -> Map<String, Value> {
    let mut shown = deployment.document.clone();
    shown.insert("place".into(), json!(place));
    shown.insert("keep_alive_timeout_minutes".into(), json!(deployment.keep_alive_minutes));
    shown.insert("cleanup".into(), json!(deployment.cleanup));
    match &deployment.work {
        Work::Graph(graph) => shown.insert("execution_graph_sha256".into(), json!(hex(&sha256(graph)))),
        Work::Pipeline(pipeline) => shown.insert("pipeline".into(), json!(pipeline)),
    };
    shown
}

/// What an order becomes by a preprocessor's answer; none: it stays as it is. Refused in a clause that names what is wrong.
pub fn revised(owner: &str, name: &str, order: &Order, answer: &[u8]) -> Result<Option<Order>, String> {
    if answer.trim_ascii().is_empty() {
        return Ok(None);
    }
    let answer: Map<String, Value> =
        serde_json::from_slice(answer).map_err(|e| format!("answered something that is no JSON object: {e}"))?;
    for (field, value) in [("owner", owner), ("name", name)] {
        if answer.get(field).and_then(Value::as_str) != Some(value) {
            return Err(format!("changed {field}, which it may not"));
        }
    }
    let known = ["owner", "name", "deployment_context", "deployments"];
    if let Some(field) = answer.keys().find(|field| !known.contains(&field.as_str())) {
        return Err(format!("added {field}, which means nothing"));
    }
    let Some(Value::Array(answered)) = answer.get("deployments") else {
        return Err("left out deployments, which is a list".into());
    };
    let mut kept = BTreeMap::new();
    for (n, answered) in answered.iter().enumerate() {
        let place = answered.get("place").and_then(Value::as_u64).and_then(|place| usize::try_from(place).ok());
        let before = place.and_then(|place| Some((place, order.deployments.get(place)?)));
        let (place, before) = before.ok_or_else(|| format!("changed deployments[{n}].place, which it may not"))?;
        let after =
            deployment(place, before, answered).map_err(|why| format!("{} deployments[{n}].{}", why.0, why.1))?;
        if kept.insert(place, after).is_some() {
            return Err(format!("repeated the deployment of place {place}"));
        }
    }
    if kept.is_empty() {
        return Err("left no deployment".into());
    }
    let context = answer.get("deployment_context").cloned().unwrap_or_default();
    Ok(Some(Order { deployments: kept.into_values().collect(), context }))
}

/// A deployment as it was answered; what was done that may not be, and to which field.
fn deployment(place: usize, before: &Deployment, answered: &Value) -> Result<Deployment, (&'static str, String)> {
    let before_shown = shown(place, before);
    let answered = answered.as_object().cloned().unwrap_or_default();
    let mut document = before.document.clone();
    for field in before_shown.keys().chain(answered.keys()) {
        match (before_shown.get(field), answered.get(field)) {
            (was, is) if was == is => {}
            (_, Some(is)) if CHANGEABLE.contains(&field.as_str()) => drop(document.insert(field.clone(), is.clone())),
            _ => return Err(("changed", format!("{field}, which it may not"))),
        }
    }
    Deployment::of(document, before.work.clone()).map_err(|why| ("spoiled", why.0))
}

// === after ===

/// What a postprocessor is given.
pub fn ended(row: &ExperimentRow, deployments: &[DeploymentRow], sizes: &BTreeMap<String, i64>) -> Value {
    let deployment = |it: &DeploymentRow| {
        let result = (!it.result.is_empty()).then(|| json!({"sha256": it.result, "bytes": sizes.get(&it.result)}));
        json!({
            "node": it.node_name, "connector": it.connector, "executor_id": it.id, "outcome": it.outcome,
            "message": it.message, "deployed_at": it.deployed_at, "started_at": it.started_at, "ended_at": it.ended_at,
            "result": result,
        })
    };
    json!({
        "owner": row.owner, "name": row.name, "id": row.id, "status": row.status, "why": row.why,
        "created_at": row.created_at, "ready_at": row.ready_at, "started_at": row.started_at, "ended_at": row.ended_at,
        "deployments": deployments.iter().map(deployment).collect::<Vec<_>>(),
    })
}

/// The sentence in a postprocessor's answer; an empty answer has none.
pub fn sentence(answer: &[u8]) -> Result<String, String> {
    if answer.trim_ascii().is_empty() {
        return Ok(String::new());
    }
    let said: Said = serde_json::from_slice(answer)
        .map_err(|e| format!("answered something else than {{\"message\": \"…\"}}: {e}"))?;
    Ok(said.message.trim().chars().filter(|c| *c == '\n' || !c.is_control()).take(MAX_MESSAGE).collect())
}

/// When what failed is tried again after so many tries; none: not any more.
pub fn again_at(tries: i64, now: i64) -> Option<i64> {
    let failed = usize::try_from(tries).ok()?.checked_sub(1)?;
    PAUSES.get(failed).map(|pause| now + pause)
}

// === both ===

/// What a processor complained of, in a line: the end of it, without what could disturb who reads it.
pub fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(COMPLAINT.0)..].join("; ");
    let clean: Vec<char> = last.chars().filter(|c| !c.is_control()).collect();
    clean[clean.len().saturating_sub(COMPLAINT.1)..].iter().collect()
}
