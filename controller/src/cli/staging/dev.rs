//! Stagings in a house on one machine, driven by the example wrappers.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{check, columns};
use crate::{
    cli::{
        Form, Result,
        dev::{House, Tenant, wait, word},
        output,
    },
    fleet::model::Class,
};

/// What this domain brings.
pub(in crate::cli) const TENANT: Tenant = Tenant {
    name: "staging",
    classes: &[Class::StagingHost],
    agent_config,
    settle,
    show,
    check: check::live_a_life,
    example: "staging list",
};

/// A staging of the manifest may take this long to be running.
const PATIENCE: Duration = Duration::from_secs(120);

/// Every set of wrappers there is, under its folder's name.
fn agent_config(house: &House, folder: &Path) -> Result<Option<toml::Table>> {
    let Some(wrappers) = house.wrappers() else { return Ok(None) };
    let stagings = folder.join("stagings");
    let mut sets = toml::Table::new();
    for entry in fs::read_dir(wrappers)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.join("create").is_file() {
            let env = [format!("STAGINGS_DIR={}", stagings.display()), format!("MOCK_STATE={}", stagings.display())];
            let set = toml::Table::from_iter([
                ("path".to_owned(), toml::Value::from(path.canonicalize()?.display().to_string())),
                ("env".to_owned(), env.to_vec().into()),
            ]);
            sets.insert(name, set.into());
        }
    }
    Ok(Some(toml::Table::from_iter([("wrappers".to_owned(), toml::Value::from(sets))])))
}

/// Waits until no staging is pending, with a line of progress.
fn settle(house: &mut House) -> Result {
    let client = house.client()?;
    let mut progress = output::Progress::new();
    wait(PATIENCE, "the stagings of the manifest are done", || {
        house.must_live()?;
        let stagings = client.all("/api/v1/staging/stagings")?;
        let line: Vec<_> = stagings.iter().map(|s| format!("{} {}", word(s, "name"), word(s, "status"))).collect();
        progress.show(&format!("  stagings: {}", line.join(", ")), "");
        let is_done = |s: &Value| s["pending"].is_null() && !word(s, "status").ends_with("Pending");
        Ok(stagings.iter().all(is_done).then_some(()))
    })?;
    progress.end();
    Ok(())
}

fn show(house: &House) -> Result {
    let mut stagings = house.client()?.all("/api/v1/staging/stagings")?;
    for staging in &mut stagings {
        staging["full_name"] = format!("{}/{}", word(staging, "project"), word(staging, "name")).into();
        staging["url"] = url_of(house, staging).map_or(Value::Null, Value::from);
    }
    let mut columns = columns()[..4].to_vec();
    columns.push(("URL", "/url"));
    output::list(Form::Table, stagings, &columns, "/full_name", "no stagings")
}

/// Where a staging of the example wrappers answers, if it does.
pub(super) fn url_of(house: &House, staging: &Value) -> Option<String> {
    let path = folder_of(house, staging)?.join("port");
    Some(format!("http://127.0.0.1:{}/", fs::read_to_string(path).ok()?.trim()))
}

/// Where the example wrappers keep a staging.
pub(super) fn folder_of(house: &House, staging: &Value) -> Option<PathBuf> {
    let agents = house.data_dir().join("agents");
    let (project, name) = (staging["project"].as_str()?, staging["name"].as_str()?);
    fs::read_dir(agents).ok()?.flatten().find_map(|agent| {
        let project = agent.path().join("stagings").join(project);
        fs::read_dir(project).ok()?.flatten().map(|namespace| namespace.path().join(name)).find(|p| p.is_dir())
    })
}
