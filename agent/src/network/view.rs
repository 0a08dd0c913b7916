//! A site as people see it: the same as data and in pages.

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use super::{
    board::{Event, Posted, label_of, name_of},
    model::{Choice, Endpoint, Mode, Purpose, Site},
    observe::{Router, State},
};
use crate::ledger::Key;

/// A moment, told as how far it is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    ms: i64,
    now_ms: i64,
}

/// A word with how good it is, as a class of the stylesheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// `good`, `warn`, `bad` or `busy`; empty: neither.
    pub tone: &'static str,
    /// The word.
    pub text: &'static str,
}

/// A site.
#[derive(Debug, Serialize)]
pub struct SiteView {
    /// Its identity.
    pub id: String,
    /// Name of its router.
    pub name: String,
    /// `interior` or `edge`.
    pub mode: &'static str,
    /// When it was looked at.
    pub seen: Moment,
    /// The router.
    pub router: RouterView,
    /// What does not hold though it should.
    pub problems: Vec<String>,
    /// Links this router makes.
    pub links: Vec<LinkView>,
    /// Interiors: the routers that can be reached.
    pub reachable: Vec<String>,
    /// Keys and leaves.
    pub certificates: Vec<CertificateView>,
    /// What is allocated to it.
    pub endpoints: Vec<EndpointView>,
    /// Its ports with what came through them.
    pub ports: Vec<PortView>,
    /// Its processes.
    pub processes: Vec<ProcessView>,
    /// What changed, the newest first.
    pub events: Vec<EventView>,
}

/// A router.
#[derive(Debug, Serialize)]
pub struct RouterView {
    /// What becomes of it.
    pub state: Word,
    /// As it says.
    pub version: String,
    /// Its number; 0: none.
    pub pid: u32,
    /// When it was started; none: it was not.
    pub started: Option<Moment>,
    /// Resident.
    pub memory_bytes: u64,
    /// In all.
    pub connections: u64,
}

/// A link.
#[derive(Debug, Serialize)]
pub struct LinkView {
    /// Its name.
    pub name: String,
    /// Whom it dials.
    pub to: String,
    /// The router that must be there.
    pub peer: String,
    /// Whether it is.
    pub state: Word,
    /// Since when.
    pub since: Option<Moment>,
    /// Why it is not up.
    pub message: String,
}

/// A profile.
#[derive(Debug, Serialize)]
pub struct CertificateView {
    /// Its name.
    pub name: String,
    /// Whether its leaf can be used.
    pub state: Word,
    /// Of the leaf in use.
    pub edition: u32,
    /// Its end.
    pub not_after: Option<Moment>,
    /// The router's number of it.
    pub ordinal: u32,
    /// Hexadecimal.
    pub serial: String,
    /// Authorities believed.
    pub authorities: usize,
    /// Connections with it.
    pub connections: u32,
    /// Connections with an earlier one.
    pub older_connections: u32,
}

/// An endpoint.
#[derive(Debug, Serialize)]
pub struct EndpointView {
    /// Its identity.
    pub id: String,
    /// For people.
    pub name: String,
    /// `process`, `ingress` or `egress`.
    pub kind: &'static str,
    /// What was said of it.
    pub choice: Word,
    /// Which version of the allocation this is.
    pub generation: u64,
    /// Processes: what it runs.
    pub program: String,
    /// Its parts in service links.
    pub service_links: Vec<AttachmentView>,
    /// The site has to say where.
    pub host_is_open: bool,
    /// The site has to say where.
    pub port_is_open: bool,
    /// It can be accepted.
    #[serde(skip)]
    pub can_accept: bool,
    /// It can be declined.
    #[serde(skip)]
    pub can_decline: bool,
}

/// A part in a service link.
#[derive(Debug, Serialize)]
pub struct AttachmentView {
    /// The service link.
    pub service_link: String,
    /// Its address.
    pub address: String,
    /// Connections come from the endpoint.
    pub connects: bool,
    /// Where; empty: not known.
    pub host: String,
    /// Where; 0: not known.
    pub port: u16,
}

