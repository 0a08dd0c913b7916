//! Projects and stagings as manifests.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    model::{Override, OverrideKey, ProjectSpec, Settings, SettingsChange},
    service::{NewStaging, Staging, Which, masked_of},
    store,
};
use crate::{
    error::{Error, Result},
    web::{
        ManifestKind, Outcome, Role,
        body::from_value,
        manifest::{Apply, Difference, differences, outcome, schema_of},
    },
};

/// How a staging is declared.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StagingSpec {
    /// Its project.
    pub project: String,
    /// Which version of the application.
    pub tag: String,
    /// What it is made with: all of it; what is not named here is taken away.
    #[serde(default)]
    pub overrides: Vec<Override>,
}

/// What the domain lets people declare.
pub fn kinds(staging: &Staging) -> Vec<ManifestKind> {
    let project = ManifestKind {
        kind: "staging.project",
        schema: schema_of::<ProjectSpec>(),
        role: Role::Admin,
        apply: {
            let staging = staging.clone();
            Arc::new(move |apply| {
                let staging = staging.clone();
                Box::pin(async move { apply_project(&staging, apply).await })
            })
        },
        export: {
            let staging = staging.clone();
            Arc::new(move |_| {
                let staging = staging.clone();
                Box::pin(async move { export_projects(&staging).await })
            })
        },
    };
    let one = ManifestKind {
        kind: "staging.staging",
        schema: schema_of::<StagingSpec>(),
        role: Role::Operator,
        apply: {
            let staging = staging.clone();
            Arc::new(move |apply| {
                let staging = staging.clone();
                Box::pin(async move { apply_staging(&staging, apply).await })
            })
        },
        export: {
            let staging = staging.clone();
            Arc::new(move |_| {
                let staging = staging.clone();
                Box::pin(async move { export_stagings(&staging).await })
            })
        },
    };
    vec![project, one]
}

async fn apply_project(staging: &Staging, apply: Apply) -> Result<(Outcome, Vec<Difference>)> {
    let spec: ProjectSpec = from_value("spec", apply.spec)?;
    super::model::check_project(&apply.name, &spec)?;
    let found = store::fetch_project(&mut *staging.fleet.db.read().await?, &apply.name).await?;
    let before = found.map(|row| row.spec()).transpose()?;
    if !apply.dry_run {
        staging.save_project(&apply.caller.actor, &apply.name, &spec, None).await?;
    }
    Ok(outcome(before.as_ref().map(json).transpose()?.as_ref(), &json(&spec)?))
}

async fn apply_staging(staging: &Staging, apply: Apply) -> Result<(Outcome, Vec<Difference>)> {
    let spec: StagingSpec = from_value("spec", apply.spec)?;
    let wanted = Settings::new(spec.tag.clone(), spec.overrides.clone()).map_err(within_spec)?;
    let which = Which { project: &spec.project, name: &apply.name };
    let found = store::fetch_staging(&mut *staging.fleet.db.read().await?, which.project, which.name).await?;
    let Some(row) = found else {
        let new = NewStaging {
            project: spec.project.clone(),
            name: apply.name.clone(),
            tag: spec.tag,
            overrides: spec.overrides,
        };
        if !apply.dry_run {
            staging.create(&apply.caller.actor, &new).await.map_err(within_spec)?;
        }
        return Ok(outcome(None, &json(&wanted.masked())?));
    };
    let there = staging.unseal(&row.settings_sealed)?;
    if there == wanted {
        return Ok((Outcome::Unchanged, Vec::new()));
    }
    let gone =
        there.overrides.iter().filter(|o| !wanted.overrides.iter().any(|w| (w.level, &w.key) == (o.level, &o.key)));
    let unset = gone.map(|o| OverrideKey { level: o.level, key: o.key.clone() }).collect();
    let change = SettingsChange { tag: Some(wanted.tag.clone()), set: wanted.overrides.clone(), unset };
    if !apply.dry_run {
        staging.update(&apply.caller.actor, which, &change, None).await.map_err(within_spec)?;
    }
    let diff = differences("spec", &masked_of(&row)?, &json(&wanted.masked())?);
    Ok((Outcome::Changed, diff))
}

/// A mistake in the settings, named as the manifest names it.
fn within_spec(error: Error) -> Error {
    match error {
        Error::Invalid { field, message } if field != "name" => {
            Error::Invalid { field: format!("spec.{field}"), message }
        }
        other => other,
    }
}

async fn export_projects(staging: &Staging) -> Result<Vec<(String, Value)>> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = store::projects(&mut *staging.fleet.db.read().await?, &after, 100).await?;
        let Some(last) = page.last() else { return Ok(all) };
        after.clone_from(&last.name);
        for row in page {
            all.push((row.name.clone(), json(&row.spec()?)?));
        }
    }
}

/// Secret values are left out: an export says which there are, and is completed by hand before it is applied.
async fn export_stagings(staging: &Staging) -> Result<Vec<(String, Value)>> {
    let (mut all, mut filter) = (Vec::new(), store::Filter::default());
    loop {
        let page = store::stagings(&mut *staging.fleet.db.read().await?, &filter, 100).await?;
        let Some(last) = page.last() else { return Ok(all) };
        filter.after = (last.project.clone(), last.name.clone());
        for row in page {
            let mut spec = masked_of(&row)?;
            spec["project"] = row.project.clone().into();
            all.push((row.name, spec));
        }
    }
}

fn json(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(Error::internal)
}
