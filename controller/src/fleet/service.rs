//! Use cases of the fleet: invitations, agents, labels, revocation.

use muster_pki::{hex, sha256};
use muster_proto::{fleet::InvitationToken, token};

use super::{
    Fleet,
    desired::{self, Envelope, Report},
    enroll::settings_key,
    model::{self, AgentId, Class, InvitationId, Key, Labels, Mode, Phase, State},
    store::{self, AgentRow, InvitationRow},
};
use crate::{
    error::{Error, Result},
    platform::{blobs::Blobs, db::Tx, events::Actor, id},
};

/// The longest an invitation may be open, milliseconds: a year.
const MAX_OPEN: i64 = 366 * 86_400_000;

/// An invitation to be made.
#[derive(Debug, Clone)]
pub struct NewInvitation {
    /// What people call it.
    pub name: String,
    /// What those who join may be asked to do.
    pub class: Class,
    /// Labels of those who join.
    pub labels: Labels,
    /// How many may join.
    pub max_uses: i64,
    /// Open for this long, milliseconds.
    pub life: i64,
    /// Brings this identity back instead of minting new ones.
    pub for_agent: Option<AgentId>,
}

/// What happens to an agent that is taken away.
#[derive(Debug, Clone)]
pub struct Removal {
    /// Which agent.
    pub agent: AgentId,
    /// Even if it holds something.
    pub force: bool,
}

// === impl Fleet: use cases ===

impl Fleet {
    /// Makes an invitation. Gives its row and its token, which is shown this once.
    pub async fn invite(&self, actor: &Actor, new: &NewInvitation) -> Result<(InvitationRow, String)> {
        self.db
            .write(|mut tx| async move {
                let made = self.invite_within(&mut tx, actor, new).await?;
                tx.done(made)
            })
            .await
    }

    /// Makes an invitation as a part of something larger.
    pub async fn invite_within(
        &self,
        tx: &mut Tx,
        actor: &Actor,
        new: &NewInvitation,
    ) -> Result<(InvitationRow, String)> {
        check_invitation(new)?;
        if let Some(agent) = &new.for_agent {
            let found = store::fetch_agent(tx, agent).await?.ok_or_else(|| Error::not_found("agent", &agent.0))?;
            if found.class != new.class.name() {
                return Err(Error::invalid("class", format!("the agent is of class {}", found.class)));
            }
        }
        let secret: [u8; 32] = muster_pki::random();
        let root = self.certificates.house().root_sha256;
        let now = tx.now();
        let row = InvitationRow {
            id: id::fresh(now),
            name: new.name.clone(),
            class: new.class.name().into(),
            labels: serde_json::to_string(&new.labels).map_err(Error::internal)?,
            root_sha256: hex(&root),
            max_uses: new.max_uses,
            used: 0,
            deadline: now + new.life,
            revoked_at: None,
            for_agent: new.for_agent.as_ref().map(|a| a.0.clone()),
            created_by: actor.name.clone(),
            created_at: now,
        };
        store::insert_invitation(tx, &row, &hex(&sha256(&secret))).await?;
        let after = serde_json::json!({
            "name": row.name, "class": row.class, "labels": new.labels, "max_uses": row.max_uses,
            "deadline": row.deadline, "for_agent": row.for_agent,
        });
        tx.record(actor.change("invitation.created", format!("invitation/{}", row.id)).after(after)).await?;
        let token = InvitationToken {
            homes: self.homes.to_vec(),
            root_sha256: root.to_vec().into(),
            secret: secret.to_vec().into(),
        };
        Ok((row, token::format(&token)))
    }

    /// Changes how many may join by an invitation and until when, as a part of something larger.
    pub async fn extend_invitation_within(
        &self,
        tx: &mut Tx,
        actor: &Actor,
        id: &InvitationId,
        (max_uses, deadline): (i64, i64),
    ) -> Result<()> {
        let row = store::fetch_invitation(tx, id).await?.ok_or_else(|| Error::not_found("invitation", &id.0))?;
        check_terms(max_uses, deadline - tx.now())?;
        if row.revoked_at.is_some() {
            return Err(Error::Conflict("the invitation is revoked; make another".into()));
        }
        if !store::save_invitation_terms(tx, id, max_uses, deadline).await? {
            let text = format!("{} joined by it already; it cannot admit fewer", row.used);
            return Err(Error::invalid("max_uses", text));
        }
        let before = serde_json::json!({"max_uses": row.max_uses, "deadline": row.deadline});
        let after = serde_json::json!({"max_uses": max_uses, "deadline": deadline});
        let change = actor.change("invitation.changed", format!("invitation/{id}"));
        tx.record(change.before(before).after(after)).await?;
        Ok(())
    }

