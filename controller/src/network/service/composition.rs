//! The library, and how networks are composed: service links, endpoints, and what sites make of them.

use super::{
    super::{
        model::{
            Choice, Distribution, EndpointKind, Membership, Part, Protocol, Scope, Word, check_address, check_host,
            check_name, check_port,
        },
        plan::{self, Concern},
        store::{
            self, AttachmentRow, ClassRow, DecisionRow, EndpointRow, ImageRow, MemberRow, NetworkRow, OfferedRow,
            RequiredRow, ServiceLinkRow, ServiceRow,
        },
    },
    Networks,
    backbone::taken,
    fresh,
    network::subject,
    push::{self, endpoint},
    spell, word,
};
use crate::{
    certificate::Certificates,
    domain::Ground,
    error::{Error, Result},
    fleet::model::AgentId,
    platform::{
        db::{Conn, Tx},
        events::Actor,
    },
};

/// An image as the library holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// An OCI reference without tag, or the name of an executable.
    pub reference: String,
    /// For people.
    pub description: String,
    /// Services it offers, with the ports where it listens; none: the service's own.
    pub offers: Vec<(String, Option<i64>)>,
    /// Services it requires.
    pub requires: Vec<String>,
}

/// A service link to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewServiceLink {
    /// Its name.
    pub name: String,
    /// The service it carries.
    pub service: String,
    /// Its address; empty: its name.
    pub address: String,
    /// How far that reaches.
    pub scope: Scope,
    /// How connections are spread.
    pub distribution: Distribution,
}

/// An endpoint to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEndpoint {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: EndpointKind,
    /// The class it is allocated to; empty: a site.
    pub class: String,
    /// The site it is allocated to; empty: a class.
    pub site: String,
    /// Processes: the image.
    pub image: String,
    /// Processes: its tag.
    pub tag: String,
    /// Processes: arguments.
    pub arguments: Vec<String>,
    /// Ingresses: what is bound. Egresses: the server outside; empty: each site names its own.
    pub host: String,
    /// Service links it is attached to, each with a port; none: the one of the image or the service.
    pub attachments: Vec<(String, Option<i64>)>,
}

// === impl Networks: library ===

impl Networks {
    /// Makes a service, or changes it.
    pub async fn save_service(&self, actor: &Actor, row: &ServiceRow) -> Result<()> {
        check_name("name", &row.name)?;
        check_port("default_port", row.default_port)?;
        word::<Protocol>(&row.protocol).map_err(|_| Error::invalid("protocol", "a protocol is tcp, http or http2"))?;
        self.fleet
            .db
            .write(|mut tx| async move {
                store::save_service(&mut tx, row).await?;
                let after = serde_json::json!({"protocol": row.protocol, "default_port": row.default_port});
                tx.record(actor.change("service.saved", format!("network/service/{}", row.name)).after(after)).await?;
                tx.done(())
            })
            .await
    }

    /// Makes an image, or changes it.
    pub async fn save_image(&self, actor: &Actor, image: &Image) -> Result<()> {
        check_name("name", &image.name)?;
        if image.reference.is_empty() || image.reference.len() > 500 || image.reference.contains(char::is_whitespace) {
            let text = "an image is an OCI reference without tag, or the name of an executable";
            return Err(Error::invalid("reference", text));
        }
        self.fleet
            .db
            .write(|mut tx| async move {
                let services: Vec<ServiceRow> = store::rows(&mut tx, store::Of::All).await?;
                let known = |field: String, name: &String| {
                    let text = || format!("the library has no service {name:?}; make it first");
                    services.iter().find(|s| s.name == *name).ok_or_else(|| Error::invalid(field, text()))
                };
                let mut offered = Vec::new();
                for (n, (service, port)) in image.offers.iter().enumerate() {
                    let row = known(format!("offers[{n}].service"), service)?;
                    let port = port.unwrap_or(row.default_port);
                    check_port(&format!("offers[{n}].port"), port)?;
                    offered.push(OfferedRow { image: image.name.clone(), service: service.clone(), port });
                }
                let mut required = Vec::new();
                for (n, service) in image.requires.iter().enumerate() {
                    known(format!("requires[{n}]"), service)?;
                    required.push(RequiredRow { image: image.name.clone(), service: service.clone() });
                }
                let row = ImageRow {
                    name: image.name.clone(),
                    reference: image.reference.clone(),
                    description: image.description.clone(),
                    version: 1,
                };
                store::save_image(&mut tx, &row, &offered, &required).await?;
                let after = serde_json::json!({
                    "reference": image.reference, "offers": image.offers, "requires": image.requires,
                });
                let change = actor.change("image.saved", format!("network/image/{}", image.name)).after(after);
                let seq = tx.record(change).await?;
                // What runs it runs something else from now on.
                let users: Vec<EndpointRow> = store::by(&mut tx, "image", &image.name).await?;
                for it in users {
                    let concern = self.concern_of(&mut tx, &it).await?;
                    self.push(&mut tx, seq, &concern).await?;
                }
                tx.done(())
            })
            .await
    }

