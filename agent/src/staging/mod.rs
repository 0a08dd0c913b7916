//! Previews driven through wrapper executables.
//!
//! The host's owner lists wrapper folders by name; home names the folder, the wrapper and its arguments, and nothing
//! else reaches the machine: no shell, no inherited environment. An *operation* runs one wrapper to its end. A *watch*
//! runs a check again and again and says when its result changes. What is run with which arguments follows purely from
//! the document (`plan`).

mod apply;
mod plan;
mod wire;

use std::{path::PathBuf, sync::Arc};

use crate::{config, driver::Driver, host::Host};
use apply::{Folders, Operation, Watch};

/// The domain's drivers.
pub fn drivers(settings: &config::Staging, host: Arc<dyn Host>, state_dir: PathBuf) -> Vec<Arc<dyn Driver>> {
    let folders = Arc::new(Folders { settings: settings.clone(), host, work: state_dir.join("work") });
    vec![Arc::new(Operation(folders.clone())), Arc::new(Watch(folders))]
}

#[cfg(test)]
mod tests;
