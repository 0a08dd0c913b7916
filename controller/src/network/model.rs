//! Backbones and application networks without a database and without a router: what they are and what may be said of
//! them. Pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Result};

crate::id_type! {
    /// A backbone's id.
    BackboneId
    /// An interior site's id.
    SiteId
    /// An access point's id.
    AccessPointId
    /// An inter-router link's id.
    LinkId
    /// An application network's id.
    NetworkId
    /// A member site's id; also the common name of its leaf.
    MemberId
    /// A service link's id.
    ServiceLinkId
    /// An endpoint's id.
    EndpointId
}

/// Interior routers of one backbone: the most that the router's link-state protocol carries.
pub const MAX_SITES: usize = 128;

/// What an access point is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessKind {
    /// Other interior sites link to it.
    Peer,
    /// Sites of application networks hang on it.
    Member,
}

/// Where an interior site stands on its way into the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Deployment {
    /// It would stand alone: nothing leads to it and it leads nowhere.
    NotReady,
    /// One that is deployed is at the other end of a link; installed, it comes into the backbone by itself.
    ReadyAutomatic,
    /// It has an access point for others, none of which is deployed yet: it may be the first.
    ReadyBootstrap,
    /// Its router runs.
    Deployed,
}

/// What decides an interior site's deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its router runs.
    pub runs: bool,
    /// Its agent has written its router's configuration and found no router to run with it.
    pub rendered: bool,
    /// A link connects it with a deployed site.
    pub deployed_neighbour: bool,
    /// It has an access point, or a link to one of another site.
    pub has_way: bool,
}

/// Where an application network stands in its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its start is to come: sites may join and have no links.
    Waiting,
    /// It carries traffic.
    Active,
    /// Its links are cut; its sites keep their identities.
    Ended,
    /// Its delete delay is over: it is to be removed with all that is under it.
    Over,
}

/// When an application network lives, milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Times {
    /// When it starts.
    pub starts_at: i64,
    /// When it ends; none: never.
    #[serde(default)]
    pub ends_at: Option<i64>,
    /// How long after its end it is removed, milliseconds.
    #[serde(default)]
    pub delete_delay: i64,
}

/// Where a member site stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// Its agent has joined and waits for the owner's approval.
    Asking,
    /// It belongs to the network.
    Member,
    /// It was sent away, for good.
    Evicted,
}

/// How far the address of a service link reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One address for the whole network.
    Van,
    /// One address for each site.
    Site,
    /// One address for each instance.
    Instance,
}

/// How connections to an address are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// To the least loaded.
    Balanced,
    /// To the nearest.
    Closest,
    /// To nobody.
    Unavailable,
}

/// What a service speaks. To the routers all of it is TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP, whatever is in it.
    Tcp,
    /// HTTP/1.
    Http,
    /// HTTP/2, gRPC included.
    Http2,
}

/// What an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointKind {
    /// A running image.
    Process,
    /// A way in from outside.
    Ingress,
    /// A way out to a server outside.
    Egress,
}

/// An endpoint's part in a service link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Connections go to it.
    Accepts,
    /// Connections come from it.
    Connects,
}

/// What a site's participants made of what is allocated to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// Nobody said anything: it is carried out.
    Open,
    /// They accepted it, and completed it where it had to be.
    Accepted,
    /// They declined it.
    Declined,
    /// It lacks a host or a port that only they can name.
    Incomplete,
}

/// What a site's participants say of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The endpoint: by its id where an agent says it, by its name where people do.
    pub endpoint: String,
    /// The version of the allocation they saw.
    pub generation: i64,
    /// Accepted or declined.
    pub accept: bool,
    /// Host, where that is left open.
    pub host: String,
    /// Port, where that is left open; 0 otherwise.
    pub port: i64,
}

/// Names a backbone as a line of authorities.
pub fn backbone_line(id: &BackboneId) -> String {
    format!("backbone/{id}")
}

