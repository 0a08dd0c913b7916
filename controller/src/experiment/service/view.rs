//! What is shown of an experiment: its rows, and what its nodes said since.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use muster_proto::{KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR};

use super::{Experiments, keeper, posted_by, stage_of, status_of};
use crate::{
    error::Result,
    experiment::{
        connector, environment,
        model::{FLEET, Outcome, Stage, Status},
        run::TaskRun,
        store::{self, DeploymentRow, ExperimentRow},
        wire,
    },
    fleet::desired,
    platform::{blobs::Blobs, db::Conn},
};

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// With the graphs.
    pub graphs: bool,
    /// With what executors reported.
    pub results: bool,
}

/// An experiment with its deployments.
#[derive(Debug, Clone)]
pub struct Detail {
    /// Its row.
    pub row: ExperimentRow,
    /// Where it stands.
    pub status: Status,
    /// Its deployments, in their order.
    pub deployments: Vec<Seen>,
}

/// A deployment as it is known at this moment.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its row.
    pub row: DeploymentRow,
    /// Where it stands.
    pub stage: Stage,
    /// How it ended, if it did.
    pub outcome: Option<Outcome>,
    /// How far a deployment under way came, in a word.
    pub step: String,
    /// The graph, where it was asked for.
    pub graph: Option<Bytes>,
    /// What the executor reported last, where it was asked for.
    pub result: Option<Bytes>,
    /// Bytes of that; none without a report.
    pub result_bytes: Option<u64>,
    /// A native pipeline's runs of tasks, oldest first.
    pub runs: Vec<TaskRun>,
}

impl Experiments {
    /// An experiment with all that is known of its deployments.
    pub async fn detail(&self, conn: &mut Conn, row: ExperimentRow, told: Told) -> Result<Detail> {
        let rows = store::deployments(conn, &row.id).await?;
        let of_stage = |stages: &[Stage]| -> Vec<String> {
            let words: Vec<_> = stages.iter().map(|s| s.word()).collect();
            rows.iter().filter(|d| words.contains(&d.stage.as_str())).map(|d| d.id.clone()).collect()
        };
        let deploying = desired::reports(conn, KIND_EXPERIMENT_DEPLOYMENT, &of_stage(&[Stage::Deploying])).await?;
        let running =
            desired::reports(conn, KIND_EXPERIMENT_EXECUTOR, &of_stage(&[Stage::Starting, Stage::Running])).await?;
        let (deploying, mut running) = (wire::by_id(deploying), wire::by_id(running));
        let mut remotes = BTreeMap::new();
        if rows.iter().any(|d| d.connector != FLEET && d.stage != Stage::Ended.word()) {
            remotes = connector::store::remotes(conn, &row.id).await?;
        }
        let posted = |row: &DeploymentRow| match remotes.get(&row.id) {
            Some(remote) if row.result.is_empty() => remote.result.clone(),
            _ => row.result.clone(),
        };
        let waiting: Vec<_> = rows.iter().filter(|row| row.stage == Stage::Waiting.word()).collect();
        let environments = environment::by_digest(conn, &waiting).await?;
        let digests: BTreeSet<String> = rows
            .iter()
            .flat_map(|d| [told.graphs.then(|| d.graph.clone()), told.results.then(|| posted(d))])
            .flatten()
            .filter(|digest| !digest.is_empty())
            .collect();
        let digests: Vec<_> = digests.into_iter().collect();
        let blobs: BTreeMap<String, Bytes> = self.blobs.read_many(conn, &digests).await?;
        let mut sizes = BTreeMap::new();
        if !told.results {
            sizes = Blobs::use_of(conn, &keeper(&row.id)).await?;
            for row in rows.iter().filter(|row| remotes.contains_key(&row.id)) {
                sizes.extend(Blobs::use_of(conn, &posted_by(row)).await?);
            }
        }
        let mut deployments = Vec::with_capacity(rows.len());
        for row in rows {
            let left = running.remove(&row.id).map(|report| wire::executor_told(&report)).transpose()?;
            let runs = match &left {
                Some((_, left)) => left.runs.iter().map(TaskRun::of).collect(),
                None if row.runs.is_empty() => Vec::new(),
                None => serde_json::from_str(&row.runs).map_err(crate::error::Error::internal)?,
            };
            let reported = left.and_then(|(_, left)| left.results).and_then(|bytes| match bytes {
                wire::Bytes::Inline(bytes) => Some(Bytes::from(bytes)),
                wire::Bytes::Blob(..) => None,
            });
            let environment = environments.get(&row.environment_digest).filter(|_| row.stage == Stage::Waiting.word());
            let step = match (deploying.get(&row.id), remotes.get(&row.id), environment) {
                (Some(report), ..) => wire::deployment_step(report)?,
                (None, Some(remote), _) => remote.remote()?.step(),
                (None, None, Some(environment)) => environment.waits_for(),
                (None, None, None) => String::new(),
            };
            let digest = posted(&row);
            let read = blobs.get(&digest).filter(|_| told.results);
            let stored =
                read.map(|bytes| bytes.len() as u64).or_else(|| sizes.get(&digest).map(|size| size.unsigned_abs()));
            deployments.push(Seen {
                result_bytes: reported.as_ref().map(|bytes| bytes.len() as u64).or(stored),
                stage: stage_of(&row)?,
                outcome: Outcome::from_word(&row.outcome),
                step,
                graph: blobs.get(&row.graph).filter(|_| told.graphs).cloned(),
                result: reported.or_else(|| blobs.get(&digest).cloned()).filter(|_| told.results),
                runs,
                row,
            });
        }
        Ok(Detail { status: status_of(&row)?, row, deployments })
    }
}
