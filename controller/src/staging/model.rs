//! Stagings without a database and without a host: what they are, and how their status changes. Pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Result},
    fleet::model::{AgentId, Labels, Phase},
};

crate::id_type! {
    /// A staging's id; its name may be used again after it is gone.
    StagingId
    /// An operation's id.
    OperationId
}

/// Longest value of an override, bytes: Linux takes no single argument of more than 128 KiB.
const MAX_VALUE: usize = 100 * 1024;

/// How the stagings of a project are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectSpec {
    /// Handed to every wrapper as `--base-domain`.
    pub base_domain: String,
    /// Handed to every wrapper as `--namespace`.
    pub namespace: String,
    /// Name under which hosts list the wrapper folder.
    pub wrappers: String,
    /// Labels of the hosts that may carry its stagings.
    #[serde(default)]
    pub agents: Labels,
    /// Seconds between two checks.
    #[serde(default = "default_check_interval")]
    pub check_interval_seconds: i64,
    /// A pending staging that has not come up after this many seconds has failed.
    #[serde(default = "default_pending_limit")]
    pub pending_limit_seconds: i64,
    /// A wrapper that runs longer than this many seconds is ended.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: i64,
    /// Memory limit of each process of a wrapper, bytes; 0: the host's own.
    #[serde(default)]
    pub memory_bytes: i64,
    /// Limit of the size of a file a wrapper writes, bytes; 0: the host's own.
    #[serde(default)]
    pub file_bytes: i64,
    /// Archived stagings are cleaned up after this many days; none: never.
    #[serde(default)]
    pub archived_retention_days: Option<i64>,
}

fn default_check_interval() -> i64 {
    30
}

fn default_pending_limit() -> i64 {
    600
}

fn default_timeout() -> i64 {
    1800
}

/// The six statuses. Running, Failure and Archived are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Status {
    /// Its newest check passed.
    Running,
    /// It is not as it was asked to be.
    Failure,
    /// It is being made, or brought back.
    CreatePending,
    /// It is being changed.
    UpdatePending,
    /// It is being archived.
    DeletePending,
    /// Stopped, with its data kept.
    Archived,
}

/// What can be asked of a staging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Make it.
    Create,
    /// Change its tag or overrides.
    Update,
    /// Archive it: stop it and keep its data.
    Delete,
    /// Bring an archived one back with its last settings.
    Restore,
    /// Remove an archived one with its data.
    Cleanup,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The wrapper exited with 0.
    Succeeded,
    /// The wrapper exited with something else, or could not be run.
    Failed,
    /// `tag_check` refused; nothing was changed.
    Refused,
    /// The wrapper ran into its wall-clock limit.
    TimedOut,
    /// A person ended it.
    Cancelled,
    /// A crash cut it off; it may have had effects.
    Interrupted,
    /// The host took it up too late and did not start it.
    Late,
    /// Its host is gone.
    Lost,
}

/// Something that was seen and may change a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A person asked for it.
    Requested(Verb),
    /// Its operation ended.
    Ended(Verb, Outcome),
    /// A `check` begun after the wrapper ended: whether it passed.
    Check(bool),
    /// An `archive_check` begun after the wrapper ended: whether it is really archived.
    ArchiveCheck(bool),
    /// It has been pending for longer than the limit.
    LimitPassed,
}

/// Whom an override is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The application: its environment, say.
    App,
    /// The staging: how it is deployed.
    Staging,
}

/// One setting handed to `create` and `update`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Whom it is for.
    pub level: Level,
    /// Its name; no `=`.
    pub key: String,
    /// Its value; never shown again when it is secret.
    pub value: String,
    /// Whether the value is kept from everybody who reads.
    #[serde(default)]
    pub secret: bool,
}

/// An override by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrideKey {
    /// Whom it is for.
    pub level: Level,
    /// Its name.
    pub key: String,
}

/// What a staging is made with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Which version of the application.
    pub tag: String,
    /// In the order of level and key.
    pub overrides: Vec<Override>,
}

