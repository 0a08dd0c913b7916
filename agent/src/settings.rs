//! The driver of `fleet.settings`: what home tells every agent about itself.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use futures::future::BoxFuture;
use muster_proto::{KIND_SETTINGS, fleet};
use prost::Message;

use crate::{
    driver::{Act, Capability, Driver, Settled, Standing, Turn},
    identity::Keeper,
    ledger::{Assignment, Reason, Refused},
};

/// Keeps the identity's roots and homes, and the rate of samples, equal to home's word.
pub struct Settings {
    /// Whose roots and homes.
    pub keeper: Arc<Keeper>,
    /// Seconds between samples; 0: none.
    pub sample_seconds: Arc<AtomicU32>,
}

// === impl Settings ===

impl Driver for Settings {
    fn capability(&self) -> Capability {
        Capability { kind: KIND_SETTINGS, versions: (1, 1), offers: Vec::new() }
    }

    fn admit(&self, document: &[u8]) -> Result<(), Refused> {
        read(document).map(drop).map_err(|message| Refused::new(Reason::Malformed, message))
    }

    fn act(&self) -> Act<'_> {
        Act::Standing(self)
    }
}

impl Standing for Settings {
    fn turn<'a>(&'a self, assignment: &'a Assignment) -> BoxFuture<'a, Turn> {
        let turn = read(&assignment.document).and_then(|settings| {
            self.sample_seconds.store(settings.sample_seconds, Ordering::Relaxed);
            let roots: Vec<Vec<u8>> = settings.roots.iter().map(|root| root.to_vec()).collect();
            self.keeper.learn(&roots, &settings.homes).map_err(|e| format!("{e:#}"))
        });
        let turn = match turn {
            Ok(true) => Turn::Acted,
            Ok(false) => Turn::Settled(Settled::default()),
            Err(why) => Turn::Failed(why),
        };
        Box::pin(async { turn })
    }

    fn undo<'a>(&'a self, _: &'a Assignment) -> BoxFuture<'a, Turn> {
        // Without home's word the last known roots and homes are the best there is.
        self.sample_seconds.store(0, Ordering::Relaxed);
        Box::pin(async { Turn::Settled(Settled::default()) })
    }
}

fn read(document: &[u8]) -> Result<fleet::Settings, String> {
    let settings = fleet::Settings::decode(document).map_err(|e| e.to_string())?;
    if settings.roots.is_empty() { Err("roots is empty: an agent must trust someone".into()) } else { Ok(settings) }
}
