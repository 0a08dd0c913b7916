//! What the router of each site is to be, given everything that is known of a backbone and its networks. Pure.
//!
//! Names of router entities differ across all types, as the router asks: each begins with what it is and goes on with the
//! id of what it stands for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::model::{
    AccessKind, AccessPointId, BackboneId, Choice, Distribution, EndpointId, EndpointKind, LinkId, MemberId,
    Membership, NetworkId, Part, Phase, Scope, ServiceLinkId, SiteId, backbone_line, network_line,
};
use crate::fleet::model::AgentId;

/// The profile of an interior site's links to others.
pub const PEER_PROFILE: &str = "tls/peer";

/// The profile of a member site's links to the backbone.
pub const UPLINK_PROFILE: &str = "tls/uplink";

/// An interior site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interior {
    /// Id.
    pub id: SiteId,
    /// Its backbone.
    pub backbone: BackboneId,
    /// Name of its router.
    pub router: String,
    /// Who carries it out; none before one has joined.
    pub agent: Option<AgentId>,
}

/// Where others may connect to an interior site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessPoint {
    /// Id.
    pub id: AccessPointId,
    /// Its site.
    pub site: SiteId,
    /// For whom.
    pub kind: AccessKind,
    /// What others dial.
    pub host: String,
    /// What is bound; empty: every address.
    pub bind: String,
    /// For peers: the port. For members the first one; which network has which is a [`Port`].
    pub port: u16,
}

/// A link between two interior sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Id.
    pub id: LinkId,
    /// Where it leads.
    pub access_point: AccessPointId,
    /// Who makes it.
    pub site: SiteId,
    /// What it costs: traffic takes the cheapest way.
    pub cost: u32,
}

/// An application network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Id.
    pub id: NetworkId,
    /// Its backbone.
    pub backbone: BackboneId,
    /// Its name to the routers.
    pub tenant: String,
    /// Where it stands in its time.
    pub phase: Phase,
}

/// The port of an access point that one network has to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Where.
    pub access_point: AccessPointId,
    /// Whose.
    pub network: NetworkId,
    /// Which.
    pub port: u16,
}

/// A site of an application network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Id, and common name of its leaf.
    pub id: MemberId,
    /// Its network.
    pub network: NetworkId,
    /// Name of its router.
    pub router: String,
    /// What people call it.
    pub name: String,
    /// Its class.
    pub class: String,
    /// Who carries it out.
    pub agent: Option<AgentId>,
    /// Whether it belongs.
    pub membership: Membership,
    /// Where it hangs on the backbone, with priorities; lower ones come first.
    pub uplinks: Vec<(AccessPointId, u32)>,
}

/// A name that services are offered and found under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLink {
    /// Id.
    pub id: ServiceLinkId,
    /// Its network.
    pub network: NetworkId,
    /// What people call it.
    pub name: String,
    /// Its address, without scope.
    pub address: String,
    /// How far that reaches.
    pub scope: Scope,
    /// How connections are spread.
    pub distribution: Distribution,
}

/// Which sites an endpoint is allocated to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Each site of a class, those that join later included.
    Class(String),
    /// One site.
    Member(MemberId),
}

/// What a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// An OCI reference without tag, or the name of an executable.
    pub image: String,
    /// Tag; empty for an executable.
    pub tag: String,
    /// Arguments.
    pub arguments: Vec<String>,
}

/// Something allocated to sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Id.
    pub id: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// What people call it.
    pub name: String,
    /// What it is.
    pub kind: EndpointKind,
    /// Where it is.
    pub place: Place,
    /// Processes: what to run.
    pub program: Option<Program>,
    /// Ingresses: what is bound. Egresses: the server outside. Empty where each site names its own.
    pub host: String,
    /// Event of its last change.
    pub generation: i64,
    /// Its parts in service links.
    pub attachments: Vec<Attachment>,
}

/// An endpoint's part in a service link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The service link.
    pub service_link: ServiceLinkId,
    /// Whether it accepts or connects.
    pub part: Part,
    /// Its port; 0 where each site names its own.
    pub port: u16,
}

