//! What a domain brings with it, in one value. `app` lists the domains and knows no more of them than this.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    certificate::Certificates,
    fleet::{AskHandler, Fleet},
    platform::{
        blobs::Blobs,
        db::Db,
        jobs::Runner,
        program::Programs,
        reconcile::{self, Reconciler},
        wake::Activator,
    },
    web::{ManifestKind, NavItem, Routes, home::Card},
};

/// What is there before the fleet is: enough to answer the agents' questions.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The database.
    pub db: Db,
    /// Who signs and seals.
    pub certificates: Certificates,
    /// What is too large for a row.
    pub blobs: Blobs,
}

/// What is there when a domain opens.
#[derive(Debug, Clone)]
pub struct Context {
    /// The database.
    pub db: Db,
    /// The agents, and the door to them.
    pub fleet: Fleet,
    /// What is too large for a row.
    pub blobs: Blobs,
    /// Who is who; for domains that speak another system's API.
    pub access: Access,
    /// What an administrator wants run before and after an experiment.
    pub processors: Processors,
    /// Days for which environments of experiments are kept that nobody uses; 0: for good.
    pub environment_days: u32,
}

/// What an administrator wants run before and after an experiment.
#[derive(Debug, Clone, Default)]
pub struct Processors {
    /// Before.
    pub pre: Programs,
    /// After.
    pub post: Programs,
}

/// A domain's line in `app`.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Name, as its folder and its table prefix.
    pub name: &'static str,
    /// Who answers the agents' questions, by kind.
    pub asks: fn(&Ground) -> BTreeMap<&'static str, AskHandler>,
    /// Opens it.
    pub open: fn(&Context) -> Domain,
}

/// What a domain brings.
#[derive(Default)]
pub struct Domain {
    /// The API.
    pub routes: Routes,
    /// The pages.
    pub pages: Routes,
    /// Entries of the console's navigation.
    pub nav: Vec<NavItem>,
    /// What the first page says of it.
    pub cards: Vec<Card>,
    /// Background activities.
    pub loops: Vec<Loop>,
    /// Who runs which kind of job.
    pub jobs: BTreeMap<&'static str, Runner>,
    /// What people may declare.
    pub manifests: Vec<ManifestKind>,
}

/// A background activity that has not begun.
pub struct Loop {
    /// Name, for `/readyz`.
    pub name: &'static str,
    begin: Box<dyn FnOnce(CancellationToken) -> Running + Send>,
}

/// A background activity under way.
pub struct Running {
    /// Name, for `/readyz`.
    pub name: &'static str,
    /// Ends when it has stopped.
    pub task: JoinHandle<()>,
    turns: Box<dyn Fn() -> Turn + Send + Sync>,
    /// When the last round ended; at first, when the activity began.
    ended: watch::Receiver<Instant>,
    /// A round ends at the latest so long after the one before it, the watchdog's grace apart.
    limit: Duration,
}

/// How the last round of an activity went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// There was none yet.
    Waiting,
    /// It went well.
    Well,
    /// It did not; why.
    Badly(String),
}

/// A status that can say what went wrong.
pub trait Health {
    /// What went wrong in the round, if anything did.
    fn fault(&self) -> Option<String>;
}

impl<T, E: fmt::Display> Health for Result<T, E> {
    fn fault(&self) -> Option<String> {
        self.as_ref().err().map(ToString::to_string)
    }
}

// === impl Loop ===

impl Loop {
    /// An activity to be begun later. `wake` wakes it: usually `db.wake().listen(&[topic])`.
    pub fn new<R>(name: &'static str, it: R, wake: Activator) -> Self
    where
        R: Reconciler,
        R::Status: Health,
    {
        let begin = Box::new(move |stop: CancellationToken| {
            let (clock, ended) = watch::channel(Instant::now());
            let (task, seen) = reconcile::spawn(Timed { it, clock }, wake, stop);
            let turns = Box::new(move || match &*seen.borrow() {
                None => Turn::Waiting,
                Some(status) => status.fault().map_or(Turn::Well, Turn::Badly),
            });
            Running { name, task, turns, ended, limit: R::PERIOD + R::LONG }
        });
        Self { name, begin }
    }

    /// Begins it.
    pub fn begin(self, stop: CancellationToken) -> Running {
        (self.begin)(stop)
    }
}

impl Running {
    /// How its last round went.
    pub fn turn(&self) -> Turn {
        (self.turns)()
    }

    /// Whether it hangs: its last round ended longer ago than a round may take, and `grace` more.
    pub fn hangs(&self, now: Instant, grace: Duration) -> bool {
        now.saturating_duration_since(*self.ended.borrow()) > self.limit + grace
    }
}

/// A reconciler whose rounds are timed when they end.
struct Timed<R> {
    it: R,
    clock: watch::Sender<Instant>,
}

impl<R: Reconciler> Reconciler for Timed<R> {
    type Status = R::Status;
    const PERIOD: Duration = R::PERIOD;

    async fn reconcile(&mut self) -> Self::Status {
        let status = self.it.reconcile().await;
        self.clock.send_replace(Instant::now());
        status
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loops: Vec<_> = self.loops.iter().map(|l| l.name).collect();
        f.debug_struct("Domain").field("loops", &loops).field("manifests", &self.manifests).finish_non_exhaustive()
    }
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Loop").field(&self.name).finish()
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("name", &self.name).field("turn", &self.turn()).finish_non_exhaustive()
    }
}

/// Makes a handler of questions from an async function.
pub fn ask_handler<F, Fut>(answer: F) -> AskHandler
where
    F: Fn(crate::fleet::model::AgentId, muster_proto::fleet::Ask) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = muster_proto::fleet::Answer> + Send + 'static,
{
    Arc::new(move |agent, ask| Box::pin(answer(agent, ask)))
}
