//! Removals. What others stand on goes alone only; or with all that stands on it, by one who has seen what that is.

mod thing;

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use muster_pki::{hex, sha256};

use super::{
    super::{
        model::{BackboneId, backbone_line},
        plan::{Concern, PEER_PROFILE},
        store::{
            self, AccessPointRow, AttachmentRow, BackboneRow, EdgeLinkRow, EndpointRow, ImageRow, InvitationRow,
            LinkRow, MemberRow, NetworkRow, Of, OfferedRow, PortRow, RequiredRow, ServiceLinkRow, ServiceRow, SiteRow,
            UplinkRow,
        },
    },
    Networks,
};
use crate::{
    error::{Error, Result, Standing},
    fleet::model::AgentId,
    platform::{
        db::{Conn, Tx},
        events::Actor,
    },
};
use thing::Thing;

/// What can be removed, by the names that people know it under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A backbone.
    Backbone(String),
    /// A backbone's site.
    Site(String, String),
    /// A backbone's site's access point.
    AccessPoint(String, String, String),
    /// A backbone's link, by its id.
    Link(String, String),
    /// A network's service link.
    ServiceLink(String, String),
    /// A network's endpoint.
    Endpoint(String, String),
    /// A service of the library.
    Service(String),
    /// An image of the library.
    Image(String),
}

/// Everything that goes, in the order in which people read it: what others stand on comes before them. The first is what
/// was asked for.
#[derive(Debug)]
struct Fall {
    things: BTreeMap<(u8, String), Thing>,
}

// === impl What ===

impl What {
    /// What the names in a path say.
    pub fn of(names: &BTreeMap<String, String>) -> Option<Self> {
        let name = |part: &str| names.get(part).cloned();
        Some(match (name("backbone"), name("network"), name("service"), name("image")) {
            (Some(backbone), ..) => match (name("site"), name("access_point"), name("link")) {
                (Some(site), Some(point), _) => Self::AccessPoint(backbone, site, point),
                (Some(site), ..) => Self::Site(backbone, site),
                (_, _, Some(link)) => Self::Link(backbone, link),
                _ => Self::Backbone(backbone),
            },
            (_, Some(network), ..) => match name("service_link") {
                Some(link) => Self::ServiceLink(network, link),
                None => Self::Endpoint(network, name("endpoint")?),
            },
            (_, _, Some(service), _) => Self::Service(service),
            (.., image) => Self::Image(image?),
        })
    }

    /// The network it belongs to, if it belongs to one.
    pub fn network(&self) -> Option<&str> {
        match self {
            Self::ServiceLink(network, _) | Self::Endpoint(network, _) => Some(network),
            _ => None,
        }
    }
}

// === impl Fall ===

impl Fall {
    /// What stands on the thing asked for, for one who must see it first.
    fn standing(&self) -> Standing {
        let mut labels = self.things.keys().map(|(_, label)| label.clone());
        let what = labels.next().map(|label| format!("the {label}")).unwrap_or_default();
        let standing: Vec<_> = labels.collect();
        let cascade = hex(&sha256(standing.join("\n").as_bytes()))[..16].to_owned();
        Standing { what, standing, cascade }
    }
}

// === impl Networks: removal ===

impl Networks {
    /// What would go with something.
    pub async fn standing_on(&self, conn: &mut Conn, what: &What) -> Result<Standing> {
        Ok(self.fall(conn, what).await?.standing())
    }

