//! One site of a network: its router, kept equal to a document, and the programs behind it.
//!
//! - A *profile* is a key made here with its leaf from home, and whom to trust (`profile`, `leaves`). A leaf has an *edition*,
//!   which home raises, and an *ordinal*, which is the agent's own count for the router.
//! - What the router is to hold follows purely from the document, the profiles that have a leaf and the ports that
//!   answer; so do its start-up file and what has to be done to a running one (`plan`).
//! - The *start-up file* always says what the running router holds, so that a router that restarts needs nobody.
//! - The router (`router`) and the programs (`process`, `supervise`) outlive the agent: they are known again by their number, their
//!   start and the boot. A running router is changed over its management (`management`), which is locked to the agent.
//! - What the driver saw last is on a *board*, from which people on the host read (`pages`, `view`); what they decide of
//!   endpoints is asked of home, which answers with a newer document.
//! - What is said of links, ports and the router rests on what the router shows, see `observe`.
//!
//! A generation is reported applied only when an observation found nothing left to do. What cannot be helped from here
//! (a peer that is away, a port taken by somebody else) is a problem in the result, not a reason to try in a circle.

mod apply;
mod board;
mod leaves;
mod management;
mod memory;
mod model;
mod observe;
mod pages;
mod plan;
mod process;
mod profile;
mod router;
mod sasl;
mod supervise;
mod view;
mod wire;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use crate::{driver::Driver, host::Host, spool::Spool};

/// What the host's owner lets this domain use.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The router program, `skrouterd`; when it is not named, what `SKROUTERD` names, or else the one on PATH.
    pub router: Option<PathBuf>,
    /// Folders of executables that may run as processes of a site. None: no executable runs.
    #[serde(default)]
    pub processes: Vec<PathBuf>,
    /// What runs container images: `podman`, `docker` or a path. Not named: no container runs.
    pub containers: Option<PathBuf>,
}

/// The domain's drivers.
pub fn drivers(settings: &Settings, host: Arc<dyn Host>, spool: Arc<Spool>, state_dir: &Path) -> Vec<Arc<dyn Driver>> {
    vec![Arc::new(apply::Sites::new(settings.clone(), host, spool, state_dir.join("network")))]
}

#[cfg(test)]
mod tests;
