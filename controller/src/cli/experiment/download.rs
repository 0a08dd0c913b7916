//! What came of an experiment, as a folder with an index.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    super::{
        Failure, Result,
        client::{Client, encoded},
        output::{Progress, green},
    },
    Which,
};
use crate::experiment::api::DeploymentView;

/// Saves reports, output and files of every node below a folder, and says in `index.json` what is what.
pub fn save(client: &Client, which: &Which, folder: &Path) -> Result {
    if folder.join("index.json").exists() {
        let text = format!("{} holds an index already; name another folder", folder.display());
        return Err(Failure::new(Failure::CONFLICT, text));
    }
    let detail = which.get(client)?;
    let mut progress = Progress::new();
    let mut nodes = Vec::new();
    let (mut files, mut bytes) = (0, 0);
    for (n, node) in detail.nodes.iter().enumerate() {
        progress.show(&format!("{} of {} nodes", n + 1, detail.nodes.len()), "");
        let (entry, saved) = save_node(client, folder, node)?;
        files += saved.0;
        bytes += saved.1;
        nodes.push(entry);
    }
    progress.end();
    let index = json!({"experiment": detail.experiment, "nodes": nodes});
    let text = serde_json::to_string_pretty(&index).map_err(|e| Failure::failed(e.to_string()))?;
    make(folder)?;
    fs::write(folder.join("index.json"), text + "\n")?;
    eprintln!("{} {}: {files} files, {bytes} bytes, told in index.json", folder.display(), green("saved"));
    Ok(())
}

/// Saves what a node left. Gives its entry in the index, and the number and bytes of its files.
fn save_node(client: &Client, folder: &Path, node: &DeploymentView) -> Result<(Value, (u64, u64))> {
    let own = PathBuf::from(safe(&node.node)).join(&node.executor);
    let at = |rest: &str| format!("/api/v1/experiment/executors/{}/{rest}", encoded(&node.executor));
    let mut saved = (0, 0);
    let mut fetch = |path: &str, to: &Path| -> Result<String> {
        let file = folder.join(to);
        make(file.parent().unwrap_or(folder))?;
        saved.1 += download(client, path, &file)?;
        saved.0 += 1;
        Ok(to.display().to_string())
    };
    let mut entry = json!({
        "node": node.node, "executor": node.executor, "outcome": node.outcome, "message": node.message,
        "deployed_at": node.deployed_at, "started_at": node.started_at, "ended_at": node.ended_at,
        "log": fetch(&at("log/raw"), &own.join("log.txt"))?,
        "deployment_log": fetch(&at("log/raw?of=deployment"), &own.join("deployment.txt"))?,
    });
    if node.result_bytes.is_some() {
        entry["result"] = fetch(&at("result"), &own.join("result.pickle"))?.into();
    }
    let mut runs = Vec::new();
    for run in &node.runs {
        let place = own.join("tasks").join(safe(&run.task)).join(format!("{}-{}", run.cycle, run.attempt));
        let mut artifacts = Vec::new();
        for artifact in &run.artifacts {
            let to = artifact.path.split('/').map(safe).fold(place.clone(), |path, part| path.join(part));
            let file = fetch(&at(&format!("artifacts/{}", artifact.digest)), &to)?;
            artifacts
                .push(json!({"path": artifact.path, "file": file, "sha256": artifact.digest, "bytes": artifact.size}));
        }
        let mut told = json!(run);
        told["artifacts"] = artifacts.into();
        runs.push(told);
    }
    entry["tasks"] = runs.into();
    Ok((entry, saved))
}

fn make(folder: &Path) -> Result {
    fs::create_dir_all(folder).map_err(|e| Failure::failed(format!("{} cannot be made: {e}", folder.display())))
}

/// A name from elsewhere as one part of a path here.
fn safe(name: &str) -> String {
    let kept: String = name.chars().map(|c| if c.is_control() || matches!(c, '/' | '\\') { '_' } else { c }).collect();
    if kept.chars().all(|c| c == '.') { format!("_{kept}") } else { kept }
}

/// Reads something into a file; gives its bytes.
fn download(client: &Client, path: &str, file: &Path) -> Result<u64> {
    let mut from = client.open(path)?;
    let mut to =
        fs::File::create(file).map_err(|e| Failure::failed(format!("{} cannot be written: {e}", file.display())))?;
    let copied = std::io::copy(&mut from, &mut to);
    copied.map_err(|e| Failure::new(Failure::UNREACHABLE, format!("{} is not whole: {e}", file.display())))
}
