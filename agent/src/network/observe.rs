//! What a router shows, and what is said of it.
//!
//! A connector's own status proves little: it says success while a peer accepts and says nothing. A link is up when a
//! connection is open to the router that is expected there, and, between interiors, when that router takes part in the
//! routing: a frozen one keeps its connections for a while and drops out of the routing at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::{
    management::{Failure, Management},
    model::{Attributes, Connector, Entity, Kind, Listener, Mode, Role, Site, Tcp, Value},
    profile::Held,
};

const CONNECTION: &str = "io.skupper.router.connection";
const NODE: &str = "io.skupper.router.router.node";
const METRICS: &str = "io.skupper.router.routerMetrics";

/// What becomes of the router's process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// No router program: the configuration was written.
    #[default]
    Rendered,
    /// It was started and does not answer yet.
    Starting,
    /// It answers.
    Running,
    /// It runs and does not answer.
    Silent,
    /// It cannot be started, or ended.
    Failed,
}

/// All that is said of a site.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// The router.
    pub router: Router,
    /// The profiles.
    pub profiles: Vec<ProfileStatus>,
    /// The connectors.
    pub links: Vec<Link>,
    /// Listeners, tcp listeners and tcp connectors.
    pub ports: Vec<Up>,
    /// The processes.
    pub processes: Vec<ProcessStatus>,
    /// Interiors: the routers that can be reached.
    pub reachable: Vec<String>,
    /// What does not hold though it should.
    pub problems: Vec<String>,
}

/// The router's process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Router {
    /// What becomes of it.
    pub state: State,
    /// As it says.
    pub version: String,
    /// Its number; 0: none.
    pub pid: u32,
    /// Milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Resident.
    pub memory_bytes: u64,
    /// In all.
    pub connections: u64,
}

/// A profile as it is in use.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProfileStatus {
    /// Its name.
    pub name: String,
    /// Of the leaf in use; 0: none.
    pub edition: u32,
    /// How often connections were made anew.
    pub rounds: u32,
    /// The round of them before which they were closed.
    pub cuts: u32,
    /// SHA-256 of each authority.
    pub trust: Vec<[u8; 32]>,
    /// Hexadecimal.
    pub serial: String,
    /// Milliseconds since the Unix epoch.
    pub not_after_ms: i64,
    /// The router's number of the leaf.
    pub ordinal: u32,
    /// Connections with an earlier leaf.
    pub older_connections: u32,
    /// Connections with this leaf.
    pub connections: u32,
}

/// A connector.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// The expected router is at the other end.
    pub up: bool,
    /// Since when.
    pub since_ms: i64,
    /// Why it is not up.
    pub message: String,
    /// Who is there instead.
    pub peer: String,
}

/// A port.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Up {
    /// Its name.
    pub name: String,
    /// It does its work.
    pub up: bool,
    /// Why it does not.
    pub message: String,
    /// Connections so far.
    pub opened: u64,
    /// Of these no more.
    pub closed: u64,
}

/// A process of an endpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessStatus {
    /// The endpoint.
    pub endpoint: String,
    /// It runs.
    pub running: bool,
    /// Its ports answer.
    pub healthy: bool,
    /// What is missing.
    pub message: String,
    /// Starts because it ended.
    pub restarts: u32,
}

/// What a router shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Entities of the kinds that the agent keeps.
    pub entities: Vec<Entity>,
    /// Its connections.
    pub connections: Vec<Attributes>,
    /// Interiors: the routers it knows.
    pub nodes: Vec<Attributes>,
    /// Its figures.
    pub metrics: Attributes,
    /// Its version.
    pub version: String,
    /// Where its process accepts connections.
    pub listens: BTreeSet<SocketAddr>,
}

/// Asks a router for all that matters, one question after another.
pub async fn look(management: &mut Management, mode: Mode) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    for kind in Kind::ALL {
        seen.entities.extend(management.list(kind).await?);
    }
    let wanted = ["container", "role", "dir", "host", "opened", "tlsOrdinal", "user"];
    seen.connections = management.query(CONNECTION, &wanted).await?;
    if mode == Mode::Interior {
        seen.nodes = management.query(NODE, &["id", "nextHop", "routerLink"]).await?;
    }
    let figures = management.query(METRICS, &[]).await?;
    seen.metrics = figures.into_iter().next().unwrap_or_default();
    // The column of the version has no name.
    seen.version = text(&seen.metrics, "");
    Ok(seen)
}

// === impl Seen ===

