//! Experiments to and from the wire.

use std::collections::{BTreeMap, BTreeSet};

use muster_pki::{hex, unhex};
use muster_proto::experiment as proto;
use prost::Message;

use super::{
    environment::plan::Told as Build,
    model::{FlagChange, FlagValues, Outcome, Until},
    node::EnvironmentType,
    order::{Definition, OWN_VARIABLES},
    plan::{End, Told},
    spec,
};
use crate::{
    error::{Error, Result},
    fleet::{desired::Report, model::Phase},
    platform::db::clean,
};

/// Content up to this size lies in its message, bytes; more travels as a blob.
pub const INLINE: usize = 64 * 1024;

/// Making an environment takes at most this long, seconds.
const ENVIRONMENT_SECONDS: u32 = 3600;

/// What an executor and its environment may send home as blobs, bytes each.
pub const STORE_BYTES: i64 = 1 << 30;

/// An image that travels may have at most so many bytes, and what was saved of it too: agents keep no more blobs.
pub const ARCHIVE_BYTES: i64 = 1 << 32;

/// Bytes by their digest, or in the message where that is possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bytes {
    /// In the message.
    Inline(Vec<u8>),
    /// By SHA-256, hexadecimal, and size.
    Blob(String, u64),
}

/// What an executor left.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// What the Python executor posted last.
    pub results: Option<Bytes>,
    /// The runs of a native pipeline's tasks.
    pub runs: Vec<proto::TaskRun>,
    /// Its agent ended it: home was away for longer than its lease.
    pub lease_ended: bool,
}

// === impl Bytes ===

impl Bytes {
    /// Bytes as they travel.
    pub fn content(&self) -> proto::Content {
        match self {
            Self::Inline(bytes) => {
                proto::Content { inline: bytes.clone().into(), blob: bytes::Bytes::new(), size: bytes.len() as u64 }
            }
            Self::Blob(digest, size) => {
                proto::Content { inline: bytes::Bytes::new(), blob: unhex(digest).into(), size: *size }
            }
        }
    }

    /// Their digest, where they are a blob.
    pub fn blob(&self) -> Option<String> {
        match self {
            Self::Blob(digest, _) => Some(digest.clone()),
            Self::Inline(_) => None,
        }
    }

    /// Bytes as they came.
    pub fn of(content: proto::Content) -> Self {
        if content.blob.is_empty() {
            Self::Inline(content.inline.to_vec())
        } else {
            Self::Blob(hex(&content.blob), content.size)
        }
    }
}

// === impl Left ===

impl Left {
    /// Everything it names, in the message or as blobs.
    pub fn contents(&self) -> Vec<Bytes> {
        let artifacts = self.runs.iter().flat_map(|run| &run.artifacts);
        let artifacts = artifacts.filter_map(|artifact| artifact.content.clone()).map(Bytes::of);
        self.results.iter().cloned().chain(artifacts).collect()
    }

    /// Digests of the blobs it names.
    pub fn blobs(&self) -> BTreeSet<String> {
        self.contents().iter().filter_map(Bytes::blob).collect()
    }
}

/// The document that prepares a node; `saved` is the image that another node built.
pub fn deployment(
    experiment: &str,
    definition: &Definition,
    digest: &str,
    architecture: &str,
    graph: Option<&Bytes>,
    saved: Option<&Bytes>,
) -> Vec<u8> {
    let kind = match definition.kind {
        EnvironmentType::ShellExecution => proto::environment::Kind::Shell(proto::Shell {
            commands: definition.commands.clone(),
            python: graph.is_some(),
            cloudpickle_version: definition.cloudpickle_version.clone().unwrap_or_default(),
        }),
        EnvironmentType::DockerImage => proto::environment::Kind::Image(proto::Image {
            name: image_name(definition, digest),
            source: Some(match (&definition.image, saved) {
                (Some(_), _) => proto::image::Source::Pull(proto::Pull {}),
                (None, Some(saved)) => proto::image::Source::Archive(saved.content()),
                (None, None) => proto::image::Source::Containerfile(containerfile(definition)),
            }),
            platform: architecture.into(),
            save: false,
        }),
    };
    let environment = environment(digest, 0, kind);
    let graph = graph.map(Bytes::content);
    let document = proto::Deployment { experiment_id: experiment.into(), environment: Some(environment), graph };
    document.encode_to_vec()
}

