//! Agents as domains see them: who could be asked to do something.

use std::collections::BTreeMap;

use super::{
    api::Facts,
    model::{AgentId, Class, InvitationId, Labels, Liveness},
    store,
};
use crate::{
    error::{Error, Result},
    platform::db::Conn,
};
pub use store::counts;

/// Rows read at once.
const PAGE: i64 = 500;

/// An agent in good standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its identity.
    pub id: AgentId,
    /// What people call it.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// How it fares, as last written.
    pub liveness: Liveness,
    /// What its host is.
    pub facts: Facts,
    /// What it can act on; none before its first Hello.
    pub capabilities: Vec<Capability>,
}

/// A kind of assignment an agent can act on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Capability {
    /// Kind of assignment.
    pub kind: String,
    /// Oldest document version understood.
    pub oldest_version: u32,
    /// Newest document version understood.
    pub newest_version: u32,
    /// What the host's owner lets this kind use, by name.
    pub offers: Vec<String>,
}

/// The agents of a class in good standing that carry all of these labels, by id.
pub async fn select(conn: &mut Conn, class: Class, labels: &Labels) -> Result<Vec<Agent>> {
    let mut filter =
        store::AgentFilter { class: class.name().into(), labels: labels.clone(), ..store::AgentFilter::default() };
    let mut found = Vec::new();
    loop {
        let page = store::agents(conn, &filter, PAGE).await?;
        let Some(last) = page.last() else { return Ok(found) };
        filter.after.clone_from(&last.id);
        for row in page.into_iter().filter(|row| row.standing == "ok") {
            found.push(row.try_into()?);
        }
    }
}

/// The terms of an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What people call it.
    pub name: String,
    /// How many may join.
    pub limit: i64,
    /// How many did.
    pub used: i64,
    /// Until when, milliseconds since the Unix epoch.
    pub deadline: i64,
    /// When it was revoked.
    pub revoked_at: Option<i64>,
}

/// The terms of an invitation, if there is one.
pub async fn invitation(conn: &mut Conn, id: &InvitationId) -> Result<Option<Terms>> {
    let row = store::fetch_invitation(conn, id).await?;
    Ok(row.map(|row| Terms {
        name: row.name,
        limit: row.max_uses,
        used: row.used,
        deadline: row.deadline,
        revoked_at: row.revoked_at,
    }))
}

/// How these agents fare, as last written.
pub async fn liveness(conn: &mut Conn, agents: &[String]) -> Result<BTreeMap<AgentId, Liveness>> {
    let found = store::liveness(conn, agents).await?;
    let parse = |(id, word, _): (String, String, i64)| {
        Ok((AgentId(id), Liveness::from_word(&word).ok_or_else(|| store::unknown_word(&word))?))
    };
    found.into_iter().map(parse).collect()
}

/// Since when each of these agents has had no stream, milliseconds since the Unix epoch, as last written; those that have
/// one, or had one a moment ago, are left out.
pub async fn away(conn: &mut Conn, agents: &[String]) -> Result<BTreeMap<AgentId, i64>> {
    let found = store::liveness(conn, agents).await?;
    let is_away = |word: &str| Liveness::from_word(word).is_some_and(|liveness| liveness != Liveness::Online);
    Ok(found.into_iter().filter(|(_, word, _)| is_away(word)).map(|(id, _, at)| (AgentId(id), at)).collect())
}

/// Who joined by these invitations and is in good standing: (agent, its name, the invitation).
pub async fn joined(conn: &mut Conn, invitations: &[String]) -> Result<Vec<(AgentId, String, String)>> {
    let rows = store::joined(conn, invitations).await?;
    Ok(rows.into_iter().map(|(agent, name, invitation)| (AgentId(agent), name, invitation)).collect())
}

// === impl Agent ===

impl Agent {
    /// Whether it can be asked to do something at once.
    pub fn is_online(&self) -> bool {
        self.liveness == Liveness::Online
    }

    /// What its owner lets a kind use; none when it cannot act on the kind.
    pub fn offers(&self, kind: &str) -> Option<&[String]> {
        self.capabilities.iter().find(|c| c.kind == kind).map(|c| c.offers.as_slice())
    }
}

impl TryFrom<store::AgentRow> for Agent {
    type Error = Error;

    fn try_from(row: store::AgentRow) -> Result<Self> {
        Ok(Self {
            labels: serde_json::from_str(&row.labels).map_err(Error::internal)?,
            liveness: Liveness::from_word(&row.liveness).ok_or_else(|| store::unknown_word(&row.liveness))?,
            capabilities: serde_json::from_str(&row.capabilities).map_err(Error::internal)?,
            facts: serde_json::from_str(&row.facts).map_err(Error::internal)?,
            id: AgentId(row.id),
            name: row.name,
        })
    }
}