/// What a staging is made with, as anybody may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaskedSettings {
    /// Which version of the application.
    pub tag: String,
    /// In the order of level and key.
    pub overrides: Vec<MaskedOverride>,
}

/// An override as anybody may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaskedOverride {
    /// Whom it is for.
    pub level: Level,
    /// Its name.
    pub key: String,
    /// Its value; none when it is secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Whether the value is kept from everybody who reads.
    pub secret: bool,
}

/// A change of settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsChange {
    /// A new tag.
    pub tag: Option<String>,
    /// Overrides to add or replace.
    pub set: Vec<Override>,
    /// Overrides to take away.
    pub unset: Vec<OverrideKey>,
}

/// A host that might carry a staging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub agent: AgentId,
    /// Stagings it carries.
    pub stagings: i64,
    /// Wrapper folders it offers; none before it has been home.
    pub folders: Option<Vec<String>>,
    /// It has had no stream for a while.
    pub is_offline: bool,
}

// === impl Status ===

impl Status {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Failure, Self::CreatePending, Self::UpdatePending, Self::DeletePending, Self::Archived];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Failure => "Failure",
            Self::CreatePending => "CreatePending",
            Self::UpdatePending => "UpdatePending",
            Self::DeletePending => "DeletePending",
            Self::Archived => "Archived",
        }
    }

    /// Reads a name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.word() == word)
    }

    /// Whether it is on its way to another.
    pub fn is_pending(self) -> bool {
        matches!(self, Self::CreatePending | Self::UpdatePending | Self::DeletePending)
    }
}

/// The transition table: the status that evidence leads to, or none when it changes nothing.
///
/// An operation that succeeds leaves its staging pending: only a check begun afterwards says what came of it.
pub fn next(status: Status, evidence: Evidence) -> Option<Status> {
    use Evidence::{ArchiveCheck, Check, Ended, LimitPassed, Requested};
    use Status::{Archived, CreatePending, DeletePending, Failure, Running, UpdatePending};
    match (status, evidence) {
        (Running | Failure, Requested(Verb::Update)) => Some(UpdatePending),
        (Running | Failure, Requested(Verb::Delete)) => Some(DeletePending),
        (Archived, Requested(Verb::Restore)) => Some(CreatePending),
        (Archived, Requested(Verb::Cleanup)) => Some(Archived),
        (CreatePending | UpdatePending | DeletePending, Ended(_, outcome)) if outcome != Outcome::Succeeded => {
            Some(Failure)
        }
        (CreatePending | UpdatePending | Failure, Check(true)) => Some(Running),
        (Running, Check(false)) => Some(Failure),
        (DeletePending, ArchiveCheck(true)) => Some(Archived),
        (CreatePending | UpdatePending | DeletePending, LimitPassed) => Some(Failure),
        _ => None,
    }
}

/// Why a verb cannot be asked for, with what would be right; none when it can.
pub fn why_not(status: Status, verb: Verb) -> Option<String> {
    if next(status, Evidence::Requested(verb)).is_some() {
        return None;
    }
    let right = match verb {
        Verb::Create => "it exists already; update it",
        Verb::Update | Verb::Delete if status == Status::Archived => "it is archived; restore it first",
        Verb::Update | Verb::Delete => "wait until it is Running or Failure, or cancel what is pending",
        Verb::Restore => "only an archived staging can be restored",
        Verb::Cleanup => "only an archived staging can be cleaned up; delete it first",
    };
    Some(format!("the staging is {}: {right}", status.word()))
}

/// Why a staging cannot be given another host, with what would be right; none when it can.
pub fn why_not_moved(status: Status) -> Option<String> {
    let still = !matches!(status, Status::Archived | Status::Failure);
    still.then(|| format!("the staging is {}: only an archived or a failed one can be moved", status.word()))
}

/// The status at the moment an operation is asked for and a staging is made.
pub const FIRST: Status = Status::CreatePending;

