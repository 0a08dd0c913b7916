//! Experiments without a database and without a node: what they are, and how they move. Pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Result},
    fleet::model::Phase,
};

crate::id_type! {
    /// An experiment's id, a UUID; its name may be used again after it is deleted.
    ExperimentId
    /// An executor's id, a UUID: one deployment on one node.
    ExecutorId
}

/// Name of the connector that stands for the fleet itself.
pub const FLEET: &str = "muster";

/// Longest name of an experiment or a flag, characters.
const MAX_NAME: usize = 512;

/// Where an experiment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its nodes are being prepared.
    Preparing,
    /// What could be prepared is; nothing runs.
    Ready,
    /// Its executors run.
    Running,
    /// It was cancelled, and something of it is still under way.
    Cancelling,
    /// Every executor has ended.
    Finished,
    /// It was cancelled, and nothing of it is under way.
    Cancelled,
    /// Not one node could be prepared.
    Failed,
}

/// Where one deployment stands on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing was sent.
    Waiting,
    /// The node makes the environment and the executor's folder.
    Deploying,
    /// The node is ready to start.
    Deployed,
    /// The node was told to start.
    Starting,
    /// The executor runs.
    Running,
    /// It is over; the outcome says how.
    Ended,
}

/// How a deployment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The executor came to its end and reported. What its tasks came to stands in the result.
    Succeeded,
    /// The executor ended without a report.
    Failed,
    /// The node could not be prepared; nothing ran.
    NotDeployed,
    /// A person ended it.
    Cancelled,
    /// Nothing was heard of the node for longer than the deployment allows, or a limit of time ended it.
    TimedOut,
    /// A crash of the node cut it off.
    Interrupted,
    /// Its node is gone.
    Lost,
    /// Its node was given up, and another one took its work over.
    Moved,
}

/// Something that was seen and may change an experiment's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// No deployment is being prepared any more: whether one is ready.
    Prepared(bool),
    /// A person starts it.
    StartRequested,
    /// A person cancels it.
    CancelRequested,
    /// Nothing of it is under way any more.
    AllEnded,
}

// === impl Status ===

impl Status {
    const ALL: [Self; 7] =
        [Self::Preparing, Self::Ready, Self::Running, Self::Cancelling, Self::Finished, Self::Cancelled, Self::Failed];

    /// Its word in the database and the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// What a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.word() == word)
    }

    /// The number netunicorn's clients know it by: 0 unknown, 1 preparing, 2 ready, 3 running, 4 finished. Any other
    /// makes them raise an error.
    pub fn number(self) -> u8 {
        match self {
            Self::Failed => 0,
            Self::Preparing => 1,
            Self::Ready => 2,
            Self::Running | Self::Cancelling => 3,
            Self::Finished | Self::Cancelled => 4,
        }
    }

    /// Its name as netunicorn's clients print it.
    pub fn client_name(self) -> &'static str {
        match self.number() {
            0 => "ExperimentStatus.UNKNOWN",
            1 => "ExperimentStatus.PREPARING",
            2 => "ExperimentStatus.READY",
            3 => "ExperimentStatus.RUNNING",
            _ => "ExperimentStatus.FINISHED",
        }
    }

    /// Whether nothing will change any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Cancelled | Self::Failed)
    }
}

/// The transition table: the status that evidence leads to, or none when it changes nothing.
pub fn next(status: Status, evidence: Evidence) -> Option<Status> {
    use Status::{Cancelled, Cancelling, Failed, Finished, Preparing, Ready, Running};
    match (status, evidence) {
        (Preparing, Evidence::Prepared(true)) => Some(Ready),
        (Preparing, Evidence::Prepared(false)) => Some(Failed),
        (Ready, Evidence::StartRequested) => Some(Running),
        (Preparing | Ready | Running, Evidence::CancelRequested) => Some(Cancelling),
        (Ready | Running, Evidence::AllEnded) => Some(Finished),
        (Cancelling, Evidence::AllEnded) => Some(Cancelled),
        _ => None,
    }
}