    // --- composition ---

    /// Makes a service link, or changes it.
    pub async fn save_service_link(&self, actor: &Actor, network: &str, new: &NewServiceLink) -> Result<()> {
        check_name("name", &new.name)?;
        let address = if new.address.is_empty() { &new.name } else { &new.address };
        check_address("address", address)?;
        self.fleet
            .db
            .write(|mut tx| async move {
                let on = self.lock_network(&mut tx, network).await?;
                let services: Vec<ServiceRow> = store::by(&mut tx, "name", &new.service).await?;
                if services.is_empty() {
                    let text = format!("the library has no service {:?}; make it first", new.service);
                    return Err(Error::invalid("service", text));
                }
                let there: Vec<ServiceLinkRow> = store::by(&mut tx, "network_id", &on.id).await?;
                if let Some(other) = there.iter().find(|l| l.address == *address && l.name != new.name) {
                    let text = format!("the address is the service link {}'s already", other.name);
                    return Err(Error::invalid("address", text));
                }
                let id = there.iter().find(|l| l.name == new.name).map(|l| l.id.clone());
                let row = ServiceLinkRow {
                    id: id.unwrap_or_else(|| fresh(tx.now())),
                    network_id: on.id.clone(),
                    name: new.name.clone(),
                    service: new.service.clone(),
                    address: address.clone(),
                    scope: spell(&new.scope),
                    distribution: spell(&new.distribution),
                    version: 1,
                };
                store::save_service_link(&mut tx, &row).await?;
                let after = serde_json::json!({
                    "service": new.service, "address": address, "scope": new.scope, "distribution": new.distribution,
                });
                let at = format!("{}/service-link/{}", subject(network), new.name);
                let seq = tx.record(actor.change("service_link.saved", at).after(after)).await?;
                let concern = Concern::of_network(&mut tx, &on.id).await?;
                self.push(&mut tx, seq, &concern).await?;
                tx.done(())
            })
            .await
    }

    /// Makes an endpoint, or changes it: the sites it is allocated to, those that join later included, get it.
    pub async fn save_endpoint(&self, actor: &Actor, network: &str, new: &NewEndpoint) -> Result<()> {
        check_name("name", &new.name)?;
        self.fleet
            .db
            .write(|mut tx| async move {
                let on = self.lock_network(&mut tx, network).await?;
                let there: Vec<EndpointRow> = store::by(&mut tx, "network_id", &on.id).await?;
                let former = there.iter().find(|e| e.name == new.name);
                let after = serde_json::json!({
                    "kind": new.kind, "class": new.class, "site": new.site, "image": new.image, "tag": new.tag,
                    "host": new.host, "attachments": new.attachments,
                });
                let at = format!("{}/endpoint/{}", subject(network), new.name);
                let seq = tx.record(actor.change("endpoint.saved", at).after(after)).await?;
                let id = former.map_or_else(|| fresh(tx.now()), |e| e.id.clone());
                let (row, attachments) = self.endpoint_rows(&mut tx, &on, new, id, seq).await?;
                self.refuse_clash(&mut tx, &on, &row, &attachments).await?;
                let mut concern = match former {
                    Some(former) => self.concern_of(&mut tx, former).await?,
                    None => Concern::default(),
                };
                store::save_endpoint(&mut tx, &row, &attachments).await.map_err(|e| taken(e, "endpoint", &new.name))?;
                concern.members.extend(self.concern_of(&mut tx, &row).await?.members);
                self.push(&mut tx, seq, &concern).await?;
                tx.done(())
            })
            .await
    }

