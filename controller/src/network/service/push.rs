//! From rows to documents: what concerns some sites is loaded, planned, and put before their agents.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::future::BoxFuture;
use muster_pki::{hex, sha256};
use muster_proto::KIND_NETWORK_SITE;

use super::{
    super::{
        model::{
            AccessPointId, BackboneId, EndpointId, LinkId, MemberId, NetworkId, ServiceLinkId, SiteId, backbone_line,
            network_line,
        },
        plan::{self, Concern, Snapshot},
        store::{
            self, AccessPointRow, AttachmentRow, DecisionRow, EndpointRow, LinkRow, MemberRow, NetworkRow, Of, PortRow,
            ProfileRow, ServiceLinkRow, SiteRow, UplinkRow,
        },
        wire,
    },
    Networks, word,
};
use crate::{
    certificate::Certificates,
    error::{Error, Result},
    fleet::{
        desired::{self, Desired, Document, OnInterrupt, OnRevoke},
        model::{AgentId, Key, Mode},
    },
    platform::db::{Conn, Tx},
};

/// The assignment of one site, interior or member.
pub fn site_key(id: &str) -> Key {
    Key { kind: KIND_NETWORK_SITE.into(), id: id.into() }
}

// === impl Concern ===

impl Concern {
    /// Interior sites alone.
    pub fn sites<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        Self { sites: ids.into_iter().map(SiteId::from).collect(), members: BTreeSet::new() }
    }

    /// One member alone.
    pub fn member(id: &str) -> Self {
        Self { sites: BTreeSet::new(), members: [MemberId(id.into())].into() }
    }

    /// Everything that a member's coming or going concerns: itself, and the sites it hangs on.
    pub async fn of_members(conn: &mut Conn, members: &[String]) -> Result<Self> {
        let uplinks: Vec<UplinkRow> = store::rows(conn, Of::Each("member_id", members)).await?;
        let points: Vec<_> = uplinks.into_iter().map(|u| u.access_point_id).collect();
        let points: Vec<AccessPointRow> = store::rows(conn, Of::Each("id", &points)).await?;
        Ok(Self {
            sites: points.into_iter().map(|p| SiteId(p.site_id)).collect(),
            members: members.iter().cloned().map(MemberId).collect(),
        })
    }

    /// A whole network: its members, and the sites where it has a port.
    pub async fn of_network(conn: &mut Conn, network: &str) -> Result<Self> {
        let members: Vec<MemberRow> = store::by(conn, "network_id", network).await?;
        let ports: Vec<PortRow> = store::by(conn, "network_id", network).await?;
        let points: Vec<_> = ports.into_iter().map(|p| p.access_point_id).collect();
        let points: Vec<AccessPointRow> = store::rows(conn, Of::Each("id", &points)).await?;
        Ok(Self {
            sites: points.into_iter().map(|p| SiteId(p.site_id)).collect(),
            members: members.into_iter().map(|m| MemberId(m.id)).collect(),
        })
    }

    /// This and another.
    pub fn extend(&mut self, other: Self) {
        self.sites.extend(other.sites);
        self.members.extend(other.members);
    }

    /// Everything there is.
    pub async fn all(conn: &mut Conn) -> Result<Self> {
        let sites: Vec<SiteRow> = store::rows(conn, Of::All).await?;
        let members: Vec<MemberRow> = store::rows(conn, Of::All).await?;
        Ok(Self {
            sites: sites.into_iter().map(|s| SiteId(s.id)).collect(),
            members: members.into_iter().map(|m| MemberId(m.id)).collect(),
        })
    }
}

// === impl Networks: pushing ===

impl Networks {
    /// Plans the sites a change concerns and puts before their agents what differs, as of the event `generation`.
    pub fn push<'a>(&'a self, tx: &'a mut Tx, generation: i64, concern: &'a Concern) -> BoxFuture<'a, Result<()>> {
        push(tx, &self.fleet.certificates, generation, concern)
    }

    /// Whether a push would change anything.
    pub async fn differs(&self, conn: &mut Conn, concern: &Concern) -> Result<bool> {
        let planned = planned(conn, &self.fleet.certificates, concern).await?;
        let ids: Vec<_> = planned.iter().map(|(_, key, _)| key.id.clone()).collect();
        let there = desired::assignments_of_kind(conn, KIND_NETWORK_SITE, &ids).await?;
        let there: BTreeMap<_, _> = there.into_iter().map(|e| ((e.agent, e.wanted.key), e.wanted.digest)).collect();
        let is_other = |(agent, key, bytes): &(AgentId, Key, Option<Vec<u8>>)| {
            let held = there.get(&(agent.clone(), key.clone())).filter(|digest| !digest.is_empty());
            held.cloned() != bytes.as_ref().map(|bytes| hex(&sha256(bytes)))
        };
        Ok(planned.iter().any(is_other))
    }
}

