//! Networks to and from the wire.

use muster_proto::network as proto;
use prost::Message;

use super::{
    model::{Choice, Distribution, EndpointKind, Part, Word},
    plan::{Address, Allocated, Connector, Listener, Profile, Site, Tcp},
    status::{self, RouterState, Told},
};
use crate::{
    error::{Error, Result},
    platform::db::clean,
};

/// What a site asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A leaf for its key.
    Sign {
        /// The profile.
        profile: String,
        /// PKCS #10, DER.
        request: Vec<u8>,
    },
    /// To be taken at its participants' word.
    Decide(Word),
}

/// A question as it came.
pub fn asked(body: &[u8]) -> Result<Asked> {
    use proto::question::Question;
    let question = proto::Question::decode(body).map_err(|e| Error::invalid("question", e.to_string()))?;
    match question.question {
        Some(Question::Sign(sign)) => Ok(Asked::Sign { profile: clean(&sign.profile), request: sign.request.to_vec() }),
        Some(Question::Decide(it)) => Ok(Asked::Decide(Word {
            endpoint: clean(&it.endpoint),
            generation: i64::try_from(it.generation).unwrap_or(i64::MAX),
            accept: it.accept,
            host: clean(&it.host),
            port: it.port.into(),
        })),
        None => Err(Error::invalid("question", "home does not know this question; upgrade it first")),
    }
}

/// What an agent said of its site; none when it said nothing.
pub fn told(result: &[u8], told_at: i64) -> Result<Option<Told>> {
    use proto::router_status::State;
    if result.is_empty() {
        return Ok(None);
    }
    let it = proto::SiteResult::decode(result).map_err(Error::internal)?;
    let router = it.router.unwrap_or_default();
    let state = match router.state() {
        State::Unspecified | State::Rendered => RouterState::Rendered,
        State::Starting => RouterState::Starting,
        State::Running => RouterState::Running,
        State::Silent => RouterState::Silent,
        State::Failed => RouterState::Failed,
    };
    let link = |l: proto::LinkStatus| status::Link {
        name: clean(&l.name),
        up: l.up,
        since_at: l.since_ms,
        message: clean(&l.message),
    };
    let port = |p: proto::PortStatus| status::Port {
        name: clean(&p.name),
        up: p.up,
        message: clean(&p.message),
        opened: p.connections_opened,
        closed: p.connections_closed,
    };
    let process = |p: proto::ProcessStatus| status::Process {
        endpoint: clean(&p.endpoint),
        running: p.running,
        healthy: p.healthy,
        message: clean(&p.message),
        restarts: p.restarts,
    };
    let profile = |p: proto::ProfileStatus| status::Profile {
        name: clean(&p.name),
        edition: p.edition,
        rounds: p.rounds,
        cuts: p.cuts,
        trust: p.trust.iter().map(|digest| muster_pki::hex(digest)).collect(),
        serial: muster_pki::hex(&p.serial),
        not_after_at: p.not_after_ms,
        older_connections: p.older_connections,
        connections: p.connections,
    };
    Ok(Some(Told {
        router: status::Router {
            state,
            version: clean(&router.version),
            memory_bytes: router.memory_bytes,
            connections: router.connections,
            started_at: router.started_ms,
        },
        links: it.links.into_iter().map(link).collect(),
        ports: it.ports.into_iter().map(port).collect(),
        processes: it.processes.into_iter().map(process).collect(),
        profiles: it.profiles.into_iter().map(profile).collect(),
        reachable: it.reachable.iter().map(|r| clean(r)).collect(),
        problems: it.problems.iter().map(|p| clean(p)).collect(),
        told_at,
    }))
}

/// A leaf with its authority, as an answer.
pub fn signed(chain: Vec<Vec<u8>>) -> Vec<u8> {
    let chain = chain.into_iter().map(Into::into).collect();
    proto::Reply { reply: Some(proto::reply::Reply::Signed(proto::Signed { chain })) }.encode_to_vec()
}

/// That a decision was taken, as an answer.
pub fn decided() -> Vec<u8> {
    proto::Reply { reply: Some(proto::reply::Reply::Decided(proto::Decided {})) }.encode_to_vec()
}

