//! What a client asks to be prepared: read, checked, and refused in the words its users know. Pure.
//!
//! The checks and their order are those of netunicorn's mediator; what it forgets to check, Muster does not.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use muster_pki::{hex, sha256};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    node::{EnvironmentType, Node},
    spec,
};

/// Deployments one experiment may have.
pub const MAX_DEPLOYMENTS: usize = 10_000;

/// Keep-alive of a deployment that does not say, minutes.
const KEEP_ALIVE: i64 = 10;

/// Longest keep-alive, minutes: a year.
const MAX_KEEP_ALIVE: i64 = 525_600;

/// Variables that are Muster's to set.
pub const OWN_VARIABLES: [&str; 2] = ["NETUNICORN_EXECUTOR_ID", "NETUNICORN_EXPERIMENT_ID"];

/// An experiment to be prepared.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// What is to be deployed where, in the client's order.
    pub deployments: Vec<Deployment>,
    /// For connectors, as it came.
    pub context: Value,
}

/// One deployment to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// The node, as the client knows it.
    pub node: Node,
    /// All that came, without the graph: what the client is given back.
    pub document: Map<String, Value>,
    /// What the executor does.
    pub work: Work,
    /// What it runs in.
    pub environment: Definition,
    /// A node that is silent for so long is given up, minutes.
    pub keep_alive_minutes: i64,
    /// Whether the executor's folder is removed in the end.
    pub cleanup: bool,
}

/// What an executor does.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// A client's graph: opaque bytes, never opened.
    Graph(Bytes),
    /// A native pipeline.
    Pipeline(spec::Deployment),
}

/// What an executor runs in, as clients define it.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Which kind.
    pub kind: EnvironmentType,
    /// Image to use as it is; none: made from the commands.
    pub image: Option<String>,
    /// Shell commands that make it.
    pub commands: Vec<String>,
    /// Python of an image that is made.
    pub python_version: Option<String>,
    /// Version of cloudpickle the graph was made with.
    pub cloudpickle_version: Option<String>,
    /// For the executor.
    pub runtime: Runtime,
}

/// How an executor is started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Runtime {
    /// Host port → container port.
    #[serde(default)]
    pub ports_mapping: BTreeMap<String, Value>,
    /// Variables of its environment.
    #[serde(default)]
    pub environment_variables: BTreeMap<String, String>,
    /// Arguments of the container engine.
    #[serde(default)]
    pub additional_arguments: Vec<String>,
    /// Network of the container.
    #[serde(default)]
    pub network: Option<String>,
}

/// Why an order cannot be read, for `Couldn't parse experiment from the provided data: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// Why an order is refused; a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

#[derive(Deserialize)]
struct RawOrder {
    deployment_map: Vec<Map<String, Value>>,
    #[serde(default)]
    deployment_context: Value,
}

#[derive(Deserialize)]
struct RawDefinition {
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    commands: Option<Vec<String>>,
    #[serde(default)]
    build_context: Option<RawBuild>,
    #[serde(default)]
    runtime_context: Runtime,
}

#[derive(Deserialize)]
struct RawBuild {
    #[serde(default)]
    python_version: Option<String>,
    #[serde(default)]
    cloudpickle_version: Option<String>,
}

// === reading ===

impl Order {
    /// Reads an order.
    pub fn read(body: &[u8]) -> Result<Self, Unreadable> {
        let raw: RawOrder = serde_json::from_slice(body).map_err(|e| Unreadable(e.to_string()))?;
        if raw.deployment_map.is_empty() {
            return Err(Unreadable("deployment_map is empty; an experiment has at least one deployment".into()));
        }
        if raw.deployment_map.len() > MAX_DEPLOYMENTS {
            return Err(Unreadable(format!("deployment_map has more than {MAX_DEPLOYMENTS} deployments")));
        }
        let one = |(n, map)| Deployment::read(map).map_err(|why| Unreadable(format!("deployment_map[{n}].{}", why.0)));
        let deployments = raw.deployment_map.into_iter().enumerate().map(one).collect::<Result<_, _>>()?;
        Ok(Self { deployments, context: raw.deployment_context })
    }