/// The document that has an image built and saved for others. It belongs to no experiment.
pub fn build(definition: &Definition, digest: &str, platform: &str) -> Vec<u8> {
    let kind = proto::environment::Kind::Image(proto::Image {
        name: image_name(definition, digest),
        source: Some(proto::image::Source::Containerfile(containerfile(definition))),
        platform: platform.into(),
        save: true,
    });
    let environment = environment(digest, ARCHIVE_BYTES.unsigned_abs(), kind);
    proto::Deployment { experiment_id: String::new(), environment: Some(environment), graph: None }.encode_to_vec()
}

fn environment(digest: &str, limit_bytes: u64, kind: proto::environment::Kind) -> proto::Environment {
    let (digest, limit_seconds) = (unhex(digest).into(), ENVIRONMENT_SECONDS);
    proto::Environment { digest, limit_seconds, limit_bytes, kind: Some(kind) }
}

/// The document that runs what was prepared.
pub fn executor(experiment: &str, definition: &Definition, digest: &str, native: Option<&spec::Deployment>) -> Vec<u8> {
    let runtime = &definition.runtime;
    let variable = |(name, value): (&String, &String)| proto::Variable { name: name.clone(), value: value.clone() };
    let variables = runtime.environment_variables.iter().filter(|(name, _)| !OWN_VARIABLES.contains(&name.as_str()));
    let is_image = definition.kind == EnvironmentType::DockerImage;
    let port = |value: &serde_json::Value| {
        value.as_u64().and_then(|n| u32::try_from(n).ok()).or_else(|| value.as_str()?.trim().parse().ok())
    };
    let ports = runtime.ports_mapping.iter();
    let container = proto::Container {
        ports: ports.filter_map(|(from, to)| Some((from.trim().parse().ok()?, port(to)?))).collect(),
        additional_arguments: runtime.additional_arguments.clone(),
        network: runtime.network.clone().unwrap_or_default(),
    };
    let document = proto::Executor {
        experiment_id: experiment.into(),
        environment: unhex(digest).into(),
        variables: variables.map(variable).collect(),
        work: Some(match native {
            Some(native) => proto::executor::Work::Pipeline(pipeline(native)),
            None => proto::executor::Work::Python(proto::Python { heartbeat_seconds: 30 }),
        }),
        image: if is_image { image_name(definition, digest) } else { String::new() },
        container: is_image.then_some(container),
        memory_bytes: 0,
        file_bytes: 0,
        limit_seconds: 0,
        lease_seconds: native.filter(|native| native.moves).map_or(0, lease_seconds),
    };
    document.encode_to_vec()
}

/// An agent that is away for as long as a node may be ends what may begin on another.
fn lease_seconds(native: &spec::Deployment) -> u32 {
    u32::try_from(native.keep_alive_minutes * 60).unwrap_or(u32::MAX)
}

/// A native pipeline as it travels.
fn pipeline(native: &spec::Deployment) -> proto::Pipeline {
    let variable = |(name, value): (&String, &String)| proto::Variable { name: name.clone(), value: value.clone() };
    let need = |need: &spec::Need| proto::Need {
        task: need.task().into(),
        on: match need.on() {
            spec::On::Success => proto::On::Success.into(),
            spec::On::Failure => proto::On::Failure.into(),
            spec::On::Any => proto::On::Any.into(),
        },
    };
    let input = |it: &spec::Input| proto::Input { task: it.task.clone(), path: it.path.clone(), to: it.to().into() };
    let repeat = |it: &spec::Repeat| proto::Repeat { from: it.from.clone(), times: it.times };
    let task = |task: &spec::Task| proto::Task {
        name: task.name.clone(),
        command: task.command.clone(),
        script: task.script.clone(),
        variables: task.variables.iter().map(variable).collect(),
        needs: task.needs.iter().map(need).collect(),
        inputs: task.inputs.iter().map(input).collect(),
        outputs: task.outputs.clone(),
        retries: task.retries,
        retry_delay_ms: task.retry_delay_ms,
        limit_seconds: task.limit_seconds,
        repeat: task.repeat.as_ref().map(repeat),
    };
    proto::Pipeline {
        tasks: native.tasks.iter().map(task).collect(),
        early_stopping: native.early_stopping,
        parallel: native.parallel,
    }
}

/// The document that removes what an executor left, and environments by their digests.
pub fn cleanup(experiment: &str, folder: bool, environments: &[String]) -> Vec<u8> {
    let environments = environments.iter().map(|digest| unhex(digest).into()).collect();
    proto::Cleanup { experiment_id: experiment.into(), folder, environments }.encode_to_vec()
}

