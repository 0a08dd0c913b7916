//! Backbones, interior sites, access points and links.

use super::{
    super::{
        model::{AccessKind, BackboneId, MAX_SITES, backbone_line, check_host, check_name, check_port},
        plan::{Concern, PEER_PROFILE},
        store::{self, AccessPointRow, BackboneRow, LinkRow, SiteRow},
    },
    Networks, fresh, router_name, spell, word,
};
use crate::{
    error::{Error, Result},
    fleet::{
        model::{AgentId, Class, Labels},
        service::NewInvitation,
    },
    platform::{
        db::{Tx, is_duplicate},
        events::Actor,
    },
};

/// The invitation of an interior site is open for this long, milliseconds.
const SITE_INVITATION: i64 = 7 * 86_400_000;

/// An access point to be made.
#[derive(Debug, Clone)]
pub struct NewAccessPoint {
    /// Its name, unique at its site.
    pub name: String,
    /// For whom.
    pub kind: AccessKind,
    /// What others dial.
    pub host: String,
    /// What is bound; empty: every address.
    pub bind: String,
    /// The first port.
    pub port: i64,
    /// How many ports from there on; one for peers.
    pub ports: i64,
}

/// A link to be made.
#[derive(Debug, Clone)]
pub struct NewLink {
    /// The site that makes it.
    pub from: String,
    /// The site it leads to.
    pub to: String,
    /// That site's access point; empty: the only one for peers.
    pub access_point: String,
    /// What it costs.
    pub cost: i64,
}

// === impl Networks: backbones ===

impl Networks {
    /// Makes a backbone, with an authority of its own.
    pub async fn create_backbone(&self, actor: &Actor, name: &str) -> Result<BackboneRow> {
        check_name("name", name)?;
        self.fleet
            .db
            .write(|mut tx| async move {
                let now = tx.now();
                let row = BackboneRow { id: fresh(now), name: name.into(), created_at: now, version: 1 };
                store::insert_backbone(&mut tx, &row).await.map_err(|e| taken(e, "backbone", name))?;
                let line = backbone_line(&BackboneId(row.id.clone()));
                self.fleet.certificates.prepare_line(&mut tx, actor, &line, &format!("backbone {name}")).await?;
                tx.record(actor.change("backbone.created", format!("network/backbone/{name}"))).await?;
                tx.wake("network");
                tx.done(row)
            })
            .await
    }

    /// Makes an interior site.
    pub async fn create_site(&self, actor: &Actor, backbone: &str, name: &str) -> Result<SiteRow> {
        check_name("name", name)?;
        self.fleet
            .db
            .write(|mut tx| async move {
                let on = self.lock_backbone(&mut tx, backbone).await?;
                let there: Vec<SiteRow> = store::by(&mut tx, "backbone_id", &on.id).await?;
                if there.len() >= MAX_SITES {
                    let text =
                        format!("a backbone has at most {MAX_SITES} interior sites, as many as its routers carry");
                    return Err(Error::Conflict(text));
                }
                let now = tx.now();
                let id = fresh(now);
                let row = SiteRow {
                    router: router_name(name, &id),
                    id,
                    backbone_id: on.id,
                    name: name.into(),
                    invitation_id: None,
                    agent_id: None,
                    created_at: now,
                    version: 1,
                };
                store::insert_site(&mut tx, &row).await.map_err(|e| taken(e, "site", name))?;
                let after = serde_json::json!({"router": row.router});
                tx.record(actor.change("site.created", site_subject(backbone, name)).after(after)).await?;
                tx.wake("network");
                tx.done(row)
            })
            .await
    }