    /// Digest of what is asked for: equal for a repeat, whatever ids the client gave its executors.
    pub fn digest(&self) -> String {
        let mut text = self.context.to_string();
        for deployment in &self.deployments {
            let mut document = deployment.document.clone();
            ["executor_id", "prepared", "error"].iter().for_each(|key| drop(document.remove(*key)));
            text.push('\n');
            text.push_str(&Value::Object(document).to_string());
            match &deployment.work {
                Work::Graph(graph) => text.push_str(&hex(&sha256(graph))),
                Work::Pipeline(pipeline) => text.push_str(&json!(pipeline).to_string()),
            }
        }
        hex(&sha256(text.as_bytes()))
    }

    /// What needs no knowledge of nodes, in the mediator's order.
    pub fn check(&self, is_admin: bool) -> Result<(), Refused> {
        let mut seen = BTreeSet::new();
        for deployment in &self.deployments {
            let id = deployment.document.get("executor_id").and_then(Value::as_str).unwrap_or_default();
            if !id.is_empty() && !seen.insert(id) {
                return Err(Refused(format!("Experiment has non-unique non-empty executor id: {id}")));
            }
        }
        let arguments = |d: &Deployment| !d.environment.runtime.additional_arguments.is_empty();
        if !is_admin && self.deployments.iter().any(arguments) {
            return Err(Refused("This user is not allowed to use additional arguments in runtime context".into()));
        }
        self.deployments.iter().try_for_each(|d| d.environment.check())
    }
}

impl Deployment {
    fn read(mut document: Map<String, Value>) -> Result<Self, Unreadable> {
        let graph = document.remove("execution_graph");
        let is_there = graph.is_some();
        let graph = graph.and_then(|graph| BASE64_STANDARD.decode(graph.as_str()?).ok());
        let read = Self::of(document, Work::Graph(graph.clone().unwrap_or_default().into()))?;
        match (is_there, graph) {
            (_, Some(_)) => Ok(read),
            (true, None) => Err(Unreadable("execution_graph is not base64".into())),
            (false, None) => Err(Unreadable("execution_graph is missing".into())),
        }
    }

    /// Reads a deployment of this work.
    pub fn of(document: Map<String, Value>, work: Work) -> Result<Self, Unreadable> {
        let missing = |key: &str| Unreadable(format!("{key} is missing"));
        let node = document.get("node").cloned().ok_or_else(|| missing("node"))?;
        let node: Node = serde_json::from_value(node).map_err(|e| Unreadable(format!("node: {e}")))?;
        if node.name.is_empty() || node.name.contains('\0') {
            return Err(Unreadable("node.name is empty or holds a NUL".into()));
        }
        if !node.has_known_architecture() {
            return Err(Unreadable(format!("node.architecture: '{}' is not a valid Architecture", node.architecture)));
        }
        let kind = document.get("environment_definition_type").and_then(Value::as_str);
        let kind = kind.and_then(EnvironmentType::from_word).ok_or_else(|| {
            Unreadable("environment_definition_type is neither ShellExecution nor DockerImage".into())
        })?;
        let definition = document.get("environment_definition").cloned();
        let definition = definition.ok_or_else(|| missing("environment_definition"))?;
        let environment = Definition::read(kind, definition)?;
        let keep_alive = document.get("keep_alive_timeout_minutes").map_or(Some(KEEP_ALIVE), Value::as_i64);
        let keep_alive_minutes = keep_alive.filter(|m| (1..=MAX_KEEP_ALIVE).contains(m)).ok_or_else(|| {
            Unreadable(format!("keep_alive_timeout_minutes is not a number from 1 to {MAX_KEEP_ALIVE}"))
        })?;
        let cleanup = document.get("cleanup").map_or(Some(true), Value::as_bool);
        let cleanup = cleanup.ok_or_else(|| Unreadable("cleanup is neither true nor false".into()))?;
        Ok(Self { node, document, work, environment, keep_alive_minutes, cleanup })
    }

