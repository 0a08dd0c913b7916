//! What is known of an experiment: its rows, and what was said of its deployments since.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::{KIND_EXPERIMENT_DEPLOYMENT, KIND_EXPERIMENT_EXECUTOR};

use super::{
    connector::{self, store::RemoteRow},
    environment::{self, EnvironmentRow, Provision},
    model::{FLEET, Outcome, Stage},
    moving,
    node::Placed,
    plan::{Seen, Snapshot, Told},
    service::{key, posted_by, stage_of, status_of},
    store::{self, DeploymentRow, ExperimentRow},
    wire::{self, Left, Sent},
};
use crate::{
    error::Result,
    fleet::{
        agents,
        desired::{self, Report},
        model::AgentId,
    },
    platform::{blobs::Blobs, db::Conn},
};

/// A deployment with what is known beside its row.
pub struct Observed {
    /// Its row.
    pub row: DeploymentRow,
    /// What its executor left so far.
    pub left: Option<Left>,
    /// The image that its node is given, if another one built it.
    pub saved: Option<wire::Bytes>,
}

/// Everything that is known of an experiment.
pub struct Observation {
    /// What a plan is made from.
    pub snapshot: Snapshot,
    /// Its deployments, in their order.
    pub deployments: Vec<Observed>,
    /// The nodes that may take one over.
    pub free: BTreeMap<AgentId, Placed>,
}

/// Everything that was said of an experiment's deployments, by executor.
#[derive(Default)]
struct Said {
    reports: BTreeMap<String, Report>,
    sent: BTreeSet<String>,
    refusals: BTreeMap<String, String>,
    remotes: BTreeMap<String, RemoteRow>,
    /// Since when agents are away.
    away: BTreeMap<AgentId, i64>,
}

/// Everything that is known of an experiment, its deployments' rows beside it, and the nodes that may take one over.
pub async fn observe(conn: &mut Conn, row: &ExperimentRow, here_since: i64, now: i64) -> Result<Observation> {
    let rows = store::deployments(conn, &row.id).await?;
    let said = said(conn, row, &rows).await?;
    let waiting: Vec<_> = rows.iter().filter(|row| row.stage == Stage::Waiting.word()).collect();
    let environments = environment::by_digest(conn, &waiting).await?;
    let (mut deployments, mut observed) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row in rows {
        let stage = stage_of(&row)?;
        let (told, left, away_since) = match said.remotes.get(&row.id) {
            Some(remote) => of_connector(stage, remote)?,
            None => of_agent(conn, &row, &said, now).await?,
        };
        let environment = environments.get(&row.environment_digest);
        deployments.push(Seen {
            stage,
            is_cancelled: !row.cancelled_by.is_empty(),
            is_given_up: row.given_up == 1,
            away_since,
            keep_alive: row.keep_alive_minutes * 60_000,
            lease_ended: left.as_ref().is_some_and(|left| left.lease_ended),
            takers: None,
            provision: match &row.agent_id {
                None if row.connector == FLEET => Provision::Failed(Outcome::Lost.sentence().into()),
                _ => environment.map_or(Provision::There, EnvironmentRow::provision),
            },
            told,
        });
        let saved = environment.and_then(EnvironmentRow::saved);
        observed.push(Observed { row, left, saved });
    }
    let mut snapshot = Snapshot { status: status_of(row)?, starts: row.starts == 1, deployments, here_since, now };
    let lost = snapshot.lost();
    let all: Vec<_> = observed.iter().map(|it| &it.row).collect();
    let takers = moving::takers(conn, row, &all, &lost.iter().map(|n| all[*n]).collect::<Vec<_>>()).await?;
    for n in lost {
        snapshot.deployments[n].takers = takers.of.get(&all[n].id).cloned();
    }
    Ok(Observation { snapshot, deployments: observed, free: takers.nodes })
}

/// What is told of a deployment, what its executor left, and since when its node is away.
type Known = (Told, Option<Left>, Option<i64>);

