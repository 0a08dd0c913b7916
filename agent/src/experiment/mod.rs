//! Executors of experiments on this host.
//!
//! - An *environment* is what an executor runs in: a folder that is first on PATH, or a container image. It is named by the
//!   digest of what defines it and made once (`environment`, `image`), over the host's Python where it needs one (`python`).
//! - A *deployment* makes the environment and the executor's folder. An *executor* runs there: netunicorn's own in Python,
//!   or a native pipeline, whose tasks begin as `plan` says and are carried out by `apply`. A *cleanup* removes what is left.
//! - The *relay* speaks the gateway of netunicorn to executors on loopback, and forwards to home (`relay`, `flags`).
//! - What is half-made when the agent ends is cleared away before anything new begins (`ground`).
//!
//! Commands of environments and tasks run as the agent's user. Nothing here confines them: a host that runs experiments is
//! a host for experiments.

mod apply;
mod artifact;
mod cleanup;
mod content;
mod deployment;
mod environment;
mod executor;
mod flags;
mod ground;
mod image;
mod lines;
mod model;
mod plan;
mod python;
mod relay;
mod runs;
mod tail;
mod wire;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use crate::{blobs::Blobs, driver::Driver, host::Host, spool::Spool};
use cleanup::Cleanups;
use deployment::Deployments;
use executor::Executors;
use ground::Ground;

/// What the host's owner lets this domain use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The Python that environments are made over; what is installed there can be seen in them. Empty: none.
    pub python: PathBuf,
    /// What pip installs when that Python has no executor.
    pub packages: Vec<String>,
    /// What runs and builds container images: `podman`, `docker` or a path. Not named: no image is used.
    pub engine: Option<PathBuf>,
    /// It builds images for other hosts too.
    pub builder: bool,
    /// What all environments may occupy together, bytes.
    pub environments_bytes: u64,
    /// How long making an environment may take at most, seconds.
    pub environment_seconds: u64,
}

/// The domain's drivers. Asks the host's Python about itself, once.
pub async fn drivers(
    settings: &Settings,
    host: Arc<dyn Host>,
    spool: Arc<Spool>,
    blobs: Arc<Blobs>,
    state_dir: &Path,
) -> Vec<Arc<dyn Driver>> {
    let ground = Ground::open(settings.clone(), host, spool, blobs, state_dir).await;
    let sweeping = ground.clone();
    // What a former run left is cleared away also when no work comes.
    tokio::spawn(async move { sweeping.swept().await });
    vec![Arc::new(Deployments(ground.clone())), Arc::new(Executors(ground.clone())), Arc::new(Cleanups(ground))]
}

#[cfg(test)]
mod tests;
