//! What joins and what its time asks for: agents become sites, and networks start, end and go.

use super::{
    super::{
        model::Membership,
        plan::Concern,
        store::{self, InvitationRow, MemberRow, NetworkRow, Of, SiteRow},
    },
    Networks,
    network::{member_subject, times_of},
    router_name, spell,
};
use crate::{
    error::Result,
    fleet::{agents, model::AgentId},
    platform::{
        crash::CrashPoint,
        db::{Tx, is_duplicate},
        events::Actor,
        id,
    },
};

// === impl Networks: joining ===

impl Networks {
    /// Gives interior sites the agents that joined by their invitations. Gives how many.
    pub async fn seat_interiors(&self) -> Result<usize> {
        let sites: Vec<SiteRow> = store::rows(&mut *self.fleet.db.read().await?, Of::All).await?;
        let empty: Vec<_> = sites.into_iter().filter(|s| s.agent_id.is_none()).collect();
        let invitations: Vec<_> = empty.iter().filter_map(|s| s.invitation_id.clone()).collect();
        let joined = agents::joined(&mut *self.fleet.db.read().await?, &invitations).await?;
        let mut seated = 0;
        for (agent, _, invitation) in joined {
            let Some(site) = empty.iter().find(|s| s.invitation_id.as_ref() == Some(&invitation)) else { continue };
            let agent = &agent;
            let took = self.fleet.db.write(|mut tx| async move {
                let took = store::save_site_agent(&mut tx, &site.id, &agent.0).await?;
                if took {
                    let change = Actor::agent(agent).change("site.joined", format!("network/site/{}", site.id));
                    let seq = tx.record(change).await?;
                    self.push(&mut tx, seq, &Concern::sites([site.id.as_str()])).await?;
                }
                tx.done(took)
            });
            seated += usize::from(took.await?);
        }
        Ok(seated)
    }

    /// Makes member sites of the agents that joined by networks' invitations. Gives how many.
    pub async fn admit_members(&self) -> Result<usize> {
        let joined = store::unadmitted(&mut *self.fleet.db.read().await?).await?;
        let mut admitted = 0;
        for (agent, name, invitation) in joined {
            self.admit(&AgentId(agent), &name, &invitation).await?;
            admitted += 1;
        }
        Ok(admitted)
    }

    async fn admit(&self, agent: &AgentId, name: &str, invitation: &str) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let invitation: Option<InvitationRow> = store::one(&mut tx, "id", invitation).await?;
                let Some(invitation) = invitation else { return tx.done(()) };
                let network: Option<NetworkRow> = store::one(&mut tx, "id", &invitation.network_id).await?;
                let Some(network) = network else { return tx.done(()) };
                store::lock_backbone(&mut tx, &network.backbone_id).await?;
                let Some(row) = member_row(&mut tx, agent, name, &invitation, &network).await? else {
                    return tx.done(());
                };
                // Two replicas may come upon one agent: the database lets one make its row.
                if let Err(error) = store::insert_member(&mut tx, &row).await {
                    return if is_duplicate(&error) { tx.done(()) } else { Err(error.into()) };
                }
                store::insert_uplinks(&mut tx, &row.id, &invitation.id).await?;
                let after = serde_json::json!({"name": row.name, "class": row.class, "membership": row.membership});
                let change = Actor::agent(agent).change("member.joined", member_subject(&network.name, &row.id));
                let seq = tx.record(change.after(after)).await?;
                let concern = Concern::of_members(&mut tx, std::slice::from_ref(&row.id)).await?;
                self.push(&mut tx, seq, &concern).await?;
                tx.crash_points(CrashPoint::BeforePlanCommit, CrashPoint::AfterPlanCommit);
                tx.done(())
            })
            .await
    }

    /// Carries out what networks' times ask for by now. Gives how many changed.
    pub async fn keep_time(&self) -> Result<usize> {
        let now = self.fleet.db.clock().now();
        let networks: Vec<NetworkRow> = store::rows(&mut *self.fleet.db.read().await?, Of::All).await?;
        let mut changed = 0;
        for row in networks.into_iter().filter(|r| spell(&times_of(r).phase(now)) != r.phase) {
            let name = &row.name;
            self.fleet
                .db
                .write(|mut tx| async move {
                    let mut row = self.lock_network(&mut tx, name).await?;
                    let phase = times_of(&row).phase(tx.now());
                    let before = serde_json::json!({"phase": row.phase});
                    let change = Actor::controller().change("network.phase_changed", super::network::subject(name));
                    let seq = tx.record(change.before(before).after(serde_json::json!({"phase": phase}))).await?;
                    self.advance(&mut tx, seq, &mut row).await?;
                    tx.done(())
                })
                .await?;
            changed += 1;
        }
        Ok(changed)
    }
}

/// The row of an agent that joined, under a name that is free. None: the agent is a member already.
async fn member_row(
    tx: &mut Tx,
    agent: &AgentId,
    name: &str,
    invitation: &InvitationRow,
    network: &NetworkRow,
) -> Result<Option<MemberRow>> {
    let there: Vec<MemberRow> = store::by(tx, "network_id", &network.id).await?;
    if there.iter().any(|m| m.agent_id.as_ref() == Some(&agent.0)) {
        return Ok(None);
    }
    let wanted = super::super::model::name_from(name);
    let evicted = spell(&Membership::Evicted);
    let free = |name: &String| there.iter().all(|m| m.name != *name || m.membership == evicted);
    let names = std::iter::once(wanted.clone()).chain((2..).map(|n| format!("{wanted}-{n}")));
    let name = names.into_iter().find(free).unwrap_or(wanted);
    let now = tx.now();
    let id = id::fresh(now);
    let membership = if invitation.approval == 1 { Membership::Asking } else { Membership::Member };
    Ok(Some(MemberRow {
        router: router_name(&name, &id),
        id,
        network_id: network.id.clone(),
        invitation_id: invitation.id.clone(),
        agent_id: Some(agent.0.clone()),
        name,
        class: invitation.class.clone(),
        membership: spell(&membership),
        joined_at: now,
        evicted_at: None,
        version: 1,
    }))
}
