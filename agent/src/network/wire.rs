//! Model ↔ proto.

use std::collections::BTreeSet;

use bytes::Bytes;
use muster_proto::network as proto;
use prost::Message;

use super::{
    model::{
        Address, Attachment, Choice, Connector, Distribution, Endpoint, Listener, Mode, OWN, Profile, Program, Purpose,
        Role, Site, Tcp,
    },
    observe::{Status, Up},
};
use crate::ledger::{Reason, Refused};

/// The longest name of an entity.
const LONGEST_NAME: usize = 128;

/// Reads the document of a site.
pub fn site(document: &[u8]) -> Result<Site, Refused> {
    let read = proto::Site::decode(document).map_err(|e| malformed(e.to_string()))?;
    let mode = match read.mode() {
        proto::Mode::Interior => Mode::Interior,
        proto::Mode::Edge => Mode::Edge,
        proto::Mode::Unspecified => return Err(malformed("mode is missing")),
    };
    if read.router.is_empty() || !read.router.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(malformed(format!("router {:?}: letters, digits, `-`, `_` and `.`", read.router)));
    }
    if mode == Mode::Interior && !read.tenant.is_empty() {
        return Err(malformed("tenant: an interior carries all application networks and belongs to none"));
    }
    let site = Site {
        router: read.router,
        mode,
        tenant: read.tenant,
        profiles: read.profiles.into_iter().map(profile).collect(),
        listeners: read.listeners.into_iter().map(listener).collect::<Result<_, _>>()?,
        connectors: read.connectors.into_iter().map(connector).collect::<Result<_, _>>()?,
        tcp_listeners: read
            .tcp_listeners
            .into_iter()
            .map(|t| tcp("tcp_listeners", t.name, t.address, t.host, t.port, t.endpoint))
            .collect::<Result<_, _>>()?,
        tcp_connectors: read
            .tcp_connectors
            .into_iter()
            .map(|t| tcp("tcp_connectors", t.name, t.address, t.host, t.port, t.endpoint))
            .collect::<Result<_, _>>()?,
        addresses: read.addresses.into_iter().map(address).collect::<Result<_, _>>()?,
        endpoints: read.endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?,
    };
    names(&site)?;
    Ok(site)
}

/// The result of a site.
pub fn status(status: &Status) -> Bytes {
    let router = &status.router;
    let up = |port: &Up| proto::PortStatus {
        name: port.name.clone(),
        up: port.up,
        message: port.message.clone(),
        connections_opened: port.opened,
        connections_closed: port.closed,
    };
    let result = proto::SiteResult {
        router: Some(proto::RouterStatus {
            state: state(router.state).into(),
            version: router.version.clone(),
            pid: router.pid,
            started_ms: router.started_ms,
            memory_bytes: router.memory_bytes,
            connections: router.connections,
        }),
        profiles: status
            .profiles
            .iter()
            .map(|p| proto::ProfileStatus {
                name: p.name.clone(),
                edition: p.edition,
                cuts: p.cuts,
                rounds: p.rounds,
                trust: p.trust.iter().map(|digest| Bytes::copy_from_slice(digest)).collect(),
                serial: Bytes::from(muster_pki::unhex(&p.serial)),
                not_after_ms: p.not_after_ms,
                ordinal: p.ordinal,
                older_connections: p.older_connections,
                connections: p.connections,
            })
            .collect(),
        links: status
            .links
            .iter()
            .map(|l| proto::LinkStatus {
                name: l.name.clone(),
                up: l.up,
                since_ms: l.since_ms,
                message: l.message.clone(),
                peer: l.peer.clone(),
            })
            .collect(),
        ports: status.ports.iter().map(up).collect(),
        processes: status
            .processes
            .iter()
            .map(|p| proto::ProcessStatus {
                endpoint: p.endpoint.clone(),
                running: p.running,
                healthy: p.healthy,
                message: p.message.clone(),
                restarts: p.restarts,
            })
            .collect(),
        reachable: status.reachable.clone(),
        problems: status.problems.clone(),
    };
    result.encode_to_vec().into()
}

