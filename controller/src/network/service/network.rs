//! Application networks, their classes, invitations and members.

use futures::future::BoxFuture;

use super::{
    super::{
        model::{AccessKind, Membership, NetworkId, Phase, Times, check_name, network_line},
        plan::{Concern, UPLINK_PROFILE, member_profile},
        store::{self, AccessPointRow, ClassRow, InvitationRow, MemberRow, NetworkRow, SiteRow},
    },
    Networks,
    backbone::taken,
    fresh, spell, word,
};
use crate::{
    error::{Error, Result},
    fleet::{
        agents,
        model::{AgentId, Class, InvitationId, Labels},
        service,
    },
    platform::{
        db::{Conn, Tx},
        events::Actor,
    },
};

/// What the fleet calls the terms of an invitation, and what they are called here.
const TERMS: &[(&str, &str)] = &[("max_uses", "limit"), ("expires_in_seconds", "deadline_at")];

/// An application network to be made.
#[derive(Debug, Clone)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// The backbone that carries it.
    pub backbone: String,
    /// Who owns it.
    pub owner: String,
    /// When it lives.
    pub times: Times,
}

/// An invitation to an application network to be made.
#[derive(Debug, Clone)]
pub struct NewInvitation {
    /// What people call it.
    pub name: String,
    /// Class of the sites that join.
    pub class: String,
    /// Until when they may, milliseconds since the Unix epoch.
    pub deadline: i64,
    /// How many may.
    pub limit: i64,
    /// Whether the owner lets each in by hand.
    pub approval: bool,
    /// Where they hang on the backbone: (site, access point, priority); lower priorities come first.
    pub edge_links: Vec<(String, String, i64)>,
}

// === impl Networks: application networks ===

impl Networks {
    /// Makes an application network, with an authority of its own.
    pub async fn create_network(&self, actor: &Actor, new: &NewNetwork) -> Result<NetworkRow> {
        check_name("name", &new.name)?;
        self.fleet
            .db
            .write(|mut tx| async move {
                let now = tx.now();
                new.times.check(None, now)?;
                let backbone = self.lock_backbone(&mut tx, &new.backbone).await?;
                let id = fresh(now);
                let row = NetworkRow {
                    tenant: super::router_name(&new.name, &id),
                    id,
                    backbone_id: backbone.id,
                    name: new.name.clone(),
                    owner: new.owner.clone(),
                    starts_at: new.times.starts_at,
                    ends_at: new.times.ends_at,
                    delete_delay: new.times.delete_delay,
                    phase: spell(&new.times.phase(now)),
                    created_at: now,
                    version: 1,
                };
                store::insert_network(&mut tx, &row).await.map_err(|e| taken(e, "application network", &new.name))?;
                let line = network_line(&NetworkId(row.id.clone()));
                self.fleet.certificates.prepare_line(&mut tx, actor, &line, &format!("network {}", new.name)).await?;
                let after = serde_json::json!({"backbone": new.backbone, "owner": new.owner, "times": new.times});
                tx.record(actor.change("network.created", subject(&new.name)).after(after)).await?;
                tx.wake("network");
                tx.done(row)
            })
            .await
    }