/// A port.
#[derive(Debug, Serialize)]
pub struct PortView {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub label: String,
    /// Whether it does its work.
    pub state: Word,
    /// Why it does not.
    pub message: String,
    /// Connections so far.
    pub opened: u64,
    /// Of these there now.
    pub open: u64,
}

/// A process.
#[derive(Debug, Serialize)]
pub struct ProcessView {
    /// Its endpoint's name.
    pub name: String,
    /// Whether it runs and answers.
    pub state: Word,
    /// What is missing.
    pub message: String,
    /// Starts because it ended.
    pub restarts: u32,
}

/// Something that changed.
#[derive(Debug, Serialize)]
pub struct EventView {
    /// When.
    pub at: Moment,
    /// What.
    pub text: String,
    /// Class of the stylesheet.
    #[serde(skip)]
    pub tone: &'static str,
}

// === impl Moment ===

impl Moment {
    fn new(ms: i64, now_ms: i64) -> Self {
        Self { ms, now_ms }
    }

    fn some(ms: i64, now_ms: i64) -> Option<Self> {
        (ms > 0).then_some(Self { ms, now_ms })
    }

    /// In the calendar, UTC.
    pub fn calendar(&self) -> String {
        let Ok(at) = OffsetDateTime::from_unix_timestamp(self.ms.div_euclid(1000)) else { return String::new() };
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
    }

    /// How far it is away, in words.
    pub fn distance(&self) -> String {
        let seconds = (self.now_ms - self.ms).unsigned_abs() / 1000;
        let words = match seconds {
            0..60 => format!("{seconds} s"),
            60..3600 => format!("{} min", seconds / 60),
            3600..172_800 => format!("{} h", seconds / 3600),
            _ => format!("{} days", seconds / 86_400),
        };
        if self.ms > self.now_ms { format!("in {words}") } else { format!("{words} ago") }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.ms)
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text)
    }
}

// === impl SiteView ===

impl SiteView {
    /// How a site looks at a moment.
    pub fn new(key: &Key, posted: &Posted, now_ms: i64) -> Self {
        let Posted { site, status, at_ms, events } = posted;
        Self {
            id: key.id.clone(),
            name: site.router.clone(),
            mode: if site.mode == Mode::Interior { "interior" } else { "edge" },
            seen: Moment::new(*at_ms, now_ms),
            router: router(&status.router, now_ms),
            problems: status.problems.clone(),
            links: links(posted, now_ms),
            reachable: status.reachable.clone(),
            certificates: certificates(posted, now_ms),
            endpoints: site.endpoints.iter().map(EndpointView::from).collect(),
            ports: ports(posted),
            processes: processes(posted),
            events: events.iter().map(|event| self::event(event, now_ms)).collect(),
        }
        .sorted(site)
    }

    /// What waits for somebody comes first.
    fn sorted(mut self, site: &Site) -> Self {
        let waits = |id: &str| site.endpoints.iter().any(|e| e.id == id && e.choice == Choice::Incomplete);
        self.endpoints.sort_by_key(|e| (!waits(&e.id), e.name.clone()));
        self
    }
}

fn word(tone: &'static str, text: &'static str) -> Word {
    Word { tone, text }
}

fn router(router: &Router, now_ms: i64) -> RouterView {
    let state = match router.state {
        State::Rendered => word("", "no router on this host"),
        State::Starting => word("busy", "starting"),
        State::Running => word("good", "running"),
        State::Silent => word("bad", "silent"),
        State::Failed => word("bad", "not running"),
    };
    RouterView {
        state,
        version: router.version.clone(),
        pid: router.pid,
        started: Moment::some(router.started_ms, now_ms),
        memory_bytes: router.memory_bytes,
        connections: router.connections,
    }
}

fn links(posted: &Posted, now_ms: i64) -> Vec<LinkView> {
    let one = |connector: &super::model::Connector| {
        let said = posted.status.links.iter().find(|l| l.name == connector.name);
        LinkView {
            name: connector.name.clone(),
            to: format!("{}:{}", connector.host, connector.port),
            peer: connector.peer.clone(),
            state: match said {
                Some(link) if link.up => word("good", "up"),
                Some(_) => word("bad", "down"),
                None => word("", "unknown"),
            },
            since: said.and_then(|l| Moment::some(l.since_ms, now_ms)),
            message: said.map(|l| l.message.clone()).unwrap_or_default(),
        }
    };
    posted.site.connectors.iter().map(one).collect()
}

