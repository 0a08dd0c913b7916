//! The streams of this replica, and how their agents fare: in memory alone. Only transitions are written.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use muster_proto::fleet::{Leave, Sample};

use super::{
    line::{Flight, Line},
    model::{AgentId, Liveness, liveness},
};
use crate::platform::wake::Activator;

/// Samples kept of one agent: an hour at one a minute. Sixteen numbers each, so an agent costs four kilobytes at most.
pub const SAMPLES: usize = 60;

/// Every stream of this replica; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    agents: Arc<Mutex<HashMap<AgentId, Entry>>>,
    /// Documents under way.
    pub flight: Arc<Flight>,
    /// Wakes the loop that writes transitions.
    pub changed: Activator,
    /// Counts for the metrics page.
    pub counters: Arc<Counters>,
}

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams opened.
    pub opened: AtomicU64,
    /// Streams that ended.
    pub closed: AtomicU64,
    /// Streams refused.
    pub refused: AtomicU64,
    /// Reports stored.
    pub reports: AtomicU64,
    /// Assignments sent.
    pub assigned: AtomicU64,
}

#[derive(Debug, Default)]
struct Entry {
    line: Option<Arc<Line>>,
    /// When the last stream ended.
    lost_at: Option<i64>,
    /// What the database was told last.
    written: Option<Liveness>,
    samples: VecDeque<Sample>,
}

// === impl Registry ===

impl Registry {
    /// No streams yet. `changed` wakes the loop that writes transitions.
    pub fn new(changed: Activator) -> Self {
        Self { changed, ..Self::default() }
    }

    /// The stream of an agent, if it is here.
    pub fn line(&self, agent: &AgentId) -> Option<Arc<Line>> {
        self.lock().get(agent)?.line.clone()
    }

    /// Every stream.
    pub fn lines(&self) -> Vec<Arc<Line>> {
        self.lock().values().filter_map(|e| e.line.clone()).collect()
    }

    /// Puts a stream in place of the one there. `written` is the liveness the database holds.
    pub fn join(&self, line: &Arc<Line>, written: Liveness) -> Option<Arc<Line>> {
        let mut agents = self.lock();
        let entry = agents.entry(line.agent.clone()).or_default();
        entry.written.get_or_insert(written);
        let old = entry.line.replace(line.clone());
        drop(agents);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        self.changed.wake();
        old
    }

    /// A stream ended. False: another has taken its place.
    pub fn part(&self, line: &Arc<Line>, now: i64) -> bool {
        line.close(&self.flight);
        let mut agents = self.lock();
        let Some(entry) = agents.get_mut(&line.agent) else { return false };
        if !entry.line.as_ref().is_some_and(|l| Arc::ptr_eq(l, line)) {
            return false;
        }
        entry.line = None;
        entry.lost_at = Some(now);
        drop(agents);
        self.counters.closed.fetch_add(1, Ordering::Relaxed);
        self.changed.wake();
        true
    }

    /// Notes that the database says an agent was here, though no stream of it is: after a start of the controller.
    pub fn expect_back(&self, agent: AgentId, written: Liveness, since: i64) {
        let mut agents = self.lock();
        let entry = agents.entry(agent).or_default();
        entry.written.get_or_insert(written);
        entry.lost_at.get_or_insert(since);
    }

    /// Forgets an agent.
    pub fn remove(&self, agent: &AgentId) {
        self.lock().remove(agent);
    }

    /// Forgets agents whose streams are at other replicas, but for those that came back here meanwhile.
    pub fn let_go(&self, elsewhere: &[AgentId]) {
        self.lock().retain(|agent, entry| entry.line.is_some() || !elsewhere.contains(agent));
    }

    /// How each agent fares where that differs from what the database was told: (agent, liveness, since).
    pub fn transitions(&self, now: i64) -> Vec<(AgentId, Liveness, i64)> {
        let changed = |(agent, entry): (&AgentId, &Entry)| {
            let judged = liveness(entry.line.is_some(), entry.lost_at, now);
            let since = if entry.line.is_some() { now } else { entry.lost_at.unwrap_or(now) };
            (entry.written != Some(judged)).then(|| (agent.clone(), judged, since))
        };
        self.lock().iter().filter_map(changed).collect()
    }

    /// The database was told.
    pub fn written(&self, told: &[(AgentId, Liveness, i64)]) {
        let mut agents = self.lock();
        for (agent, liveness, _) in told {
            if let Some(entry) = agents.get_mut(agent) {
                entry.written = Some(*liveness);
            }
        }
        // An agent that is offline and was written so costs nothing more; its samples go with it.
        agents.retain(|_, e| e.line.is_some() || e.written != Some(Liveness::Offline));
    }

    /// How an agent fares, if this replica knows.
    pub fn liveness(&self, agent: &AgentId, now: i64) -> Option<Liveness> {
        self.lock().get(agent).map(|e| liveness(e.line.is_some(), e.lost_at, now))
    }

    /// Keeps a sample, in place of the oldest when there is no room.
    pub fn sample(&self, agent: &AgentId, sample: Sample) {
        if let Some(entry) = self.lock().get_mut(agent) {
            if entry.samples.len() == SAMPLES {
                entry.samples.pop_front();
            }
            entry.samples.push_back(sample);
        }
    }

    /// Samples of an agent, oldest first.
    pub fn samples(&self, agent: &AgentId) -> Vec<Sample> {
        self.lock().get(agent).map(|e| e.samples.iter().copied().collect()).unwrap_or_default()
    }

    /// How many agents are in which liveness on this replica.
    pub fn counts(&self, now: i64) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for entry in self.lock().values() {
            *counts.entry(liveness(entry.line.is_some(), entry.lost_at, now).word()).or_default() += 1;
        }
        counts
    }

    /// Tells every agent to come back: in waves of a tenth each, `pause` apart, each wave with its own time to return.
    pub async fn drain(&self, pause: std::time::Duration, message: &str) {
        let lines = self.lines();
        let waves = lines.len().div_ceil(10).max(1);
        for (n, wave) in lines.chunks(waves).enumerate() {
            let retry_after_ms = 500 + 200 * n as i64;
            for line in wave {
                line.leave(Leave { retry_after_ms, homes: vec![], message: message.into() });
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AgentId, Entry>> {
        self.agents.lock().expect("no holder of this lock panics")
    }
}