// === impl Candidate ===

impl Candidate {
    /// Whether it offers this wrapper folder. One that has never been home might.
    pub fn offers(&self, wrappers: &str) -> bool {
        self.folders.as_ref().is_none_or(|folders| folders.iter().any(|folder| folder == wrappers))
    }
}

// === names of the closed sets in the database and the API ===

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 5] = [Self::Create, Self::Update, Self::Delete, Self::Restore, Self::Cleanup];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Restore => "restore",
            Self::Cleanup => "cleanup",
        }
    }

    /// What a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.word() == word)
    }
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Succeeded,
        Self::Failed,
        Self::Refused,
        Self::TimedOut,
        Self::Cancelled,
        Self::Interrupted,
        Self::Late,
        Self::Lost,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Late => "late",
            Self::Lost => "lost",
        }
    }

    /// What a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.word() == word)
    }

    /// What an agent's last word on once work means, given whether `tag_check` ended it and whether the limit did.
    pub fn of(phase: Phase, by_tag_check: bool, timed_out: bool) -> Self {
        match phase {
            Phase::Succeeded => Self::Succeeded,
            Phase::Interrupted => Self::Interrupted,
            Phase::Cancelled => Self::Cancelled,
            Phase::Late => Self::Late,
            Phase::Lost => Self::Lost,
            _ if timed_out => Self::TimedOut,
            _ if by_tag_check => Self::Refused,
            _ => Self::Failed,
        }
    }
}

// === impl Settings ===

impl Settings {
    /// Checks and sorts.
    pub fn new(tag: String, overrides: Vec<Override>) -> Result<Self> {
        let change = SettingsChange { tag: Some(tag), set: overrides, unset: Vec::new() };
        Self::default().changed(&change)
    }

    /// These settings with a change applied.
    pub fn changed(&self, change: &SettingsChange) -> Result<Self> {
        let mut settings = self.clone();
        if let Some(tag) = &change.tag {
            check_tag(tag)?;
            settings.tag.clone_from(tag);
        }
        for (n, gone) in change.unset.iter().enumerate() {
            let before = settings.overrides.len();
            settings.overrides.retain(|o| (o.level, &o.key) != (gone.level, &gone.key));
            if settings.overrides.len() == before {
                let message = format!("there is no override {:?} at this level to take away", gone.key);
                return Err(Error::invalid(format!("unset[{n}].key"), message));
            }
        }
        for (n, new) in change.set.iter().enumerate() {
            check_override(n, new)?;
            if change.set[..n].iter().any(|o| (o.level, &o.key) == (new.level, &new.key)) {
                return Err(Error::invalid(format!("overrides[{n}].key"), format!("{:?} is set twice", new.key)));
            }
            settings.overrides.retain(|o| (o.level, &o.key) != (new.level, &new.key));
            settings.overrides.push(new.clone());
        }
        settings.overrides.sort_by(|a, b| (a.level, &a.key).cmp(&(b.level, &b.key)));
        Ok(settings)
    }

    /// The same without secrets.
    pub fn masked(&self) -> MaskedSettings {
        let mask = |o: &Override| MaskedOverride {
            level: o.level,
            key: o.key.clone(),
            value: (!o.secret).then(|| o.value.clone()),
            secret: o.secret,
        };
        MaskedSettings { tag: self.tag.clone(), overrides: self.overrides.iter().map(mask).collect() }
    }
}

/// A staging's name: 2 to 17 characters, a letter first.
pub fn check_name(name: &str) -> Result<()> {
    let tail = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let right = (2..=17).contains(&name.len()) && name.as_bytes()[0].is_ascii_lowercase() && name.bytes().all(tail);
    if right {
        return Ok(());
    }
    Err(Error::invalid(
        "name",
        "a staging's name has 2 to 17 characters: small letters, digits and '-', a letter first",
    ))
}

