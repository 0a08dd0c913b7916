//! Manifests: one form for what every domain lets people declare. Each domain adds its kinds.

use std::{fmt, sync::Arc};

use axum::{Json, extract::State};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::{Body, Caller, Policy, Query, Role, Routes};
use crate::error::{Error, Result};

/// The version every manifest names.
pub const VERSION: &str = "muster/v1";

/// One declared thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `muster/v1`.
    pub version: String,
    /// What it is: `staging.project`.
    pub kind: String,
    /// What it is called.
    pub name: String,
    /// How it should be; its form is the kind's own.
    #[schema(value_type = Object)]
    pub spec: Value,
}

/// What applying came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was there and is different.
    Changed,
    /// It was so already.
    Unchanged,
}

/// One difference between what was and what is declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Path of the field, as in `spec.tag`.
    pub field: String,
    /// What was; secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// What is to be; secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
}

/// The answer to an applied manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it came to; with `dry_run`, what it would have come to.
    pub outcome: Outcome,
    /// What is different.
    pub diff: Vec<Difference>,
}

/// A manifest about to be applied.
#[derive(Debug, Clone)]
pub struct Apply {
    /// Who applies it.
    pub caller: Caller,
    /// What it is called.
    pub name: String,
    /// How it should be; read it by [`super::body::from_value`] with the prefix `spec`.
    pub spec: Value,
    /// Say what would be, and change nothing.
    pub dry_run: bool,
}

/// Applies one manifest.
pub type ApplyFn = Arc<dyn Fn(Apply) -> BoxFuture<'static, Result<(Outcome, Vec<Difference>)>> + Send + Sync>;

/// Gives everything of a kind that somebody may see, by name, in the form it is applied in.
pub type ExportFn = Arc<dyn Fn(Caller) -> BoxFuture<'static, Result<Vec<(String, Value)>>> + Send + Sync>;

/// A kind of manifest.
#[derive(Clone)]
pub struct ManifestKind {
    /// `domain.noun`.
    pub kind: &'static str,
    /// JSON Schema of the spec; see [`schema_of`].
    pub schema: Value,
    /// Who may apply it.
    pub role: Role,
    /// Applies one.
    pub apply: ApplyFn,
    /// Gives all.
    pub export: ExportFn,
}

/// In the order the domains list them: what others need stands before them.
type Kinds = Arc<[ManifestKind]>;

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ApplyQuery {
    /// Say what would be, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ExportQuery {
    /// Only this kind.
    kind: Option<String>,
}

impl fmt::Debug for ManifestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManifestKind").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The JSON Schema of a type, with what it refers to under `$defs`.
pub fn schema_of<T: ToSchema>() -> Value {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    let mut schema = serde_json::to_value(T::schema()).expect("a schema is plain data");
    let defs: serde_json::Map<_, _> = parts
        .into_iter()
        .map(|(name, part)| (name, serde_json::to_value(part).expect("a schema is plain data")))
        .collect();
    if !defs.is_empty() {
        schema["$defs"] = defs.into();
    }
    schema
}

/// The differences between two values of a spec, field by field.
pub fn differences(field: &str, before: &Value, after: &Value) -> Vec<Difference> {
    match (before, after) {
        (a, b) if a == b => vec![],
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            let one = |key: &String| {
                let (before, after) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                differences(&format!("{field}.{key}"), before, after)
            };
            keys.into_iter().flat_map(one).collect()
        }
        (a, b) => {
            let some = |v: &Value| (!v.is_null()).then(|| v.clone());
            vec![Difference { field: field.into(), before: some(a), after: some(b) }]
        }
    }
}

/// What applying came to, from what was, if it was, and what is declared.
pub fn outcome(before: Option<&Value>, after: &Value) -> (Outcome, Vec<Difference>) {
    let diff = differences("spec", before.unwrap_or(&Value::Null), after);
    let outcome = match (before, diff.is_empty()) {
        (None, _) => Outcome::Created,
        (Some(_), true) => Outcome::Unchanged,
        (Some(_), false) => Outcome::Changed,
    };
    (outcome, diff)
}

/// The routes, for the kinds of all domains.
pub fn routes(kinds: Vec<ManifestKind>) -> Routes {
    let kinds: Kinds = kinds.into();
    Routes::new()
        .add(Policy::logged_in(), routes!(apply))
        .add(Policy::viewer(), routes!(export))
        .add(Policy::viewer(), routes!(schema))
        .with_state(kinds)
}

/// Applies one manifest
#[utoipa::path(post, path = "/api/v1/manifests/apply", tag = "manifests", params(ApplyQuery), request_body = Manifest,
    responses((status = 200, body = Applied)))]
async fn apply(
    State(kinds): State<Kinds>,
    caller: Caller,
    Query(query): Query<ApplyQuery>,
    Body(manifest): Body<Manifest>,
) -> Result<Json<Applied>> {
    let Manifest { version, kind, name, spec } = manifest;
    if version != VERSION {
        return Err(Error::invalid("version", format!("this controller reads {VERSION}")));
    }
    let found = kinds.iter().find(|k| k.kind == kind).ok_or_else(|| {
        let known: Vec<_> = kinds.iter().map(|k| k.kind).collect();
        Error::invalid("kind", format!("no kind {kind:?}; there are {}", known.join(", ")))
    })?;
    if caller.role < found.role {
        return Err(Error::Forbidden(format!("applying {kind} takes the role {}", found.role.word())));
    }
    let request = Apply { caller, name: name.clone(), spec, dry_run: query.dry_run };
    let (outcome, diff) = (found.apply)(request).await?;
    Ok(Json(Applied { kind, name, outcome, diff }))
}

/// Gives everything that is declared, in the form it is applied in
#[utoipa::path(get, path = "/api/v1/manifests/export", tag = "manifests", params(ExportQuery),
    responses((status = 200, body = Vec<Manifest>)))]
async fn export(
    State(kinds): State<Kinds>,
    caller: Caller,
    Query(query): Query<ExportQuery>,
) -> Result<Json<Vec<Manifest>>> {
    let mut all = Vec::new();
    for kind in kinds.iter().filter(|k| query.kind.as_ref().is_none_or(|wanted| wanted == k.kind)) {
        let found = (kind.export)(caller.clone()).await?;
        all.extend(found.into_iter().map(|(name, spec)| Manifest {
            version: VERSION.into(),
            kind: kind.kind.into(),
            name,
            spec,
        }));
    }
    Ok(Json(all))
}

/// The JSON Schema of every kind, for editors
#[utoipa::path(get, path = "/api/v1/manifests/schema", tag = "manifests", responses((status = 200, body = Object)))]
async fn schema(State(kinds): State<Kinds>) -> Json<Value> {
    let mut defs = serde_json::Map::new();
    let mut any = Vec::new();
    for kind in kinds.iter() {
        let mut spec = kind.schema.clone();
        if let Some(Value::Object(parts)) = spec.as_object_mut().and_then(|s| s.remove("$defs")) {
            defs.extend(parts);
        }
        any.push(json!({
            "type": "object",
            "required": ["version", "kind", "name", "spec"],
            "additionalProperties": false,
            "properties": {
                "version": {"const": VERSION}, "kind": {"const": kind.kind}, "name": {"type": "string"}, "spec": spec,
            },
        }));
    }
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Muster manifest", "oneOf": any, "$defs": defs,
    });
    let text = whole.to_string().replace("#/components/schemas/", "#/$defs/");
    Json(serde_json::from_str(&text).expect("JSON with other references is JSON"))
}