/// What participants of a site made of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Accepted or not.
    pub accepted: bool,
    /// In place of the endpoint's host, where that is empty.
    pub host: String,
    /// In place of the attachments' port, where that is 0.
    pub port: u16,
}

/// Where a profile stands; one without a row stands at the first edition and its first connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Edition of the leaf.
    pub edition: u32,
    /// How often its connections were made anew.
    pub rounds: u32,
    /// The round of them before which they are closed.
    pub cuts: u32,
}

/// Everything that is known of a part of the world: all of it, or what one change concerns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Interior sites.
    pub interiors: BTreeMap<SiteId, Interior>,
    /// Access points.
    pub access_points: BTreeMap<AccessPointId, AccessPoint>,
    /// Links between interior sites.
    pub links: Vec<Link>,
    /// Application networks.
    pub networks: BTreeMap<NetworkId, Network>,
    /// Ports that networks have at access points.
    pub ports: Vec<Port>,
    /// Sites of application networks.
    pub members: Vec<Member>,
    /// Service links.
    pub service_links: BTreeMap<ServiceLinkId, ServiceLink>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// What participants made of them.
    pub decisions: BTreeMap<(MemberId, EndpointId), Decision>,
    /// Where profiles stand, by owner (a site's or a member's id) and name.
    pub turns: BTreeMap<(String, String), Turn>,
    /// Whom each line trusts, DER, oldest first.
    pub trust: BTreeMap<String, Arc<[Vec<u8>]>>,
}

/// The sites that a change concerns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Concern {
    /// Interior sites.
    pub sites: BTreeSet<SiteId>,
    /// Member sites.
    pub members: BTreeSet<MemberId>,
}

/// What one site is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// Name of its router.
    pub router: String,
    /// Edges: the network's name to the routers. Interiors have none.
    pub tenant: Option<String>,
    /// Keys and whom to trust.
    pub profiles: Vec<Profile>,
    /// Where others may connect.
    pub listeners: Vec<Listener>,
    /// Links it makes.
    pub connectors: Vec<Connector>,
    /// Ports that lead to addresses.
    pub tcp_listeners: Vec<Tcp>,
    /// Addresses that lead to ports.
    pub tcp_connectors: Vec<Tcp>,
    /// How addresses are spread.
    pub addresses: Vec<Address>,
    /// All that is allocated to it.
    pub endpoints: Vec<Allocated>,
}

/// A key with its leaf, and whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Entity name.
    pub name: String,
    /// Authorities, DER. Shared: every site of a network trusts the same.
    pub trust: Arc<[Vec<u8>]>,
    /// Where it stands.
    pub turn: Turn,
}

/// A listener for routers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Entity name.
    pub name: String,
    /// What is bound.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Its profile.
    pub profile: String,
    /// Edges: who may connect. None: interior sites may.
    pub members: Option<Vec<String>>,
    /// Edges: the network within whose addresses they stay; empty for peers.
    pub tenant: String,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    /// Entity name.
    pub name: String,
    /// Whether it is a member's link to the backbone.
    pub edge: bool,
    /// What is dialled.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Its profile.
    pub profile: String,
    /// Cost.
    pub cost: u32,
    /// Router that must be at the other end.
    pub peer: String,
    /// Lower ones come first.
    pub priority: u32,
}

/// A TCP port and an address, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Entity name.
    pub name: String,
    /// Address, scope included.
    pub address: String,
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The endpoint it belongs to.
    pub endpoint: EndpointId,
}

/// How an address is spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Entity name.
    pub name: String,
    /// The address as routers see it.
    pub pattern: String,
    /// How.
    pub distribution: Distribution,
}

/// An endpoint at one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocated {
    /// The endpoint.
    pub id: EndpointId,
    /// What it is.
    pub kind: EndpointKind,
    /// What people call it.
    pub name: String,
    /// What the site's participants made of it.
    pub choice: Choice,
    /// Event of its last change.
    pub generation: i64,
    /// What to run.
    pub program: Option<Program>,
    /// Its parts: service link, address, whether it connects, host, port.
    pub parts: Vec<(String, String, Part, String, u16)>,
}