impl Seen {
    /// The entity of a kind and a name.
    pub fn entity(&self, kind: Kind, name: &str) -> Option<&Entity> {
        self.entities.iter().find(|e| e.kind == kind && e.name == name)
    }

    /// Whether the router's process accepts connections at a port.
    pub fn listens_at(&self, host: &str, port: u16) -> bool {
        let fits = |address: &&SocketAddr| {
            address.port() == port
                && (address.ip().is_unspecified()
                    || host.parse().map_or(true, |ip: std::net::IpAddr| ip.is_unspecified() || ip == address.ip()))
        };
        self.listens.iter().any(|address| fits(&address))
    }

    /// The interiors that can be reached: one that is gone keeps its row for a while, without a way to it.
    pub fn reachable(&self, own: &str) -> Vec<String> {
        let has_way = |row: &&Attributes| !text(row, "routerLink").is_empty() || !text(row, "nextHop").is_empty();
        let mut ids: Vec<_> = self.nodes.iter().filter(has_way).map(|row| text(row, "id")).collect();
        ids.retain(|id| id != own);
        ids.sort();
        ids
    }

    /// What is said of a connector.
    pub fn link(&self, connector: &Connector) -> Link {
        let mut link = Link { name: connector.name.clone(), ..Link::default() };
        let there = format!("{}:{}", connector.host, connector.port);
        let is_open = |row: &&Attributes| {
            text(row, "dir") == "out"
                && text(row, "host") == there
                && text(row, "role") == connector.role.word()
                && text(row, "opened") == "true"
        };
        let peers: Vec<_> = self.connections.iter().filter(is_open).map(|row| text(row, "container")).collect();
        if peers.contains(&connector.peer) {
            let is_routed = connector.role == Role::Edge || self.reachable("").contains(&connector.peer);
            link.up = is_routed;
            if !is_routed {
                link.message = format!(
                    "{} is connected and takes no part in the routing: it just came, or is frozen",
                    connector.peer
                );
            }
        } else if let Some(other) = peers.first() {
            link.message = format!("router {other} is there, not {}", connector.peer);
            link.peer.clone_from(other);
        } else {
            link.message = match self.entity(Kind::Connector, &connector.name) {
                Some(entity) => why_not_connected(&entity.attributes, &there),
                None => "it waits for what it needs".into(),
            };
        }
        link
    }

    /// What is said of a listener. `bindable` says whether somebody could bind a port.
    pub fn listener(&self, listener: &Listener, bindable: impl Fn(&str, u16) -> Result<(), String>) -> Up {
        let is_there = self.entity(Kind::Listener, &listener.name).is_some();
        let up = is_there && self.listens_at(&listener.host, listener.port);
        let waits = || {
            let why =
                if is_there { "the router does not accept connections here yet" } else { "it waits for what it needs" };
            why.to_owned()
        };
        let message = match up {
            true => String::new(),
            false => bindable(&listener.host, listener.port).err().unwrap_or_else(waits),
        };
        Up { name: listener.name.clone(), up, message, ..Up::default() }
    }

    /// What is said of a tcp listener. It accepts connections only while a port behind its address can be reached.
    pub fn tcp_listener(&self, tcp: &Tcp, bindable: impl Fn(&str, u16) -> Result<(), String>) -> Up {
        let Some(entity) = self.entity(Kind::TcpListener, &tcp.name) else {
            return Up { name: tcp.name.clone(), message: "it waits for what it needs".into(), ..Up::default() };
        };
        let up = text(&entity.attributes, "operStatus") == "up";
        let said = text(&entity.attributes, "connectionMsg");
        let nobody = || format!("no port behind {} can be reached", tcp.address);
        let message = match (up, said) {
            (true, _) => String::new(),
            (false, said) if is_conflict(&said) => format!("port {} is taken by another program", tcp.port),
            // Before anybody can be reached the router does not try the port, and knows of no conflict.
            (false, said) if said.is_empty() => bindable(&tcp.host, tcp.port).err().unwrap_or_else(nobody),
            (false, said) => said,
        };
        Up { up, message, ..counted(entity) }
    }

    /// What is said of a tcp connector.
    pub fn tcp_connector(&self, tcp: &Tcp, answers: bool) -> Up {
        let entity = self.entity(Kind::TcpConnector, &tcp.name);
        let message = if answers { String::new() } else { format!("nobody answers at {}:{}", tcp.host, tcp.port) };
        let counted = entity.map_or_else(|| Up { name: tcp.name.clone(), ..Up::default() }, counted);
        Up { up: answers && entity.is_some(), message, ..counted }
    }