fn certificates(posted: &Posted, now_ms: i64) -> Vec<CertificateView> {
    let one = |p: &super::observe::ProfileStatus| {
        let wanted = posted.site.profiles.iter().find(|w| w.name == p.name).map_or(p.edition, |w| w.edition);
        CertificateView {
            name: p.name.clone(),
            state: match p.not_after_ms {
                0 => word("warn", "waits for home"),
                end if end <= now_ms => word("bad", "expired"),
                _ if p.edition != wanted => word("warn", "to be replaced"),
                _ => word("good", "in use"),
            },
            edition: p.edition,
            not_after: Moment::some(p.not_after_ms, now_ms),
            ordinal: p.ordinal,
            serial: p.serial.clone(),
            authorities: p.trust.len(),
            connections: p.connections,
            older_connections: p.older_connections,
        }
    };
    posted.status.profiles.iter().map(one).collect()
}

impl From<&Endpoint> for EndpointView {
    fn from(endpoint: &Endpoint) -> Self {
        let is_process = endpoint.purpose == Purpose::Process;
        let parts = &endpoint.attachments;
        let lacks = |any: bool| any || parts.is_empty() && endpoint.choice == Choice::Incomplete;
        EndpointView {
            id: endpoint.id.clone(),
            name: endpoint.name.clone(),
            kind: match endpoint.purpose {
                Purpose::Process => "process",
                Purpose::Ingress => "ingress",
                Purpose::Egress => "egress",
            },
            choice: match endpoint.choice {
                Choice::Open => word("good", "open: carried out"),
                Choice::Accepted => word("good", "accepted"),
                Choice::Declined => word("", "declined"),
                Choice::Incomplete => word("warn", "incomplete"),
            },
            generation: endpoint.generation,
            program: endpoint.program.as_ref().map(program).unwrap_or_default(),
            service_links: parts
                .iter()
                .map(|a| AttachmentView {
                    service_link: a.service_link.clone(),
                    address: a.address.clone(),
                    connects: a.connects,
                    host: a.host.clone(),
                    port: a.port,
                })
                .collect(),
            host_is_open: !is_process && lacks(parts.iter().any(|a| a.host.is_empty())),
            port_is_open: parts.iter().any(|a| a.port == 0),
            can_accept: endpoint.choice != Choice::Accepted,
            can_decline: endpoint.choice != Choice::Declined,
        }
    }
}

fn program(program: &super::model::Program) -> String {
    let mut text = program.image.clone();
    if !program.tag.is_empty() {
        text = format!("{text}:{}", program.tag);
    }
    program.arguments.iter().for_each(|argument| text.extend([" ", argument]));
    text
}

fn ports(posted: &Posted) -> Vec<PortView> {
    let one = |port: &super::observe::Up| PortView {
        name: port.name.clone(),
        label: label_of(&posted.site, &port.name),
        state: if port.up { word("good", "up") } else { word("bad", "down") },
        message: port.message.clone(),
        opened: port.opened,
        open: port.opened.saturating_sub(port.closed),
    };
    posted.status.ports.iter().map(one).collect()
}

fn processes(posted: &Posted) -> Vec<ProcessView> {
    let one = |process: &super::observe::ProcessStatus| ProcessView {
        name: name_of(&posted.site, &process.endpoint).to_owned(),
        state: match (process.running, process.healthy) {
            (true, true) => word("good", "answers"),
            (true, false) => word("warn", "runs, does not answer"),
            (false, _) => word("bad", "does not run"),
        },
        message: process.message.clone(),
        restarts: process.restarts,
    };
    posted.status.processes.iter().map(one).collect()
}

fn event(event: &Event, now_ms: i64) -> EventView {
    let tone = match event.good {
        Some(true) => "good",
        Some(false) => "bad",
        None => "",
    };
    EventView { at: Moment::new(event.at_ms, now_ms), text: event.text.clone(), tone }
}