/// What each site of a concern is to be. Equal snapshots give equal plans; sites without an agent are left out.
pub fn plan(it: &Snapshot, concern: &Concern) -> BTreeMap<AgentId, Site> {
    let index = Index::new(it);
    let mut sites = BTreeMap::new();
    for interior in it.interiors.values().filter(|i| concern.sites.contains(&i.id)) {
        if let Some(agent) = &interior.agent {
            sites.insert(agent.clone(), index.interior(interior));
        }
    }
    for member in it.members.iter().filter(|m| concern.members.contains(&m.id)) {
        if let Some(agent) = &member.agent
            && let Some(site) = index.member(member)
        {
            sites.insert(agent.clone(), site);
        }
    }
    sites
}

/// Two endpoints that would need one port at the same site, and the port. A router or a process listens there for the one
/// and for the other; `classes` are those of the members there are.
pub fn clash(endpoints: &[Endpoint], classes: &BTreeMap<MemberId, String>) -> Option<(String, String, u16)> {
    let needs = endpoints.iter().flat_map(|e| e.needs().into_iter().map(move |(host, port)| (e, host, port)));
    let needs: Vec<_> = needs.collect();
    let any = |host: &str| matches!(host, "0.0.0.0" | "::");
    for (n, (one, host, port)) in needs.iter().enumerate() {
        for (other, other_host, other_port) in &needs[n + 1..] {
            let same_host = host == other_host || any(host) || any(other_host);
            if port == other_port && same_host && meet(&one.place, &other.place, classes) {
                return Some((one.name.clone(), other.name.clone(), *port));
            }
        }
    }
    None
}

/// Whether two places have, or may come to have, a site in common.
fn meet(one: &Place, other: &Place, classes: &BTreeMap<MemberId, String>) -> bool {
    match (one, other) {
        (Place::Class(one), Place::Class(other)) => one == other,
        (Place::Member(one), Place::Member(other)) => one == other,
        (Place::Class(class), Place::Member(member)) | (Place::Member(member), Place::Class(class)) => {
            classes.get(member) == Some(class)
        }
    }
}

/// The snapshot by what is looked up in it.
struct Index<'a> {
    it: &'a Snapshot,
    points: BTreeMap<&'a SiteId, Vec<&'a AccessPoint>>,
    links: BTreeMap<&'a SiteId, Vec<&'a Link>>,
    ports: BTreeMap<&'a AccessPointId, BTreeMap<&'a NetworkId, &'a Port>>,
    /// Common names of those who hang on an access point, by network.
    hanging: BTreeMap<(&'a AccessPointId, &'a NetworkId), Vec<&'a MemberId>>,
    endpoints: BTreeMap<&'a NetworkId, Vec<&'a Endpoint>>,
    /// Service links that are spread otherwise than by default, by network.
    spread: BTreeMap<&'a NetworkId, Vec<&'a ServiceLink>>,
}

// === impl Index ===

impl<'a> Index<'a> {
    fn new(it: &'a Snapshot) -> Self {
        let mut index = Self {
            it,
            points: BTreeMap::new(),
            links: BTreeMap::new(),
            ports: BTreeMap::new(),
            hanging: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            spread: BTreeMap::new(),
        };
        for point in it.access_points.values() {
            index.points.entry(&point.site).or_default().push(point);
        }
        for link in &it.links {
            index.links.entry(&link.site).or_default().push(link);
        }
        for port in &it.ports {
            index.ports.entry(&port.access_point).or_default().insert(&port.network, port);
        }
        for member in it.members.iter().filter(|m| m.membership == Membership::Member) {
            for (point, _) in &member.uplinks {
                index.hanging.entry((point, &member.network)).or_default().push(&member.id);
            }
        }
        for endpoint in &it.endpoints {
            index.endpoints.entry(&endpoint.network).or_default().push(endpoint);
        }
        for link in it.service_links.values().filter(|l| l.distribution != Distribution::Balanced) {
            index.spread.entry(&link.network).or_default().push(link);
        }
        index
    }