    /// What is allocated to a member, and what was made of it.
    pub async fn allocated(&self, conn: &mut Conn, member: &MemberRow) -> Result<Vec<plan::Allocated>> {
        let Some(agent) = &member.agent_id else { return Ok(Vec::new()) };
        let concern = Concern::member(&member.id);
        let snapshot = push::load(conn, &self.fleet.certificates, &concern).await?;
        let site = plan::plan(&snapshot, &concern).remove(&AgentId(agent.clone()));
        Ok(site.map(|site| site.endpoints).unwrap_or_default())
    }

    /// Accepts or declines an endpoint at one site in the place of its participants. `said` names it as people do.
    pub async fn decide(&self, actor: &Actor, network: &str, member: &str, said: &Word) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let on = self.lock_network(&mut tx, network).await?;
                let member = self.member(&mut tx, &on, member).await?;
                if word::<Membership>(&member.membership)? != Membership::Member {
                    return Err(Error::Conflict("the site does not belong to the network".into()));
                }
                let there: Vec<EndpointRow> = store::by(&mut tx, "network_id", &on.id).await?;
                let row = there.into_iter().find(|e| e.name == said.endpoint);
                let row = row.ok_or_else(|| Error::not_found("endpoint", &said.endpoint))?;
                keep_decision(&mut tx, &self.fleet.certificates, actor, (&on, &member, &row), said).await?;
                tx.done(())
            })
            .await
    }

    /// The rows of an endpoint, checked against the network and the library.
    async fn endpoint_rows(
        &self,
        tx: &mut Tx,
        on: &NetworkRow,
        new: &NewEndpoint,
        id: String,
        generation: i64,
    ) -> Result<(EndpointRow, Vec<AttachmentRow>)> {
        let (class, member_id) = place(tx, on, new).await?;
        let is_process = new.kind == EndpointKind::Process;
        let image = match is_process {
            true => Some(image_of(tx, &new.image).await?),
            false if new.image.is_empty() => None,
            false => return Err(Error::invalid("image", "only a process runs an image")),
        };
        let host = match (new.kind, new.host.as_str()) {
            (EndpointKind::Process, "") => String::new(),
            (EndpointKind::Process, _) => {
                return Err(Error::invalid("host", "a process is reached at its site; it has no host of its own"));
            }
            (EndpointKind::Ingress, "") => "0.0.0.0".into(),
            (EndpointKind::Ingress, host) if host.parse::<std::net::IpAddr>().is_err() => {
                return Err(Error::invalid("host", "what an ingress binds is an IP address of the site"));
            }
            (EndpointKind::Egress, "") => String::new(),
            (_, host) => check_host("host", host).map(|()| host.to_owned())?,
        };
        let row = EndpointRow {
            id,
            network_id: on.id.clone(),
            name: new.name.clone(),
            kind: spell(&new.kind),
            class,
            member_id,
            reference: image.as_ref().map(|i| i.reference.clone()),
            image: image.map(|i| i.name),
            tag: new.tag.clone(),
            arguments: serde_json::to_string(&new.arguments).map_err(Error::internal)?,
            host,
            generation,
            version: 1,
        };
        let attachments = attachments(tx, on, new, &row).await?;
        Ok((row, attachments))
    }

    /// Refuses an endpoint that would need a port another one has at the same site.
    async fn refuse_clash(
        &self,
        tx: &mut Tx,
        on: &NetworkRow,
        row: &EndpointRow,
        attachments: &[AttachmentRow],
    ) -> Result<()> {
        let members: Vec<MemberRow> = store::by(tx, "network_id", &on.id).await?;
        let classes = members.into_iter().map(|m| (m.id.as_str().into(), m.class)).collect();
        let own = attachments.iter().cloned().map(TryInto::try_into).collect::<Result<_>>()?;
        let mut all = vec![endpoint(row.clone(), own)?];
        let others: Vec<EndpointRow> = store::by(tx, "network_id", &on.id).await?;
        for other in others.into_iter().filter(|e| e.id != row.id) {
            let rows: Vec<AttachmentRow> = store::by(tx, "endpoint_id", &other.id).await?;
            all.push(endpoint(other, rows.into_iter().map(TryInto::try_into).collect::<Result<_>>()?)?);
        }
        match plan::clash(&all, &classes) {
            Some((one, other, port)) => {
                let text = format!("{one} and {other} would both need port {port} at one site; give one another port");
                Err(Error::invalid("attachments", text))
            }
            None => Ok(()),
        }
    }

    /// The members that an endpoint is allocated to.
    pub(super) async fn concern_of(&self, tx: &mut Tx, row: &EndpointRow) -> Result<Concern> {
        let members: Vec<MemberRow> = store::by(tx, "network_id", &row.network_id).await?;
        let is_at = |m: &MemberRow| row.member_id.as_ref() == Some(&m.id) || row.class.as_ref() == Some(&m.class);
        let members = members.into_iter().filter(is_at).map(|m| m.id.as_str().into()).collect();
        Ok(Concern { members, ..Concern::default() })
    }
}