    /// Revokes an invitation. Those who joined by it stay.
    pub async fn revoke_invitation(&self, actor: &Actor, id: &InvitationId) -> Result<()> {
        self.db
            .write(|mut tx| async move {
                if !self.revoke_invitation_within(&mut tx, actor, id).await? {
                    return Err(match store::fetch_invitation(&mut tx, id).await? {
                        Some(_) => Error::Conflict("the invitation is revoked already".into()),
                        None => Error::not_found("invitation", &id.0),
                    });
                }
                tx.done(())
            })
            .await
    }

    /// Revokes an invitation as a part of something larger. False: there is none that is not revoked.
    pub async fn revoke_invitation_within(&self, tx: &mut Tx, actor: &Actor, id: &InvitationId) -> Result<bool> {
        let now = tx.now();
        let revoked = store::save_invitation_revoked(tx, id, now).await?;
        if revoked {
            tx.record(actor.change("invitation.revoked", format!("invitation/{id}"))).await?;
        }
        Ok(revoked)
    }

    /// Changes an agent's name and labels. `version` is the one that was read.
    pub async fn relabel(
        &self,
        actor: &Actor,
        id: &AgentId,
        name: &str,
        labels: &Labels,
        version: Option<i64>,
    ) -> Result<i64> {
        model::check_labels("labels", labels)?;
        if name.is_empty() || name.len() > 200 {
            return Err(Error::invalid("name", "a name has 1 to 200 characters"));
        }
        self.db
            .write(|mut tx| async move {
                let found = self.agent(&mut tx, id).await?;
                let before = serde_json::json!({"name": found.name, "labels": labels_of(&found)?});
                let version = version.unwrap_or(found.version);
                let version = store::save_labels(&mut tx, id, name, labels, version).await?.ok_or(Error::Stale)?;
                let after = serde_json::json!({"name": name, "labels": labels});
                tx.record(actor.change("agent.labelled", format!("agent/{id}")).before(before).after(after)).await?;
                tx.done(version)
            })
            .await
    }

    /// Takes an identity away: its stream is cut at once, its once work ends as lost, its certificates are revoked.
    pub async fn revoke_agent(&self, actor: &Actor, id: &AgentId, reason: &str) -> Result<()> {
        self.db
            .write(|mut tx| async move {
                if !self.revoke_agent_within(&mut tx, actor, id, reason).await? {
                    self.agent(&mut tx, id).await?;
                    return Err(Error::Conflict("the agent is revoked already".into()));
                }
                tx.done(())
            })
            .await
    }

    /// Takes an identity away as a part of something larger. False: there is none that is not revoked.
    pub async fn revoke_agent_within(&self, tx: &mut Tx, actor: &Actor, id: &AgentId, reason: &str) -> Result<bool> {
        let now = tx.now();
        if !store::save_revoked(tx, id, reason, now).await? {
            return Ok(false);
        }
        self.certificates.revoke_agent(tx, &id.0).await?;
        self.lose_once_work(tx, id, "its agent was revoked").await?;
        let after = serde_json::json!({"reason": reason});
        let seq = tx.record(actor.change("agent.revoked", format!("agent/{id}")).after(after)).await?;
        store::save_standing_seq(tx, id, seq).await?;
        tx.wake("fleet");
        Ok(true)
    }

    /// Removes an agent and everything about it. It must hold nothing, or be removed by force.
    pub async fn remove_agent(&self, actor: &Actor, removal: &Removal) -> Result<()> {
        let id = &removal.agent;
        self.db
            .write(|mut tx| async move {
                if !store::lock_agent(&mut tx, id).await? {
                    return Err(Error::not_found("agent", &id.0));
                }
                let found = self.agent(&mut tx, id).await?;
                let held = desired::assignments(&mut tx, std::slice::from_ref(id)).await?;
                let held: Vec<_> = held.iter().filter(|e| is_held(e)).collect();
                if !removal.force && !held.is_empty() {
                    let first = &held[0].wanted.key;
                    return Err(Error::Conflict(format!(
                        "the agent holds {} assignment(s), {} {} among them; withdraw them, or remove it by force",
                        held.len(),
                        first.kind,
                        first.id
                    )));
                }
                self.lose_once_work(&mut tx, id, "its agent was removed").await?;
                self.certificates.revoke_agent(&mut tx, &id.0).await?;
                store::delete_agent(&mut tx, id).await?;
                Blobs::forget_all(&mut tx, &desired::blobs_of(id)).await?;
                let before = serde_json::json!({"name": found.name, "class": found.class});
                tx.record(actor.change("agent.removed", format!("agent/{id}")).before(before)).await?;
                tx.done(())
            })
            .await?;
        if let Some(line) = self.registry.line(id) {
            line.end(super::enroll::refusal(muster_pki::standing::Standing::Unknown, self.db.clock().now()).into());
        }
        self.registry.remove(id);
        Ok(())
    }