    /// Changes when a network lives. `version` is the one that was read.
    pub async fn set_times(&self, actor: &Actor, name: &str, times: Times, version: Option<i64>) -> Result<NetworkRow> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let mut row = self.lock_network(&mut tx, name).await?;
                if version.is_some_and(|v| v != row.version) {
                    return Err(Error::Stale);
                }
                let before = times_of(&row);
                times.check(Some(&before), tx.now())?;
                (row.starts_at, row.ends_at, row.delete_delay) = (times.starts_at, times.ends_at, times.delete_delay);
                let change = actor.change("network.times_changed", subject(name));
                let seq = tx.record(change.before(before).after(times)).await?;
                self.advance(&mut tx, seq, &mut row).await?;
                row.version += 1;
                tx.done(row)
            })
            .await
    }

    /// Gives a network its home: the host of an agent that is there for it, by name or id; none: the controller's host.
    pub async fn set_home(&self, actor: &Actor, name: &str, agent: Option<&str>) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let row = self.lock_network(&mut tx, name).await?;
                let home = match agent {
                    Some(agent) => Some(home_agent(&mut tx, agent).await?),
                    None => None,
                };
                let home = home.as_ref().map(|id| id.0.as_str());
                store::save_home(&mut tx, &row.id, home).await?;
                let after = serde_json::json!({"agent": home});
                tx.record(actor.change("network.home_changed", subject(name)).after(after)).await?;
                tx.done(())
            })
            .await
    }

    /// Ends a network now. Its links are cut; it is removed when its delete delay is over.
    pub async fn end_network(&self, actor: &Actor, name: &str) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let mut row = self.lock_network(&mut tx, name).await?;
                let now = tx.now();
                if matches!(times_of(&row).phase(now), Phase::Ended | Phase::Over) {
                    return Err(Error::Conflict("the network has ended already".into()));
                }
                row.ends_at = Some(now);
                row.starts_at = row.starts_at.min(now - 1);
                let seq = tx.record(actor.change("network.ended", subject(name))).await?;
                self.advance(&mut tx, seq, &mut row).await?;
                tx.done(())
            })
            .await
    }

    /// Carries out what a network's times ask for by now, as of the event `generation`, and keeps its row.
    pub(super) fn advance<'a>(
        &'a self,
        tx: &'a mut Tx,
        generation: i64,
        row: &'a mut NetworkRow,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let now = tx.now();
            let phase = times_of(row).phase(now);
            let was: Phase = word(&row.phase)?;
            row.phase = spell(&phase);
            if phase == Phase::Over {
                return self.remove_network(tx, row).await;
            }
            store::save_network(tx, row).await?;
            if phase == Phase::Ended && was != phase {
                let invitations: Vec<InvitationRow> = store::by(tx, "network_id", &row.id).await?;
                for invitation in invitations {
                    let id = invitation.id.as_str().into();
                    self.fleet.revoke_invitation_within(tx, &Actor::controller(), &id).await?;
                }
            }
            let concern = Concern::of_network(tx, &row.id).await?;
            self.push(tx, generation, &concern).await?;
            tx.wake("network");
            Ok(())
        })
    }

    /// Removes a network with all that is under it; its sites' agents lose their identities.
    pub(super) async fn remove_network(&self, tx: &mut Tx, row: &NetworkRow) -> Result<()> {
        let seq = tx.record(Actor::controller().change("network.removed", subject(&row.name))).await?;
        let concern = Concern::of_network(tx, &row.id).await?;
        let members: Vec<MemberRow> = store::by(tx, "network_id", &row.id).await?;
        for member in &members {
            self.let_go(tx, seq, member, "its application network is over").await?;
            store::delete(tx, "network_profile", &[("owner", &member.id)]).await?;
        }
        let invitations: Vec<InvitationRow> = store::by(tx, "network_id", &row.id).await?;
        for invitation in invitations {
            let id = invitation.id.as_str().into();
            self.fleet.revoke_invitation_within(tx, &Actor::controller(), &id).await?;
        }
        let id = NetworkId(row.id.clone());
        // Before its service links, to which their attachments refer.
        store::delete(tx, "network_endpoint", &[("network_id", &row.id)]).await?;
        store::delete(tx, "network_profile", &[("name", &member_profile(&id))]).await?;
        store::delete(tx, "network_network", &[("id", &row.id)]).await?;
        store::end_rotation(tx, &network_line(&id)).await?;
        self.fleet.certificates.retire_line(tx, &network_line(&id), true).await?;
        self.push(tx, seq, &Concern { members: Default::default(), ..concern }).await?;
        tx.wake("network");
        Ok(())
    }

    /// Takes a member's document, leaf and identity away.
    async fn let_go(&self, tx: &mut Tx, generation: i64, member: &MemberRow, why: &str) -> Result<()> {
        let leaf = format!("member/{}/{UPLINK_PROFILE}", member.id);
        self.fleet.certificates.revoke_subject(tx, &leaf).await?;
        if let Some(agent) = &member.agent_id {
            let agent = AgentId(agent.clone());
            self.fleet.desired.withdraw(tx, generation, &agent, &super::site_key(&member.id)).await?;
            self.fleet.revoke_agent_within(tx, &Actor::controller(), &agent, why).await?;
        }
        Ok(())
    }

    /// Makes a class of sites, or describes it anew.
    pub async fn save_class(&self, actor: &Actor, network: &str, name: &str, description: &str) -> Result<()> {
        check_name("name", name)?;
        self.fleet
            .db
            .write(|mut tx| async move {
                let on = self.lock_network(&mut tx, network).await?;
                let row = ClassRow { network_id: on.id, name: name.into(), description: description.into() };
                store::save_class(&mut tx, &row).await?;
                let after = serde_json::json!({"description": description});
                tx.record(actor.change("class.saved", format!("{}/class/{name}", subject(network))).after(after))
                    .await?;
                tx.done(())
            })
            .await
    }

    /// Makes an invitation to a network. Gives its id and its token, which is shown this once.
    pub async fn invite(&self, actor: &Actor, network: &str, new: &NewInvitation) -> Result<(String, String)> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let on = self.lock_network(&mut tx, network).await?;
                let now = tx.now();
                if matches!(times_of(&on).phase(now), Phase::Ended | Phase::Over) {
                    return Err(Error::Conflict("the network has ended; nobody can join it any more".into()));
                }
                if new.deadline <= now {
                    return Err(Error::invalid("deadline_at", "the deadline lies in the past; it must be to come"));
                }
                let classes: Vec<ClassRow> = store::by(&mut tx, "network_id", &on.id).await?;
                check_class(network, &classes, &new.class)?;
                let links = self.edge_links(&mut tx, &on, &new.edge_links).await?;
                let fleet = service::NewInvitation {
                    name: new.name.clone(),
                    class: Class::MemberSite,
                    labels: Labels::from([("network".into(), network.into()), ("class".into(), new.class.clone())]),
                    max_uses: new.limit,
                    life: new.deadline - now,
                    for_agent: None,
                };
                let made = self.fleet.invite_within(&mut tx, actor, &fleet).await;
                let (invitation, token) = made.map_err(|e| e.renamed(TERMS))?;
                let row = InvitationRow {
                    id: invitation.id.clone(),
                    network_id: on.id,
                    class: new.class.clone(),
                    approval: i64::from(new.approval),
                };
                store::insert_invitation(&mut tx, &row, &links).await?;
                let at = format!("{}/invitation/{}", subject(network), row.id);
                let after = serde_json::json!({
                    "class": new.class, "approval": new.approval, "edge_links": new.edge_links,
                });
                tx.record(actor.change("network.invitation_created", at).after(after)).await?;
                tx.wake("network");
                tx.done((invitation.id, token))
            })
            .await
    }

    /// Changes how many may join by an invitation, until when, or both.
    pub async fn change_invitation(
        &self,
        actor: &Actor,
        network: &str,
        id: &str,
        (limit, deadline): (Option<i64>, Option<i64>),
    ) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let on = self.lock_network(&mut tx, network).await?;
                let id = self.invitation(&mut tx, &on, id).await?;
                if deadline.is_some_and(|deadline| deadline <= tx.now()) {
                    return Err(Error::invalid("deadline_at", "the deadline lies in the past; it must be to come"));
                }
                let was = agents::invitation(&mut tx, &id).await?;
                let was = was.ok_or_else(|| Error::not_found("invitation", &id.0))?;
                let terms = (limit.unwrap_or(was.limit), deadline.unwrap_or(was.deadline));
                let extended = self.fleet.extend_invitation_within(&mut tx, actor, &id, terms).await;
                extended.map_err(|e| e.renamed(TERMS))?;
                tx.wake("network");
                tx.done(())
            })
            .await
    }

    async fn invitation(&self, conn: &mut Conn, network: &NetworkRow, id: &str) -> Result<InvitationId> {
        let row: Option<InvitationRow> = store::one(conn, "id", id).await?;
        let row = row.filter(|r| r.network_id == network.id);
        row.map(|r| r.id.as_str().into()).ok_or_else(|| Error::not_found("invitation", id))
    }

    /// Revokes an invitation to a network. Those who joined by it stay.
    pub async fn revoke_invitation(&self, actor: &Actor, network: &str, id: &str) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let on = self.lock_network(&mut tx, network).await?;
                let id = self.invitation(&mut tx, &on, id).await?;
                if !self.fleet.revoke_invitation_within(&mut tx, actor, &id).await? {
                    return Err(Error::Conflict("the invitation is revoked already".into()));
                }
                tx.done(())
            })
            .await
    }

    /// The access points that edge links name, each with a port of the network's own.
    async fn edge_links(
        &self,
        tx: &mut Tx,
        network: &NetworkRow,
        wanted: &[(String, String, i64)],
    ) -> Result<Vec<(String, i64)>> {
        if wanted.is_empty() {
            return Err(Error::invalid("edge_links", "name at least one access point where those who join hang"));
        }
        let sites: Vec<SiteRow> = store::by(tx, "backbone_id", &network.backbone_id).await?;
        let mut links = Vec::new();
        for (n, (site, name, priority)) in wanted.iter().enumerate() {
            let field = |part: &str| format!("edge_links[{n}].{part}");
            if !(1..=100).contains(priority) {
                return Err(Error::invalid(
                    field("priority"),
                    "a priority lies between 1 and 100; lower ones come first",
                ));
            }
            let Some(site) = sites.iter().find(|s| s.name == *site) else {
                return Err(Error::invalid(field("site"), format!("the network's backbone has no site {site:?}")));
            };
            let points: Vec<AccessPointRow> = store::by(tx, "site_id", &site.id).await?;
            let Some(point) = points.into_iter().find(|p| p.name == *name) else {
                let text = format!("{} has no access point {name:?}", site.name);
                return Err(Error::invalid(field("access_point"), text));
            };
            if word::<AccessKind>(&point.kind)? != AccessKind::Member {
                let text = format!("{name} is for peers; members hang on an access point for members");
                return Err(Error::invalid(field("access_point"), text));
            }
            if store::take_port(tx, &point, &network.id).await?.is_none() {
                let text = format!("all {} ports of {name} are taken by other networks", point.ports);
                return Err(Error::Conflict(text));
            }
            links.push((point.id, *priority));
        }
        Ok(links)
    }

    /// Lets in a site that waits for approval.
    pub async fn approve(&self, actor: &Actor, network: &str, member: &str) -> Result<()> {
        self.change_member(actor, network, member, "member.approved", |row| match word(&row.membership)? {
            Membership::Asking => {
                row.membership = spell(&Membership::Member);
                Ok(())
            }
            _ => Err(Error::Conflict("the site does not wait for approval".into())),
        })
        .await
    }

    /// Gives a member another name, another class, or both. What is allocated to it changes with its class.
    pub async fn amend(
        &self,
        actor: &Actor,
        network: &str,
        member: &str,
        name: Option<&str>,
        class: Option<&str>,
    ) -> Result<()> {
        name.map(|name| check_name("name", name)).transpose()?;
        if let Some(class) = class {
            let mut conn = self.fleet.db.read().await?;
            let on = self.network(&mut conn, network).await?;
            let classes: Vec<ClassRow> = store::by(&mut conn, "network_id", &on.id).await?;
            check_class(network, &classes, class)?;
        }
        self.change_member(actor, network, member, "member.changed", |row| {
            row.name = name.map_or_else(|| row.name.clone(), str::to_owned);
            row.class = class.map_or_else(|| row.class.clone(), str::to_owned);
            Ok(())
        })
        .await
    }

    async fn change_member(
        &self,
        actor: &Actor,
        network: &str,
        member: &str,
        kind: &'static str,
        change: impl Fn(&mut MemberRow) -> Result<()> + Sync,
    ) -> Result<()> {
        let change = &change;
        self.fleet
            .db
            .write(|mut tx| async move {
                let on = self.lock_network(&mut tx, network).await?;
                let mut row = self.member(&mut tx, &on, member).await?;
                if word::<Membership>(&row.membership)? == Membership::Evicted {
                    return Err(Error::Conflict("the site was evicted; it can only join anew".into()));
                }
                let before = serde_json::json!({"name": row.name, "class": row.class, "membership": row.membership});
                change(&mut row)?;
                store::save_member(&mut tx, &row).await.map_err(|e| taken(e, "site", &row.name))?;
                let after = serde_json::json!({"name": row.name, "class": row.class, "membership": row.membership});
                let at = actor.change(kind, member_subject(network, &row.id));
                let seq = tx.record(at.before(before).after(after)).await?;
                let concern = Concern::of_members(&mut tx, std::slice::from_ref(&row.id)).await?;
                self.push(&mut tx, seq, &concern).await?;
                tx.wake("network");
                tx.done(())
            })
            .await
    }

    /// Sends a member away for good: its links are cut at once, its identity goes, and its name is free again. The other
    /// members at its access points come back within seconds, those of other networks notice nothing.
    pub async fn evict(&self, actor: &Actor, network: &str, member: &str) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let on = self.lock_network(&mut tx, network).await?;
                let mut row = self.member(&mut tx, &on, member).await?;
                if word::<Membership>(&row.membership)? == Membership::Evicted {
                    return Err(Error::Conflict("the site was evicted already".into()));
                }
                let concern = Concern::of_members(&mut tx, std::slice::from_ref(&row.id)).await?;
                let was_in = word::<Membership>(&row.membership)? == Membership::Member;
                row.membership = spell(&Membership::Evicted);
                row.evicted_at = Some(tx.now());
                store::save_member(&mut tx, &row).await?;
                let seq = tx.record(actor.change("member.evicted", member_subject(network, &row.id))).await?;
                if was_in {
                    for site in &concern.sites {
                        let profile = member_profile(&NetworkId(on.id.clone()));
                        store::raise_profile(&mut tx, &site.0, &profile, 0, 1).await?;
                        store::cut_profile(&mut tx, &site.0, &profile).await?;
                    }
                }
                self.let_go(&mut tx, seq, &row, "it was evicted from its application network").await?;
                self.push(&mut tx, seq, &Concern { members: Default::default(), ..concern }).await?;
                tx.wake("network");
                tx.done(())
            })
            .await
    }

    /// A member by name, or by id.
    pub async fn member(&self, tx: &mut Conn, network: &NetworkRow, name: &str) -> Result<MemberRow> {
        let members: Vec<MemberRow> = store::by(tx, "network_id", &network.id).await?;
        let is_named = |m: &MemberRow| m.name == name && m.membership != spell(&Membership::Evicted);
        let found = members.into_iter().find(|m| is_named(m) || m.id == name);
        found.ok_or_else(|| Error::not_found("site", name))
    }

    /// A network by name, with what is on its backbone kept as it is until the end of the transaction.
    pub(super) async fn lock_network(&self, tx: &mut Tx, name: &str) -> Result<NetworkRow> {
        let row = self.network(tx, name).await?;
        store::lock_backbone(tx, &row.backbone_id).await?;
        self.network(tx, name).await
    }
}

