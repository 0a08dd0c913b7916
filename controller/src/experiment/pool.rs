//! Pools of nodes, as connectors bring them and netunicorn's clients read them. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::node::Node;

/// Pools within pools, at most.
const MAX_DEPTH: usize = 16;

/// Nodes one connector may bring for one user.
const MAX_NODES: usize = 100_000;

/// A pool of nodes.
#[derive(Debug, Clone, PartialEq)]
pub enum Pool {
    /// One that ends where its members do.
    Countable(Vec<Member>),
    /// One whose nodes are made when they are asked for: each is called like a template, with a number behind it.
    Uncountable {
        /// What its nodes are like.
        templates: Vec<Node>,
        /// How many there may be, in all; none: as many as are asked for.
        limit: Option<f64>,
    },
}

/// A part of a countable pool.
#[derive(Debug, Clone, PartialEq)]
pub enum Member {
    /// A node.
    Node(Box<Node>),
    /// A pool within.
    Pool(Pool),
}

#[derive(Deserialize)]
struct RawPool {
    node_pool_type: String,
    node_pool_data: Vec<Value>,
    #[serde(default)]
    node_pool_metadata: Value,
}

impl Pool {
    /// Reads what a connector answered. `Infinity`, which Python writes for "no limit" and JSON does not know, is none.
    pub fn read(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(&finite(text)).map_err(|e| format!("its nodes are no JSON: {e}"))?;
        let mut left = MAX_NODES;
        Self::of(value, MAX_DEPTH, &mut left)
    }

    fn of(value: Value, depth: usize, left: &mut usize) -> Result<Self, String> {
        if depth == 0 {
            return Err(format!("its pools lie within each other more than {MAX_DEPTH} deep"));
        }
        let raw: RawPool = serde_json::from_value(value).map_err(|e| format!("its pool cannot be read: {e}"))?;
        match raw.node_pool_type.as_str() {
            "CountableNodePool" => {
                let member = |value: Value| match value.get("node_pool_type") {
                    Some(_) => Self::of(value, depth - 1, left).map(Member::Pool),
                    None => node(value, left).map(|node| Member::Node(Box::new(node))),
                };
                raw.node_pool_data.into_iter().map(member).collect::<Result<_, _>>().map(Self::Countable)
            }
            "UncountableNodePool" => {
                let templates = raw.node_pool_data.into_iter().map(|value| node(value, left));
                let templates: Vec<_> = templates.collect::<Result<_, _>>()?;
                // Clients raise an error where a limit lets no node be made.
                match raw.node_pool_metadata.as_f64() {
                    Some(limit) if limit <= 0.0 => Ok(Self::Uncountable { templates: Vec::new(), limit: None }),
                    limit => Ok(Self::Uncountable { templates, limit }),
                }
            }
            other => Err(format!("its pool is a {other:?}; there are CountableNodePool and UncountableNodePool")),
        }
    }

    /// Names the connector on every node.
    pub fn stamp(&mut self, connector: &str) {
        self.each(&mut |node| {
            node.properties.insert("connector".into(), json!(connector));
        });
    }

    /// Leaves out the nodes that are not to be seen: counted ones where `keep` says no, templates where `open` does.
    pub fn retain(&mut self, keep: &impl Fn(&Node) -> bool, open: &impl Fn(&Node) -> bool) {
        match self {
            Self::Countable(members) => members.retain_mut(|member| match member {
                Member::Node(node) => keep(node),
                Member::Pool(pool) => {
                    pool.retain(keep, open);
                    true
                }
            }),
            Self::Uncountable { templates, .. } => templates.retain(open),
        }
    }

