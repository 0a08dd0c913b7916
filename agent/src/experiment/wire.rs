//! Model ↔ proto.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use muster_proto::experiment as proto;
use prost::Message;

use super::{
    model::{
        Cleaned, Cleanup, Container, Content, Deployed, Deployment, Environment, Executed, Executor, Flag,
        FlagQuestion, Image, Kind, Run, RunState, Shell, Source, State, Step, Work,
    },
    plan::{self, Input, Need, On, Pipeline, Repeat, Task},
};
use crate::ledger::{Reason, Refused};

/// An executor's heartbeat when its document names none.
const HEARTBEAT_SECONDS: u32 = 30;

/// An executor's limit when its document names none.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads the document of a deployment.
pub fn deployment(document: &[u8]) -> Result<Deployment, Refused> {
    let read = proto::Deployment::decode(document).map_err(|e| malformed(e.to_string()))?;
    let environment = environment(read.environment.ok_or_else(|| malformed("environment is missing"))?)?;
    let graph = read.graph.map(|read| content("graph", read)).transpose()?;
    Ok(Deployment { environment, graph })
}

/// Reads the document of an executor.
pub fn executor(document: &[u8]) -> Result<Executor, Refused> {
    let read = proto::Executor::decode(document).map_err(|e| malformed(e.to_string()))?;
    let work = match read.work {
        Some(proto::executor::Work::Python(python)) => {
            let seconds = python.heartbeat_seconds;
            Work::Python { heartbeat_seconds: if seconds == 0 { HEARTBEAT_SECONDS } else { seconds } }
        }
        Some(proto::executor::Work::Pipeline(read)) => Work::Pipeline(pipeline(read)?),
        None => return Err(malformed("work is missing: python or pipeline")),
    };
    if read.experiment_id.is_empty() {
        return Err(malformed("experiment_id is empty"));
    }
    let container = match read.image.as_str() {
        "" => None,
        image => Some(container(image, read.container.unwrap_or_default())?),
    };
    Ok(Executor {
        experiment_id: read.experiment_id,
        environment: digest("environment", &read.environment)?,
        variables: variables("variables", read.variables)?,
        work,
        container,
        memory_bytes: read.memory_bytes,
        file_bytes: read.file_bytes,
        limit: seconds(read.limit_seconds).unwrap_or(YEAR),
        lease: seconds(read.lease_seconds),
    })
}

/// Reads the document of a cleanup.
pub fn cleanup(document: &[u8]) -> Result<Cleanup, Refused> {
    let read = proto::Cleanup::decode(document).map_err(|e| malformed(e.to_string()))?;
    let environments = read.environments.iter().map(|bytes| digest("environments", bytes)).collect::<Result<_, _>>()?;
    Ok(Cleanup { folder: read.folder, environments })
}

/// The result of a deployment.
pub fn deployed(deployed: &Deployed) -> Bytes {
    let step = match deployed.step {
        Step::Waiting => proto::deployment_result::Step::Waiting,
        Step::Fetching => proto::deployment_result::Step::Fetching,
        Step::Building => proto::deployment_result::Step::Building,
        Step::Ready => proto::deployment_result::Step::Ready,
    };
    let result = proto::DeploymentResult {
        step: step.into(),
        cached: deployed.cached,
        environment_bytes: deployed.bytes,
        python_version: deployed.python_version.clone(),
        exit_code: deployed.exit_code,
        message: deployed.message.clone(),
        archive: deployed.archive.as_ref().map(said),
        started_ms: deployed.started_ms,
        ended_ms: deployed.ended_ms,
    };
    result.encode_to_vec().into()
}

/// The result of an executor.
pub fn executed(executed: &Executed) -> Bytes {
    let state = match executed.state {
        State::Looking => proto::executor_result::State::Looking,
        State::Executing => proto::executor_result::State::Executing,
        State::Reporting => proto::executor_result::State::Reporting,
        State::Finished => proto::executor_result::State::Finished,
    };
    let result = proto::ExecutorResult {
        state: state.into(),
        results: executed.results.as_ref().map(said),
        exit_code: executed.exit_code,
        signal: executed.signal,
        message: executed.message.clone(),
        started_ms: executed.started_ms,
        ended_ms: executed.ended_ms,
        timed_out: executed.timed_out,
        runs: executed.runs.iter().map(run).collect(),
        runs_left_out: executed.runs_left_out,
        lease_ended: executed.lease_ended,
    };
    result.encode_to_vec().into()
}

/// What one try of a task adds to a report, bytes.
pub fn size_of(told: &Run) -> usize {
    // The field's tag and the length before it.
    run(told).encoded_len() + 8
}

/// The result of a cleanup.
pub fn cleaned(cleaned: &Cleaned) -> Bytes {
    let (freed_bytes, message) = (cleaned.freed_bytes, cleaned.message.clone());
    proto::CleanupResult { freed_bytes, message }.encode_to_vec().into()
}

