//! How sites stand: what their agents said last, and what that comes to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::model::Phase;
use crate::fleet::model::Liveness;

/// What becomes of a site's router.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouterState {
    /// There is no router program on its host: the configuration was written, and nothing runs.
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

/// A site's router.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Router {
    /// What becomes of it.
    pub state: RouterState,
    /// As it says.
    pub version: String,
    /// Resident memory, bytes.
    pub memory_bytes: u64,
    /// Connections in all.
    pub connections: u64,
    /// When its process was started, the host's clock, milliseconds since the Unix epoch.
    pub started_at: i64,
}

/// A link that a site makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// `link/<id>` or `uplink/<access point's id>`.
    pub name: String,
    /// The expected router is at the other end of an open connection.
    pub up: bool,
    /// Since when it is as it is, the host's clock, milliseconds since the Unix epoch.
    pub since_at: i64,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A listener, or a port of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// `listen/…`, `in/<endpoint>/<service link>` or `out/<endpoint>/<service link>`.
    pub name: String,
    /// It does its work.
    pub up: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Connections opened so far.
    pub opened: u64,
    /// Of these, closed.
    pub closed: u64,
}

/// A process of a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// The endpoint's id; its name where that is known.
    pub endpoint: String,
    /// It runs.
    pub running: bool,
    /// What it offers can be reached.
    pub healthy: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Times it was started anew because it ended.
    pub restarts: u32,
}

/// A key with its leaf, as in use at a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Edition of the leaf in use; 0: none.
    pub edition: u32,
    /// How often connections were made anew.
    pub rounds: u32,
    /// The round of them before which they were closed.
    pub cuts: u32,
    /// SHA-256 of each authority trusted, hexadecimal.
    pub trust: BTreeSet<String>,
    /// Serial number of the leaf in use, hexadecimal.
    pub serial: String,
    /// Its end, milliseconds since the Unix epoch.
    pub not_after_at: i64,
    /// Connections that still use an earlier leaf.
    pub older_connections: u32,
    /// Connections that use this one.
    pub connections: u32,
}

/// What a site's agent said last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Told {
    /// The router.
    pub router: Router,
    /// Links it makes.
    pub links: Vec<Link>,
    /// Listeners, and ports of endpoints.
    pub ports: Vec<Port>,
    /// Processes.
    pub processes: Vec<Process>,
    /// Certificates in use.
    pub profiles: Vec<Profile>,
    /// Interiors: the routers that can be reached.
    pub reachable: Vec<String>,
    /// What does not hold though it should, a sentence each.
    pub problems: Vec<String>,
    /// When home had it, milliseconds since the Unix epoch.
    pub told_at: i64,
}

/// How a site is, in one word; the worse the later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// All that it should do, it does.
    Well,
    /// It waits for something that is to come: its agent, its network's start, the owner.
    #[default]
    Waiting,
    /// Something does not hold.
    Impaired,
    /// It has no part in the traffic.
    Down,
    /// Home does not hear from its host.
    Away,
}

/// How a site is, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct State {
    /// In one word.
    pub health: Health,
    /// In one sentence; empty when it is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// How its router is, as its agent said last; none before it said anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<RouterState>,
}

/// How many sites are how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// Well.
    pub well: usize,
    /// Waiting.
    pub waiting: usize,
    /// Impaired.
    pub impaired: usize,
    /// Down.
    pub down: usize,
    /// Away.
    pub away: usize,
}

/// Traffic of one service link at one site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// The service link's id; its name where that is known.
    pub service_link: String,
    /// The endpoint's id; its name where that is known.
    pub endpoint: String,
    /// Whether connections come in at the site, or go out of it.
    pub comes_in: bool,
    /// The port does its work.
    pub up: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Connections open.
    pub open: u64,
    /// Connections opened so far.
    pub opened: u64,
}