    /// Makes the invitation by which a site's agent joins, in place of one made before. Gives the token, shown this once.
    pub async fn invite_site(&self, actor: &Actor, backbone: &str, name: &str) -> Result<String> {
        self.fleet
            .db
            .write(|mut tx| async move {
                self.lock_backbone(&mut tx, backbone).await?;
                let site = self.site(&mut tx, backbone, name).await?;
                if let Some(former) = &site.invitation_id {
                    self.fleet.revoke_invitation_within(&mut tx, actor, &former.as_str().into()).await?;
                }
                let new = NewInvitation {
                    name: format!("{backbone}/{name}"),
                    class: Class::InteriorSite,
                    labels: Labels::from([("backbone".into(), backbone.into()), ("site".into(), name.into())]),
                    max_uses: 1,
                    life: SITE_INVITATION,
                    for_agent: site.agent_id.clone().map(AgentId),
                };
                let (invitation, token) = self.fleet.invite_within(&mut tx, actor, &new).await?;
                store::save_site_invitation(&mut tx, &site.id, &invitation.id).await?;
                tx.done(token)
            })
            .await
    }

    /// Makes an access point.
    pub async fn create_access_point(
        &self,
        actor: &Actor,
        backbone: &str,
        site: &str,
        new: &NewAccessPoint,
    ) -> Result<AccessPointRow> {
        check_name("name", &new.name)?;
        check_host("host", &new.host)?;
        if !new.bind.is_empty() && new.bind.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::invalid("bind", "what is bound is an IP address of the site, or empty for every one"));
        }
        check_port("port", new.port)?;
        check_port("ports", new.port + new.ports.max(1) - 1)?;
        if new.kind == AccessKind::Peer && new.ports != 1 {
            return Err(Error::invalid("ports", "an access point for peers has one port"));
        }
        self.fleet
            .db
            .write(|mut tx| async move {
                self.lock_backbone(&mut tx, backbone).await?;
                let at = self.site(&mut tx, backbone, site).await?;
                let there: Vec<AccessPointRow> = store::by(&mut tx, "site_id", &at.id).await?;
                let overlaps = |p: &&AccessPointRow| new.port < p.port + p.ports && p.port < new.port + new.ports;
                if let Some(other) = there.iter().filter(|p| p.name != new.name).find(overlaps) {
                    let (last, name) = (other.port + other.ports - 1, &other.name);
                    let text = format!("ports {} to {last} of the site belong to its access point {name}", other.port);
                    return Err(Error::invalid("port", text));
                }
                let now = tx.now();
                let row = AccessPointRow {
                    id: fresh(now),
                    site_id: at.id.clone(),
                    name: new.name.clone(),
                    kind: spell(&new.kind),
                    host: new.host.clone(),
                    bind: new.bind.clone(),
                    port: new.port,
                    ports: new.ports,
                    created_at: now,
                    version: 1,
                };
                store::insert_access_point(&mut tx, &row).await.map_err(|e| taken(e, "access point", &new.name))?;
                // Its host goes into the site's leaf, by which those who dial it know it.
                store::raise_profile(&mut tx, &at.id, PEER_PROFILE, 1, 0).await?;
                let subject = format!("{}/access-point/{}", site_subject(backbone, site), new.name);
                let after = serde_json::json!({
                    "kind": new.kind, "host": new.host, "bind": new.bind, "port": new.port, "ports": new.ports,
                });
                let seq = tx.record(actor.change("access_point.created", subject).after(after)).await?;
                self.push(&mut tx, seq, &Concern::sites([at.id.as_str()])).await?;
                tx.wake("network");
                tx.done(row)
            })
            .await
    }

    /// Makes a link.
    pub async fn create_link(&self, actor: &Actor, backbone: &str, new: &NewLink) -> Result<LinkRow> {
        if !(1..=1_000_000).contains(&new.cost) {
            return Err(Error::invalid("cost", "a link costs 1 to 1000000"));
        }
        if new.from == new.to {
            return Err(Error::invalid("to", "a link leads to another site"));
        }
        self.fleet
            .db
            .write(|mut tx| async move {
                self.lock_backbone(&mut tx, backbone).await?;
                let from = self.site(&mut tx, backbone, &new.from).await?;
                let to = self.site(&mut tx, backbone, &new.to).await?;
                let point = self.peer_point(&mut tx, &to, &new.access_point).await?;
                self.refuse_double(&mut tx, &from, &to, new.cost).await?;
                let now = tx.now();
                let row = LinkRow {
                    id: fresh(now),
                    access_point_id: point.id,
                    site_id: from.id.clone(),
                    cost: new.cost,
                    created_at: now,
                    version: 1,
                };
                store::insert_link(&mut tx, &row).await?;
                let after = serde_json::json!({"from": new.from, "to": new.to, "cost": new.cost});
                let subject = format!("network/backbone/{backbone}/link/{}", row.id);
                let seq = tx.record(actor.change("link.created", subject).after(after)).await?;
                self.push(&mut tx, seq, &Concern::sites([from.id.as_str()])).await?;
                tx.wake("network");
                tx.done(row)
            })
            .await
    }

    /// The access point of a site that a link may lead to.
    async fn peer_point(&self, tx: &mut Tx, site: &SiteRow, name: &str) -> Result<AccessPointRow> {
        let points: Vec<AccessPointRow> = store::by(tx, "site_id", &site.id).await?;
        let (peers, others): (Vec<_>, Vec<_>) = points
            .into_iter()
            .filter(|p| name.is_empty() || p.name == name)
            .partition(|p| word::<AccessKind>(&p.kind).is_ok_and(|k| k == AccessKind::Peer));
        let site = &site.name;
        match (&peers[..], others.first()) {
            ([point], _) => Ok(point.clone()),
            ([], Some(other)) if !name.is_empty() => {
                let text = format!("{site}'s access point {} is for members; a link needs one for peers", other.name);
                Err(Error::invalid("access_point", text))
            }
            ([], _) if name.is_empty() => {
                Err(Error::invalid("to", format!("{site} has no access point for peers; give it one first")))
            }
            ([], _) => Err(Error::invalid("access_point", format!("{site} has no access point {name:?}"))),
            (several, _) => {
                let names: Vec<_> = several.iter().map(|p| p.name.as_str()).collect();
                let text = format!("{site} has several access points for peers; name one of {}", names.join(", "));
                Err(Error::invalid("access_point", text))
            }
        }
    }

    /// A second link between two sites is of use only at another cost.
    async fn refuse_double(&self, tx: &mut Tx, from: &SiteRow, to: &SiteRow, cost: i64) -> Result<()> {
        for (one, other) in [(from, to), (to, from)] {
            let points: Vec<AccessPointRow> = store::by(tx, "site_id", &other.id).await?;
            let links: Vec<LinkRow> = store::by(tx, "site_id", &one.id).await?;
            let leads = |l: &LinkRow| points.iter().any(|p| p.id == l.access_point_id);
            if let Some(link) = links.iter().find(|l| leads(l) && l.cost == cost) {
                let text = format!(
                    "{} and {} are linked at that cost already ({}); a second link between them needs another cost",
                    one.name, other.name, link.id
                );
                return Err(Error::invalid("cost", text));
            }
        }
        Ok(())
    }

    pub(super) async fn lock_backbone(&self, tx: &mut Tx, name: &str) -> Result<BackboneRow> {
        let row = self.backbone(tx, name).await?;
        match store::lock_backbone(tx, &row.id).await? {
            true => Ok(row),
            false => Err(Error::not_found("backbone", name)),
        }
    }
}

/// The subject of an interior site's events.
pub(super) fn site_subject(backbone: &str, site: &str) -> String {
    format!("network/backbone/{backbone}/site/{site}")
}

/// What a failed insert says: the name is taken, unless it is something else.
pub(super) fn taken(error: sqlx::Error, what: &str, name: &str) -> Error {
    match is_duplicate(&error) {
        true => Error::Conflict(format!("{what} {name:?} exists already")),
        false => error.into(),
    }
}
