//! The loop that has postprocessors told of experiments that have ended.
//!
//! At least once: a controller that dies between a processor's end and its mark has it told again. Each experiment is told
//! beside the loop, so that a slow processor holds nobody up but its own experiment.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::{
    model::ExperimentId,
    processor,
    service::{Experiments, keeper, subject},
    store::{self, PostRow},
};
use crate::{
    error::Result,
    fleet::REPLICA_LIFE,
    platform::{blobs::Blobs, db::clean, events::Actor, lease, reconcile::Reconciler},
};

/// Experiments that are told of at the same time.
const AT_ONCE: usize = 4;

const LEASE: Duration = Duration::from_millis(REPLICA_LIFE.unsigned_abs());

/// Tells of every experiment that is due, on the one replica that holds the lease.
pub struct Postprocess {
    /// The experiments.
    pub experiments: Experiments,
    /// Those being told of.
    pub under_way: BTreeMap<ExperimentId, AbortOnDropHandle<()>>,
}

impl Reconciler for Postprocess {
    /// How many are being told of.
    type Status = Result<usize, String>;
    const PERIOD: Duration = Duration::from_secs(5);

    async fn reconcile(&mut self) -> Self::Status {
        self.round().await.map_err(|error| {
            tracing::error!(%error, "postprocessors could not be run; the next round tries again");
            error.to_string()
        })
    }
}

impl Postprocess {
    async fn round(&mut self) -> Result<usize> {
        self.under_way.retain(|_, telling| !telling.is_finished());
        let fleet = &self.experiments.fleet;
        if !self.experiments.processors.post.are_wanted()
            || lease::hold(&fleet.db, "postprocess/experiment", &fleet.replica, LEASE).await?.is_none()
        {
            return Ok(self.under_way.len());
        }
        let now = fleet.db.clock().now();
        let due = store::due_posts(&mut *fleet.db.read().await?, now, (2 * AT_ONCE) as i64).await?;
        for id in due {
            if self.under_way.len() == AT_ONCE {
                break;
            }
            let (experiments, told) = (self.experiments.clone(), id.clone());
            self.under_way.entry(id).or_insert_with(|| {
                AbortOnDropHandle::new(tokio::spawn(async move {
                    if let Err(error) = tell(&experiments, &told).await {
                        tracing::error!(experiment = %told, %error, "postprocessors could not be told; it is tried again");
                    }
                }))
            });
        }
        Ok(self.under_way.len())
    }
}

/// Tells of one experiment, and marks what came of it.
pub async fn tell(experiments: &Experiments, id: &ExperimentId) -> Result<()> {
    let db = &experiments.fleet.db;
    let question = {
        let mut conn = db.read().await?;
        let Some(row) = store::fetch_any(&mut conn, id).await? else { return Ok(()) };
        let sizes = Blobs::use_of(&mut conn, &keeper(&id.0)).await?;
        processor::ended(&row, &store::deployments(&mut conn, &id.0).await?, &sizes)
    };
    let done = &experiments.postprocess(&question).await;
    db.write(|mut tx| async move {
        let Some(row) = store::lock_by_id(&mut tx, id).await? else { return tx.done(()) };
        let Some(before) = store::fetch_post(&mut tx, &id.0).await? else { return tx.done(()) };
        let (tries, now) = (before.tries + 1, tx.now());
        let actor = Actor::controller();
        let (post, change) = match done {
            Ok(message) => {
                let message = clean(message);
                let change = actor.change("experiment.postprocessed", subject(&row));
                let change = change.after(json!({"message": message}));
                (PostRow { tries, due_at: None, told_at: Some(now), message, error: String::new() }, change)
            }
            Err(error) => {
                let (error, due_at) = (clean(error), processor::again_at(tries, now));
                let change = actor.change("experiment.postprocessing_failed", subject(&row));
                let change = change.after(json!({"error": error, "tries": tries, "again_at": due_at}));
                (PostRow { tries, due_at, told_at: None, message: String::new(), error }, change)
            }
        };
        store::save_post(&mut tx, &id.0, &post).await?;
        tx.record(change).await?;
        tx.wake("experiment");
        tx.done(())
    })
    .await
}