/// How a site is. `liveness` is its agent's, if it has one; `phase` its network's, if it belongs to one.
pub fn judge(told: Option<&Told>, liveness: Option<Liveness>, phase: Option<Phase>) -> State {
    let router = told.map(|told| told.router.state);
    let state = |health, why: &str| State { health, why: why.into(), router };
    match (liveness, phase) {
        (None, _) => return state(Health::Waiting, "no agent has joined"),
        (Some(Liveness::Never), _) => return state(Health::Waiting, "its agent has joined and was not seen yet"),
        (Some(Liveness::Offline), _) => return state(Health::Away, "home has not heard from its host for two minutes"),
        (_, Some(Phase::Waiting)) => return state(Health::Waiting, "waiting for start"),
        (_, Some(Phase::Ended | Phase::Over)) => return state(Health::Down, "the network has ended"),
        _ => {}
    }
    let Some(told) = told else { return state(Health::Waiting, "its agent has not said anything yet") };
    match told.router.state {
        RouterState::Rendered => return state(Health::Down, "rendered: no router on this host"),
        RouterState::Starting => return state(Health::Waiting, "its router is starting"),
        RouterState::Silent => return state(Health::Down, "its router runs and does not answer"),
        RouterState::Failed => {
            let why = told.problems.first().map_or("its router does not run", String::as_str);
            return state(Health::Down, why);
        }
        RouterState::Running => {}
    }
    let down: Vec<_> = told.links.iter().filter(|l| !l.up).collect();
    match (down.first(), told.problems.first()) {
        (Some(link), _) if down.len() == told.links.len() => state(Health::Down, &or(&link.message, "no link is up")),
        (Some(link), _) => {
            let why = format!("{} of {} links are down: {}", down.len(), told.links.len(), link.message);
            state(Health::Impaired, why.trim_end_matches([':', ' ']))
        }
        (None, Some(problem)) => state(Health::Impaired, problem),
        (None, None) => match told.ports.iter().find(|p| !p.up) {
            Some(port) => state(Health::Impaired, &or(&port.message, "a port does not do its work")),
            None => state(Health::Well, ""),
        },
    }
}

fn or(message: &str, otherwise: &str) -> String {
    if message.is_empty() { otherwise.into() } else { message.into() }
}

/// Pairs of interior routers that do not reach one another though both run, by what each says.
pub fn divided<'a>(interiors: impl IntoIterator<Item = (&'a str, &'a Told)>) -> Vec<(&'a str, &'a str)> {
    let running: BTreeMap<_, _> =
        interiors.into_iter().filter(|(_, t)| t.router.state == RouterState::Running).collect();
    let reaches = |one: &Told, other: &str| one.reachable.iter().any(|name| name == other);
    let mut pairs = Vec::new();
    for (one, told) in &running {
        let others = running.keys().filter(|other| *other != one && !reaches(told, other));
        pairs.extend(others.map(|other| (*one, *other)));
    }
    pairs
}

// === impl Summary ===

impl FromIterator<Health> for Summary {
    fn from_iter<I: IntoIterator<Item = Health>>(all: I) -> Self {
        let mut it = Self::default();
        for health in all {
            *match health {
                Health::Well => &mut it.well,
                Health::Waiting => &mut it.waiting,
                Health::Impaired => &mut it.impaired,
                Health::Down => &mut it.down,
                Health::Away => &mut it.away,
            } += 1;
        }
        it
    }
}

// === impl Told ===

impl Told {
    /// The traffic of service links at the site, each with the id of its service link and of its endpoint.
    pub fn traffic(&self) -> Vec<Traffic> {
        let of_port = |port: &Port| {
            let mut parts = port.name.splitn(3, '/');
            let comes_in = match parts.next()? {
                "in" => true,
                "out" => false,
                _ => return None,
            };
            let (endpoint, service_link) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            let (open, message) = (port.opened.saturating_sub(port.closed), port.message.clone());
            Some(Traffic { service_link, endpoint, comes_in, up: port.up, message, open, opened: port.opened })
        };
        self.ports.iter().filter_map(of_port).collect()
    }
}
