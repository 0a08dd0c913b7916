//! The agent's configuration: flag before environment before file before default.
//!
//! Files are `/etc/muster-agent/agent.toml` and, over it, `/etc/muster-agent/agent.d/*.toml` in the order of their names;
//! under a service manager the folder is the one it names in `CONFIGURATION_DIRECTORY`. A key that
//! nobody reads is refused by name, since it is a setting its writer believes in.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use toml::{Table, Value};

use crate::console;
use crate::experiment;
use crate::network;
use crate::staging;

/// Where the file lies unless a flag, `MUSTER_AGENT_CONFIG` or the service manager says otherwise.
pub const DEFAULT_FILE: &str = "/etc/muster-agent/agent.toml";

const PREFIX: &str = "MUSTER_AGENT_";

const DEFAULTS: &str = r#"
state_dir = "/var/lib/muster-agent"
homes = []
reconnect_seconds = 300
spool_bytes = 67108864
blobs_bytes = 4294967296
log = "info"
network = {}
experiment = { python = "python3", packages = ["netunicorn-executor", "netunicorn-library", "cloudpickle"], builder = false, environments_bytes = 21474836480, environment_seconds = 3600 }
[accept]
kinds = ["*"]
[console]
[staging.wrappers]
"#;

/// All that the host's owner decides.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Identity, ledger and spool.
    pub state_dir: PathBuf,
    /// Addresses of home, host:port, in place of those home told.
    pub homes: Vec<String>,
    /// What home may ask for.
    pub accept: Accept,
    /// What people on the host see and say in a browser.
    pub console: console::Settings,
    /// The experiment domain.
    pub experiment: experiment::Settings,
    /// The network domain.
    pub network: network::Settings,
    /// The staging domain.
    pub staging: staging::Settings,
    /// The longest wait before home is tried again, seconds.
    #[serde(deserialize_with = "seconds")]
    pub reconnect_seconds: Duration,
    /// Output kept until home has it, bytes.
    pub spool_bytes: u64,
    /// Blobs kept, those for home and those from home, bytes.
    pub blobs_bytes: u64,
    /// What is logged, as `tracing` directives.
    pub log: String,
    /// Seconds between samples in place of home's word; 0: none.
    pub sample_seconds: Option<u32>,
    /// Whether a status file is kept; many agents in one process have no use for it.
    #[serde(skip, default = "yes")]
    pub status_file: bool,
}

/// What home may ask for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// Kinds of assignments, as globs.
    pub kinds: Vec<String>,
}

/// A configuration and where each of its values comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Dotted key → value and origin.
    pub origins: BTreeMap<String, (String, String)>,
}

/// Seconds, at least one and at most an hour.
fn seconds<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let seconds = u64::deserialize(from)?;
    let is_right = (1..=3600).contains(&seconds);
    is_right.then(|| Duration::from_secs(seconds)).ok_or_else(|| serde::de::Error::custom("it is 1 to 3600 seconds"))
}

// === impl Config ===

impl Config {
    /// The defaults for a state folder; for agents that no file describes.
    pub fn for_state_dir(state_dir: impl Into<PathBuf>) -> Self {
        let mut table: Table = DEFAULTS.parse().expect("the defaults are TOML");
        table.insert("state_dir".into(), Value::String(state_dir.into().to_string_lossy().into_owned()));
        table.try_into().expect("the defaults are complete")
    }
}

