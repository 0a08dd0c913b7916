//! How sites stand, read from what their agents said.

use std::collections::BTreeMap;

use muster_proto::KIND_NETWORK_SITE;

use super::super::{
    model::Phase,
    status::{State, Told, judge},
    wire,
};
use crate::{
    error::Result,
    fleet::{
        agents, desired,
        model::{AgentId, Liveness},
    },
    platform::db::Conn,
};

/// What the agents of some sites said, and how those agents fare.
#[derive(Debug, Clone, Default)]
pub struct Standings {
    told: BTreeMap<String, Told>,
    liveness: BTreeMap<AgentId, Liveness>,
}

/// How sites stand, each given by its id and its agent.
pub async fn standings<'a>(
    conn: &mut Conn,
    sites: impl Iterator<Item = (&'a String, Option<&'a String>)>,
) -> Result<Standings> {
    let (ids, agents): (Vec<_>, Vec<_>) = sites.map(|(id, agent)| (id.clone(), agent.cloned())).unzip();
    let agents: Vec<_> = agents.into_iter().flatten().collect();
    read(conn, &ids, &agents).await
}

async fn read(conn: &mut Conn, ids: &[String], agents: &[String]) -> Result<Standings> {
    let mut told = BTreeMap::new();
    for report in desired::reports(conn, KIND_NETWORK_SITE, ids).await? {
        if let Some(it) = wire::told(&report.result, report.received_at)? {
            told.insert(report.key.id, it);
        }
    }
    Ok(Standings { told, liveness: agents::liveness(conn, agents).await? })
}

// === impl Standings ===

impl Standings {
    /// What the agent of a site said last.
    pub fn told(&self, site: &str) -> Option<&Told> {
        self.told.get(site)
    }

    /// How a site is; `phase` is its network's, if it belongs to one.
    pub fn state(&self, site: &str, agent: Option<&String>, phase: Option<Phase>) -> State {
        let liveness = agent.and_then(|agent| self.liveness.get(&AgentId(agent.clone())).copied());
        judge(self.told(site), liveness, phase)
    }
}