/// Takes a site's participants at their word about an endpoint allocated to them. The document that follows says the same.
pub(super) async fn decide(ground: &Ground, agent: &AgentId, member: &str, said: &Word) -> Result<()> {
    ground
        .db
        .write(|mut tx| async move {
            let denied = || Error::Forbidden("this agent has no such site".into());
            let member: Option<MemberRow> = store::one(&mut tx, "id", member).await?;
            let member = member.filter(|m| m.agent_id.as_ref() == Some(&agent.0)).ok_or_else(denied)?;
            let network: Option<NetworkRow> = store::one(&mut tx, "id", &member.network_id).await?;
            let network = network.ok_or_else(denied)?;
            store::lock_backbone(&mut tx, &network.backbone_id).await?;
            if word::<Membership>(&member.membership)? != Membership::Member {
                return Err(denied());
            }
            let found: Option<EndpointRow> = store::one(&mut tx, "network_endpoint.id", &said.endpoint).await?;
            let row = found.filter(|e| e.network_id == network.id);
            let row = row.ok_or_else(|| Error::not_found("endpoint", &said.endpoint))?;
            keep_decision(&mut tx, &ground.certificates, &Actor::agent(agent), (&network, &member, &row), said).await?;
            tx.done(())
        })
        .await
}

/// Keeps what was said of an endpoint at one site, and has the site carry it out.
async fn keep_decision(
    tx: &mut Tx,
    certificates: &Certificates,
    actor: &Actor,
    (network, member, row): (&NetworkRow, &MemberRow, &EndpointRow),
    said: &Word,
) -> Result<()> {
    if row.member_id.as_ref() != Some(&member.id) && row.class.as_ref() != Some(&member.class) {
        return Err(Error::not_found("endpoint at this site", &row.name));
    }
    if row.generation != said.generation {
        return Err(Error::Conflict("it has changed since you saw it; look at it again".into()));
    }
    if !said.host.is_empty() {
        check_host("host", &said.host)?;
    }
    if said.port != 0 {
        check_port("port", said.port)?;
    }
    let decision = DecisionRow {
        member_id: member.id.clone(),
        endpoint_id: row.id.clone(),
        generation: said.generation,
        accepted: i64::from(said.accept),
        host: said.host.clone(),
        port: said.port,
        at: tx.now(),
    };
    store::save_decision(tx, &decision).await?;
    let choice = if said.accept { Choice::Accepted } else { Choice::Declined };
    let after = serde_json::json!({"choice": choice, "host": said.host, "port": said.port});
    let at = format!("{}/endpoint/{}", super::network::member_subject(&network.name, &member.id), row.name);
    let seq = tx.record(actor.change("endpoint.decided", at).after(after)).await?;
    push::push(tx, certificates, seq, &Concern::member(&member.id)).await
}