/// What [`Networks::push`] does, for those who answer agents' questions and have no fleet at hand. Boxed, since everything
/// that changes something awaits it and none should carry its state.
pub fn push<'a>(
    tx: &'a mut Tx,
    certificates: &'a Certificates,
    generation: i64,
    concern: &'a Concern,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let door = Desired::new(certificates.clone());
        for (agent, key, bytes) in planned(tx, certificates, concern).await? {
            match bytes {
                Some(bytes) => {
                    let document = Document {
                        mode: Mode::Standing,
                        version: 1,
                        bytes,
                        on_interrupt: OnInterrupt::Report,
                        on_revoke: OnRevoke::Stop,
                        start_by: 0,
                        blobs: Vec::new(),
                        store_bytes: 0,
                    };
                    door.put(tx, generation, &[agent], &key, &document).await?;
                }
                None => door.withdraw(tx, generation, &agent, &key).await?,
            }
        }
        Ok(())
    })
}

/// The documents of a concern; none where a site is to be nothing.
async fn planned(
    conn: &mut Conn,
    certificates: &Certificates,
    concern: &Concern,
) -> Result<Vec<(AgentId, Key, Option<Vec<u8>>)>> {
    let snapshot = load(conn, certificates, concern).await?;
    let planned = plan::plan(&snapshot, concern);
    let document = |(agent, id): (AgentId, String)| {
        let bytes = planned.get(&agent).map(wire::site);
        (agent, site_key(&id), bytes)
    };
    Ok(agents(&snapshot, concern).into_iter().map(document).collect())
}

/// Who carries out which of the sites a change concerns.
fn agents(snapshot: &Snapshot, concern: &Concern) -> Vec<(AgentId, String)> {
    let sites = concern.sites.iter().filter_map(|id| snapshot.interiors.get(id));
    let sites = sites.filter_map(|s| Some((s.agent.clone()?, s.id.0.clone())));
    let members = snapshot.members.iter().filter(|m| concern.members.contains(&m.id));
    sites.chain(members.filter_map(|m| Some((m.agent.clone()?, m.id.0.clone())))).collect()
}

/// Everything that decides what the sites of a concern are to be, and no more.
pub async fn load(conn: &mut Conn, certificates: &Certificates, concern: &Concern) -> Result<Snapshot> {
    let sites: Vec<String> = concern.sites.iter().map(|s| s.0.clone()).collect();
    let members: Vec<String> = concern.members.iter().map(|m| m.0.clone()).collect();
    let parts = parts(conn, &sites, &members).await?;
    let composed = composed(conn, &parts, &members).await?;
    let profiles: Vec<ProfileRow> = store::rows(conn, Of::Each("owner", &[sites, members].concat())).await?;
    let backbones = parts.interiors.iter().map(|s| backbone_line(&BackboneId(s.backbone_id.clone())));
    let networks = parts.networks.iter().map(|n| network_line(&NetworkId(n.id.clone())));
    let trust = certificates.trusted(conn, &set(backbones.chain(networks))).await?;
    let trust = trust.into_iter().map(|(line, der)| (line, der.into())).collect();
    parts.snapshot(composed, profiles, trust)
}