/// The question for a leaf.
pub fn sign(profile: &str, edition: u32, request: Vec<u8>) -> Bytes {
    let sign = proto::Sign { profile: profile.into(), edition, request: request.into() };
    let question = proto::Question { question: Some(proto::question::Question::Sign(sign)) };
    question.encode_to_vec().into()
}

/// The chain in an answer to [`sign`], leaf first, root last.
pub fn signed(reply: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let reply = proto::Reply::decode(reply).map_err(|e| e.to_string())?;
    match reply.reply {
        Some(proto::reply::Reply::Signed(signed)) => Ok(signed.chain.iter().map(|der| der.to_vec()).collect()),
        _ => Err("home answered something else than a leaf".into()),
    }
}

/// What a participant decided about an endpoint, on the version of it that they saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The endpoint.
    pub endpoint: String,
    /// The version.
    pub generation: u64,
    /// Whether it is to be carried out.
    pub accept: bool,
    /// Where the allocation leaves it open; empty: not said.
    pub host: String,
    /// Where the allocation leaves it open; 0: not said.
    pub port: u16,
}

/// The question whether home takes a decision.
pub fn decide(decision: &Decision) -> Bytes {
    let Decision { endpoint, generation, accept, host, port } = decision.clone();
    let decide = proto::Decide { endpoint, generation, accept, host, port: port.into() };
    let question = proto::Question { question: Some(proto::question::Question::Decide(decide)) };
    question.encode_to_vec().into()
}

/// Whether the answer to [`decide`] is that it was taken.
pub fn decided(reply: &[u8]) -> Result<(), String> {
    match proto::Reply::decode(reply).map_err(|e| e.to_string())?.reply {
        Some(proto::reply::Reply::Decided(_)) => Ok(()),
        _ => Err("home answered something else than a decision".into()),
    }
}

fn state(state: super::observe::State) -> proto::router_status::State {
    use super::observe::State;
    match state {
        State::Rendered => proto::router_status::State::Rendered,
        State::Starting => proto::router_status::State::Starting,
        State::Running => proto::router_status::State::Running,
        State::Silent => proto::router_status::State::Silent,
        State::Failed => proto::router_status::State::Failed,
    }
}

fn profile(read: proto::Profile) -> Profile {
    let trust = read.trust.iter().map(|der| der.to_vec()).collect();
    // An older home counts cuts alone: each begins a round of its own.
    let rounds = read.rounds.max(read.cuts);
    Profile { name: read.name, trust, edition: read.edition, rounds, cuts: read.cuts }
}

fn listener(read: proto::Listener) -> Result<Listener, Refused> {
    let role = role(read.role())?;
    let mut members = read.members;
    members.sort();
    members.dedup();
    if let Some(bad) = members.iter().find(|m| m.is_empty() || m.contains([',', '*', '\0'])) {
        return Err(malformed(format!("listeners.members {bad:?}: a common name without `,` and `*`")));
    }
    if !read.tenant.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Err(malformed(format!("listeners.tenant {:?}: letters, digits, `-` and `_`", read.tenant)));
    }
    let port = port("listeners", read.port)?;
    let (name, host, profile, tenant) = (read.name, read.host, read.profile, read.tenant);
    Ok(Listener { name, role, host, port, profile, members, tenant })
}

fn connector(read: proto::Connector) -> Result<Connector, Refused> {
    let role = role(read.role())?;
    let port = port("connectors", read.port)?;
    Ok(Connector {
        name: read.name,
        role,
        host: read.host,
        port,
        profile: read.profile,
        cost: read.cost,
        peer: read.peer,
        priority: read.priority,
    })
}

fn tcp(field: &str, name: String, address: String, host: String, at: u32, endpoint: String) -> Result<Tcp, Refused> {
    Ok(Tcp { name, address, host, port: port(field, at)?, endpoint })
}

fn address(read: proto::Address) -> Result<Address, Refused> {
    use proto::address::Distribution as Wire;
    let distribution = match read.distribution() {
        Wire::Balanced => Distribution::Balanced,
        Wire::Closest => Distribution::Closest,
        Wire::Unavailable => Distribution::Unavailable,
        Wire::Unspecified => return Err(malformed("addresses.distribution is missing")),
    };
    Ok(Address { name: read.name, pattern: read.pattern, distribution })
}