/// Where an endpoint is to be: a class, or a site.
async fn place(conn: &mut Conn, on: &NetworkRow, new: &NewEndpoint) -> Result<(Option<String>, Option<String>)> {
    match (new.class.as_str(), new.site.as_str()) {
        ("", "") => Err(Error::invalid("class", "name the class or the site that it is allocated to")),
        (class, "") => {
            let classes: Vec<ClassRow> = store::by(conn, "network_id", &on.id).await?;
            super::network::check_class(&on.name, &classes, class)?;
            Ok((Some(class.into()), None))
        }
        ("", site) => {
            let members: Vec<MemberRow> = store::by(conn, "network_id", &on.id).await?;
            let found = members.into_iter().find(|m| m.name == site || m.id == site);
            let found = found.ok_or_else(|| Error::invalid("site", format!("{} has no site {site:?}", on.name)))?;
            Ok((None, Some(found.id)))
        }
        _ => Err(Error::invalid("site", "it is allocated to a class or to one site, not to both")),
    }
}

async fn image_of(conn: &mut Conn, name: &str) -> Result<ImageRow> {
    let found: Option<ImageRow> = store::one(conn, "name", name).await?;
    found.ok_or_else(|| Error::invalid("image", format!("the library has no image {name:?}; make it first")))
}

/// The attachments of an endpoint: which part it has in each service link follows from what it is.
async fn attachments(
    conn: &mut Conn,
    on: &NetworkRow,
    new: &NewEndpoint,
    row: &EndpointRow,
) -> Result<Vec<AttachmentRow>> {
    let links: Vec<ServiceLinkRow> = store::by(conn, "network_id", &on.id).await?;
    let image = row.image.clone().unwrap_or_default();
    let offered: Vec<OfferedRow> = store::by(conn, "image", &image).await?;
    let required: Vec<RequiredRow> = store::by(conn, "image", &image).await?;
    let mut found = Vec::new();
    for (n, (name, port)) in new.attachments.iter().enumerate() {
        let field = |part: &str| format!("attachments[{n}].{part}");
        let Some(link) = links.iter().find(|l| l.name == *name) else {
            return Err(Error::invalid(field("service_link"), format!("{} has no service link {name:?}", on.name)));
        };
        if new.attachments[..n].iter().any(|(other, _)| other == name) {
            return Err(Error::invalid(field("service_link"), format!("it is attached to {name} already")));
        }
        let services: Vec<ServiceRow> = store::by(conn, "name", &link.service).await?;
        let default = services.first().map_or(0, |s| s.default_port);
        let (part, own) = match new.kind {
            EndpointKind::Ingress => (Part::Connects, default),
            // A server that only the site knows has a port that only the site knows.
            EndpointKind::Egress => (Part::Accepts, if row.host.is_empty() { 0 } else { default }),
            EndpointKind::Process => match offered.iter().find(|o| o.service == link.service) {
                Some(offered) => (Part::Accepts, offered.port),
                None if required.iter().any(|r| r.service == link.service) => (Part::Connects, default),
                None => {
                    let text = format!("the image {image} neither offers nor requires the service {}", link.service);
                    return Err(Error::invalid(field("service_link"), text));
                }
            },
        };
        let port = port.unwrap_or(own);
        if port != 0 {
            check_port(&field("port"), port)?;
        }
        let (endpoint_id, service_link_id) = (row.id.clone(), link.id.clone());
        found.push(AttachmentRow { endpoint_id, service_link_id, part: spell(&part), port });
    }
    Ok(found)
}
