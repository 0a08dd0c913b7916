//! What sites ask home: leaves for their keys, and to be taken at their participants' word.

use std::collections::BTreeMap;

use muster_proto::{
    KIND_NETWORK_SITE,
    fleet::{Answer, Ask, answer::Outcome},
};

use super::super::{
    model::{AccessKind, BackboneId, Membership, NetworkId, backbone_line, network_line},
    plan::{PEER_PROFILE, UPLINK_PROFILE, member_profile},
    store::{self, AccessPointRow, MemberRow, NetworkRow, PortRow, SiteRow},
    wire::{self, Asked},
};
use super::{composition::decide, word};
use crate::{
    certificate::RouterLeaf,
    domain::{Ground, ask_handler},
    error::{Error, Result},
    fleet::{AskHandler, model::AgentId},
    platform::db::Tx,
};

/// Whom a leaf is for.
struct Subject {
    line: String,
    subject: String,
    common_name: String,
    names: Vec<String>,
}

/// Who answers the questions of sites.
pub fn asks(ground: &Ground) -> BTreeMap<&'static str, AskHandler> {
    let ground = ground.clone();
    let handler = ask_handler(move |agent: AgentId, ask: Ask| {
        let ground = ground.clone();
        async move { answer(&ground, &agent, &ask).await }
    });
    BTreeMap::from([(KIND_NETWORK_SITE, handler)])
}

async fn answer(ground: &Ground, agent: &AgentId, ask: &Ask) -> Answer {
    let answered = async {
        match wire::asked(&ask.body)? {
            Asked::Sign { profile, request } => sign(ground, agent, &ask.id, &profile, &request).await,
            Asked::Decide(word) => {
                decide(ground, agent, &ask.id, &word).await?;
                Ok(wire::decided())
            }
        }
    };
    match answered.await {
        Ok(body) => Answer { outcome: Outcome::Ok.into(), body: body.into(), ..Answer::default() },
        Err(Error::Internal(cause)) => {
            tracing::error!(error = %format!("{cause:#}"), %agent, "a site's question could not be answered");
            let message = "home could not find out".into();
            Answer { outcome: Outcome::Unavailable.into(), message, ..Answer::default() }
        }
        Err(error) => Answer { outcome: Outcome::Denied.into(), message: error.to_string(), ..Answer::default() },
    }
}

async fn sign(ground: &Ground, agent: &AgentId, id: &str, profile: &str, request: &[u8]) -> Result<Vec<u8>> {
    let chain = ground.db.write(|mut tx| async move {
        let it = subject(&mut tx, agent, id, profile).await?;
        let leaf = RouterLeaf { line: &it.line, subject: &it.subject, common_name: &it.common_name, names: &it.names };
        let chain = ground.certificates.issue_router(&mut tx, request, leaf).await?;
        tx.done(chain)
    });
    Ok(wire::signed(chain.await?))
}

/// Whom a profile of a site is for, if the agent is the site's and the profile is.
async fn subject(tx: &mut Tx, agent: &AgentId, id: &str, profile: &str) -> Result<Subject> {
    let denied = || Error::Forbidden("this agent has no such site".into());
    let site: Option<SiteRow> = store::one(tx, "id", id).await?;
    if let Some(site) = site {
        if site.agent_id.as_ref() != Some(&agent.0) {
            return Err(denied());
        }
        return interior_subject(tx, &site, profile).await;
    }
    let member: Option<MemberRow> = store::one(tx, "id", id).await?;
    let member = member.filter(|m| m.agent_id.as_ref() == Some(&agent.0)).ok_or_else(denied)?;
    if word::<Membership>(&member.membership)? != Membership::Member || profile != UPLINK_PROFILE {
        return Err(denied());
    }
    Ok(Subject {
        line: network_line(&NetworkId(member.network_id)),
        subject: format!("member/{}/{profile}", member.id),
        common_name: member.id,
        names: Vec::new(),
    })
}

async fn interior_subject(tx: &mut Tx, site: &SiteRow, profile: &str) -> Result<Subject> {
    let points: Vec<AccessPointRow> = store::by(tx, "site_id", &site.id).await?;
    let hosts = |kind: AccessKind| {
        let of_kind = points.iter().filter(move |p| word::<AccessKind>(&p.kind).is_ok_and(|k| k == kind));
        of_kind.map(|p| p.host.clone()).collect::<Vec<_>>()
    };
    let subject = format!("site/{}/{profile}", site.id);
    if profile == PEER_PROFILE {
        let line = backbone_line(&BackboneId(site.backbone_id.clone()));
        return Ok(Subject { line, subject, common_name: site.router.clone(), names: hosts(AccessKind::Peer) });
    }
    let ids: Vec<_> = points.iter().map(|p| p.id.clone()).collect();
    let ports: Vec<PortRow> = store::rows(tx, store::Of::Each("access_point_id", &ids)).await?;
    let found = ports.iter().find(|p| member_profile(&NetworkId(p.network_id.clone())) == profile);
    let Some(port) = found else { return Err(Error::Forbidden(format!("this site has no profile {profile}"))) };
    let network: Option<NetworkRow> = store::one(tx, "id", &port.network_id).await?;
    let network = network.ok_or_else(|| Error::not_found("application network", &port.network_id))?;
    let line = network_line(&NetworkId(network.id));
    Ok(Subject { line, subject, common_name: site.router.clone(), names: hosts(AccessKind::Member) })
}