fn endpoint(read: proto::Endpoint) -> Result<Endpoint, Refused> {
    use proto::endpoint::{Choice as Said, Kind};
    let purpose = match read.kind() {
        Kind::Process => Purpose::Process,
        Kind::Ingress => Purpose::Ingress,
        Kind::Egress => Purpose::Egress,
        Kind::Unspecified => return Err(malformed("endpoints.kind is missing")),
    };
    let choice = match read.choice() {
        Said::Open => Choice::Open,
        Said::Accepted => Choice::Accepted,
        Said::Declined => Choice::Declined,
        Said::Incomplete => Choice::Incomplete,
        Said::Unspecified => return Err(malformed("endpoints.choice is missing")),
    };
    let attachment = |a: proto::Attachment| {
        let port = port("endpoints.attachments", a.port)?;
        let (service_link, address, host) = (a.service_link, a.address, a.host);
        Ok(Attachment { service_link, address, connects: a.connects, host, port })
    };
    Ok(Endpoint {
        id: read.id,
        purpose,
        name: read.name,
        choice,
        generation: read.generation,
        program: read.program.map(|p| Program { image: p.image, tag: p.tag, arguments: p.arguments }),
        attachments: read.attachments.into_iter().map(attachment).collect::<Result<_, Refused>>()?,
    })
}

fn role(role: proto::Role) -> Result<Role, Refused> {
    match role {
        proto::Role::InterRouter => Ok(Role::InterRouter),
        proto::Role::Edge => Ok(Role::Edge),
        proto::Role::Unspecified => Err(malformed("role is missing")),
    }
}

fn port(field: &str, port: u32) -> Result<u16, Refused> {
    u16::try_from(port).map_err(|_| malformed(format!("{field}.port {port}: a port is at most 65535")))
}

/// The router keeps the names of all kinds in one list, and the agent's own stand in it too.
fn names(site: &Site) -> Result<(), Refused> {
    let profiles = site.profiles.iter().map(|p| &p.name);
    let listeners = site.listeners.iter().map(|l| &l.name);
    let connectors = site.connectors.iter().map(|c| &c.name);
    let tcp = site.tcp_listeners.iter().chain(&site.tcp_connectors).map(|t| &t.name);
    let addresses = site.addresses.iter().map(|a| &a.name);
    let mut seen = BTreeSet::new();
    for name in profiles.chain(listeners).chain(connectors).chain(tcp).chain(addresses) {
        if name.is_empty() || name.len() > LONGEST_NAME || name.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(malformed(format!("name {name:?}: 1 to {LONGEST_NAME} visible ASCII characters")));
        }
        if name.starts_with(OWN) || name.contains('/') && name.starts_with("vhost") {
            return Err(malformed(format!("name {name:?} is kept for the agent's own")));
        }
        if !seen.insert(name) {
            return Err(malformed(format!("name {name:?} is given twice; the router knows one list of names")));
        }
    }
    for (n, one) in site.listeners.iter().enumerate() {
        let overlaps = |other: &&Listener| {
            let anywhere = [one, *other].iter().any(|l| matches!(l.host.as_str(), "" | "0.0.0.0" | "::"));
            other.port == one.port && (other.host == one.host || anywhere)
        };
        if site.listeners[..n].iter().any(|other| overlaps(&other)) {
            return Err(malformed(format!("listeners.port {}: two listeners cannot have one port", one.port)));
        }
    }
    let known = |profile: &str| site.profiles.iter().any(|p| p.name == profile);
    let used = site.listeners.iter().map(|l| &l.profile).chain(site.connectors.iter().map(|c| &c.profile));
    match used.into_iter().find(|profile| !known(profile)) {
        Some(missing) => Err(malformed(format!("profile {missing:?} is used and not described"))),
        None => Ok(()),
    }
}

fn malformed(message: impl Into<String>) -> Refused {
    Refused::new(Reason::Malformed, message)
}