/// Loads the configuration. `flags` are dotted keys with their values; `env` is the process's environment.
///
/// # Errors
/// A sentence that names the file or variable, the key, and what is wrong with it.
pub fn load(
    file: Option<&Path>,
    flags: Vec<(&str, Value)>,
    env: impl IntoIterator<Item = (String, String)>,
) -> anyhow::Result<Loaded> {
    let mut merged = Table::new();
    let mut origins = BTreeMap::new();
    let mut layer = |table: Table, origin: String| -> anyhow::Result<()> {
        let mut candidate = merged.clone();
        merge(&mut candidate, table, "", &origin, &mut origins);
        // Checked layer by layer, so that a mistake is told with the place that made it.
        Config::deserialize(Value::Table(candidate.clone())).map_err(|e| anyhow::anyhow!("{origin}: {e}"))?;
        merged = candidate;
        Ok(())
    };
    layer(DEFAULTS.parse().expect("the defaults are TOML"), "default".into())?;
    for path in files(file)? {
        let text = fs::read_to_string(&path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
        let table = text.parse::<Table>().map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
        layer(table, path.display().to_string())?;
    }
    for (name, value) in env {
        if let Some(key) = name.strip_prefix(PREFIX).filter(|key| !matches!(*key, "CONFIG" | "TOKEN_FILE")) {
            layer(variable(key, &value).ok_or_else(|| unknown_variable(&name))?, name.clone())?;
        }
    }
    for (key, value) in flags {
        let origin = format!("--{}", key.replace(['.', '_'], "-"));
        layer(Table::from_iter([(key.to_owned(), value)]), origin)?;
    }
    let config = Config::deserialize(Value::Table(merged))?;
    Ok(Loaded { config, origins })
}

/// The file in the folder that the service manager names, if there is one.
pub fn from_service_manager() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("CONFIGURATION_DIRECTORY")?);
    Some(folder.join("agent.toml")).filter(|path| path.is_file())
}

fn files(chosen: Option<&Path>) -> anyhow::Result<Vec<PathBuf>> {
    let main = chosen.unwrap_or(Path::new(DEFAULT_FILE));
    let mut found = Vec::new();
    if main.exists() {
        found.push(main.to_owned());
    } else if chosen.is_some() {
        anyhow::bail!("{} is not there; name a file that is, or leave the flag out", main.display());
    }
    let mut more: Vec<PathBuf> =
        fs::read_dir(main.with_extension("d")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    more.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    more.sort();
    found.extend(more);
    Ok(found)
}

fn variable(key: &str, value: &str) -> Option<Table> {
    let list = || Value::Array(value.split(',').filter(|v| !v.is_empty()).map(Value::from).collect());
    // A number that is none is handed on as text, so that the refusal names what was expected.
    let number = || value.parse::<i64>().map_or_else(|_| Value::from(value), Value::from);
    Some(match key {
        "STATE_DIR" => Table::from_iter([("state_dir".into(), Value::from(value))]),
        "LOG" => Table::from_iter([("log".into(), Value::from(value))]),
        "HOMES" => Table::from_iter([("homes".into(), list())]),
        "BLOBS_BYTES" => Table::from_iter([("blobs_bytes".into(), number())]),
        "SPOOL_BYTES" => Table::from_iter([("spool_bytes".into(), number())]),
        "RECONNECT_SECONDS" => Table::from_iter([("reconnect_seconds".into(), number())]),
        "SAMPLE_SECONDS" => Table::from_iter([("sample_seconds".into(), number())]),
        "ACCEPT_KINDS" => {
            let kinds = Table::from_iter([("kinds".to_owned(), list())]);
            Table::from_iter([("accept".into(), Value::Table(kinds))])
        }
        _ => return None,
    })
}

fn unknown_variable(name: &str) -> anyhow::Error {
    let known = [
        "STATE_DIR",
        "HOMES",
        "RECONNECT_SECONDS",
        "ACCEPT_KINDS",
        "SPOOL_BYTES",
        "BLOBS_BYTES",
        "LOG",
        "SAMPLE_SECONDS",
        "CONFIG",
    ];
    anyhow::anyhow!("{name}: no such setting; there are {PREFIX}{}", known.join(&format!(", {PREFIX}")))
}

fn merge(into: &mut Table, from: Table, path: &str, origin: &str, origins: &mut BTreeMap<String, (String, String)>) {
    for (key, value) in from {
        let dotted = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            Value::Table(inner) => {
                let slot = into.entry(key).or_insert_with(|| Value::Table(Table::new()));
                if !slot.is_table() {
                    *slot = Value::Table(Table::new());
                }
                let slot = slot.as_table_mut().expect("made a table above");
                merge(slot, inner, &dotted, origin, origins);
            }
            value => {
                // The owner's environment for wrappers may hold secrets, which stay out of what is printed.
                let shown = if key == "env" { "[...]".into() } else { value.to_string() };
                origins.insert(dotted, (shown, origin.to_owned()));
                into.insert(key, value);
            }
        }
    }
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests;