/// Checks what a project says.
pub fn check_project(name: &str, spec: &ProjectSpec) -> Result<()> {
    let word = |text: &str| {
        !text.is_empty()
            && text.len() <= 63
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !text.starts_with(['-', '.'])
    };
    for (field, text) in [("name", name), ("spec.namespace", &spec.namespace), ("spec.wrappers", &spec.wrappers)] {
        if !word(text) {
            let message = "1 to 63 letters, digits, '-', '_' and '.', not beginning with '-' or '.'";
            return Err(Error::invalid(field, message));
        }
    }
    if !word(&spec.base_domain.replace('.', "-")) || spec.base_domain.split('.').any(str::is_empty) {
        return Err(Error::invalid("spec.base_domain", "a domain name, such as staging.example.org"));
    }
    crate::fleet::model::check_labels("spec.agents", &spec.agents)?;
    let bounded = [
        ("spec.check_interval_seconds", spec.check_interval_seconds, 1, 86_400),
        ("spec.pending_limit_seconds", spec.pending_limit_seconds, 1, 86_400),
        ("spec.timeout_seconds", spec.timeout_seconds, 1, 86_400),
        ("spec.memory_bytes", spec.memory_bytes, 0, i64::MAX),
        ("spec.file_bytes", spec.file_bytes, 0, i64::MAX),
        ("spec.archived_retention_days", spec.archived_retention_days.unwrap_or(1), 1, 36_500),
    ];
    match bounded.into_iter().find(|(_, value, least, most)| value < least || value > most) {
        Some((field, _, least, i64::MAX)) => Err(Error::invalid(field, format!("at least {least}"))),
        Some((field, _, least, most)) => Err(Error::invalid(field, format!("between {least} and {most}"))),
        None => Ok(()),
    }
}

fn check_tag(tag: &str) -> Result<()> {
    let right =
        !tag.is_empty() && tag.len() <= 255 && !tag.starts_with('-') && tag.bytes().all(|b| b.is_ascii_graphic());
    if right {
        return Ok(());
    }
    Err(Error::invalid("tag", "a tag has 1 to 255 visible characters without spaces and does not begin with '-'"))
}

fn check_override(n: usize, new: &Override) -> Result<()> {
    let field = |part: &str| format!("overrides[{n}].{part}");
    if new.key.is_empty() || new.key.len() > 200 || new.key.chars().any(char::is_control) {
        return Err(Error::invalid(field("key"), "a key has 1 to 200 characters, no control characters among them"));
    }
    if new.key.contains('=') {
        let message = "a key has no '=': it is handed over as key=value; put what follows the '=' into the value";
        return Err(Error::invalid(field("key"), message));
    }
    if new.value.contains('\0') || new.value.len() > MAX_VALUE {
        return Err(Error::invalid(
            field("value"),
            format!("a value has at most {MAX_VALUE} bytes, no NUL among them"),
        ));
    }
    Ok(())
}

/// Chooses the host of a new staging: one that is not offline before one that is, then the one with fewest stagings, then
/// the lowest id.
pub fn place(project: &str, spec: &ProjectSpec, candidates: &[Candidate]) -> Result<AgentId> {
    if candidates.is_empty() {
        let labels: Vec<_> = spec.agents.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let message = format!(
            "no staging-host carries the labels of project {project:?} ({}); label one, or change the project",
            if labels.is_empty() { "none asked for".into() } else { labels.join(",") }
        );
        return Err(Error::invalid("project", message));
    }
    let chosen = candidates
        .iter()
        .filter(|c| c.offers(&spec.wrappers))
        .min_by_key(|c| (c.is_offline, c.stagings, c.agent.clone()));
    chosen.map(|c| c.agent.clone()).ok_or_else(|| {
        let message = format!(
            "none of the {} matching hosts offers the wrapper folder {:?}; list it as [staging.wrappers.{}] in the agent's \
             configuration",
            candidates.len(),
            spec.wrappers,
            spec.wrappers
        );
        Error::invalid("project", message)
    })
}
