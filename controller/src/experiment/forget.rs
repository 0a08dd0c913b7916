//! What is not kept for good: what deleted experiments left, and what cleanups reported.

use muster_proto::KIND_EXPERIMENT_CLEANUP;

use super::{
    service::{Experiments, keeper},
    store,
};
use crate::{
    error::Result,
    fleet::{desired, logs},
    platform::blobs::Blobs,
};

/// What a deleted experiment left is kept for so long, milliseconds.
const KEEP_DELETED: i64 = 30 * 86_400_000;

/// Cleanups forgotten in one transaction.
const FORGOTTEN: i64 = 500;

/// Forgets what deleted experiments left once their retention is over, and what cleanups reported.
pub async fn forget_old(experiments: &Experiments) -> Result<()> {
    let db = &experiments.fleet.db;
    let before = db.clock().now() - KEEP_DELETED;
    loop {
        let old = store::deleted_before(&mut *db.read().await?, before).await?;
        if old.is_empty() {
            break;
        }
        for id in &old {
            db.write(|mut tx| async move {
                if store::lock_by_id(&mut tx, id).await?.is_none() {
                    return tx.done(());
                }
                for deployment in store::deployments(&mut tx, &id.0).await? {
                    experiments.forget_deployment(&mut tx, &deployment).await?;
                }
                let keeper = keeper(&id.0);
                Blobs::forget(&mut tx, &keeper).await?;
                Blobs::forget_all(&mut tx, &format!("{keeper}/")).await?;
                store::remove_experiment(&mut tx, id).await?;
                tx.done(())
            })
            .await?;
        }
    }
    loop {
        let cleaned = &desired::ended(&mut *db.read().await?, KIND_EXPERIMENT_CLEANUP, "", FORGOTTEN).await?;
        if cleaned.is_empty() {
            return Ok(());
        }
        db.write(|mut tx| async move {
            for report in cleaned {
                desired::forget(&mut tx, &report.agent, &report.key).await?;
                logs::forget(&mut tx, &report.key).await?;
            }
            tx.done(())
        })
        .await?;
    }
}