    /// Ends once work that will not report any more, on a person's word.
    pub async fn declare_lost(&self, tx: &mut Tx, agent: &AgentId, key: &Key, why: &str) -> Result<()> {
        desired::settle(tx, agent, key, Phase::Lost, true, why).await
    }

    /// Brings every agent's settings up to date with the house: its roots and addresses.
    pub async fn refresh_settings(&self) -> Result<()> {
        let document = self.settings();
        let document = &document;
        self.db
            .write(|mut tx| async move {
                let digest = hex(&sha256(&document.bytes));
                let stale = store::agents_without(&mut tx, &settings_key(), &digest).await?;
                if !stale.is_empty() {
                    let after = serde_json::json!({"homes": *self.homes, "agents": stale.len()});
                    let seq = tx
                        .record(Actor::controller().change("fleet.settings_changed", "fleet/settings").after(after))
                        .await?;
                    self.desired.put(&mut tx, seq, &stale, &settings_key(), document).await?;
                }
                tx.done(())
            })
            .await
    }

    /// Notes who was here before this controller started, so that their absence is seen.
    pub async fn expect_back(&self) -> Result<()> {
        let now = self.db.clock().now();
        let mut after = String::new();
        loop {
            let filter = store::AgentFilter { after: after.clone(), ..store::AgentFilter::default() };
            let page = store::agents(&mut *self.db.read().await?, &filter, 1000).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(&last.id);
            for row in page {
                let written = model::Liveness::from_word(&row.liveness);
                if let Some(written @ (model::Liveness::Online | model::Liveness::Stale)) = written {
                    self.registry.expect_back(AgentId(row.id), written, now);
                }
            }
        }
    }

    /// An agent, or the error that there is none.
    pub async fn agent(&self, conn: &mut crate::platform::db::Conn, id: &AgentId) -> Result<AgentRow> {
        store::fetch_agent(conn, id).await?.ok_or_else(|| Error::not_found("agent", &id.0))
    }

    /// What an agent holds and what it says of it.
    pub async fn holdings(&self, id: &AgentId) -> Result<Vec<(Envelope, Option<Report>)>> {
        let mut conn = self.db.read().await?;
        let envelopes = desired::assignments(&mut conn, std::slice::from_ref(id)).await?;
        let mut reports = desired::reports_of(&mut conn, id).await?;
        let pair = |e: Envelope| {
            let at = reports.iter().position(|r| r.key == e.wanted.key);
            let report = at.map(|at| reports.swap_remove(at));
            (e, report)
        };
        Ok(envelopes.into_iter().map(pair).collect())
    }

    async fn lose_once_work(&self, tx: &mut Tx, agent: &AgentId, why: &str) -> Result<()> {
        for envelope in desired::assignments(tx, std::slice::from_ref(agent)).await? {
            if envelope.wanted.mode == Mode::Once && envelope.wanted.state != State::Finished {
                let may_have_run = envelope.wanted.state != State::Queued;
                desired::settle(tx, agent, &envelope.wanted.key, Phase::Lost, may_have_run, why).await?;
            }
        }
        Ok(())
    }
}

/// Labels as stored.
pub fn labels_of(row: &AgentRow) -> Result<Labels> {
    serde_json::from_str(&row.labels).map_err(Error::internal)
}

fn check_invitation(new: &NewInvitation) -> Result<()> {
    model::check_labels("labels", &new.labels)?;
    if new.name.is_empty() || new.name.len() > 200 {
        return Err(Error::invalid("name", "a name has 1 to 200 characters"));
    }
    check_terms(new.max_uses, new.life)?;
    if new.for_agent.is_some() && new.max_uses != 1 {
        return Err(Error::invalid("max_uses", "an invitation that brings an identity back admits one agent"));
    }
    Ok(())
}

fn check_terms(max_uses: i64, life: i64) -> Result<()> {
    if !(1..=100_000).contains(&max_uses) {
        return Err(Error::invalid("max_uses", "an invitation admits 1 to 100000 agents"));
    }
    if !(60_000..=MAX_OPEN).contains(&life) {
        return Err(Error::invalid("expires_in_seconds", "an invitation is open for a minute to a year"));
    }
    Ok(())
}

/// Whether an assignment stands in the way of removing its agent: the kernel's own does not, nor what is over.
fn is_held(envelope: &Envelope) -> bool {
    envelope.wanted.key != settings_key() && envelope.wanted.state != State::Finished
}
