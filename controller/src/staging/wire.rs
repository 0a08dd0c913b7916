//! Stagings to and from the wire.

use muster_proto::staging as proto;
use prost::Message;

use super::{
    model::{Level, Outcome, ProjectSpec, Settings, Verb},
    plan::{Checked, End, Progress, Watch, progress},
};
use crate::{
    error::{Error, Result},
    fleet::{desired::Report, model::Phase},
    platform::db::clean,
};

/// The document that runs one wrapper.
pub fn operation(project: &str, spec: &ProjectSpec, name: &str, verb: Verb, settings: &Settings) -> Vec<u8> {
    let with_settings = matches!(verb, Verb::Create | Verb::Update | Verb::Restore);
    let settings = if with_settings { settings.clone() } else { Settings::default() };
    let one = |o: super::model::Override| proto::Override {
        level: match o.level {
            Level::App => proto::r#override::Level::App.into(),
            Level::Staging => proto::r#override::Level::Staging.into(),
        },
        key: o.key,
        value: o.value,
    };
    let wrapper = match verb {
        // An archived staging comes back by being created again with its last settings.
        Verb::Create | Verb::Restore => proto::Wrapper::Create,
        Verb::Update => proto::Wrapper::Update,
        Verb::Delete => proto::Wrapper::Delete,
        Verb::Cleanup => proto::Wrapper::Cleanup,
    };
    proto::Operation {
        folder: spec.wrappers.clone(),
        wrapper: wrapper.into(),
        subject: Some(subject(project, spec, name)),
        tag: settings.tag,
        overrides: settings.overrides.into_iter().map(one).collect(),
        timeout_seconds: seconds(spec.timeout_seconds),
        memory_bytes: spec.memory_bytes.unsigned_abs(),
        file_bytes: spec.file_bytes.unsigned_abs(),
    }
    .encode_to_vec()
}

/// The document that runs a check again and again.
pub fn watch(project: &str, spec: &ProjectSpec, name: &str, watch: Watch, after: &str) -> Vec<u8> {
    proto::Watch {
        folder: spec.wrappers.clone(),
        wrapper: match watch {
            Watch::Check => proto::Wrapper::Check.into(),
            Watch::ArchiveCheck => proto::Wrapper::ArchiveCheck.into(),
        },
        subject: Some(subject(project, spec, name)),
        interval_seconds: seconds(spec.check_interval_seconds),
        timeout_seconds: seconds(spec.pending_limit_seconds.min(spec.timeout_seconds)),
        after_operation: after.into(),
    }
    .encode_to_vec()
}

/// What an agent said of an operation.
pub fn operation_progress(report: &Report) -> Result<Progress> {
    let result = proto::OperationResult::decode(report.result.as_slice()).map_err(Error::internal)?;
    let by_tag_check = result.wrapper() == proto::Wrapper::TagCheck;
    let outcome = Outcome::of(report.phase, by_tag_check, result.timed_out);
    let ended_at = if result.ended_ms > 0 { result.ended_ms } else { report.at };
    let end = End {
        outcome,
        exit_code: result.exit_code.map(i64::from),
        signal: result.signal.map(i64::from),
        started_at: (result.started_ms > 0).then_some(result.started_ms),
        ended_at,
        message: message(outcome, &result.message, report),
    };
    Ok(progress(report.phase, report.outcome, report.at, end))
}

/// What an agent said of a check; none when it could not be run at all yet.
pub fn checked(report: &Report) -> Result<Option<Checked>> {
    match report.phase {
        Phase::Applied => {
            let result = proto::WatchResult::decode(report.result.as_slice()).map_err(Error::internal)?;
            Ok(Some(Checked { passed: result.passed, message: clean(&result.message) }))
        }
        Phase::Failed => {
            let message = report.conditions.iter().find(|c| !c.message.is_empty()).map(|c| c.message.clone());
            let message = message.unwrap_or_else(|| "the check could not be run".into());
            Ok(Some(Checked { passed: false, message }))
        }
        _ => Ok(None),
    }
}

/// Why an operation ended as it did: the wrapper's words, else the agent's, else ours. Never empty but for success.
fn message(outcome: Outcome, said: &str, report: &Report) -> String {
    let ours = match outcome {
        Outcome::Succeeded => return clean(said),
        Outcome::Failed => "it failed without a word",
        Outcome::Refused => "tag_check refused without a word",
        Outcome::TimedOut => "it ran into its time limit and was ended",
        Outcome::Cancelled => "cancelled",
        Outcome::Interrupted if report.may_have_run => "interrupted; it may have had effects",
        Outcome::Interrupted => "interrupted before it was started",
        Outcome::Late => "the host took it up too late and did not start it",
        Outcome::Lost => "its host is gone",
    };
    let conditions = report.conditions.iter().map(|c| c.message.as_str());
    let found = std::iter::once(said).chain(conditions).find(|text| !text.trim().is_empty());
    match (outcome, found) {
        (Outcome::Failed | Outcome::Refused, Some(text)) => clean(text),
        (_, Some(text)) if text != ours => clean(&format!("{ours}: {text}")),
        _ => ours.into(),
    }
}

fn subject(project: &str, spec: &ProjectSpec, name: &str) -> proto::Subject {
    proto::Subject {
        project_name: project.into(),
        base_domain: spec.base_domain.clone(),
        namespace: spec.namespace.clone(),
        name: name.into(),
    }
}

fn seconds(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