    fn interior(&self, it: &Interior) -> Site {
        let line = backbone_line(&it.backbone);
        let mut site = Site { router: it.router.clone(), ..Site::default() };
        site.profiles.push(self.profile(&it.id.0, PEER_PROFILE.into(), &line));
        for point in self.points.get(&it.id).into_iter().flatten() {
            match point.kind {
                AccessKind::Peer => site.listeners.push(Listener {
                    name: format!("listen/{}", point.id),
                    host: point.bind.clone(),
                    port: point.port,
                    profile: PEER_PROFILE.into(),
                    members: None,
                    tenant: String::new(),
                }),
                AccessKind::Member => {
                    for port in self.ports.get(&point.id).into_iter().flat_map(BTreeMap::values) {
                        self.listen_for_members(&mut site, it, point, port);
                    }
                }
            }
        }
        for link in self.links.get(&it.id).into_iter().flatten() {
            let Some(point) = self.it.access_points.get(&link.access_point) else { continue };
            let Some(peer) = self.it.interiors.get(&point.site) else { continue };
            site.connectors.push(Connector {
                name: format!("link/{}", link.id),
                edge: false,
                host: point.host.clone(),
                port: point.port,
                profile: PEER_PROFILE.into(),
                cost: link.cost,
                peer: peer.router.clone(),
                priority: 0,
            });
        }
        site.sort();
        site
    }

    fn listen_for_members(&self, site: &mut Site, it: &Interior, point: &AccessPoint, port: &Port) {
        let Some(network) = self.it.networks.get(&port.network).filter(|n| n.phase == Phase::Active) else { return };
        let profile = member_profile(&network.id);
        if !site.profiles.iter().any(|p| p.name == profile) {
            site.profiles.push(self.profile(&it.id.0, profile.clone(), &network_line(&network.id)));
            site.addresses.extend(self.addresses(network));
        }
        let hanging = self.hanging.get(&(&point.id, &network.id)).into_iter().flatten();
        let mut members: Vec<_> = hanging.map(|member| member.0.clone()).collect();
        members.sort();
        site.listeners.push(Listener {
            name: format!("listen/{}/{}", point.id, network.id),
            host: point.bind.clone(),
            port: port.port,
            profile,
            members: Some(members),
            tenant: network.tenant.clone(),
        });
    }

    /// What a member site is to be; nothing at all once it was sent away or before it was let in.
    fn member(&self, it: &Member) -> Option<Site> {
        let network = self.it.networks.get(&it.network)?;
        if it.membership != Membership::Member || network.phase == Phase::Over {
            return None;
        }
        let mut site = Site { router: it.router.clone(), tenant: Some(network.tenant.clone()), ..Site::default() };
        site.profiles.push(self.profile(&it.id.0, UPLINK_PROFILE.into(), &network_line(&network.id)));
        if network.phase != Phase::Active {
            return Some(site);
        }
        for (point, priority) in &it.uplinks {
            let port = self.ports.get(point).and_then(|ports| ports.get(&network.id));
            let Some((point, port)) = self.it.access_points.get(point).zip(port) else { continue };
            let Some(interior) = self.it.interiors.get(&point.site) else { continue };
            site.connectors.push(Connector {
                name: format!("uplink/{}", point.id),
                edge: true,
                host: point.host.clone(),
                port: port.port,
                profile: UPLINK_PROFILE.into(),
                cost: 1,
                peer: interior.router.clone(),
                priority: *priority,
            });
        }
        site.addresses = self.addresses(network);
        for endpoint in self.endpoints.get(&network.id).into_iter().flatten().filter(|e| e.is_at(it)) {
            self.allocate(&mut site, it, endpoint);
        }
        site.sort();
        Some(site)
    }