/// What an agent said of an image that it was to build; what it saved need not be here yet.
pub fn build_told(report: &Report) -> Result<Build> {
    if !report.outcome {
        return Ok(Build::Working);
    }
    let result = proto::DeploymentResult::decode(report.result.as_slice()).map_err(Error::internal)?;
    let outcome = Outcome::of_deployment(report.phase);
    Ok(match (report.phase, result.archive.map(Bytes::of)) {
        (Phase::Succeeded, Some(Bytes::Blob(digest, size))) => {
            Build::Built(digest, i64::try_from(size).unwrap_or(i64::MAX))
        }
        (Phase::Succeeded, _) => Build::Failed("its builder saved nothing".into()),
        (Phase::Interrupted | Phase::Lost | Phase::Cancelled | Phase::Late, _) => {
            Build::Gone(message(outcome, &result.message, report))
        }
        _ => Build::Failed(message(outcome, &result.message, report)),
    })
}

/// What a node said of a deployment.
pub fn deployment_told(report: &Report) -> Result<Told> {
    if !report.outcome {
        return Ok(if report.phase == Phase::Working { Told::Working(report.at) } else { Told::Nothing });
    }
    let result = proto::DeploymentResult::decode(report.result.as_slice()).map_err(Error::internal)?;
    let succeeded = report.phase == Phase::Succeeded;
    let outcome = if succeeded { Outcome::Succeeded } else { Outcome::of_deployment(report.phase) };
    let message = if succeeded { String::new() } else { message(outcome, &result.message, report) };
    let started_at = (result.started_ms > 0).then_some(result.started_ms);
    Ok(Told::Ended(End { outcome, message, started_at, ended_at: report.at }))
}

/// What a node said of an executor, and what that left.
pub fn executor_told(report: &Report) -> Result<(Told, Left)> {
    let result = proto::ExecutorResult::decode(report.result.as_slice()).map_err(Error::internal)?;
    let started_at = (result.started_ms > 0).then_some(result.started_ms);
    let left = Left { results: result.results.map(Bytes::of), runs: result.runs, lease_ended: result.lease_ended };
    if !report.outcome {
        let working = report.phase == Phase::Working;
        return Ok((if working { Told::Working(started_at.unwrap_or(report.at)) } else { Told::Nothing }, left));
    }
    let outcome = Outcome::of_executor(report.phase, result.timed_out || result.lease_ended);
    let succeeded = outcome == Outcome::Succeeded;
    let message = if succeeded { String::new() } else { message(outcome, &result.message, report) };
    let ended_at = if result.ended_ms > 0 { result.ended_ms } else { report.at };
    Ok((Told::Ended(End { outcome, message, started_at, ended_at }), left))
}

/// What is known at home of work that an agent was sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// It is an executor, else a deployment.
    pub is_executor: bool,
    /// What the agent said of it last.
    pub report: Option<&'a Report>,
    /// Its assignment is there. Put in the transaction that began the work, it goes only with its agent.
    pub is_there: bool,
    /// Why the agent refused it, if it did.
    pub refusal: Option<&'a str>,
}

/// What is told of work that an agent was sent, and what an executor left.
pub fn told(it: &Sent<'_>, now: i64) -> Result<(Told, Option<Left>)> {
    let (told, left) = match it.report {
        Some(report) if it.is_executor => {
            let (told, left) = executor_told(report)?;
            (told, Some(left))
        }
        Some(report) => (deployment_told(report)?, None),
        None => (Told::Nothing, None),
    };
    if matches!(told, Told::Ended(_)) {
        return Ok((told, left));
    }
    let (outcome, why) = match it.refusal {
        _ if !it.is_there => (Outcome::Lost, Outcome::Lost.sentence()),
        Some(why) if it.is_executor => (Outcome::Failed, why),
        Some(why) => (Outcome::NotDeployed, why),
        None => return Ok((told, left)),
    };
    Ok((Told::Ended(End { outcome, message: clean(why), started_at: None, ended_at: now }), left))
}

/// The same, where not everything that an executor left is stored here: `since` its last report came.
pub fn arriving(told: Told, left: &Left, stored: &BTreeSet<String>, since: i64) -> Told {
    match told {
        Told::Ended(end) if !left.blobs().is_subset(stored) => Told::Arriving(end, since),
        other => other,
    }
}