// === impl Stage ===

impl Stage {
    const ALL: [Self; 6] = [Self::Waiting, Self::Deploying, Self::Deployed, Self::Starting, Self::Running, Self::Ended];

    /// Its word in the database and the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Deploying => "deploying",
            Self::Deployed => "deployed",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }

    /// What a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.word() == word)
    }
}

// === impl Outcome ===

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Succeeded,
        Self::Failed,
        Self::NotDeployed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Interrupted,
        Self::Lost,
        Self::Moved,
    ];

    /// Its word in the database and the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::NotDeployed => "not_deployed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::Moved => "moved",
        }
    }

    /// What a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.word() == word)
    }

    /// What a node's last word on an executor means, given whether a limit of time ended it.
    pub fn of_executor(phase: Phase, timed_out: bool) -> Self {
        match phase {
            Phase::Succeeded => Self::Succeeded,
            Phase::Cancelled => Self::Cancelled,
            Phase::Interrupted => Self::Interrupted,
            Phase::Lost => Self::Lost,
            _ if timed_out => Self::TimedOut,
            _ => Self::Failed,
        }
    }

    /// What a node's last word on a deployment that did not succeed means.
    pub fn of_deployment(phase: Phase) -> Self {
        match phase {
            Phase::Cancelled => Self::Cancelled,
            Phase::Lost => Self::Lost,
            _ => Self::NotDeployed,
        }
    }

    /// What is said of it where nobody said more.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Succeeded => "the executor came to its end",
            Self::Failed => "the executor ended without a report",
            Self::NotDeployed => "the node could not be prepared",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "Executor timed out",
            Self::Interrupted => "the node was interrupted; tasks may have run",
            Self::Lost => "the node is gone",
            Self::Moved => "another node took it over",
        }
    }
}

// === names ===

/// Refuses what cannot name an experiment or a flag. Clients encode what they are given, so most characters are right.
pub fn check_name(field: &'static str, name: &str) -> Result<()> {
    let length = name.chars().count();
    if (1..=MAX_NAME).contains(&length) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::invalid(field, format!("a name has 1 to {MAX_NAME} characters and no control characters")))
}

/// A UUID of version 4 from random bytes (RFC 9562, section 5.4).
pub fn uuid(mut random: [u8; 16]) -> String {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let text = muster_pki::hex(&random);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

// === flags ===

/// A value that nodes of an experiment share by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlagValues {
    /// Text, if any.
    #[serde(default)]
    pub text_value: Option<String>,
    /// Number.
    #[serde(default)]
    pub int_value: i64,
}

/// A change of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagChange {
    /// It becomes this.
    Set(FlagValues),
    /// This is added to its number; an unset one counts as 0.
    Add(i64),
}

/// Until when somebody waits for a flag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Until {
    /// Its text is this.
    pub text: Option<String>,
    /// Its number is at least this.
    pub at_least: Option<i64>,
}

impl FlagChange {
    /// What a flag becomes.
    pub fn apply(&self, before: Option<&FlagValues>) -> Result<FlagValues> {
        match self {
            Self::Set(values) => Ok(values.clone()),
            Self::Add(by) => {
                let before = before.cloned().unwrap_or_default();
                let sum = before.int_value.checked_add(*by);
                let int_value = sum.ok_or_else(|| Error::invalid("int_value", "a flag's number is one of 64 bits"))?;
                Ok(FlagValues { int_value, ..before })
            }
        }
    }
}

impl Until {
    /// Whether a flag is as awaited. An unset one never is.
    pub fn is_met(&self, flag: Option<&FlagValues>) -> bool {
        flag.is_some_and(|flag| {
            self.text.as_ref().is_none_or(|text| flag.text_value.as_ref() == Some(text))
                && self.at_least.is_none_or(|least| flag.int_value >= least)
        })
    }
}