    /// Removes something on which nothing stands; by a `cascade` that says what stands on it, that as well.
    pub async fn remove(&self, actor: &Actor, what: &What, cascade: Option<&str>) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                self.lock_around(&mut tx, what).await?;
                let fall = self.fall(&mut tx, what).await?;
                let standing = fall.standing();
                if !is_agreed(&standing, cascade) {
                    return Err(Error::Standing(standing.into()));
                }
                let mut concern = Concern::default();
                let mut generation = 0;
                for (n, thing) in fall.things.values().enumerate().collect::<Vec<_>>().into_iter().rev() {
                    if let Some((kind, subject)) = thing.event() {
                        let mut change = actor.change(kind, subject);
                        if n == 0 && !standing.standing.is_empty() {
                            change = change.before(serde_json::json!({"with": standing.standing}));
                        }
                        generation = tx.record(change).await?;
                    }
                    self.fell(&mut tx, generation, thing, &mut concern).await?;
                }
                self.push(&mut tx, generation, &concern).await?;
                tx.wake("network");
                tx.done(())
            })
            .await
    }

    /// Keeps all that may stand on something as it is until the end of the transaction.
    async fn lock_around(&self, tx: &mut Tx, what: &What) -> Result<()> {
        match what {
            What::Backbone(name) | What::Site(name, _) | What::AccessPoint(name, ..) | What::Link(name, _) => {
                self.lock_backbone(tx, name).await?;
            }
            What::ServiceLink(network, _) | What::Endpoint(network, _) => {
                self.lock_network(tx, network).await?;
            }
            What::Service(_) | What::Image(_) => {
                let backbones: Vec<BackboneRow> = store::rows(tx, Of::All).await?;
                for row in backbones {
                    store::lock_backbone(tx, &row.id).await?;
                }
            }
        }
        Ok(())
    }

    fn fall<'a>(&'a self, conn: &'a mut Conn, what: &'a What) -> BoxFuture<'a, Result<Fall>> {
        Box::pin(async move {
            let mut open = vec![self.find(conn, what).await?];
            let mut things = BTreeMap::new();
            while let Some(thing) = open.pop() {
                open.extend(self.on(conn, &thing).await?);
                things.insert((thing.rank(), thing.label()), thing);
            }
            Ok(Fall { things })
        })
    }

    async fn find(&self, conn: &mut Conn, what: &What) -> Result<Thing> {
        Ok(match what {
            What::Backbone(name) => Thing::Backbone(self.backbone(conn, name).await?),
            What::Site(backbone, name) => {
                Thing::Site { row: self.site(conn, backbone, name).await?, backbone: backbone.clone() }
            }
            What::AccessPoint(backbone, site, name) => {
                let at = self.site(conn, backbone, site).await?;
                let points: Vec<AccessPointRow> = store::by(conn, "site_id", &at.id).await?;
                let row = points.into_iter().find(|p| p.name == *name);
                let row = row.ok_or_else(|| Error::not_found("access point", name))?;
                Thing::AccessPoint { backbone: backbone.clone(), site: site.clone(), row }
            }
            What::Link(backbone, id) => {
                let on = self.backbone(conn, backbone).await?;
                let rows: Vec<LinkRow> = store::by(conn, "id", id).await?;
                let found = links(conn, &on, rows).await?.pop();
                found.ok_or_else(|| Error::not_found("link", id))?
            }
            What::ServiceLink(network, name) => {
                let on = self.network(conn, network).await?;
                let rows: Vec<ServiceLinkRow> = store::by(conn, "network_id", &on.id).await?;
                let row = rows.into_iter().find(|l| l.name == *name);
                let row = row.ok_or_else(|| Error::not_found("service link", name))?;
                Thing::ServiceLink { network: on.name, row }
            }
            What::Endpoint(network, name) => {
                let on = self.network(conn, network).await?;
                let rows: Vec<EndpointRow> = store::by(conn, "network_id", &on.id).await?;
                let row = rows.into_iter().find(|e| e.name == *name);
                Thing::Endpoint { network: on.name, row: row.ok_or_else(|| Error::not_found("endpoint", name))? }
            }
            What::Service(name) => {
                let row: Option<ServiceRow> = store::one(conn, "name", name).await?;
                Thing::Service(row.ok_or_else(|| Error::not_found("service", name))?)
            }
            What::Image(name) => {
                let row: Option<ImageRow> = store::one(conn, "name", name).await?;
                Thing::Image(row.ok_or_else(|| Error::not_found("image", name))?)
            }
        })
    }

    /// What stands on a thing directly.
    async fn on(&self, conn: &mut Conn, thing: &Thing) -> Result<Vec<Thing>> {
        Ok(match thing {
            Thing::Backbone(on) => {
                let sites: Vec<SiteRow> = store::by(conn, "backbone_id", &on.id).await?;
                let networks: Vec<NetworkRow> = store::by(conn, "backbone_id", &on.id).await?;
                let sites = sites.into_iter().map(|row| Thing::Site { backbone: on.name.clone(), row });
                sites.chain(networks.into_iter().map(Thing::Network)).collect()
            }
            Thing::Site { backbone, row: at } => {
                let on = self.backbone(conn, backbone).await?;
                let points: Vec<AccessPointRow> = store::by(conn, "site_id", &at.id).await?;
                let own: Vec<LinkRow> = store::by(conn, "site_id", &at.id).await?;
                let point = |row| Thing::AccessPoint { backbone: backbone.clone(), site: at.name.clone(), row };
                let points: Vec<_> = points.into_iter().map(point).collect();
                points.into_iter().chain(links(conn, &on, own).await?).collect()
            }
            Thing::AccessPoint { backbone, site, row } => {
                let on = self.backbone(conn, backbone).await?;
                let to_it: Vec<LinkRow> = store::by(conn, "access_point_id", &row.id).await?;
                let links = links(conn, &on, to_it).await?;
                links.into_iter().chain(holds(conn, &format!("{site}/{}", row.name), row).await?).collect()
            }
            Thing::Service(it) => {
                let offered: Vec<OfferedRow> = store::by(conn, "service", &it.name).await?;
                let required: Vec<RequiredRow> = store::by(conn, "service", &it.name).await?;
                let links: Vec<ServiceLinkRow> = store::by(conn, "service", &it.name).await?;
                let networks = networks(conn, links.iter().map(|l| &l.network_id)).await?;
                let link = |row: ServiceLinkRow| Thing::ServiceLink { network: name(&networks, &row.network_id), row };
                let parts = offered.into_iter().map(Thing::Offer).chain(required.into_iter().map(Thing::Requirement));
                parts.chain(links.into_iter().map(link)).collect()
            }
            Thing::Image(it) => {
                let users: Vec<EndpointRow> = store::by(conn, "image", &it.name).await?;
                let networks = networks(conn, users.iter().map(|e| &e.network_id)).await?;
                let user = |row: EndpointRow| Thing::Endpoint { network: name(&networks, &row.network_id), row };
                users.into_iter().map(user).collect()
            }
            Thing::ServiceLink { network, row: link } => {
                let attached: Vec<AttachmentRow> = store::by(conn, "service_link_id", &link.id).await?;
                let ids: Vec<_> = attached.iter().map(|a| a.endpoint_id.clone()).collect();
                let endpoints: Vec<EndpointRow> = store::rows(conn, Of::Each("network_endpoint.id", &ids)).await?;
                let part = |row: AttachmentRow| {
                    let endpoint = endpoints.iter().find(|e| e.id == row.endpoint_id)?.clone();
                    let of = format!("{} {network}/{}", endpoint.kind, endpoint.name);
                    Some(Thing::Attachment { of, link: link.name.clone(), endpoint, row })
                };
                attached.into_iter().filter_map(part).collect()
            }
            Thing::Network(_)
            | Thing::Link { .. }
            | Thing::Hold { .. }
            | Thing::Offer(_)
            | Thing::Requirement(_)
            | Thing::Endpoint { .. }
            | Thing::Attachment { .. } => Vec::new(),
        })
    }

    /// Takes a thing away on which nothing stands any more, and adds whom that concerns.
    async fn fell(&self, tx: &mut Tx, generation: i64, thing: &Thing, concern: &mut Concern) -> Result<()> {
        match thing {
            Thing::Backbone(row) => {
                let line = backbone_line(&BackboneId(row.id.clone()));
                store::end_rotation(tx, &line).await?;
                self.fleet.certificates.retire_line(tx, &line, true).await?;
                store::delete(tx, "network_backbone", &[("id", &row.id)]).await?;
            }
            Thing::Network(row) => self.remove_network(tx, row).await?,
            Thing::Site { row, .. } => self.fell_site(tx, generation, row).await?,
            Thing::AccessPoint { row, .. } => {
                store::delete(tx, "network_access_point", &[("id", &row.id)]).await?;
                concern.sites.insert(row.site_id.as_str().into());
            }
            Thing::Link { row, .. } => {
                store::delete(tx, "network_link", &[("id", &row.id)]).await?;
                concern.sites.insert(row.site_id.as_str().into());
            }
            Thing::Hold { site, row, .. } => {
                concern.sites.insert(site.as_str().into());
                let members: Vec<MemberRow> = store::by(tx, "network_id", &row.network_id).await?;
                let invitations: Vec<InvitationRow> = store::by(tx, "network_id", &row.network_id).await?;
                let point = ("access_point_id", row.access_point_id.as_str());
                for member in &members {
                    store::delete(tx, "network_uplink", &[point, ("member_id", &member.id)]).await?;
                    concern.members.insert(member.id.as_str().into());
                }
                for it in &invitations {
                    store::delete(tx, "network_edge_link", &[point, ("invitation_id", &it.id)]).await?;
                }
                store::delete(tx, "network_port", &[point, ("network_id", &row.network_id)]).await?;
            }
            Thing::Service(row) => drop(store::delete(tx, "network_service", &[("name", &row.name)]).await?),
            Thing::Image(row) => drop(store::delete(tx, "network_image", &[("name", &row.name)]).await?),
            Thing::Offer(row) => {
                let key = [("image", row.image.as_str()), ("service", row.service.as_str())];
                store::delete(tx, "network_offered_service", &key).await?;
            }
            Thing::Requirement(row) => {
                let key = [("image", row.image.as_str()), ("service", row.service.as_str())];
                store::delete(tx, "network_required_service", &key).await?;
            }
            Thing::ServiceLink { row, .. } => {
                concern.extend(Concern::of_network(tx, &row.network_id).await?);
                store::delete(tx, "network_service_link", &[("id", &row.id)]).await?;
            }
            Thing::Endpoint { row, .. } => {
                concern.extend(self.concern_of(tx, row).await?);
                store::delete(tx, "network_endpoint", &[("id", &row.id)]).await?;
            }
            Thing::Attachment { endpoint, row, .. } => {
                concern.extend(self.concern_of(tx, endpoint).await?);
                let key = [("endpoint_id", row.endpoint_id.as_str()), ("service_link_id", &row.service_link_id)];
                store::delete(tx, "network_attachment", &key).await?;
            }
        }
        Ok(())
    }

    async fn fell_site(&self, tx: &mut Tx, generation: i64, row: &SiteRow) -> Result<()> {
        if let Some(agent) = &row.agent_id {
            let (agent, key) = (AgentId(agent.clone()), super::site_key(&row.id));
            self.fleet.desired.withdraw(tx, generation, &agent, &key).await?;
        }
        if let Some(invitation) = &row.invitation_id {
            self.fleet.revoke_invitation_within(tx, &Actor::controller(), &invitation.as_str().into()).await?;
        }
        self.fleet.certificates.revoke_subject(tx, &format!("site/{}/{PEER_PROFILE}", row.id)).await?;
        store::delete(tx, "network_profile", &[("owner", &row.id)]).await?;
        store::delete(tx, "network_site", &[("id", &row.id)]).await?;
        Ok(())
    }
}

