//! The durable queue: work that must be done once it is committed, by whichever replica is there.
//!
//! A job is claimed by a lease with a fencing number; its end is written only while the number still stands, so a worker
//! that slept through its lease changes nothing. Who runs a job says what becomes of it: [`Next`].

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use sqlx::{FromRow, Row};

use super::{
    db::{Db, Tx, query},
    reconcile::Reconciler,
};
use crate::error::Result;

/// Longest pause between two tries, milliseconds.
const MAX_BACKOFF_MS: i64 = 3_600_000;

/// How long a claim holds. A job that takes longer is run again by another worker.
const LEASE_MS: i64 = 300_000;

/// What becomes of a job after a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It is done and gone.
    Done,
    /// It is done for this time and due again in so many milliseconds.
    Again(i64),
    /// It failed and is worth another try; tries grow apart.
    Retry(String),
    /// It failed for good and stays, to be looked at.
    Fail(String),
}

/// A job to be put into the queue.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Who runs it.
    pub kind: &'static str,
    /// While an unfinished job with this key is there, no second one is added.
    pub dedupe: String,
    /// What it is about; the runner's own text.
    pub payload: String,
    /// Not before this time, milliseconds since the Unix epoch.
    pub run_at: i64,
}

/// A claimed job.
#[derive(Debug, Clone, FromRow)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// Who runs it.
    pub kind: String,
    /// What it is about.
    pub payload: String,
    /// How often it was tried, this time included.
    pub attempts: i64,
    fence: i64,
}

/// Runs the jobs of one kind.
pub type Runner = Arc<dyn Fn(Job) -> Pin<Box<dyn Future<Output = Next> + Send>> + Send + Sync>;

/// The loop that runs jobs, one after the other.
pub struct Worker {
    /// Where the queue is.
    pub db: Db,
    /// Name of this replica.
    pub holder: String,
    /// Who runs which kind.
    pub runners: BTreeMap<&'static str, Runner>,
}

/// Adds a job in the transaction of the change that needs it. False: one with its key waits already.
pub async fn enqueue(tx: &mut Tx, job: NewJob) -> Result<bool> {
    let id = super::id::fresh(tx.now());
    let added = sqlx::query(
        "insert into job (id, kind, dedupe, payload, run_at, attempts, fence, holder, until, state, error) \
         values ($1, $2, $3, $4, $5, 0, 0, '', 0, 'waiting', '') \
         on conflict (kind, dedupe) where state = 'waiting' do nothing",
    )
    .bind(id)
    .bind(job.kind)
    .bind(job.dedupe)
    .bind(job.payload)
    .bind(job.run_at)
    .execute(&mut **tx)
    .await?;
    tx.wake("jobs");
    Ok(added.rows_affected() == 1)
}

/// Claims the job that is due longest, of a kind this worker runs. None does not mean that there is no work: another worker
/// may have been quicker.
pub async fn claim(db: &Db, holder: &str, kinds: &[&str]) -> Result<Option<Job>> {
    db.write(|mut tx| async move {
        let now = tx.now();
        let clock = tx.engine().now();
        let text = format!(
            "update job set holder = $1, until = {clock} + {LEASE_MS}, fence = fence + 1, attempts = attempts + 1 \
             where id = (select id from job where state = 'waiting' and run_at <= $2 and until < {clock} \
             and kind in ({}) order by run_at limit 1) and until < {clock} \
             returning id, kind, payload, attempts, fence",
            super::db::list(kinds.len(), 2)
        );
        let mut claim = sqlx::query_as::<_, Job>(sqlx::AssertSqlSafe(text)).bind(holder).bind(now);
        for kind in kinds {
            claim = claim.bind(*kind);
        }
        let job = claim.fetch_optional(&mut *tx).await?;
        tx.done(job)
    })
    .await
}

/// Writes what became of a claimed job. False: the lease was lost, nothing was written.
pub async fn finish(db: &Db, job: &Job, next: &Next) -> Result<bool> {
    db.write(|mut tx| async move {
        let now = tx.now();
        let (state, run_at, error) = after(next, job.attempts, now);
        let text = match state {
            "done" => "delete from job where id = $1 and fence = $2".to_owned(),
            _ => "update job set state = $3, run_at = $4, error = $5, until = 0, \
                  attempts = case when $5 = '' then 0 else attempts end where id = $1 and fence = $2"
                .to_owned(),
        };
        let mut write = query(text).bind(job.id.clone()).bind(job.fence);
        if state != "done" {
            write = write.bind(state).bind(run_at).bind(error);
        }
        let written = write.execute(&mut *tx).await?.rows_affected() == 1;
        tx.done(written)
    })
    .await
}

/// When the next job is due, milliseconds since the Unix epoch.
pub async fn next_due(db: &Db) -> Result<Option<i64>> {
    let row =
        sqlx::query("select min(run_at) from job where state = 'waiting'").fetch_one(&mut *db.read().await?).await?;
    Ok(row.try_get(0)?)
}

/// The state, due time and error that an end leaves behind. Tries double their distance from a second on.
fn after(next: &Next, attempts: i64, now: i64) -> (&'static str, i64, String) {
    match next {
        Next::Done => ("done", now, String::new()),
        Next::Again(in_ms) => ("waiting", now + in_ms, String::new()),
        Next::Retry(error) => {
            let wait = 1000_i64.checked_shl(attempts.clamp(0, 20) as u32).unwrap_or(MAX_BACKOFF_MS).min(MAX_BACKOFF_MS);
            ("waiting", now + wait, error.clone())
        }
        Next::Fail(error) => ("failed", now, error.clone()),
    }
}

// === impl Worker ===

impl Reconciler for Worker {
    type Status = Result<usize, String>;
    const PERIOD: Duration = Duration::from_secs(5);
    const LONG: Duration = Duration::from_millis(LEASE_MS.unsigned_abs());

    async fn reconcile(&mut self) -> Self::Status {
        let kinds: Vec<_> = self.runners.keys().copied().collect();
        let mut ran = 0;
        while let Some(job) = claim(&self.db, &self.holder, &kinds).await.map_err(|e| e.to_string())? {
            let runner = self.runners.get(job.kind.as_str()).expect("only kinds that have a runner are claimed");
            let next = runner(job.clone()).await;
            if let Next::Retry(error) | Next::Fail(error) = &next {
                tracing::warn!(job = job.kind, attempts = job.attempts, error, "job failed");
            }
            finish(&self.db, &job, &next).await.map_err(|e| e.to_string())?;
            ran += 1;
        }
        Ok(ran)
    }
}
