//! What a site is to be, and the router's entities that make it so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Names of entities that are the agent's own begin so; no document may use them.
pub const OWN: &str = "muster-agent";

/// What a router is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Carries the traffic of others.
    Interior,
    /// Belongs to one application network.
    Edge,
}

/// What a connection between routers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Between interiors.
    InterRouter,
    /// Between an edge and an interior.
    Edge,
}

/// How messages to an address are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// To one, the least loaded.
    Balanced,
    /// To one, the nearest.
    Closest,
    /// To nobody.
    Unavailable,
}

/// One site, as its document wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Name of the router.
    pub router: String,
    /// What the router is to the others.
    pub mode: Mode,
    /// Names the application network to the routers; empty for interiors.
    pub tenant: String,
    /// Keys, leaves and whom to trust.
    pub profiles: Vec<Profile>,
    /// Where other routers may connect.
    pub listeners: Vec<Listener>,
    /// Links this router makes.
    pub connectors: Vec<Connector>,
    /// Ports that lead to an address.
    pub tcp_listeners: Vec<Tcp>,
    /// Addresses that lead to a port.
    pub tcp_connectors: Vec<Tcp>,
    /// How messages are spread.
    pub addresses: Vec<Address>,
    /// Everything allocated to the site.
    pub endpoints: Vec<Endpoint>,
}

/// A key with its leaf, and whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Authorities believed, DER.
    pub trust: Vec<Vec<u8>>,
    /// The edition the leaf is to be of.
    pub edition: u32,
    /// How often connections were to be made anew.
    pub rounds: u32,
    /// The round of them before which they are closed.
    pub cuts: u32,
}

/// Where other routers may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// For whom.
    pub role: Role,
    /// Address to bind; empty: all.
    pub host: String,
    /// Port to bind.
    pub port: u16,
    /// What it shows and whom it believes.
    pub profile: String,
    /// Edges: common names of leaves that may connect, sorted.
    pub members: Vec<String>,
    /// Edges: the application network within whose addresses they stay; empty: any.
    pub tenant: String,
}

/// A link this router makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    /// Its name.
    pub name: String,
    /// What for.
    pub role: Role,
    /// Whom to dial.
    pub host: String,
    /// Where.
    pub port: u16,
    /// What it shows and whom it believes.
    pub profile: String,
    /// Cost between interiors.
    pub cost: u32,
    /// The router that must be at the other end.
    pub peer: String,
    /// Lower ones are tried first.
    pub priority: u32,
}

/// A port at the site and the address it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Its name.
    pub name: String,
    /// The address.
    pub address: String,
    /// Host of the port.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The endpoint it belongs to; empty: none.
    pub endpoint: String,
}

/// How messages to an address are spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Its name.
    pub name: String,
    /// The address.
    pub pattern: String,
    /// How.
    pub distribution: Distribution,
}

/// What an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A program at the site.
    Process,
    /// A port into the network.
    Ingress,
    /// A way out of the network.
    Egress,
}

/// What the site's participants said of what is allocated to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Nothing: it is carried out.
    Open,
    /// It is carried out.
    Accepted,
    /// It is not carried out.
    Declined,
    /// It lacks a host or a port that only the site can say.
    Incomplete,
}

/// Something allocated to the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity.
    pub id: String,
    /// What it is.
    pub purpose: Purpose,
    /// For people.
    pub name: String,
    /// What the site's participants said of it.
    pub choice: Choice,
    /// Which version of the allocation this is.
    pub generation: u64,
    /// Processes: what to run.
    pub program: Option<Program>,
    /// Its parts in service links.
    pub attachments: Vec<Attachment>,
}

/// What a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// An OCI reference, or an executable.
    pub image: String,
    /// Empty for an executable.
    pub tag: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// An endpoint's part in a service link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The service link.
    pub service_link: String,
    /// The address, as the application network names it.
    pub address: String,
    /// Connections come from the endpoint.
    pub connects: bool,
    /// Where; empty while nobody said so.
    pub host: String,
    /// Where; 0 while nobody said so.
    pub port: u16,
}