async fn home_agent(conn: &mut Conn, wanted: &str) -> Result<AgentId> {
    let there = agents::select(conn, Class::NetworkHome, &Labels::new()).await?;
    if let Some(agent) = there.iter().find(|a| a.id.0 == wanted || a.name == wanted) {
        return Ok(agent.id.clone());
    }
    let names: Vec<_> = there.iter().map(|a| a.name.as_str()).collect();
    let there =
        if names.is_empty() { "there is none yet".to_owned() } else { format!("there are {}", names.join(", ")) };
    Err(Error::invalid("agent", format!("{wanted:?} is no agent of class network-home in good standing; {there}")))
}

/// When a network lives.
pub fn times_of(row: &NetworkRow) -> Times {
    Times { starts_at: row.starts_at, ends_at: row.ends_at, delete_delay: row.delete_delay }
}

/// The subject of a network's events.
pub fn subject(network: &str) -> String {
    format!("network/{network}")
}

/// The subject of a member's events.
pub(super) fn member_subject(network: &str, member: &str) -> String {
    format!("network/{network}/member/{member}")
}

pub(super) fn check_class(network: &str, classes: &[ClassRow], class: &str) -> Result<()> {
    if classes.iter().any(|c| c.name == class) {
        return Ok(());
    }
    let names: Vec<_> = classes.iter().map(|c| c.name.as_str()).collect();
    let there = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
    Err(Error::invalid("class", format!("{network} has no class {class:?}; it has {there}")))
}