/// Names an application network as a line of authorities.
pub fn network_line(id: &NetworkId) -> String {
    format!("network/{id}")
}

/// Where an interior site stands, and what it waits for.
pub fn deployment(it: Standing) -> (Deployment, &'static str) {
    let no_router = "a router on its host: its agent found none, and has written its configuration";
    if it.runs {
        (Deployment::Deployed, "")
    } else if it.has_way && it.rendered {
        (if it.deployed_neighbour { Deployment::ReadyAutomatic } else { Deployment::ReadyBootstrap }, no_router)
    } else if it.deployed_neighbour {
        (Deployment::ReadyAutomatic, "install it: its links lead to a deployed site")
    } else if it.has_way {
        (Deployment::ReadyBootstrap, "install it: it can be the first of its backbone")
    } else {
        (Deployment::NotReady, "give it an access point, or a link to another site's")
    }
}

/// Checks a name: it becomes part of router names, addresses and DNS names.
pub fn check_name(field: &str, name: &str) -> Result<()> {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if begins && name.len() <= 63 && name.bytes().all(is_word) && !name.ends_with('-') {
        return Ok(());
    }
    let right =
        "a name is made of at most 63 lower-case letters, digits and '-', begins with a letter and ends without '-'";
    Err(Error::invalid(field, right))
}

/// A name made of what a host calls itself: what [`check_name`] refuses is left out.
pub fn name_from(text: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = text.chars().map(word).collect();
    let text = text.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let text: String = text.chars().take(50).collect();
    let text = text.trim_end_matches('-');
    if text.is_empty() { "site".into() } else { text.into() }
}

/// Checks a host that others are to dial: a DNS name or an IP address.
pub fn check_host(field: &str, host: &str) -> Result<()> {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let is_name = host.len() <= 253 && host.split('.').all(label);
    if is_name || host.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{host:?} is neither a DNS name nor an IP address")))
}

/// Checks a port.
pub fn check_port(field: &str, port: i64) -> Result<()> {
    if (1..=65_535).contains(&port) {
        return Ok(());
    }
    Err(Error::invalid(field, "a port lies between 1 and 65535"))
}

/// Checks the address of a service link: the router splits addresses at '/', and '.' and '*' mean something in patterns.
pub fn check_address(field: &str, address: &str) -> Result<()> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':');
    if (1..=120).contains(&address.len()) && address.bytes().all(is_word) {
        return Ok(());
    }
    Err(Error::invalid(field, "an address is made of at most 120 letters, digits, '-', '_' and ':'"))
}

// === impl Times ===

impl Times {
    /// Where the network stands at a time.
    pub fn phase(&self, now: i64) -> Phase {
        match self.ends_at {
            Some(end) if now >= end.saturating_add(self.delete_delay) => Phase::Over,
            Some(end) if now >= end => Phase::Ended,
            _ if now < self.starts_at => Phase::Waiting,
            _ => Phase::Active,
        }
    }

    /// When that changes next; none: never.
    pub fn next_change(&self, now: i64) -> Option<i64> {
        let end = self.ends_at;
        let over = end.map(|end| end.saturating_add(self.delete_delay));
        [Some(self.starts_at), end, over].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Checks them, as of now; `before` are those they replace.
    pub fn check(&self, before: Option<&Self>, now: i64) -> Result<()> {
        if self.ends_at.is_some_and(|end| end <= self.starts_at) {
            return Err(Error::invalid("ends_at", "a network ends after its start"));
        }
        if self.ends_at.is_some_and(|end| end <= now) && before.is_none_or(|b| b.ends_at != self.ends_at) {
            return Err(Error::invalid("ends_at", "the end lies in the past; it must be to come"));
        }
        if self.delete_delay < 0 {
            return Err(Error::invalid("delete_delay", "a delay is not negative"));
        }
        if before.is_some_and(|b| b.starts_at != self.starts_at && b.starts_at <= now) {
            return Err(Error::invalid("starts_at", "the network has started; its start is what it was"));
        }
        Ok(())
    }
}
