//! Connectors without a server: how one fares, what it is asked, and what is known of its executors. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    error::{Error, Result},
    experiment::{
        model::{FLEET, Outcome, Stage},
        plan::{End, Told},
    },
};

/// A connector that is well is looked at again after this time, milliseconds.
const LOOK: i64 = 30_000;

/// Longest pause before what failed is tried again, milliseconds.
const LONGEST_PAUSE: i64 = 60_000;

/// For so long a connector is asked to end executors and to remove what they left, milliseconds.
const AWAY: i64 = 86_400_000;

/// How a connector fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It was not asked yet.
    New,
    /// It answers.
    Well,
    /// It does not answer, or says that it is not well.
    Failing,
}

/// How a connector fares, and when it is looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// How.
    pub health: Health,
    /// Its own words while it is well, else what went wrong.
    pub why: String,
    /// How often it failed in a row.
    pub failures: i64,
    /// Milliseconds since the Unix epoch.
    pub next_at: i64,
}

/// What a connector is asked of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// To make its node ready.
    Deploy,
    /// To start it.
    Execute,
    /// To end it.
    Stop,
    /// To remove what it left.
    Cleanup,
}

/// How far a question to a connector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It is to be sent.
    Queued,
    /// It is under way.
    Asking,
    /// It was done, or may have been.
    Done,
    /// It was not.
    Failed,
}

/// Why a question came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connector did not take it; nothing was done.
    NotTaken(String),
    /// It was sent, and what came of it is not known.
    Unsure(String),
}

/// What becomes of a question that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is sent again at this time, milliseconds since the Unix epoch.
    Again(i64),
    /// It counts as sent: what it was to start may run, and will say so itself.
    Wait,
    /// It failed for good.
    Fail,
}

/// What is known of an executor that is not on an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// What its connector is asked.
    pub verb: Verb,
    /// How far that is.
    pub asked: Asked,
    /// What went wrong, where something did.
    pub why: String,
    /// Since when it is asked, milliseconds since the Unix epoch.
    pub asked_at: i64,
    /// When anything was heard of it at the gateway, milliseconds since the Unix epoch.
    pub heard_at: Option<i64>,
    /// When it was given its graph first, milliseconds since the Unix epoch.
    pub graph_at: Option<i64>,
    /// It reported.
    pub has_reported: bool,
    /// When it reported for the last time, milliseconds since the Unix epoch.
    pub final_at: Option<i64>,
    /// Its last report was longer than may be.
    pub too_long: bool,
}

/// What an executor that asks for its graph is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Graph {
    /// The graph.
    Give,
    /// Nothing yet: it may become ready.
    Hold,
    /// An empty answer, which makes it end.
    SendAway,
}

/// A connector as an administrator describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectorSpec {
    /// Where its server listens, such as `https://lab.example.org:8000`.
    pub url: String,
    /// What it knows this controller by; empty: what was given before stays.
    #[serde(default)]
    pub api_key: String,
    /// What it is told when it begins, beside where the gateway is; left out: what was given before stays. Never shown.
    #[serde(default)]
    pub init: Option<BTreeMap<String, Value>>,
    /// Where its executors reach this controller, up to `/netunicorn`; empty: where people reach the console; left out:
    /// what was given before stays.
    #[serde(default)]
    pub gateway: Option<String>,
    /// The authorities its certificate may come from, PEM; empty: those the controller's host trusts; left out: what was
    /// given before stays.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// Whether it is asked at all.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

// === impl Health ===

impl Health {
    const ALL: [Self; 3] = [Self::New, Self::Well, Self::Failing];

    /// Its word in the database and the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Well => "well",
            Self::Failing => "failing",
        }
    }

    /// What a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.word() == word)
    }
}

// === impl Standing ===

impl Standing {
    /// How it stands after it was asked: with its words if it is well, else with what went wrong. `chance` lies between 0
    /// and 1 and spreads the tries.
    pub fn after(&self, said: Result<String, String>, now: i64, chance: f64) -> Self {
        match said {
            Ok(why) => Self { health: Health::Well, why, failures: 0, next_at: now + LOOK },
            Err(why) => {
                let failures = self.failures + 1;
                Self { health: Health::Failing, why, failures, next_at: now + pause(failures, chance) }
            }
        }
    }
}

