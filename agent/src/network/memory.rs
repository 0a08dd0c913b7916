//! What the driver must not forget: its processes, the port it chose, its leaves and their numbers.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use serde::{Deserialize, Serialize};

use super::{Settings, model::Attributes, process::Running, profile::Held};
use crate::{durable, host::Host};

const FILE: &str = "site.json";

/// All of it, as a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Of the router's management on loopback; 0: none was chosen.
    pub port: u16,
    /// The router.
    pub router: Option<Running>,
    /// What the running router was last told of each profile, successfully.
    pub applied: BTreeMap<String, Attributes>,
    /// What is held for each profile.
    pub profiles: BTreeMap<String, Held>,
    /// The processes by endpoint.
    pub processes: BTreeMap<String, Running>,
}

/// What the parts of one site share.
pub struct Ground {
    /// The owner's word.
    pub settings: Settings,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// The site's folder.
    pub folder: PathBuf,
    /// What must not be forgotten.
    pub memory: Memory,
}

/// The facts and their file.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    facts: Mutex<Facts>,
}

// === impl Memory ===

impl Memory {
    /// Reads what a site's folder holds. What cannot be read is told and begun anew.
    pub fn open(folder: &Path) -> io::Result<Self> {
        durable::folder(folder)?;
        let path = folder.join(FILE);
        let facts = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|e| {
                tracing::error!(path = %path.display(), error = %e, "what was remembered of a site cannot be read");
                Facts::default()
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Facts::default(),
            Err(e) => return Err(e),
        };
        Ok(Self { path, facts: Mutex::new(facts) })
    }

    /// The facts as they are.
    pub fn read<R>(&self, read: impl FnOnce(&Facts) -> R) -> R {
        read(&self.lock())
    }

    /// Changes the facts durably; when that is impossible they stay as they were.
    pub fn change(&self, change: impl FnOnce(&mut Facts)) -> io::Result<()> {
        let mut facts = self.lock();
        let mut changed = facts.clone();
        change(&mut changed);
        if changed != *facts {
            let bytes = serde_json::to_vec_pretty(&changed).map_err(io::Error::other)?;
            durable::replace(&self.path, &bytes, || ())?;
            *facts = changed;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(|e| e.into_inner())
    }
}