fn of_connector(stage: Stage, known: &RemoteRow) -> Result<Known> {
    let remote = known.remote()?;
    let results = (!known.result.is_empty()).then(|| wire::Bytes::Blob(known.result.clone(), 0));
    let left = results.map(|results| Left { results: Some(results), runs: Vec::new(), lease_ended: false });
    Ok((remote.told(stage), left, remote.silent_since(stage)))
}

async fn of_agent(conn: &mut Conn, row: &DeploymentRow, said: &Said, now: i64) -> Result<Known> {
    let away_since = row.agent_id.as_ref().and_then(|id| said.away.get(&AgentId(id.clone())).copied());
    let Some(kind) = under_way(row)? else { return Ok((Told::Nothing, None, away_since)) };
    let report = said.reports.get(&row.id);
    let sent = Sent {
        is_executor: kind == KIND_EXPERIMENT_EXECUTOR,
        report,
        is_there: said.sent.contains(&row.id),
        refusal: said.refusals.get(&row.id).map(String::as_str),
    };
    let (mut told, left) = wire::told(&sent, now)?;
    if let (Some(report), Some(left)) = (report, &left) {
        let stored = stored(conn, row, left).await?;
        told = wire::arriving(told, left, &stored, report.received_at);
    }
    Ok((told, left, away_since))
}

async fn said(conn: &mut Conn, row: &ExperimentRow, rows: &[DeploymentRow]) -> Result<Said> {
    let mut said = Said::default();
    let mut of_kind: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for row in rows {
        if let Some(kind) = under_way(row)? {
            of_kind.entry(kind).or_default().push(row.id.clone());
        }
    }
    for (kind, ids) in &of_kind {
        said.reports.extend(wire::by_id(desired::reports(conn, kind, ids).await?));
        for envelope in desired::assignments_of_kind(conn, kind, ids).await? {
            said.sent.insert(envelope.wanted.key.id.clone());
            said.refusals.extend(envelope.refusal.map(|(_, message)| (envelope.wanted.key.id, message)));
        }
    }
    let hosts: BTreeSet<_> = rows.iter().filter_map(|d| d.agent_id.clone()).collect();
    said.away = agents::away(conn, &hosts.into_iter().collect::<Vec<_>>()).await?.into_iter().collect();
    if rows.iter().any(|row| row.connector != FLEET) {
        said.remotes = connector::store::remotes(conn, &row.id).await?;
    }
    Ok(said)
}

/// Of the blobs that an executor's report names, those that were stored for it.
pub async fn stored(conn: &mut Conn, row: &DeploymentRow, left: &Left) -> Result<BTreeSet<String>> {
    let mut named = left.blobs();
    if named.is_empty() {
        return Ok(named);
    }
    let owner = match row.agent_id.clone().map(AgentId) {
        _ if row.connector != FLEET => posted_by(row),
        Some(agent) => desired::blob_owner(&agent, &key(KIND_EXPERIMENT_EXECUTOR, &row.id)),
        None => return Ok(BTreeSet::new()),
    };
    let stored = Blobs::use_of(conn, &owner).await?;
    named.retain(|digest| stored.contains_key(digest));
    Ok(named)
}

/// Kind of the work of a deployment that an agent may say something of.
fn under_way(row: &DeploymentRow) -> Result<Option<&'static str>> {
    if row.connector != FLEET {
        return Ok(None);
    }
    Ok(match stage_of(row)? {
        Stage::Deploying => Some(KIND_EXPERIMENT_DEPLOYMENT),
        Stage::Starting | Stage::Running => Some(KIND_EXPERIMENT_EXECUTOR),
        // Given up while it deployed, it has no executor to be heard of.
        Stage::Ended if row.given_up == 1 && row.deployed_at.is_some() => Some(KIND_EXPERIMENT_EXECUTOR),
        Stage::Ended if row.given_up == 1 => Some(KIND_EXPERIMENT_DEPLOYMENT),
        _ => None,
    })
}