    /// The nodes of these names, by name: those that are counted, and those that templates make.
    pub fn find<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, Node> {
        let (templates, counted): (Vec<_>, Vec<_>) = self.nodes().into_iter().partition(|(_, limit)| limit.is_some());
        let counted: BTreeMap<_, _> = counted.into_iter().map(|(node, _)| (node.name.as_str(), node)).collect();
        let made = |name: &str| templates.iter().find_map(|(template, limit)| make(template, limit.flatten(), name));
        let names = names.into_iter();
        let found = names.filter_map(|name| counted.get(name).map(|node| (*node).clone()).or_else(|| made(name)));
        found.map(|node| (node.name.clone(), node)).collect()
    }

    /// Every node that is counted, and every template with the limit of its pool.
    pub fn nodes(&self) -> Vec<(&Node, Option<Option<f64>>)> {
        match self {
            Self::Countable(members) => members
                .iter()
                .flat_map(|member| match member {
                    Member::Node(node) => vec![(&**node, None)],
                    Member::Pool(pool) => pool.nodes(),
                })
                .collect(),
            Self::Uncountable { templates, limit } => templates.iter().map(|node| (node, Some(*limit))).collect(),
        }
    }

    /// As clients read it. Where there is no limit stands null.
    pub fn json(&self) -> Value {
        match self {
            Self::Countable(members) => {
                let member = |member: &Member| match member {
                    Member::Node(node) => json!(node),
                    Member::Pool(pool) => pool.json(),
                };
                let data: Vec<_> = members.iter().map(member).collect();
                json!({"node_pool_type": "CountableNodePool", "node_pool_data": data, "node_pool_metadata": null})
            }
            Self::Uncountable { templates, limit } => json!({
                "node_pool_type": "UncountableNodePool", "node_pool_data": templates, "node_pool_metadata": limit,
            }),
        }
    }

    fn each(&mut self, what: &mut impl FnMut(&mut Node)) {
        match self {
            Self::Countable(members) => members.iter_mut().for_each(|member| match member {
                Member::Node(node) => what(node),
                Member::Pool(pool) => pool.each(what),
            }),
            Self::Uncountable { templates, .. } => templates.iter_mut().for_each(what),
        }
    }
}

impl FromIterator<Node> for Pool {
    fn from_iter<I: IntoIterator<Item = Node>>(nodes: I) -> Self {
        Self::Countable(nodes.into_iter().map(|node| Member::Node(Box::new(node))).collect())
    }
}

/// The node of this name, if a template makes it: called like it, with a number from 1 on behind that.
fn make(template: &Node, limit: Option<f64>, name: &str) -> Option<Node> {
    let number = name.strip_prefix(&template.name)?;
    let is_number = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
    let number: u32 = number.parse().ok().filter(|_| is_number)?;
    let is_there = limit.is_none_or(|limit| f64::from(number) <= limit);
    is_there.then(|| Node { name: name.into(), ..template.clone() })
}

fn node(value: Value, left: &mut usize) -> Result<Node, String> {
    *left = left.checked_sub(1).ok_or_else(|| format!("it brings more than {MAX_NODES} nodes"))?;
    let mut node: Node = serde_json::from_value(value).map_err(|e| format!("one of its nodes cannot be read: {e}"))?;
    if node.name.is_empty() || node.name.chars().any(char::is_control) {
        return Err(format!(
            "one of its nodes is called {:?}; a name is not empty and has no control characters",
            node.name
        ));
    }
    if !node.has_known_architecture() {
        node.architecture = "unknown".into();
    }
    Ok(node)
}

/// JSON from what Python writes: numbers that are none become null.
fn finite(text: &str) -> String {
    let (mut out, mut rest, mut in_string) = (String::with_capacity(text.len()), text, false);
    while let Some(c) = rest.chars().next() {
        let odd = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !in_string && rest.starts_with(word));
        let taken = match (odd, c) {
            (Some(word), _) => {
                out.push_str("null");
                rest = &rest[word.len()..];
                continue;
            }
            (None, '\\') if in_string => c.len_utf8() + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, '"') => {
                in_string = !in_string;
                1
            }
            (None, c) => c.len_utf8(),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}
