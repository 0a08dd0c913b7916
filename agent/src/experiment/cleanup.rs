//! Removing what deployments and executors left.

use std::sync::Arc;

use futures::future::BoxFuture;
use muster_proto::KIND_EXPERIMENT_CLEANUP;

use super::{
    ground::{self, Ground},
    image,
    model::{Cleaned, Cleanup, is_fit, unfit},
    wire,
};
use crate::{
    driver::{Act, Attempt, Capability, Driver, End, Once, condition},
    ledger::Refused,
};

/// The driver of cleanups.
pub struct Cleanups(pub Arc<Ground>);

// === impl Cleanups ===

impl Driver for Cleanups {
    fn capability(&self) -> Capability {
        Capability { kind: KIND_EXPERIMENT_CLEANUP, versions: (1, 1), offers: Vec::new() }
    }

    fn admit(&self, document: &[u8]) -> Result<(), Refused> {
        wire::cleanup(document).map(drop)
    }

    fn act(&self) -> Act<'_> {
        Act::Once(self)
    }
}

impl Once for Cleanups {
    fn run<'a>(&'a self, work: Attempt<'a>) -> BoxFuture<'a, End> {
        Box::pin(async move {
            let id = work.assignment.key.id.as_str();
            let (cleaned, failed) = match wire::cleanup(&work.assignment.document) {
                Ok(cleanup) if is_fit(id) => self.carry_out(&cleanup, id).await,
                Ok(_) => (Cleaned::default(), Some(unfit(id))),
                Err(refused) => (Cleaned::default(), Some(refused.message)),
            };
            let message = failed.clone().unwrap_or(cleaned.message);
            let result = wire::cleaned(&Cleaned { message, ..cleaned });
            let conditions = failed.map(|why| condition("Clean", false, "NotRemoved", why));
            End { succeeded: conditions.is_none(), conditions: conditions.into_iter().collect(), result }
        })
    }
}

impl Cleanups {
    /// Removes all that can be; says what stays, and apart from it what should have gone and did not.
    async fn carry_out(&self, cleanup: &Cleanup, id: &str) -> (Cleaned, Option<String>) {
        let ground = self.0.as_ref();
        ground.swept().await;
        let (mut cleaned, mut stays, mut failed) = (Cleaned::default(), Vec::new(), Vec::new());
        if cleanup.folder {
            let is_running = ground.is_running(id);
            let folder = ground.executor(id);
            let removed = match is_running {
                true => Err(format!("the executor {id} runs in {}", folder.display())),
                false => ground.forget(id).map_err(|e| e.to_string()),
            };
            match removed {
                Ok(()) => match erase(folder).await {
                    Ok(bytes) => cleaned.freed_bytes += bytes,
                    Err(why) => failed.push(why),
                },
                Err(why) => stays.push(why),
            }
        }
        for digest in &cleanup.environments {
            let Ok(_turn) = ground.makers.turn(digest) else {
                stays.push(format!("the environment {digest} stays: it is being made"));
                continue;
            };
            let users: Vec<_> = ground.users(digest).into_iter().collect();
            if !users.is_empty() {
                stays.push(format!("the environment {digest} stays: used by {}", users.join(", ")));
                continue;
            }
            if let Some(made) = ground.ready(digest).filter(|made| !made.image.is_empty()) {
                image::remove(ground, &made.image).await;
                cleaned.freed_bytes += made.bytes;
            }
            match erase(ground.environment(digest)).await {
                Ok(bytes) => cleaned.freed_bytes += bytes,
                Err(why) => failed.push(why),
            }
        }
        cleaned.message = stays.join("; ");
        let failed = (!failed.is_empty()).then(|| [failed, stays].concat().join("; "));
        (cleaned, failed)
    }
}

/// Removes a folder; says what it occupied.
async fn erase(folder: std::path::PathBuf) -> Result<u64, String> {
    let erased = tokio::task::spawn_blocking(move || {
        let bytes = ground::size(&folder);
        ground::remove(&folder).map(|()| bytes).map_err(|e| format!("{} cannot be removed: {e}", folder.display()))
    });
    erased.await.unwrap_or_else(|e| Err(e.to_string()))
}
