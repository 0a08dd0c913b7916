//! What the driver said lately of its sites, for people on the host, and what was news in it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard},
};

use serde::Serialize;

use super::{
    model::{Choice, Site},
    observe::{State, Status},
};
use crate::ledger::Key;

/// Events kept of a site, in memory.
const EVENTS: usize = 200;

/// The sites of an agent as they were seen last.
#[derive(Debug, Default)]
pub struct Board(Mutex<BTreeMap<Key, Posted>>);

/// A site as it was seen last.
#[derive(Debug, Clone)]
pub struct Posted {
    /// What it is to be.
    pub site: Site,
    /// What it was seen to be.
    pub status: Status,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The newest first.
    pub events: VecDeque<Event>,
}

/// Something that changed at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When it was noticed, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Whether it is for the better; none: neither.
    pub good: Option<bool>,
    /// One sentence.
    pub text: String,
}

// === impl Board ===

impl Board {
    /// Posts what a site was seen to be.
    pub fn post(&self, key: &Key, site: &Site, status: Status, at_ms: i64) {
        let mut posted = self.lock();
        let before = posted.get(key).map(|p| (&p.site, &p.status));
        let news = news(before, site, &status);
        let mut events = posted.remove(key).map(|p| p.events).unwrap_or_default();
        news.into_iter().for_each(|(good, text)| events.push_front(Event { at_ms, good, text }));
        events.truncate(EVENTS);
        posted.insert(key.clone(), Posted { site: site.clone(), status, at_ms, events });
    }

    /// Posts why nothing could be done for a site.
    pub fn post_failure(&self, key: &Key, site: &Site, why: &str, at_ms: i64) {
        let status = self.lock().get(key).map(|p| p.status.clone()).unwrap_or_default();
        self.post(key, site, Status { problems: vec![why.to_owned()], ..status }, at_ms);
    }

    /// Notes something that was not seen but done.
    pub fn note(&self, key: &Key, text: String, at_ms: i64) {
        if let Some(posted) = self.lock().get_mut(key) {
            posted.events.push_front(Event { at_ms, good: None, text });
            posted.events.truncate(EVENTS);
        }
    }

