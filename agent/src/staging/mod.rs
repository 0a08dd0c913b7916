//! Previews driven through wrapper executables.
//!
//! The host's owner lists wrapper folders by name; home names the folder, the wrapper and its arguments, and nothing
//! else reaches the machine: no shell, no inherited environment. An *operation* runs one wrapper to its end. A *watch*
//! runs a check again and again and says when its result changes. What is run with which arguments follows purely from
//! the document (`plan`).

mod apply;
mod plan;
mod wire;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde::Deserialize;

use crate::{driver::Driver, host::Host};
use apply::{Folders, Operation, Watch};

/// What the host's owner lets this domain use.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Wrapper folders by the name home uses.
    pub wrappers: BTreeMap<String, WrapperFolder>,
}

/// One folder of wrapper executables.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrapperFolder {
    /// Where it lies.
    pub path: PathBuf,
    /// Environment of its wrappers, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// A file of such lines, read at each run; for values that should not stand here.
    pub env_file: Option<PathBuf>,
}

/// The domain's drivers.
pub fn drivers(settings: &Settings, host: Arc<dyn Host>, state_dir: PathBuf) -> Vec<Arc<dyn Driver>> {
    let folders = Arc::new(Folders { settings: settings.clone(), host, work: state_dir.join("work") });
    vec![Arc::new(Operation(folders.clone())), Arc::new(Watch(folders))]
}

#[cfg(test)]
mod tests;
