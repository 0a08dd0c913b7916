//! Model ↔ proto.

use std::time::Duration;

use bytes::Bytes;
use muster_proto::staging as proto;
use prost::Message;

use super::plan::{Checked, Goal, Level, Operation, Override, Ran, Subject, Watch, Wrapper};
use crate::ledger::{Reason, Refused};

/// The longest a wrapper may run when the document names no limit.
const DEFAULT_LIMIT: Duration = Duration::from_secs(1800);

/// Reads the document of an operation.
pub fn operation(document: &[u8]) -> Result<Operation, Refused> {
    let read = proto::Operation::decode(document).map_err(|e| malformed(e.to_string()))?;
    let wrapper = wrapper(read.wrapper())?;
    let overrides = read.overrides.iter().map(|o| {
        let level = match o.level() {
            proto::r#override::Level::App => Level::App,
            proto::r#override::Level::Staging => Level::Staging,
            proto::r#override::Level::Unspecified => return Err(malformed("overrides.level is missing")),
        };
        if o.key.is_empty() || o.key.contains('=') {
            return Err(malformed(format!("overrides.key {:?}: a key is not empty and holds no `=`", o.key)));
        }
        no_nul("overrides", &[&o.key, &o.value])?;
        Ok(Override { level, key: o.key.clone(), value: o.value.clone() })
    });
    let overrides = overrides.collect::<Result<_, _>>()?;
    no_nul("tag", &[&read.tag])?;
    let goal = Goal { folder: folder(&read.folder)?, wrapper, subject: subject(read.subject.as_ref())? };
    let limit = limit(read.timeout_seconds);
    Ok(Operation {
        goal,
        tag: read.tag,
        overrides,
        limit,
        memory_bytes: read.memory_bytes,
        file_bytes: read.file_bytes,
    })
}

/// Reads the document of a watch.
pub fn watch(document: &[u8]) -> Result<Watch, Refused> {
    let read = proto::Watch::decode(document).map_err(|e| malformed(e.to_string()))?;
    let wrapper = wrapper(read.wrapper())?;
    if !matches!(wrapper, Wrapper::Check | Wrapper::ArchiveCheck) {
        return Err(malformed("wrapper: a watch runs check or archive_check"));
    }
    let goal = Goal { folder: folder(&read.folder)?, wrapper, subject: subject(read.subject.as_ref())? };
    let interval = Duration::from_secs(read.interval_seconds.max(1).into());
    Ok(Watch { goal, interval, limit: limit(read.timeout_seconds) })
}

/// The result of an operation.
pub fn ran(ran: &Ran) -> Bytes {
    let result = proto::OperationResult {
        wrapper: number(ran.wrapper).into(),
        exit_code: ran.code,
        signal: ran.signal,
        started_ms: ran.started_ms,
        ended_ms: ran.ended_ms,
        timed_out: ran.timed_out,
        message: ran.message.clone(),
        stdout_bytes: ran.stdout_bytes,
        stderr_bytes: ran.stderr_bytes,
    };
    result.encode_to_vec().into()
}

/// The result of a watch.
pub fn checked(checked: &Checked, began_ms: i64) -> Bytes {
    let (passed, exit_code, message) = (checked.passed, checked.code, checked.message.clone());
    proto::WatchResult { passed, exit_code, message, began_ms }.encode_to_vec().into()
}

fn wrapper(wrapper: proto::Wrapper) -> Result<Wrapper, Refused> {
    Ok(match wrapper {
        proto::Wrapper::Create => Wrapper::Create,
        proto::Wrapper::Update => Wrapper::Update,
        proto::Wrapper::Delete => Wrapper::Delete,
        proto::Wrapper::Check => Wrapper::Check,
        proto::Wrapper::Cleanup => Wrapper::Cleanup,
        proto::Wrapper::ArchiveCheck => Wrapper::ArchiveCheck,
        proto::Wrapper::TagCheck => Wrapper::TagCheck,
        proto::Wrapper::Unspecified => return Err(malformed("wrapper is missing")),
    })
}

fn number(wrapper: Wrapper) -> proto::Wrapper {
    match wrapper {
        Wrapper::Create => proto::Wrapper::Create,
        Wrapper::Update => proto::Wrapper::Update,
        Wrapper::Delete => proto::Wrapper::Delete,
        Wrapper::Check => proto::Wrapper::Check,
        Wrapper::Cleanup => proto::Wrapper::Cleanup,
        Wrapper::ArchiveCheck => proto::Wrapper::ArchiveCheck,
        Wrapper::TagCheck => proto::Wrapper::TagCheck,
    }
}

fn subject(read: Option<&proto::Subject>) -> Result<Subject, Refused> {
    let read = read.ok_or_else(|| malformed("subject is missing"))?;
    no_nul("subject", &[&read.project_name, &read.base_domain, &read.namespace, &read.name])?;
    if read.name.is_empty() {
        return Err(malformed("subject.name is empty"));
    }
    Ok(Subject {
        project_name: read.project_name.clone(),
        base_domain: read.base_domain.clone(),
        namespace: read.namespace.clone(),
        name: read.name.clone(),
    })
}

fn folder(name: &str) -> Result<String, Refused> {
    if name.is_empty() { Err(malformed("folder is empty")) } else { Ok(name.into()) }
}

fn limit(seconds: u32) -> Duration {
    if seconds == 0 { DEFAULT_LIMIT } else { Duration::from_secs(seconds.into()) }
}

fn no_nul(field: &str, texts: &[&str]) -> Result<(), Refused> {
    // The kernel ends an argument at its first NUL, so that what follows would silently be lost.
    if texts.iter().any(|t| t.contains('\0')) { Err(malformed(format!("{field} holds a NUL byte"))) } else { Ok(()) }
}

fn malformed(message: impl Into<String>) -> Refused {
    Refused::new(Reason::Malformed, message)
}
