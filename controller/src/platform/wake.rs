//! Hints that something changed. They carry no data, so a lost or doubled one is harmless: whoever is woken reads the
//! database, and every loop also wakes by itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{Notify, watch};

/// PostgreSQL carries at most 8,000 bytes in one notification.
const LONGEST_NEWS: usize = 4000;

/// Topic of how agents fare: who came, who is missing.
pub const AGENTS: &str = "agents";

/// Wakes one loop.
#[derive(Debug, Clone, Default)]
pub struct Activator(Arc<Notify>);

/// Who is to be woken by what; clones share it.
#[derive(Debug, Clone)]
pub struct Wake {
    /// The newest event this replica knows to be committed.
    head: watch::Sender<i64>,
    loops: Arc<Mutex<BTreeMap<&'static str, Vec<Activator>>>>,
    /// Topics that requests follow while they last.
    followed: Arc<Mutex<BTreeMap<&'static str, watch::Sender<()>>>>,
}

// === impl Activator ===

impl Activator {
    /// Wakes the loop, at once or as soon as it waits.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Resolves when woken.
    pub async fn woken(&self) {
        self.0.notified().await;
    }
}

// === impl Wake ===

impl Default for Wake {
    fn default() -> Self {
        Self { head: watch::Sender::new(0), loops: Arc::default(), followed: Arc::default() }
    }
}

impl Wake {
    /// An activator that is woken by each of `topics`: those of the loop's own, and [`AGENTS`].
    pub fn listen(&self, topics: &[&'static str]) -> Activator {
        let activator = Activator::default();
        let mut loops = self.loops.lock().expect("no holder of this lock panics");
        topics.iter().for_each(|topic| loops.entry(topic).or_default().push(activator.clone()));
        activator
    }

    /// Follows a topic for as long as the receiver is kept: it changes with each commit that wakes the topic.
    pub fn follow(&self, topic: &'static str) -> watch::Receiver<()> {
        let mut followed = self.followed.lock().expect("no holder of this lock panics");
        followed.entry(topic).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// Follows the newest committed event.
    pub fn head(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    /// A transaction of this replica was committed.
    pub fn committed(&self, seq: Option<i64>, topics: &[String]) {
        if let Some(seq) = seq {
            self.head.send_if_modified(|head| std::mem::replace(head, seq.max(*head)) < seq);
        }
        let loops = self.loops.lock().expect("no holder of this lock panics");
        topics.iter().filter_map(|t| loops.get(t.as_str())).flatten().for_each(Activator::wake);
        drop(loops);
        let followed = self.followed.lock().expect("no holder of this lock panics");
        topics.iter().filter_map(|t| followed.get(t.as_str())).for_each(|topic| topic.send_replace(()));
    }

    /// A replica committed something and said so in the words of [`spell`]. Where it names no topic every loop looks.
    pub fn committed_elsewhere(&self, news: &str) {
        let mut words = news.split(' ').filter(|word| !word.is_empty());
        let seq = words.next().and_then(|word| word.parse().ok());
        let topics: Vec<_> = words.map(str::to_owned).collect();
        self.committed(seq, &topics);
        if topics.is_empty() {
            let loops = self.loops.lock().expect("no holder of this lock panics");
            loops.values().flatten().for_each(Activator::wake);
            drop(loops);
            let followed = self.followed.lock().expect("no holder of this lock panics");
            followed.values().for_each(|topic| topic.send_replace(()));
        }
    }
}

/// What a transaction tells other replicas: the number of its newest event, 0 without one, and its topics. None: nothing
/// that anybody waits for.
pub fn spell(seq: Option<i64>, topics: &[String]) -> Option<String> {
    if seq.is_none() && topics.is_empty() {
        return None;
    }
    let head = seq.unwrap_or(0).to_string();
    let named = topics.iter().fold(head.clone(), |news, topic| news + " " + topic);
    Some(if named.len() <= LONGEST_NEWS { named } else { head })
}