/// The rows of a backbone and of who hangs on it, as far as they concern these sites and members.
fn parts<'a>(conn: &'a mut Conn, sites: &'a [String], wanted: &'a [String]) -> BoxFuture<'a, Result<Parts>> {
    Box::pin(async move {
        let own: Vec<AccessPointRow> = store::rows(conn, Of::Each("site_id", sites)).await?;
        let own = ids(&own, |p| &p.id);
        let links: Vec<LinkRow> = store::rows(conn, Of::Each("site_id", sites)).await?;
        let hanging: Vec<UplinkRow> = store::rows(conn, Of::Each("access_point_id", &own)).await?;
        let members = set(wanted.iter().cloned().chain(hanging.into_iter().map(|u| u.member_id)));
        let members: Vec<MemberRow> = store::rows(conn, Of::Each("id", &members)).await?;
        let uplinks: Vec<UplinkRow> = store::rows(conn, Of::Each("member_id", &ids(&members, |m| &m.id))).await?;
        // Of those who merely hang on a site it matters that they do; of the sites asked for, where they hang.
        let dialled = uplinks.iter().filter(|u| wanted.contains(&u.member_id)).map(|u| u.access_point_id.clone());
        let points = set(own.into_iter().chain(links.iter().map(|l| l.access_point_id.clone())).chain(dialled));
        let points: Vec<AccessPointRow> = store::rows(conn, Of::Each("id", &points)).await?;
        let interiors = set(sites.iter().cloned().chain(points.iter().map(|p| p.site_id.clone())));
        let interiors: Vec<SiteRow> = store::rows(conn, Of::Each("id", &interiors)).await?;
        let ports: Vec<PortRow> = store::rows(conn, Of::Each("access_point_id", &ids(&points, |p| &p.id))).await?;
        let networks = ports.iter().map(|p| p.network_id.clone()).chain(members.iter().map(|m| m.network_id.clone()));
        let networks: Vec<NetworkRow> = store::rows(conn, Of::Each("id", &set(networks))).await?;
        Ok(Parts { interiors, points, links, ports, networks, members, uplinks })
    })
}

/// How the networks among these rows are composed, as far as it concerns these members.
fn composed<'a>(conn: &'a mut Conn, parts: &'a Parts, wanted: &'a [String]) -> BoxFuture<'a, Result<Composed>> {
    Box::pin(async move {
        let networks = ids(&parts.networks, |n| &n.id);
        let service_links: Vec<ServiceLinkRow> = store::rows(conn, Of::Each("network_id", &networks)).await?;
        let inhabited = parts.members.iter().filter(|m| wanted.contains(&m.id)).map(|m| m.network_id.clone());
        let endpoints: Vec<EndpointRow> = store::rows(conn, Of::Each("network_id", &set(inhabited))).await?;
        let attached = ids(&endpoints, |e| &e.id);
        let attachments: Vec<AttachmentRow> = store::rows(conn, Of::Each("endpoint_id", &attached)).await?;
        let decisions: Vec<DecisionRow> = store::rows(conn, Of::Each("member_id", wanted)).await?;
        Ok(Composed { service_links, endpoints, attachments, decisions })
    })
}

fn set(ids: impl Iterator<Item = String>) -> Vec<String> {
    ids.collect::<BTreeSet<_>>().into_iter().collect()
}

fn ids<R>(rows: &[R], id: impl Fn(&R) -> &String) -> Vec<String> {
    rows.iter().map(|r| id(r).clone()).collect()
}

/// The rows of a backbone and of who hangs on it.
struct Parts {
    interiors: Vec<SiteRow>,
    points: Vec<AccessPointRow>,
    links: Vec<LinkRow>,
    ports: Vec<PortRow>,
    networks: Vec<NetworkRow>,
    members: Vec<MemberRow>,
    uplinks: Vec<UplinkRow>,
}

/// The rows of how networks are composed.
struct Composed {
    service_links: Vec<ServiceLinkRow>,
    endpoints: Vec<EndpointRow>,
    attachments: Vec<AttachmentRow>,
    decisions: Vec<DecisionRow>,
}

// === impl Parts ===

impl Parts {
    fn snapshot(
        self,
        composed: Composed,
        profiles: Vec<ProfileRow>,
        trust: BTreeMap<String, Arc<[Vec<u8>]>>,
    ) -> Result<Snapshot> {
        let mut uplinks = BTreeMap::<String, Vec<(AccessPointId, u32)>>::new();
        for it in self.uplinks {
            uplinks.entry(it.member_id).or_default().push((AccessPointId(it.access_point_id), number(it.priority)?));
        }
        let mut parts = BTreeMap::<String, Vec<plan::Attachment>>::new();
        for it in composed.attachments {
            parts.entry(it.endpoint_id.clone()).or_default().push(it.try_into()?);
        }
        let member = |it: MemberRow| {
            let uplinks = uplinks.remove(&it.id).unwrap_or_default();
            Ok(plan::Member {
                membership: word(&it.membership)?,
                id: MemberId(it.id),
                network: NetworkId(it.network_id),
                router: it.router,
                name: it.name,
                class: it.class,
                agent: it.agent_id.map(AgentId),
                uplinks,
            })
        };
        let endpoint = |it: EndpointRow| {
            let attachments = parts.remove(&it.id).unwrap_or_default();
            endpoint(it, attachments)
        };
        Ok(Snapshot {
            interiors: self.interiors.into_iter().map(interior).collect(),
            access_points: self.points.into_iter().map(access_point).collect::<Result<_>>()?,
            links: self.links.into_iter().map(link).collect::<Result<_>>()?,
            networks: self.networks.into_iter().map(network).collect::<Result<_>>()?,
            ports: self.ports.into_iter().map(port).collect::<Result<_>>()?,
            members: self.members.into_iter().map(member).collect::<Result<_>>()?,
            service_links: composed.service_links.into_iter().map(service_link).collect::<Result<_>>()?,
            endpoints: composed.endpoints.into_iter().map(endpoint).collect::<Result<_>>()?,
            decisions: composed.decisions.into_iter().map(decision).collect::<Result<_>>()?,
            turns: profiles.into_iter().map(turn).collect::<Result<_>>()?,
            trust,
        })
    }
}