/// The document of one site.
pub fn site(it: &Site) -> Vec<u8> {
    let mode = if it.tenant.is_some() { proto::Mode::Edge } else { proto::Mode::Interior };
    proto::Site {
        router: it.router.clone(),
        mode: mode.into(),
        tenant: it.tenant.clone().unwrap_or_default(),
        profiles: it.profiles.iter().map(profile).collect(),
        listeners: it.listeners.iter().map(listener).collect(),
        connectors: it.connectors.iter().map(connector).collect(),
        tcp_listeners: it.tcp_listeners.iter().map(tcp_listener).collect(),
        tcp_connectors: it.tcp_connectors.iter().map(tcp_connector).collect(),
        addresses: it.addresses.iter().map(address).collect(),
        endpoints: it.endpoints.iter().map(endpoint).collect(),
    }
    .encode_to_vec()
}

fn profile(it: &Profile) -> proto::Profile {
    proto::Profile {
        name: it.name.clone(),
        trust: it.trust.iter().cloned().map(Into::into).collect(),
        edition: it.turn.edition,
        rounds: it.turn.rounds,
        cuts: it.turn.cuts,
    }
}

fn listener(it: &Listener) -> proto::Listener {
    proto::Listener {
        name: it.name.clone(),
        role: role(it.members.is_some()),
        host: it.host.clone(),
        port: it.port.into(),
        profile: it.profile.clone(),
        members: it.members.clone().unwrap_or_default(),
        tenant: it.tenant.clone(),
    }
}

fn connector(it: &Connector) -> proto::Connector {
    proto::Connector {
        name: it.name.clone(),
        role: role(it.edge),
        host: it.host.clone(),
        port: it.port.into(),
        profile: it.profile.clone(),
        cost: it.cost,
        peer: it.peer.clone(),
        priority: it.priority,
    }
}

fn role(edge: bool) -> i32 {
    if edge { proto::Role::Edge.into() } else { proto::Role::InterRouter.into() }
}

fn tcp_listener(it: &Tcp) -> proto::TcpListener {
    let (name, address, host) = (it.name.clone(), it.address.clone(), it.host.clone());
    proto::TcpListener { name, address, host, port: it.port.into(), endpoint: it.endpoint.0.clone() }
}

fn tcp_connector(it: &Tcp) -> proto::TcpConnector {
    let (name, address, host) = (it.name.clone(), it.address.clone(), it.host.clone());
    proto::TcpConnector { name, address, host, port: it.port.into(), endpoint: it.endpoint.0.clone() }
}

fn address(it: &Address) -> proto::Address {
    let distribution = match it.distribution {
        Distribution::Balanced => proto::address::Distribution::Balanced,
        Distribution::Closest => proto::address::Distribution::Closest,
        Distribution::Unavailable => proto::address::Distribution::Unavailable,
    };
    proto::Address { name: it.name.clone(), pattern: it.pattern.clone(), distribution: distribution.into() }
}

fn endpoint(it: &Allocated) -> proto::Endpoint {
    let kind = match it.kind {
        EndpointKind::Process => proto::endpoint::Kind::Process,
        EndpointKind::Ingress => proto::endpoint::Kind::Ingress,
        EndpointKind::Egress => proto::endpoint::Kind::Egress,
    };
    let choice = match it.choice {
        Choice::Open => proto::endpoint::Choice::Open,
        Choice::Accepted => proto::endpoint::Choice::Accepted,
        Choice::Declined => proto::endpoint::Choice::Declined,
        Choice::Incomplete => proto::endpoint::Choice::Incomplete,
    };
    let program = it.program.as_ref().map(|p| proto::Program {
        image: p.image.clone(),
        tag: p.tag.clone(),
        arguments: p.arguments.clone(),
    });
    let attachment = |(service_link, address, part, host, port): &(String, String, Part, String, u16)| {
        let (service_link, address, host) = (service_link.clone(), address.clone(), host.clone());
        proto::Attachment { service_link, address, connects: *part == Part::Connects, host, port: u32::from(*port) }
    };
    proto::Endpoint {
        id: it.id.0.clone(),
        kind: kind.into(),
        name: it.name.clone(),
        choice: choice.into(),
        generation: it.generation.unsigned_abs(),
        program,
        attachments: it.parts.iter().map(attachment).collect(),
    }
}
