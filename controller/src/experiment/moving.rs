//! Executors that move: a node that is given up is replaced by a free one, where the document of its work allows that.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    environment::{self, Wanted},
    model::Stage,
    node::Placed,
    order, service, spec,
    store::{self, DeploymentRow, ExperimentRow},
};
use crate::{
    error::{Error, Result},
    fleet::model::AgentId,
    platform::db::{Conn, Tx},
};

/// How often one piece of work may move.
const MOVES: i64 = 3;

/// The free nodes that may take over what is on nodes that are away.
#[derive(Default)]
pub struct Takers {
    /// By the deployment's id, the best first.
    pub of: BTreeMap<String, Vec<AgentId>>,
    /// What is known of them.
    pub nodes: BTreeMap<AgentId, Placed>,
}

/// Looks for nodes that may take over what was `lost`, of all that an experiment has.
pub async fn takers(
    conn: &mut Conn,
    row: &ExperimentRow,
    all: &[&DeploymentRow],
    lost: &[&DeploymentRow],
) -> Result<Takers> {
    let mut movable = Vec::new();
    for one in lost.iter().filter(|one| one.moved < MOVES) {
        if let Some(pipeline) = pipeline(one)?.filter(|pipeline| pipeline.moves) {
            movable.push((*one, pipeline));
        }
    }
    if movable.is_empty() {
        return Ok(Takers::default());
    }
    // A node that did not come back holds on to what it was given.
    let is_busy = |one: &&&DeploymentRow| one.stage != Stage::Ended.word() || one.given_up == 1;
    let busy: BTreeSet<_> = all.iter().filter(is_busy).map(|one| &one.node_name).collect();
    let tags: BTreeSet<String> = serde_json::from_str(&row.tags).map_err(Error::internal)?;
    let free = service::open_nodes(conn, &row.owner, &tags, false).await?;
    // However the others choose, one of so many is left.
    let enough = movable.len();
    let of = movable.into_iter().map(|(one, pipeline)| {
        // Its own, which is back and has ended it, does as well.
        let is_free = |it: &&Placed| !busy.contains(&it.node.name) || it.node.name == one.node_name;
        let fit = free.iter().filter(is_free).filter(|it| service::fits(it, &pipeline.nodes)).take(enough);
        (one.id.clone(), fit.filter_map(|it| it.agent.clone()).collect())
    });
    let of = of.collect();
    Ok(Takers { of, nodes: free.into_iter().filter_map(|it| Some((it.agent.clone()?, it))).collect() })
}

/// Puts what a node had at a new place of its experiment, on another node, to begin there. None where somebody else was
/// quicker to take that node.
pub async fn take_over(
    tx: &mut Tx,
    row: &ExperimentRow,
    former: &DeploymentRow,
    to: &Placed,
) -> Result<Option<DeploymentRow>> {
    let pipeline = pipeline(former)?.ok_or_else(|| Error::internal(anyhow::anyhow!("{} is not to move", former.id)))?;
    let rows = store::deployments(tx, &row.id).await?;
    let deployment = order::Deployment::native(to.node.clone(), &pipeline);
    let mut new = service::place(&row.id, rows.len() as i64, &deployment, Some(to), String::new());
    new.moved = former.moved + 1;
    let wanted =
        Wanted { digest: new.environment_digest.clone(), platform: to.node.architecture.clone(), is_built: false };
    environment::want(tx, &[wanted]).await?;
    // A node is taken once for an experiment, however much of that it ran.
    let node = (new.connector.clone(), new.node_name.clone());
    if !service::nodes_of(&rows).contains(&node) {
        let reason = format!("the experiment {:?}", row.name);
        if !store::take_locks(tx, &[node], &row.owner, &reason).await?.is_empty() {
            return Ok(None);
        }
    }
    store::insert_deployments(tx, std::slice::from_ref(&new)).await?;
    Ok(Some(new))
}

/// What an event says of a move.
pub fn told(former: &DeploymentRow, new: &DeploymentRow) -> serde_json::Value {
    json!({"executor": former.id, "node": former.node_name, "to": new.node_name, "becomes": new.id, "moves": new.moved})
}

fn pipeline(row: &DeploymentRow) -> Result<Option<spec::Deployment>> {
    match row.pipeline.as_str() {
        "" => Ok(None),
        text => serde_json::from_str(text).map(Some).map_err(Error::internal),
    }
}
