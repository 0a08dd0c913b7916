//! Nodes and pools as netunicorn's clients know them. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::model::FLEET;
use crate::fleet::{agents::Agent, model::AgentId};

/// Label of an agent whose value lists, with dots between them, the access tags of its node.
pub const TAGS_LABEL: &str = "access-tags";

/// The architectures clients know; any other makes them raise an error.
const ARCHITECTURES: [&str; 5] = ["linux/amd64", "linux/arm64", "win/amd64", "win/arm64", "unknown"];

/// A node as it travels. A client requires all four fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub properties: Map<String, Value>,
    /// What its connector wants to be told again.
    pub additional_properties: Map<String, Value>,
    /// Operating system and processor.
    pub architecture: String,
}

/// What a deployment can run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum EnvironmentType {
    /// A virtual environment on the node.
    ShellExecution,
    /// A container.
    DockerImage,
}

/// A node that could be asked to run something.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// The agent; none: a connector brought it.
    pub agent: Option<AgentId>,
    /// The node.
    pub node: Node,
    /// What it can run.
    pub environments: Vec<EnvironmentType>,
    /// Who may see it, by tag; empty: everybody.
    pub tags: BTreeSet<String>,
    /// Its stream is open, or was a moment ago.
    pub online: bool,
    /// Its owner offers it to build images for others.
    pub is_builder: bool,
}

// === impl EnvironmentType ===

impl EnvironmentType {
    /// Its name on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::ShellExecution => "ShellExecution",
            Self::DockerImage => "DockerImage",
        }
    }

    /// What a name stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::ShellExecution, Self::DockerImage].into_iter().find(|t| t.word() == word)
    }
}

// === impl Node ===

impl Node {
    /// Which connector brought it; the fleet's own where it does not say.
    pub fn connector(&self) -> &str {
        self.properties.get("connector").and_then(Value::as_str).unwrap_or(FLEET)
    }

    /// Whether clients can read it.
    pub fn has_known_architecture(&self) -> bool {
        ARCHITECTURES.contains(&self.architecture.as_str())
    }
}

// === impl Placed ===

impl Placed {
    /// The node of an agent of class `experiment-node`. Labels become properties; facts have names of their own, which a
    /// label cannot take. `offers` is what its owner lets a deployment use.
    pub fn of(agent: &Agent, offers: &[String]) -> Self {
        let facts = &agent.facts;
        let mut properties: Map<String, Value> =
            agent.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let tags: BTreeSet<String> = properties
            .remove(TAGS_LABEL)
            .and_then(|list| Some(list.as_str()?.split('.').filter(|t| !t.is_empty()).map(str::to_owned).collect()))
            .unwrap_or_default();
        let known = [
            ("hostname", json!(facts.hostname)),
            ("os", json!(facts.os)),
            ("kernel", json!(facts.kernel)),
            ("cpus", json!(facts.cpus)),
            ("memory_bytes", json!(facts.memory_bytes)),
            ("connector", json!(FLEET)),
        ];
        properties.extend(known.map(|(key, value)| (key.to_owned(), value)));
        for offer in offers {
            if let Some((key @ ("python" | "executor"), version)) = offer.split_once('=') {
                properties.insert(key.into(), json!(version));
            }
        }
        let has = |word: &str| offers.iter().any(|offer| offer == word);
        let environments: Vec<_> =
            [("shell", EnvironmentType::ShellExecution), ("image", EnvironmentType::DockerImage)]
                .into_iter()
                .filter(|(word, _)| has(word))
                .map(|(_, kind)| kind)
                .collect();
        let names: Vec<_> = environments.iter().map(|e| e.word()).collect();
        properties.insert("netunicorn-environments".into(), json!(names));
        if !tags.is_empty() {
            properties.insert("netunicorn-access-tags".into(), json!(tags));
        }
        let node = Node {
            name: agent.name.clone(),
            properties,
            additional_properties: Map::new(),
            architecture: architecture(&facts.arch).into(),
        };
        let (agent, online, is_builder) = (Some(agent.id.clone()), agent.is_online(), has("builder"));
        Self { agent, node, environments, tags, online, is_builder }
    }

    /// A node that a connector brought. One that does not say what it can run can run anything.
    pub fn brought(node: Node) -> Self {
        let words = |key: &str| {
            let list = node.properties.get(key).and_then(Value::as_array);
            list.map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>())
        };
        let environments = match words("netunicorn-environments") {
            None => vec![EnvironmentType::ShellExecution, EnvironmentType::DockerImage],
            Some(names) => names.iter().filter_map(|name| EnvironmentType::from_word(name)).collect(),
        };
        let tags = words("netunicorn-access-tags").unwrap_or_default().into_iter().collect();
        Self { agent: None, node, environments, tags, online: true, is_builder: false }
    }

    /// Whether it can make and run images.
    pub fn has_engine(&self) -> bool {
        self.environments.contains(&EnvironmentType::DockerImage)
    }

    /// Whether a user of these tags may see and use it: one without tags sees all, a node without tags is seen by all,
    /// else one tag must be the same.
    pub fn is_open_to(&self, tags: &BTreeSet<String>) -> bool {
        tags.is_empty() || self.tags.is_empty() || !self.tags.is_disjoint(tags)
    }
}

/// The architecture of a Linux host from what its kernel calls it.
fn architecture(kernel: &str) -> &'static str {
    match kernel {
        "x86_64" | "amd64" => "linux/amd64",
        "aarch64" | "arm64" => "linux/arm64",
        _ => "unknown",
    }
}