/// A question about a flag. The same `request_id` asks the same thing, however often.
pub fn flag_ask(name: &str, question: &FlagQuestion, request_id: &str) -> Bytes {
    let what = match question {
        FlagQuestion::Get { wait_ms, until } => proto::flag_ask::What::Get(proto::FlagGet {
            wait_ms: *wait_ms,
            until_set: *wait_ms > 0,
            until_text: until.text.clone(),
            until_at_least: until.at_least,
        }),
        FlagQuestion::Set(flag) => {
            proto::flag_ask::What::Set(proto::FlagSet { text_value: flag.text.clone(), int_value: flag.number })
        }
        FlagQuestion::Add(by) => proto::flag_ask::What::Add(proto::FlagAdd { by: *by }),
    };
    let ask = proto::FlagAsk { name: name.into(), what: Some(what), request_id: request_id.into() };
    ask.encode_to_vec().into()
}

/// The answer to a question about a flag; none: it was never set.
pub fn flag_answer(body: &[u8]) -> Result<Option<Flag>, String> {
    let read = proto::FlagAnswer::decode(body).map_err(|e| format!("home's answer cannot be read: {e}"))?;
    Ok((!read.unset).then_some(Flag { text: read.text_value, number: read.int_value }))
}

fn environment(read: proto::Environment) -> Result<Environment, Refused> {
    let kind = match read.kind {
        Some(proto::environment::Kind::Shell(shell)) => {
            for command in &shell.commands {
                no_nul("environment.shell.commands", command)?;
            }
            let letter = |c: char| c.is_ascii_alphanumeric() || ".+!-".contains(c);
            if !shell.cloudpickle_version.chars().all(letter) {
                return Err(malformed("environment.shell.cloudpickle_version is no version"));
            }
            let (commands, python, cloudpickle) = (shell.commands, shell.python, shell.cloudpickle_version);
            Kind::Shell(Shell { commands, python, cloudpickle })
        }
        Some(proto::environment::Kind::Image(read)) => Kind::Image(image(read)?),
        None => return Err(malformed("environment is neither a shell nor an image")),
    };
    let digest = digest("environment.digest", &read.digest)?;
    let limit = seconds(read.limit_seconds).unwrap_or_default();
    Ok(Environment { digest, kind, limit, limit_bytes: read.limit_bytes })
}

fn image(read: proto::Image) -> Result<Image, Refused> {
    image_name("environment.image.name", &read.name)?;
    let letter = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if read.platform.starts_with('-') || !read.platform.chars().all(letter) {
        return Err(malformed(format!("environment.image.platform {:?}: use linux/amd64 or its like", read.platform)));
    }
    let source = match read.source {
        Some(proto::image::Source::Pull(_)) => Source::Pull,
        Some(proto::image::Source::Containerfile(text)) => Source::Containerfile(text),
        Some(proto::image::Source::Archive(read)) => Source::Archive(content("environment.image.archive", read)?),
        None => return Err(malformed("environment.image.source is missing: pull, containerfile or archive")),
    };
    Ok(Image { name: read.name, source, platform: read.platform, save: read.save })
}

fn container(image: &str, read: proto::Container) -> Result<Container, Refused> {
    image_name("image", image)?;
    if read.network.starts_with('-') {
        return Err(malformed(format!("container.network {:?} is no name of a network", read.network)));
    }
    let ports = read.ports.into_iter().collect();
    Ok(Container { image: image.into(), ports, arguments: read.additional_arguments, network: read.network })
}

/// A name that began with a dash would be an option.
fn image_name(field: &str, name: &str) -> Result<(), Refused> {
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && !name.contains(char::is_whitespace) {
        Ok(())
    } else {
        Err(malformed(format!("{field} {name:?}: a reference begins with a letter or a digit and has no spaces")))
    }
}

fn pipeline(read: proto::Pipeline) -> Result<Pipeline, Refused> {
    let names: Vec<String> = read.tasks.iter().map(|task| task.name.clone()).collect();
    if names.is_empty() {
        return Err(malformed("pipeline.tasks is empty"));
    }
    let unlike: BTreeSet<_> = names.iter().collect();
    if unlike.len() != names.len() {
        return Err(malformed("pipeline.tasks: a name stands twice"));
    }
    let tasks = read.tasks.into_iter().map(|read| task(read, &names)).collect::<Result<_, _>>()?;
    let parallel = usize::try_from(read.parallel).unwrap_or(usize::MAX);
    let pipeline = Pipeline { tasks, early_stopping: read.early_stopping, parallel };
    if let Some(circle) = pipeline.circle() {
        return Err(malformed(format!("pipeline.tasks need one another in a circle: {circle}")));
    }
    for (at, task) in pipeline.tasks.iter().enumerate() {
        if task.repeat.is_some_and(|repeat| pipeline.part(repeat.from, at).is_empty()) {
            return Err(malformed(format!("task {}: repeat.from does not lead to it", task.name)));
        }
    }
    Ok(pipeline)
}