/// Why it ended as it did: the node's words, else ours.
fn message(outcome: Outcome, said: &str, report: &Report) -> String {
    let conditions = report.conditions.iter().map(|c| c.message.as_str());
    let found = std::iter::once(said).chain(conditions).find(|text| !text.trim().is_empty());
    match (outcome, found) {
        (Outcome::Failed | Outcome::NotDeployed, Some(text)) => clean(text),
        (_, Some(text)) if text != outcome.sentence() => clean(&format!("{}: {text}", outcome.sentence())),
        _ => outcome.sentence().into(),
    }
}

fn image_name(definition: &Definition, digest: &str) -> String {
    definition.image.clone().unwrap_or_else(|| format!("localhost/muster/environment:{}", &digest[..24]))
}

/// The file an image is built from: the base, what the executor needs, then the commands. The graph is no part of it.
fn containerfile(definition: &Definition) -> String {
    let python = definition.python_version.as_deref().unwrap_or("3.11");
    let minor: Vec<_> = python.splitn(3, '.').take(2).collect();
    let mut lines = vec![
        format!("FROM docker.io/library/python:{}-slim", minor.join(".")),
        "ENV DEBIAN_FRONTEND=noninteractive".into(),
        "RUN apt-get update && apt-get install -y --no-install-recommends iproute2 iputils-ping net-tools sudo procps"
            .into(),
        "RUN pip install netunicorn-executor netunicorn-library".into(),
    ];
    lines
        .extend(definition.cloudpickle_version.iter().map(|version| format!("RUN pip install cloudpickle=={version}")));
    // As a list of arguments: a command may hold line breaks.
    let command = |command: &String| {
        let command = command.strip_prefix("sudo ").unwrap_or(command);
        format!("RUN {}", serde_json::json!(["/bin/sh", "-c", command]))
    };
    lines.extend(definition.commands.iter().map(command));
    lines.push("CMD [\"python3\", \"-m\", \"netunicorn.executor\"]".into());
    lines.join("\n") + "\n"
}

/// A question about a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagQuestion {
    /// The flag.
    pub name: String,
    /// What is asked.
    pub what: FlagWhat,
    /// Names a change, so that it is made once.
    pub request_id: String,
}

/// What is asked of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagWhat {
    /// Its values, at the latest after so many milliseconds, once it is so.
    Get(Until, u32),
    /// To change it.
    Change(FlagChange),
}

/// Reads a question about a flag; none if it is something else.
pub fn flag_question(body: &[u8]) -> Option<FlagQuestion> {
    let asked = proto::FlagAsk::decode(body).ok()?;
    let what = match asked.what? {
        proto::flag_ask::What::Get(get) => {
            let awaits = get.until_set || get.until_text.is_some() || get.until_at_least.is_some();
            let until = Until { text: get.until_text, at_least: get.until_at_least };
            FlagWhat::Get(until, if awaits { get.wait_ms } else { 0 })
        }
        proto::flag_ask::What::Set(set) => {
            let text_value = set.text_value.map(|text| clean(&text));
            FlagWhat::Change(FlagChange::Set(FlagValues { text_value, int_value: set.int_value }))
        }
        proto::flag_ask::What::Add(add) => FlagWhat::Change(FlagChange::Add(add.by)),
    };
    Some(FlagQuestion { name: clean(&asked.name), what, request_id: clean(&asked.request_id) })
}

/// The answer to it.
pub fn flag_answer(values: Option<&FlagValues>) -> Vec<u8> {
    let values_or = values.cloned().unwrap_or_default();
    proto::FlagAnswer { unset: values.is_none(), text_value: values_or.text_value, int_value: values_or.int_value }
        .encode_to_vec()
}

/// Everything by the place it had, for maps that keep no order.
pub fn by_id(reports: Vec<Report>) -> BTreeMap<String, Report> {
    reports.into_iter().map(|report| (report.key.id.clone(), report)).collect()
}

/// How far a deployment under way came, in a word.
pub fn deployment_step(report: &Report) -> Result<String> {
    use proto::deployment_result::Step;
    let result = proto::DeploymentResult::decode(report.result.as_slice()).map_err(Error::internal)?;
    let word = match result.step() {
        Step::Unspecified => "sent",
        Step::Waiting => "waiting",
        Step::Fetching => "fetching",
        Step::Building => "building",
        Step::Ready => "ready",
    };
    Ok(word.into())
}