    /// A site is gone.
    pub fn remove(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// All of them.
    pub fn all(&self) -> Vec<(Key, Posted)> {
        self.lock().iter().map(|(key, posted)| (key.clone(), posted.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Posted>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What is news in what a site was seen to be, and whether it is for the better.
fn news(before: Option<(&Site, &Status)>, site: &Site, status: &Status) -> Vec<(Option<bool>, String)> {
    let mut news = Vec::new();
    let mut say = |good: Option<bool>, text: String| news.push((good, text));
    let old = before.map(|(_, old)| old);
    let router = &status.router;
    if old.is_none_or(|old| (old.router.state, old.router.pid) != (router.state, router.pid)) {
        match router.state {
            State::Rendered => say(None, "There is no router on this host; its configuration was written".into()),
            State::Starting => say(None, "The router is being started".into()),
            State::Running => say(Some(true), format!("The router runs as process {}", router.pid)),
            State::Silent => say(Some(false), "The router does not answer".into()),
            State::Failed => say(Some(false), "The router does not run".into()),
        }
    }
    for link in &status.links {
        let was_up = old.and_then(|old| old.links.iter().find(|l| l.name == link.name)).map(|l| l.up);
        match (was_up, link.up) {
            (Some(true), false) => {
                say(Some(false), format!("Link {} is down: {}", way_of(site, &link.name), link.message))
            }
            (Some(false) | None, true) => say(Some(true), format!("Link {} is up", way_of(site, &link.name))),
            _ => {}
        }
    }
    for profile in &status.profiles {
        let was = old.and_then(|old| old.profiles.iter().find(|p| p.name == profile.name));
        if !profile.serial.is_empty() && was.is_none_or(|was| was.serial != profile.serial) {
            say(Some(true), format!("Profile {} uses a leaf of edition {}", profile.name, profile.edition));
        }
        if was.is_some_and(|was| was.cuts < profile.cuts) {
            say(None, format!("Connections of profile {} were cut", profile.name));
        }
    }
    for port in &status.ports {
        let was_up = old.and_then(|old| old.ports.iter().find(|p| p.name == port.name)).map(|p| p.up);
        match (was_up, port.up) {
            (Some(true), false) => {
                say(Some(false), format!("{} is down: {}", label_of(site, &port.name), port.message));
            }
            (Some(false) | None, true) => say(Some(true), format!("{} is up", label_of(site, &port.name))),
            _ => {}
        }
    }
    for process in &status.processes {
        let name = name_of(site, &process.endpoint);
        let was = old.and_then(|old| old.processes.iter().find(|p| p.endpoint == process.endpoint));
        let (ran, was_healthy) = was.map_or((false, false), |was| (was.running, was.healthy));
        match (ran, process.running) {
            (false, true) => say(Some(true), format!("Process {name} runs")),
            (true, false) => say(Some(false), format!("Process {name} does not run: {}", process.message)),
            _ if was.is_some_and(|was| was.restarts < process.restarts) => {
                say(Some(false), format!("Process {name} ended and was started again"));
            }
            _ => {}
        }
        match (was_healthy, process.healthy) {
            (false, true) => say(Some(true), format!("Process {name} answers")),
            (true, false) if process.running => say(Some(false), format!("Process {name} does not answer")),
            _ => {}
        }
    }
    allocations(before.map(|(old, _)| old), site, &mut say);
    let problems = |status: &Status| status.problems.clone();
    let old = old.map(problems).unwrap_or_default();
    status.problems.iter().filter(|p| !old.contains(p)).for_each(|p| say(Some(false), p.clone()));
    old.iter().filter(|p| !status.problems.contains(p)).for_each(|p| say(Some(true), format!("No more: {p}")));
    news
}

/// What changed in what is allocated to a site.
fn allocations(old: Option<&Site>, site: &Site, say: &mut impl FnMut(Option<bool>, String)) {
    let Some(old) = old else { return };
    for endpoint in &site.endpoints {
        let name = &endpoint.name;
        match old.endpoints.iter().find(|e| e.id == endpoint.id) {
            None => say(None, format!("{name} was allocated to this site")),
            Some(was) if was.choice != endpoint.choice => match endpoint.choice {
                Choice::Accepted => say(None, format!("{name} is accepted")),
                Choice::Declined => say(None, format!("{name} is declined")),
                Choice::Incomplete => say(None, format!("{name} lacks a host or a port that only this site can say")),
                Choice::Open => say(None, format!("{name} is carried out, nobody having said anything of it")),
            },
            Some(was) if was.generation != endpoint.generation => say(None, format!("{name} was changed")),
            Some(_) => {}
        }
    }
    for gone in old.endpoints.iter().filter(|e| site.endpoints.iter().all(|now| now.id != e.id)) {
        say(None, format!("{} is no more allocated to this site", gone.name));
    }
}

/// What people call an endpoint.
pub fn name_of<'a>(site: &'a Site, endpoint: &'a str) -> &'a str {
    site.endpoints.iter().find(|e| e.id == endpoint).map_or(endpoint, |e| &e.name)
}

/// What people call a link: where it leads, while it is wanted.
fn way_of(site: &Site, link: &str) -> String {
    let connector = site.connectors.iter().find(|connector| connector.name == link);
    connector.map_or_else(|| link.to_owned(), |connector| format!("to {}", connector.peer))
}

/// What people call a port: what it is for, where that is known.
pub fn label_of(site: &Site, port: &str) -> String {
    if let Some(listener) = site.listeners.iter().find(|l| l.name == port) {
        return format!("Listener {port} at port {}", listener.port);
    }
    let (into, out) = (site.tcp_listeners.iter(), site.tcp_connectors.iter());
    let found = into.map(|t| (t, "to")).chain(out.map(|t| (t, "behind"))).find(|(t, _)| t.name == port);
    match found {
        Some((tcp, way)) => {
            let name = if tcp.endpoint.is_empty() { &tcp.name } else { name_of(site, &tcp.endpoint) };
            format!("{name}, {}:{} {way} {}", tcp.host, tcp.port, tcp.address)
        }
        None => port.to_owned(),
    }
}