fn task(read: proto::Task, names: &[String]) -> Result<Task, Refused> {
    let name = read.name;
    if name.is_empty() || name.len() > 256 || name.contains(char::is_control) {
        return Err(malformed(format!("task {name:?}: a name has 1 to 256 bytes on one line")));
    }
    let wrong = |what: String| malformed(format!("task {name}: {what}"));
    let find = |field: &str, wanted: &str| {
        let at = names.iter().position(|known| known == wanted);
        at.ok_or_else(|| wrong(format!("{field} names {wanted:?}, and there is no such task")))
    };
    let work = match (read.command.is_empty(), read.script.is_empty()) {
        (false, true) => plan::Work::Command(read.command),
        (true, false) => plan::Work::Script(read.script),
        _ => return Err(wrong("it has either a command or a script".into())),
    };
    if let plan::Work::Command(command) = &work {
        command.iter().try_for_each(|word| no_nul("command", word))?;
    }
    let needs = read.needs.iter().map(|need| {
        let on = match need.on() {
            proto::On::Failure => On::Failure,
            proto::On::Any => On::Any,
            proto::On::Success | proto::On::Unspecified => On::Success,
        };
        Ok(Need { task: find("needs", &need.task)?, on })
    });
    let inputs = read.inputs.iter().map(|input| {
        inside(&input.path).and_then(|()| inside(&input.to)).map_err(&wrong)?;
        Ok(Input { task: find("inputs", &input.task)?, path: input.path.clone(), to: input.to.clone() })
    });
    let (needs, inputs) = (needs.collect::<Result<_, Refused>>()?, inputs.collect::<Result<_, Refused>>()?);
    read.outputs.iter().try_for_each(|path| inside(path)).map_err(&wrong)?;
    let repeat = read.repeat.map(|repeat| Ok(Repeat { from: find("repeat", &repeat.from)?, times: repeat.times }));
    let repeat = repeat.transpose()?;
    Ok(Task {
        work,
        variables: variables("variables", read.variables)?,
        needs,
        inputs,
        outputs: read.outputs,
        retries: read.retries,
        retry_delay: Duration::from_millis(read.retry_delay_ms.into()),
        limit: seconds(read.limit_seconds),
        repeat,
        name,
    })
}

/// Whether a path leads to something below the folder it is seen from.
fn inside(path: &str) -> Result<(), String> {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..");
    if !path.contains('\0') && path.trim_end_matches('/').split('/').all(is_plain) {
        Ok(())
    } else {
        Err(format!("{path:?} is no path below the task's folder"))
    }
}

fn variables(field: &str, read: Vec<proto::Variable>) -> Result<Vec<(String, String)>, Refused> {
    let pairs = read.into_iter().map(|variable| {
        let (name, value) = (variable.name, variable.value);
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(malformed(format!("{field} {name:?}: a name is not empty and has no `=`; neither has a NUL")));
        }
        Ok((name, value))
    });
    pairs.collect()
}

fn content(field: &str, read: proto::Content) -> Result<Content, Refused> {
    match (read.blob.is_empty(), read.size) {
        (true, size) if size == read.inline.len() as u64 => Ok(Content::Inline(read.inline)),
        (true, size) => Err(malformed(format!("{field}.size is {size}, and {} bytes are there", read.inline.len()))),
        (false, size) => Ok(Content::Blob { digest: digest(field, &read.blob)?, size }),
    }
}

fn said(content: &Content) -> proto::Content {
    let (inline, blob) = match content {
        Content::Inline(bytes) => (bytes.clone(), Bytes::new()),
        Content::Blob { digest, .. } => (Bytes::new(), muster_pki::unhex(digest).into()),
    };
    proto::Content { inline, blob, size: content.size() }
}

fn run(run: &Run) -> proto::TaskRun {
    let state = match run.state {
        RunState::Running => proto::task_run::State::Running,
        RunState::Succeeded => proto::task_run::State::Succeeded,
        RunState::Failed => proto::task_run::State::Failed,
        RunState::Skipped => proto::task_run::State::Skipped,
        RunState::TimedOut => proto::task_run::State::TimedOut,
        RunState::Cancelled => proto::task_run::State::Cancelled,
    };
    let artifact =
        |(path, content): &(String, Content)| proto::Artifact { path: path.clone(), content: Some(said(content)) };
    proto::TaskRun {
        task: run.task.clone(),
        cycle: run.cycle,
        attempt: run.attempt,
        state: state.into(),
        started_ms: run.started_ms,
        ended_ms: run.ended_ms,
        exit_code: run.exit_code,
        signal: run.signal,
        value: run.value.clone(),
        message: run.message.clone(),
        artifacts: run.artifacts.iter().map(artifact).collect(),
    }
}

fn digest(field: &str, bytes: &[u8]) -> Result<String, Refused> {
    if bytes.len() == 32 {
        Ok(muster_pki::hex(bytes))
    } else {
        Err(malformed(format!("{field} has {} bytes; a SHA-256 has 32", bytes.len())))
    }
}

fn seconds(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

fn no_nul(field: &str, text: &str) -> Result<(), Refused> {
    if text.contains('\0') { Err(malformed(format!("{field} holds a NUL byte"))) } else { Ok(()) }
}

fn malformed(message: impl Into<String>) -> Refused {
    Refused::new(Reason::Malformed, message)
}