    /// A native pipeline on a node, in a client's words.
    pub fn native(node: Node, pipeline: &spec::Deployment) -> Self {
        let commands = pipeline.environment.as_ref().map(|e| e.commands.clone()).unwrap_or_default();
        let environment_variables = pipeline.variables.clone();
        let environment = Definition {
            kind: EnvironmentType::ShellExecution,
            image: None,
            commands,
            python_version: None,
            cloudpickle_version: None,
            runtime: Runtime { environment_variables, ..Runtime::default() },
        };
        let document = json!({
            "node": node,
            "environment_definition_type": environment.kind.word(),
            "environment_definition": {"commands": environment.commands, "runtime_context": environment.runtime},
        });
        let Value::Object(document) = document else { unreachable!("it was just written as an object") };
        Self {
            node,
            document,
            work: Work::Pipeline(pipeline.clone()),
            environment,
            keep_alive_minutes: pipeline.keep_alive_minutes,
            cleanup: pipeline.cleanup,
        }
    }

    /// What a client is given back at first: its own words, with the ids that are Muster's to give.
    pub fn stored(&self, experiment: &str, executor: &str) -> Map<String, Value> {
        let mut document = self.document.clone();
        document.insert("executor_id".into(), json!(executor));
        document.insert("prepared".into(), json!(false));
        document.insert("error".into(), Value::Null);
        document.insert("keep_alive_timeout_minutes".into(), json!(self.keep_alive_minutes));
        document.insert("cleanup".into(), json!(self.cleanup));
        if let Some(Value::Object(definition)) = document.get_mut("environment_definition") {
            let mut runtime = self.environment.runtime.clone();
            let own = OWN_VARIABLES.into_iter().zip([executor, experiment]);
            runtime.environment_variables.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
            definition.insert("runtime_context".into(), json!(runtime));
        }
        document
    }
}

impl Definition {
    /// Reads a definition of a kind.
    pub fn read(kind: EnvironmentType, value: Value) -> Result<Self, Unreadable> {
        let raw: RawDefinition =
            serde_json::from_value(value).map_err(|e| Unreadable(format!("environment_definition: {e}")))?;
        let build = raw.build_context.unwrap_or(RawBuild { python_version: None, cloudpickle_version: None });
        Ok(Self {
            kind,
            image: raw.image.filter(|image| !image.is_empty()),
            commands: raw.commands.unwrap_or_default(),
            python_version: build.python_version,
            cloudpickle_version: build.cloudpickle_version,
            runtime: raw.runtime_context,
        })
    }

    fn check(&self) -> Result<(), Refused> {
        let refuse = |text: &str| Err(Refused(text.into()));
        let runtime = &self.runtime;
        let is_port = |text: &str| text.trim().parse::<u16>().is_ok();
        let ports = |(from, to): (&String, &Value)| {
            is_port(from) && to.as_u64().is_some_and(|to| to <= 65_535) || to.as_str().is_some_and(is_port)
        };
        if self.kind == EnvironmentType::DockerImage && !runtime.ports_mapping.iter().all(ports) {
            return refuse("Ports mapping in runtime context must be a dict of int to int");
        }
        if runtime.environment_variables.iter().any(|(name, value)| name.contains(' ') || value.contains(' ')) {
            return refuse("Environment variables in runtime context must not contain spaces");
        }
        let names = runtime.environment_variables.keys();
        if names.into_iter().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return refuse("Environment variables in runtime context must have a name without '='");
        }
        if runtime.environment_variables.values().any(|value| value.contains('\0')) {
            return refuse("Environment variables in runtime context must not contain NUL");
        }
        if self.kind == EnvironmentType::DockerImage && runtime.network.as_ref().is_some_and(|n| n.contains(' ')) {
            return refuse("Network name in runtime context must not contain spaces");
        }
        if self.commands.iter().any(|command| command.contains('\0')) {
            return refuse("Commands of an environment definition must not contain NUL");
        }
        let version =
            |v: &String| v.is_empty() || !v.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b));
        if [&self.python_version, &self.cloudpickle_version].into_iter().flatten().any(version) {
            return refuse("Versions in a build context are made of letters, digits, '.', '_', '-' and '+'");
        }
        Ok(())
    }

    /// Digest of what defines it: equal environments are made once per node. The graph is no part of it, nor is what the
    /// executor is started with; whether it holds the Python executor is.
    pub fn digest(&self, architecture: &str, has_executor: bool) -> [u8; 32] {
        let what = json!({
            "kind": self.kind.word(),
            "executor": has_executor,
            "image": self.image,
            "commands": self.commands,
            "python": self.python_version,
            "cloudpickle": self.cloudpickle_version,
            "architecture": architecture,
        });
        sha256(what.to_string().as_bytes())
    }
}
