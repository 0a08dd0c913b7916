//! The chores of the house: sealing, retention, forgetting.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    access::Access,
    error::Result,
    fleet,
    platform::{
        blobs::Blobs,
        db::Db,
        events,
        jobs::{self, NewJob, Next, Runner},
    },
    web,
};

const HOUR: i64 = 3_600_000;

/// The chores of the house, as jobs that come again.
pub(super) async fn periodic(
    db: &Db,
    access: &Access,
    blobs: &Blobs,
    retention_days: u32,
) -> Result<BTreeMap<&'static str, Runner>> {
    let mut runners: BTreeMap<&'static str, Runner> = BTreeMap::new();
    let d = db.clone();
    runners.insert(
        "events.seal",
        chore(HOUR, move || {
            let db = d.clone();
            async move { events::seal(&db).await.map(drop) }
        }),
    );
    let d = db.clone();
    runners.insert(
        "events.retention",
        chore(6 * HOUR, move || {
            let db = d.clone();
            async move {
                let before = db.clock().now() - i64::from(retention_days) * 24 * HOUR;
                if retention_days > 0 { events::drop_old(&db, before).await.map(drop) } else { Ok(()) }
            }
        }),
    );
    let d = db.clone();
    runners.insert(
        "fleet.drop_orphans",
        chore(HOUR, move || {
            let db = d.clone();
            async move {
                db.write(|mut tx| async move {
                    let gone = fleet::desired::drop_orphans(&mut tx).await?;
                    tx.done(gone)
                })
                .await
                .map(drop)
            }
        }),
    );
    let (d, b) = (db.clone(), blobs.clone());
    runners.insert(
        "blobs.drop_orphans",
        chore(HOUR, move || {
            let (db, blobs) = (d.clone(), b.clone());
            async move { blobs.drop_orphans(&db).await.map(drop) }
        }),
    );
    let (d, a) = (db.clone(), access.clone());
    runners.insert(
        "access.forget",
        chore(HOUR / 4, move || {
            let (db, access) = (d.clone(), a.clone());
            async move {
                web::idempotency::forget(&db).await?;
                access.forget().await
            }
        }),
    );
    let kinds: Vec<_> = runners.keys().copied().collect();
    let kinds = &kinds;
    db.write(|mut tx| async move {
        for kind in kinds {
            let run_at = tx.now();
            jobs::enqueue(&mut tx, NewJob { kind, dedupe: "periodic".into(), payload: String::new(), run_at }).await?;
        }
        tx.done(())
    })
    .await?;
    Ok(runners)
}

/// A job that comes again after `period` milliseconds, sooner when it failed.
fn chore<F, Fut>(period: i64, act: F) -> Runner
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    Arc::new(move |_| {
        let run = act();
        Box::pin(async move {
            match run.await {
                Ok(()) => Next::Again(period),
                Err(error) => Next::Retry(error.to_string()),
            }
        })
    })
}