    /// The listeners, of both kinds, that the router holds and could not bind, by name with host and port.
    pub fn unbound(&self, site: &Site) -> Vec<(Kind, String, String, u16)> {
        let amqp = site
            .listeners
            .iter()
            .filter(|l| self.entity(Kind::Listener, &l.name).is_some() && !self.listens_at(&l.host, l.port));
        let tcp = site.tcp_listeners.iter().filter(|t| {
            let entity = self.entity(Kind::TcpListener, &t.name);
            entity.is_some_and(|e| is_conflict(&text(&e.attributes, "connectionMsg")))
        });
        let amqp = amqp.map(|l| (Kind::Listener, l.name.clone(), l.host.clone(), l.port));
        amqp.chain(tcp.map(|t| (Kind::TcpListener, t.name.clone(), t.host.clone(), t.port))).collect()
    }

    /// How many connections of a profile use the leaf in use, and how many an earlier one.
    pub fn connections_of(&self, site: &Site, profile: &str, held: &Held) -> (u32, u32) {
        let is_its = |row: &&Attributes| {
            let (role, user, host) = (text(row, "role"), text(row, "user"), text(row, "host"));
            // Connections between interiors have others beside them that carry data alone.
            let fits = |wanted: Role| role.starts_with(wanted.word());
            if text(row, "dir") == "out" {
                let mut own = site.connectors.iter().filter(|c| c.profile == profile);
                own.any(|c| fits(c.role) && host == format!("{}:{}", c.host, c.port))
            } else {
                // The router does not say at which listener it was: members tell the listeners of edges apart.
                let mut own = site.listeners.iter().filter(|l| l.profile == profile);
                own.any(|l| fits(l.role) && (l.role == Role::InterRouter || l.members.contains(&user)))
            }
        };
        let (mut current, mut older) = (0, 0);
        for row in self.connections.iter().filter(is_its) {
            match row.get("tlsOrdinal").and_then(Value::number) {
                Some(ordinal) if ordinal >= i64::from(held.ordinal) => current += 1,
                Some(_) => older += 1,
                None => {}
            }
        }
        (current, older)
    }
}

// === impl Status ===

impl Status {
    /// What of it is news when it changes: all but what only counts.
    pub fn essence(&self) -> Self {
        let mut essence = self.clone();
        (essence.router.memory_bytes, essence.router.connections) = (0, 0);
        essence.ports.iter_mut().for_each(|port| (port.opened, port.closed) = (0, 0));
        essence
    }
}

/// Remembers since when each link is as it is.
pub fn since(links: &mut [Link], known: &mut BTreeMap<String, (bool, i64)>, now_ms: i64) {
    for link in links.iter_mut() {
        let entry = known.entry(link.name.clone()).or_insert((link.up, now_ms));
        if entry.0 != link.up {
            *entry = (link.up, now_ms);
        }
        link.since_ms = entry.1;
    }
    known.retain(|name, _| links.iter().any(|link| link.name == *name));
}

fn why_not_connected(connector: &Attributes, there: &str) -> String {
    let (status, said) = (text(connector, "connectionStatus"), text(connector, "connectionMsg"));
    if status == "SUCCESS" {
        return format!("{there} accepts connections and says nothing a router would say");
    }
    let known = [
        ("Connection refused", "nobody accepts connections there"),
        ("Name or service not known", "the name is not known"),
        (
            "certificate verify failed",
            "its certificate is for another name or of an authority that is not trusted here",
        ),
        ("unknown ca", "it does not trust the authority of this site's certificate"),
        ("certificate expired", "it finds this site's certificate expired"),
        ("certificate required", "it asks for a certificate and got none"),
        ("Authentication failed", "it did not let this site in"),
        ("unauthorized-access", "it did not let this site in"),
        ("Connection Opened", "it closed the connection"),
    ];
    match known.iter().find(|(words, _)| said.contains(words)) {
        Some((_, meaning)) => format!("{there}: {meaning}"),
        None if said.is_empty() => format!("{there} is being tried"),
        None => said,
    }
}

fn is_conflict(said: &str) -> bool {
    said.contains("in use")
}

fn counted(entity: &Entity) -> Up {
    let count = |name| entity.attributes.get(name).and_then(Value::number).and_then(|n| u64::try_from(n).ok());
    Up {
        name: entity.name.clone(),
        opened: count("connectionsOpened").unwrap_or(0),
        closed: count("connectionsClosed").unwrap_or(0),
        ..Up::default()
    }
}

/// An attribute as text; empty when it has no value.
pub fn text(row: &Attributes, name: &str) -> String {
    row.get(name).map(Value::text).unwrap_or_default()
}
