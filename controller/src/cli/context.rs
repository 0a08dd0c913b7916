//! Controllers that are remembered: name, address, certificate authority, token. The file is its owner's alone to read.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::{Failure, Global, Result, output};

/// What is remembered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is meant when none is named.
    #[serde(default)]
    pub current: String,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Target>,
}

/// One controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// Where it is.
    pub url: String,
    /// Its certificate authority, where the system's would not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The API token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Which controllers are remembered
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the controllers that are remembered
    List,
    /// Talk to this controller from here on
    #[command(
        after_help = "Example:\n  muster login https://muster.example.org --name live\n  muster context use live"
    )]
    Use {
        /// Its name
        name: String,
    },
    /// Forget a controller, and leave its token as it is; `muster logout` ends it
    Remove {
        /// Its name
        name: String,
    },
}

// === impl Contexts ===

impl Contexts {
    /// Reads what is remembered.
    pub fn load() -> Result<Self> {
        let path = path()?;
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|e| Failure::failed(format!("{}: {e}", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Failure::failed(format!("{}: {e}", path.display()))),
        }
    }

    /// Writes it, whole or not at all.
    pub fn save(&self) -> Result {
        let path = path()?;
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let text = toml::to_string(self).map_err(|e| Failure::failed(e.to_string()))?;
        let temporary = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(fs::rename(temporary, path)?)
    }
}

// === impl Command ===

impl Command {
    pub fn run(&self, global: &Global) -> Result {
        let mut all = Contexts::load()?;
        match self {
            Self::List => {
                let rows = all.contexts.iter().map(|(name, target)| {
                    let mark = if *name == all.current { "*" } else { "" };
                    serde_json::json!({"name": name, "url": target.url, "current": mark})
                });
                let columns = [("", "/current"), ("NAME", "/name"), ("URL", "/url")];
                output::list(
                    global.output,
                    rows.collect(),
                    &columns,
                    "/name",
                    "no controller is remembered; see `muster login`",
                )
            }
            Self::Use { name } => {
                if !all.contexts.contains_key(name) {
                    return Err(Failure::new(Failure::NOT_FOUND, format!("no controller is remembered as {name:?}")));
                }
                all.current.clone_from(name);
                all.save()
            }
            Self::Remove { name } => {
                if all.contexts.remove(name).is_none() {
                    return Err(Failure::new(Failure::NOT_FOUND, format!("no controller is remembered as {name:?}")));
                }
                all.save()
            }
        }
    }
}

/// The controller that is meant: flags and environment before what is remembered.
pub(crate) fn resolve(global: &Global) -> Result<Target> {
    let all = Contexts::load()?;
    let name = global.context.as_ref().unwrap_or(&all.current);
    let mut target = match (all.contexts.get(name), &global.url) {
        (Some(target), _) => target.clone(),
        (None, Some(_)) => Target::default(),
        (None, None) if global.context.is_some() => {
            return Err(Failure::new(Failure::NOT_FOUND, format!("no controller is remembered as {name:?}")));
        }
        (None, None) => {
            return Err(Failure::usage(
                "no controller is remembered; log in with `muster login URL`, or start one with `muster dev`",
            ));
        }
    };
    if let Some(url) = &global.url {
        if *url != target.url {
            target = Target::default();
        }
        target.url.clone_from(url);
    }
    if let Some(file) = &global.ca_file {
        target.ca_pem = Some(read(file)?);
    }
    if let Some(file) = &global.token_file {
        target.token = Some(read(file)?.trim().to_owned());
    } else if let Ok(token) = std::env::var("MUSTER_TOKEN") {
        target.token = Some(token);
    }
    Ok(target)
}

/// Reads a small file, and names it when that fails.
pub(crate) fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))
}

fn path() -> Result<PathBuf> {
    let folder = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let folder = folder.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let folder = folder.ok_or_else(|| Failure::usage("neither XDG_CONFIG_HOME nor HOME is set"))?;
    Ok(folder.join("muster/contexts.toml"))
}