fn interior(it: SiteRow) -> (SiteId, plan::Interior) {
    let id = SiteId(it.id);
    let backbone = BackboneId(it.backbone_id);
    (id.clone(), plan::Interior { id, backbone, router: it.router, agent: it.agent_id.map(AgentId) })
}

fn access_point(it: AccessPointRow) -> Result<(AccessPointId, plan::AccessPoint)> {
    let id = AccessPointId(it.id);
    let point = plan::AccessPoint {
        id: id.clone(),
        site: SiteId(it.site_id),
        kind: word(&it.kind)?,
        host: it.host,
        bind: it.bind,
        port: number(it.port)?,
    };
    Ok((id, point))
}

fn link(it: LinkRow) -> Result<plan::Link> {
    let access_point = AccessPointId(it.access_point_id);
    Ok(plan::Link { id: LinkId(it.id), access_point, site: SiteId(it.site_id), cost: number(it.cost)? })
}

fn network(it: NetworkRow) -> Result<(NetworkId, plan::Network)> {
    let id = NetworkId(it.id);
    let backbone = BackboneId(it.backbone_id);
    Ok((id.clone(), plan::Network { id, backbone, tenant: it.tenant, phase: word(&it.phase)? }))
}

fn port(it: PortRow) -> Result<plan::Port> {
    let access_point = AccessPointId(it.access_point_id);
    Ok(plan::Port { access_point, network: NetworkId(it.network_id), port: number(it.port)? })
}

fn service_link(it: ServiceLinkRow) -> Result<(ServiceLinkId, plan::ServiceLink)> {
    let id = ServiceLinkId(it.id);
    let link = plan::ServiceLink {
        id: id.clone(),
        network: NetworkId(it.network_id),
        name: it.name,
        address: it.address,
        scope: word(&it.scope)?,
        distribution: word(&it.distribution)?,
    };
    Ok((id, link))
}

pub(super) fn endpoint(it: EndpointRow, attachments: Vec<plan::Attachment>) -> Result<plan::Endpoint> {
    let place = match (it.class, it.member_id) {
        (_, Some(member)) => plan::Place::Member(MemberId(member)),
        (class, None) => plan::Place::Class(class.unwrap_or_default()),
    };
    let arguments: Vec<String> = serde_json::from_str(&it.arguments).map_err(Error::internal)?;
    let tag = it.tag;
    Ok(plan::Endpoint {
        id: EndpointId(it.id),
        network: NetworkId(it.network_id),
        name: it.name,
        kind: word(&it.kind)?,
        place,
        program: it.reference.map(|image| plan::Program { image, tag, arguments }),
        host: it.host,
        generation: it.generation,
        attachments,
    })
}

fn decision(it: DecisionRow) -> Result<((MemberId, EndpointId), plan::Decision)> {
    let decision = plan::Decision { accepted: it.accepted == 1, host: it.host, port: number(it.port)? };
    Ok(((MemberId(it.member_id), EndpointId(it.endpoint_id)), decision))
}

fn turn(it: ProfileRow) -> Result<((String, String), plan::Turn)> {
    let turn = plan::Turn { edition: number(it.edition)?, rounds: number(it.rounds)?, cuts: number(it.cuts)? };
    Ok(((it.owner, it.name), turn))
}

impl TryFrom<AttachmentRow> for plan::Attachment {
    type Error = Error;

    fn try_from(it: AttachmentRow) -> Result<Self> {
        Ok(Self { service_link: ServiceLinkId(it.service_link_id), part: word(&it.part)?, port: number(it.port)? })
    }
}

/// A number as the database holds it, in the size the model has it.
fn number<T: TryFrom<i64>>(it: i64) -> Result<T> {
    T::try_from(it).map_err(|_| Error::internal(anyhow::anyhow!("the database holds {it} where that cannot be")))
}