/// Whether something may go: nothing stands on it, or what does was seen as it is.
fn is_agreed(standing: &Standing, cascade: Option<&str>) -> bool {
    cascade.map_or(standing.standing.is_empty(), |seen| seen == standing.cascade)
}

/// Links of a backbone, by the names of their ends.
async fn links(conn: &mut Conn, on: &BackboneRow, rows: Vec<LinkRow>) -> Result<Vec<Thing>> {
    let points: Vec<_> = rows.iter().map(|l| l.access_point_id.clone()).collect();
    let points: Vec<AccessPointRow> = store::rows(conn, Of::Each("id", &points)).await?;
    let sites: Vec<SiteRow> = store::by(conn, "backbone_id", &on.id).await?;
    let site = |id: &String| sites.iter().find(|s| s.id == *id).map(|s| &s.name);
    let link = |row: LinkRow| {
        let point = points.iter().find(|p| p.id == row.access_point_id)?;
        let ends = format!("{} → {}", site(&row.site_id)?, site(&point.site_id)?);
        Some(Thing::Link { backbone: on.name.clone(), ends, row })
    };
    Ok(rows.into_iter().filter_map(link).collect())
}

/// What networks have of an access point, which people know under the name `at`.
async fn holds(conn: &mut Conn, at: &str, point: &AccessPointRow) -> Result<Vec<Thing>> {
    let ports: Vec<PortRow> = store::by(conn, "access_point_id", &point.id).await?;
    let uplinks: Vec<UplinkRow> = store::by(conn, "access_point_id", &point.id).await?;
    let members: Vec<_> = uplinks.into_iter().map(|u| u.member_id).collect();
    let members: Vec<MemberRow> = store::rows(conn, Of::Each("id", &members)).await?;
    let edge_links: Vec<EdgeLinkRow> = store::by(conn, "access_point_id", &point.id).await?;
    let invitations: Vec<_> = edge_links.into_iter().map(|l| l.invitation_id).collect();
    let invitations: Vec<InvitationRow> = store::rows(conn, Of::Each("id", &invitations)).await?;
    let networks = networks(conn, ports.iter().map(|p| &p.network_id)).await?;
    let hold = |row: PortRow| {
        let sites = members.iter().filter(|m| m.network_id == row.network_id && m.evicted_at.is_none());
        let mut hanging: Vec<_> = sites.map(|m| format!("site {}", m.name)).collect();
        match invitations.iter().filter(|i| i.network_id == row.network_id).count() {
            0 => {}
            1 => hanging.push("one invitation".into()),
            n => hanging.push(format!("{n} invitations")),
        }
        let network = name(&networks, &row.network_id);
        Thing::Hold { network, point: at.to_owned(), site: point.site_id.clone(), hanging, row }
    };
    Ok(ports.into_iter().map(hold).collect())
}

async fn networks(conn: &mut Conn, ids: impl Iterator<Item = &String>) -> Result<Vec<NetworkRow>> {
    store::rows(conn, Of::Each("id", &ids.cloned().collect::<Vec<_>>())).await
}

fn name(networks: &[NetworkRow], id: &str) -> String {
    networks.iter().find(|n| n.id == id).map(|n| n.name.clone()).unwrap_or_default()
}