/// The pause after so many failures in a row, milliseconds: twice as long each time, from one second on, up to a fifth of
/// it less by chance.
fn pause(failures: i64, chance: f64) -> i64 {
    let whole = 1000_i64.checked_shl(u32::try_from(failures - 1).unwrap_or(0).min(20)).unwrap_or(LONGEST_PAUSE);
    let whole = whole.min(LONGEST_PAUSE);
    whole - (whole as f64 * chance.clamp(0.0, 1.0) / 5.0) as i64
}

// === impl Verb ===

impl Verb {
    const ALL: [Self; 4] = [Self::Deploy, Self::Execute, Self::Stop, Self::Cleanup];

    /// Its word in the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Execute => "execute",
            Self::Stop => "stop",
            Self::Cleanup => "cleanup",
        }
    }

    /// What a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.word() == word)
    }

    /// For how long a question is repeated, given how long an executor may be silent; milliseconds. What is to go away
    /// is told so when its connector is back, long after it was given up.
    fn patience(self, keep_alive: i64) -> i64 {
        match self {
            Self::Deploy | Self::Execute => keep_alive,
            Self::Stop | Self::Cleanup => keep_alive.max(AWAY),
        }
    }

    /// What is asked first where not everything can be asked at once.
    pub fn rank(self) -> u8 {
        match self {
            Self::Stop => 0,
            Self::Execute => 1,
            Self::Deploy => 2,
            Self::Cleanup => 3,
        }
    }
}

// === impl Asked ===

impl Asked {
    const ALL: [Self; 4] = [Self::Queued, Self::Asking, Self::Done, Self::Failed];

    /// Its word in the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Asking => "asking",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// What a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.word() == word)
    }
}

// === impl Fault ===

impl Fault {
    /// What went wrong, a sentence.
    pub fn why(&self) -> &str {
        let (Self::NotTaken(why) | Self::Unsure(why)) = self;
        why
    }
}

/// What becomes of a question that came to nothing. To start an executor is not asked twice unless the first time it was
/// certainly not taken: nothing is run twice.
pub fn fate(verb: Verb, fault: &Fault, attempts: i64, asked_at: i64, keep_alive: i64, now: i64, chance: f64) -> Fate {
    if verb == Verb::Execute && matches!(fault, Fault::Unsure(_)) {
        return Fate::Wait;
    }
    let at = now + pause(attempts, chance);
    if is_overdue(verb, asked_at, keep_alive, at) { Fate::Fail } else { Fate::Again(at) }
}

/// Whether a question was repeated for long enough.
pub fn is_overdue(verb: Verb, asked_at: i64, keep_alive: i64, now: i64) -> bool {
    now - asked_at >= verb.patience(keep_alive)
}

// === impl Remote ===

impl Remote {
    /// What is told of a deployment in this stage.
    pub fn told(&self, stage: Stage) -> Told {
        let started_at = self.graph_at.or(self.heard_at);
        let ended = |outcome: Outcome, message: String, at: i64| {
            Told::Ended(End { outcome, message, started_at, ended_at: at })
        };
        if let Some(at) = self.final_at {
            return match self.too_long {
                true => ended(Outcome::Failed, "its report was longer than may be".into(), at),
                false => ended(Outcome::Succeeded, String::new(), at),
            };
        }
        let last = self.heard_at.unwrap_or(self.asked_at).max(self.asked_at);
        match (self.verb, self.asked) {
            (Verb::Stop, Asked::Done) => ended(Outcome::Cancelled, Outcome::Cancelled.sentence().into(), last),
            (Verb::Stop, Asked::Failed) => {
                let message = format!("cancelled; it may still run, since the connector did not end it: {}", self.why);
                ended(Outcome::Cancelled, message, last)
            }
            (Verb::Deploy, Asked::Done) => ended(Outcome::Succeeded, String::new(), last),
            (Verb::Deploy, Asked::Failed) => ended(Outcome::NotDeployed, self.why.clone(), last),
            // Whatever its connector says, one that was heard of runs.
            (Verb::Execute, Asked::Failed) if started_at.is_none() => ended(Outcome::Failed, self.why.clone(), last),
            (Verb::Execute, _) if stage != Stage::Deploying => started_at.map_or(Told::Nothing, Told::Working),
            _ => Told::Nothing,
        }
    }

