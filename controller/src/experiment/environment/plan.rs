//! Who builds an image that is built once for many nodes, and what is kept no longer. Pure.

use std::collections::BTreeMap;

use crate::fleet::model::AgentId;

/// A builder away for longer than this is given up where another can build, milliseconds.
const AWAY: i64 = 60_000;

/// A saved image is on its way for at most so long, milliseconds.
const ARRIVAL: i64 = 3_600_000;

/// Builders that may go away before nobody is asked any more.
const LOST: i64 = 3;

/// Everything that is known of an image that is not built yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Who builds it; none: nobody does.
    pub build: Option<Build>,
    /// Builders that went away.
    pub lost: i64,
    /// The nodes that wait for it, in the order of their experiments.
    pub nodes: Vec<AgentId>,
    /// The agents that could build it, by id: of its architecture and with an engine.
    pub hosts: Vec<Host>,
    /// Since when home is here to see who is away, milliseconds since the Unix epoch.
    pub here_since: i64,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

/// An agent that could build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The agent.
    pub agent: AgentId,
    /// Its owner offers it for this.
    pub is_builder: bool,
    /// It has a stream.
    pub is_online: bool,
}

/// A build under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Who builds.
    pub agent: AgentId,
    /// Since when it has had no stream, milliseconds since the Unix epoch; none: it has one.
    pub away_since: Option<i64>,
    /// What it said.
    pub told: Told,
}

/// What a builder said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// No end yet.
    Working,
    /// It is built, and the saved image is on its way here since this time, milliseconds since the Unix epoch.
    Arriving(i64),
    /// The saved image is here: its SHA-256 and its bytes.
    Built(String, i64),
    /// It cannot be built, and why.
    Failed(String),
    /// It came to no end there, and why.
    Gone(String),
}

/// What is to be done about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// This agent builds it.
    Build(AgentId),
    /// Keep what was built: its SHA-256 and its bytes.
    Keep(String, i64),
    /// Nobody gets it, and why.
    Fail(String),
    /// Another one is to build it, and why.
    PassOn(String),
    /// Nobody waits for it any more.
    Stop,
}

/// The action that leads on from here; none when there is nothing to do.
pub fn plan(it: &Snapshot) -> Option<Action> {
    let Some(build) = &it.build else {
        return if it.nodes.is_empty() { None } else { choose(it, None).map(Action::Build) };
    };
    let pass_on = |why: String| match it.lost + 1 >= LOST {
        true => Action::Fail(why),
        false => Action::PassOn(why),
    };
    let is_away = build.away_since.is_some_and(|since| it.now - since.max(it.here_since) >= AWAY);
    match &build.told {
        Told::Built(digest, bytes) => Some(Action::Keep(digest.clone(), *bytes)),
        Told::Failed(why) => Some(Action::Fail(why.clone())),
        Told::Working | Told::Arriving(_) | Told::Gone(_) if it.nodes.is_empty() => Some(Action::Stop),
        Told::Gone(why) => Some(pass_on(why.clone())),
        Told::Arriving(since) if it.now - since >= ARRIVAL => {
            Some(Action::Fail("it was built, but what was saved of it did not arrive here".into()))
        }
        Told::Working | Told::Arriving(_) => {
            (is_away && choose(it, Some(&build.agent)).is_some()).then(|| pass_on("its builder is away".into()))
        }
    }
}

/// Who is to build: an agent that is offered for it, else the first node that waits.
fn choose(it: &Snapshot, except: Option<&AgentId>) -> Option<AgentId> {
    let able = |host: &&Host| host.is_online && Some(&host.agent) != except;
    let builder = it.hosts.iter().filter(able).find(|host| host.is_builder).map(|host| &host.agent);
    let is_able = |node: &&AgentId| it.hosts.iter().filter(able).any(|host| host.agent == **node);
    builder.or_else(|| it.nodes.iter().find(is_able)).cloned()
}

/// An environment that was used long ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    /// Its digest.
    pub digest: String,
    /// The agent that has it; none: what home keeps of it.
    pub agent: Option<AgentId>,
    /// When somebody last used it there, milliseconds since the Unix epoch.
    pub used_at: i64,
    /// An experiment that is not over needs it there; what home keeps is needed while an agent has it.
    pub is_needed: bool,
}

/// What is to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unused {
    /// From agents.
    pub at: BTreeMap<AgentId, Vec<String>>,
    /// At home.
    pub here: Vec<String>,
}

/// What nobody needs and nobody used since a time.
pub fn unused(old: &[Old], before: i64) -> Unused {
    let mut unused = Unused::default();
    for it in old.iter().filter(|it| it.used_at < before && !it.is_needed) {
        match &it.agent {
            Some(agent) => unused.at.entry(agent.clone()).or_default().push(it.digest.clone()),
            None => unused.here.push(it.digest.clone()),
        }
    }
    unused
}