/// A value of an entity's attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// None.
    Null,
    /// True or false.
    Flag(bool),
    /// A number.
    Number(i64),
    /// Text.
    Text(String),
    /// More attributes.
    Map(Attributes),
    /// Several.
    List(Vec<Value>),
}

/// What an entity is made of; an attribute without a value is left out.
pub type Attributes = BTreeMap<String, Value>;

/// A kind of entity that the agent keeps, in the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Who may connect and what for.
    Vhost,
    /// Keys, leaves, trust.
    SslProfile,
    /// How messages are spread.
    Address,
    /// Where routers connect.
    Listener,
    /// A link.
    Connector,
    /// An address that leads to a port.
    TcpConnector,
    /// A port that leads to an address.
    TcpListener,
}

/// One entity of the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// Its kind.
    pub kind: Kind,
    /// Its name, unlike that of any other entity of any kind.
    pub name: String,
    /// What it is made of, its name left out.
    pub attributes: Attributes,
}

/// The files and numbers of a profile that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// Whom to trust.
    pub trust: String,
    /// Leaf and what is above it.
    pub leaf: String,
    /// The key.
    pub key: String,
    /// Number of the leaf in use.
    pub ordinal: u32,
    /// Connections with an older one are closed.
    pub oldest: u32,
}

/// The agent's own way into its router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Port on loopback.
    pub port: u16,
    /// What the router shows there and whom it believes.
    pub material: Material,
}

// === impl Kind ===

impl Kind {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 7] = [
        Self::Vhost,
        Self::SslProfile,
        Self::Address,
        Self::Listener,
        Self::Connector,
        Self::TcpConnector,
        Self::TcpListener,
    ];

    /// Its full name in management.
    pub fn full_name(self) -> &'static str {
        match self {
            Self::Vhost => "io.skupper.router.vhost",
            Self::SslProfile => "io.skupper.router.sslProfile",
            Self::Address => "io.skupper.router.router.config.address",
            Self::Listener => "io.skupper.router.listener",
            Self::Connector => "io.skupper.router.connector",
            Self::TcpConnector => "io.skupper.router.tcpConnector",
            Self::TcpListener => "io.skupper.router.tcpListener",
        }
    }

    /// Its name in the start-up file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Vhost => "vhost",
            Self::SslProfile => "sslProfile",
            Self::Address => "address",
            Self::Listener => "listener",
            Self::Connector => "connector",
            Self::TcpConnector => "tcpConnector",
            Self::TcpListener => "tcpListener",
        }
    }

    /// Whether the router can change one that exists; it cannot but make others anew.
    pub fn is_updated(self) -> bool {
        matches!(self, Self::Vhost | Self::SslProfile)
    }
}

// === impl Value ===

impl Value {
    /// The value as the router may spell it elsewhere: ports are texts, counts come in several widths.
    pub fn text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Flag(flag) => flag.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::Map(map) => map.iter().map(|(name, value)| format!("{name}={}\n", value.text())).collect(),
            Self::List(list) => list.iter().map(|value| format!("{}\n", value.text())).collect(),
        }
    }

    /// The value where it is a number, or a text of one.
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

// === impl Role ===

impl Role {
    /// The router's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::InterRouter => "inter-router",
            Self::Edge => "edge",
        }
    }
}

// === impl Site ===

impl Site {
    /// Whether what belongs to an endpoint is carried out: nobody declined it, and it lacks nothing.
    pub fn is_wanted(&self, endpoint: &str) -> bool {
        self.endpoints.iter().find(|e| e.id == endpoint).is_none_or(Endpoint::is_wanted)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Neither declined nor incomplete.
    pub fn is_wanted(&self) -> bool {
        matches!(self.choice, Choice::Open | Choice::Accepted)
    }
}