    fn allocate(&self, site: &mut Site, member: &Member, it: &Endpoint) {
        let decision = self.it.decisions.get(&(member.id.clone(), it.id.clone()));
        let host = match (&*it.host, it.kind, decision) {
            ("", EndpointKind::Process, _) => "127.0.0.1",
            ("", _, Some(decision)) => &decision.host,
            (host, ..) => host,
        };
        let parts: Vec<_> = it
            .attachments
            .iter()
            .filter_map(|a| {
                let link = self.it.service_links.get(&a.service_link)?;
                let port = if a.port == 0 { decision.map_or(0, |d| d.port) } else { a.port };
                Some((a, link, scoped(link, member, it), port))
            })
            .collect();
        let choice = match decision {
            Some(Decision { accepted: false, .. }) => Choice::Declined,
            _ if host.is_empty() || parts.iter().any(|(.., port)| *port == 0) => Choice::Incomplete,
            Some(_) => Choice::Accepted,
            None => Choice::Open,
        };
        if matches!(choice, Choice::Open | Choice::Accepted) {
            for (attachment, link, address, port) in &parts {
                let (way, entities) = match attachment.part {
                    Part::Connects => ("in", &mut site.tcp_listeners),
                    Part::Accepts => ("out", &mut site.tcp_connectors),
                };
                entities.push(Tcp {
                    name: format!("{way}/{}/{}", it.id, link.id),
                    address: address.clone(),
                    host: host.into(),
                    port: *port,
                    endpoint: it.id.clone(),
                });
            }
        }
        site.endpoints.push(Allocated {
            id: it.id.clone(),
            kind: it.kind,
            name: it.name.clone(),
            choice,
            generation: it.generation,
            program: it.program.clone(),
            parts: parts
                .into_iter()
                .map(|(a, link, address, port)| (link.name.clone(), address, a.part, host.to_owned(), port))
                .collect(),
        });
    }

    fn addresses(&self, network: &Network) -> Vec<Address> {
        let links = self.spread.get(&network.id).into_iter().flatten();
        links
            .map(|link| Address {
                name: format!("address/{}", link.id),
                pattern: format!("{}/{}", network.tenant, link.address)
                    + if link.scope == Scope::Van { "" } else { ".#" },
                distribution: link.distribution,
            })
            .collect()
    }

    fn profile(&self, owner: &str, name: String, line: &str) -> Profile {
        let turn = self.it.turns.get(&(owner.to_owned(), name.clone())).copied();
        let turn = turn.unwrap_or(Turn { edition: 1, ..Turn::default() });
        Profile { name, trust: self.it.trust.get(line).cloned().unwrap_or_default(), turn }
    }
}

/// The profile of an interior site's listeners for one network's members.
pub fn member_profile(network: &NetworkId) -> String {
    format!("tls/{network}")
}

/// The address of a service link as one endpoint at one site uses it.
fn scoped(link: &ServiceLink, member: &Member, endpoint: &Endpoint) -> String {
    match link.scope {
        Scope::Van => link.address.clone(),
        Scope::Site => format!("{}.{}", link.address, member.name),
        Scope::Instance => format!("{}.{}.{}", link.address, member.name, endpoint.name),
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// What is listened on at a site for it: by the router where it connects, by itself where a process accepts.
    fn needs(&self) -> Vec<(String, u16)> {
        let is_process = self.kind == EndpointKind::Process;
        let host = if self.host.is_empty() { "127.0.0.1" } else { &self.host };
        let listens = |a: &&Attachment| a.port != 0 && (a.part == Part::Connects || is_process);
        self.attachments.iter().filter(listens).map(|a| (host.to_owned(), a.port)).collect()
    }

    /// Whether it is allocated to a site.
    pub fn is_at(&self, member: &Member) -> bool {
        match &self.place {
            Place::Class(class) => *class == member.class,
            Place::Member(id) => *id == member.id,
        }
    }
}

// === impl Site ===

impl Site {
    /// Equal sites are equal bytes, whatever order rows came in.
    fn sort(&mut self) {
        self.profiles.sort_by(|a, b| a.name.cmp(&b.name));
        self.listeners.sort_by(|a, b| a.name.cmp(&b.name));
        self.connectors.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        self.tcp_listeners.sort_by(|a, b| a.name.cmp(&b.name));
        self.tcp_connectors.sort_by(|a, b| a.name.cmp(&b.name));
        self.addresses.sort_by(|a, b| a.name.cmp(&b.name));
        self.endpoints.sort_by(|a, b| a.id.cmp(&b.id));
    }
}