    /// Since when it is silent, where that matters: while it should run, or should end.
    pub fn silent_since(&self, stage: Stage) -> Option<i64> {
        let runs = matches!(stage, Stage::Starting | Stage::Running) || self.verb == Verb::Stop;
        runs.then(|| self.heard_at.unwrap_or(self.asked_at).max(self.asked_at))
    }

    /// How far a question of it is, in words; empty once it is answered.
    pub fn step(&self) -> String {
        match (self.asked, self.why.as_str()) {
            (Asked::Queued, "") => "waits for its connector".into(),
            (Asked::Queued, why) => format!("to be asked again: {why}"),
            (Asked::Asking, _) => "its connector is at it".into(),
            (Asked::Done, why) => why.into(),
            (Asked::Failed, _) => String::new(),
        }
    }

    /// What it is answered when it asks for its graph. One that has reported has had it: who asks then was started anew,
    /// and nothing is run twice. That one is held until the first has ended: sent away, it would report an end.
    pub fn graph(&self, stage: Stage) -> Graph {
        let may_begin = self.verb == Verb::Execute && !self.has_reported;
        match stage {
            Stage::Starting | Stage::Running if may_begin => Graph::Give,
            Stage::Ended => Graph::SendAway,
            _ => Graph::Hold,
        }
    }

    /// Whether a report of it is taken, or why it is thrown away.
    pub fn takes_report(&self, stage: Stage, is_given_up: bool) -> Result<(), &'static str> {
        match stage {
            _ if self.final_at.is_some() => Err("its last report is here already"),
            Stage::Starting | Stage::Running => Ok(()),
            Stage::Ended if is_given_up => Ok(()),
            Stage::Ended => Err("it has ended"),
            Stage::Waiting | Stage::Deploying | Stage::Deployed => Err("it was not started"),
        }
    }
}

// === impl ConnectorSpec ===

impl ConnectorSpec {
    /// Refuses what cannot be a connector.
    pub fn check(&self, name: &str) -> Result<()> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if !(1..=63).contains(&name.len()) || !name.bytes().all(is_word) {
            return Err(Error::invalid(
                "name",
                "a connector's name is made of at most 63 letters, digits, '-', '_' and '.'",
            ));
        }
        if name == FLEET {
            return Err(Error::invalid("name", format!("{FLEET} stands for the fleet itself; take another name")));
        }
        check_url("url", &self.url)?;
        if let Some(gateway) = self.gateway.as_ref().filter(|gateway| !gateway.is_empty()) {
            check_url("gateway", gateway)?;
        }
        if self.api_key.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(Error::invalid("api_key", "an API key is made of printable ASCII characters without spaces"));
        }
        Ok(())
    }
}

fn check_url(field: &'static str, url: &str) -> Result<()> {
    let uri: Option<http::Uri> = url.parse().ok();
    let is_right = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'))
            && uri.query().is_none()
    });
    let wrong = || Error::invalid(field, format!("{url:?} is no URL such as https://lab.example.org:8000"));
    is_right.then_some(()).ok_or_else(wrong)
}

/// What a connector is told of its user with a request: its part of a context, null without one.
pub fn part<'a>(context: &'a Value, connector: &str) -> &'a Value {
    context.get(connector).unwrap_or(&Value::Null)
}

/// A context as a header: JSON in ASCII, as Python writes it.
pub fn header(context: &Value) -> String {
    let mut out = String::new();
    for unit in context.to_string().encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() && byte != 0x7f => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\u{unit:04x}")),
        }
    }
    out
}
