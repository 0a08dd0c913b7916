//! Manifests as text: several documents a file, every mistake with its line and column.

use std::{fmt, path::Path};

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use serde_saphyr::{Error, MessageFormatter, Spanned, UserMessageFormatter};

use super::{Failure, Result};

/// A value that knows where each of its parts stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// Anything without parts.
    Leaf(Value),
    /// A list.
    List(Vec<Spanned<Node>>),
    /// A map.
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

/// A document of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    /// The file it stands in.
    pub file: String,
    root: Spanned<Node>,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Node, E> {
                Ok(Node::Leaf(v.into()))
            }

            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Node, E> {
                Ok(Node::Leaf(v.into()))
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Node, E> {
                Ok(Node::Leaf(v.into()))
            }

            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Node, E> {
                Ok(Node::Leaf(v.into()))
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<Node, E> {
                Ok(Node::Leaf(v.into()))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Leaf(Value::Null))
            }

            fn visit_none<E: de::Error>(self) -> Result<Node, E> {
                self.visit_unit()
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Reads the documents of a file; `-` is standard input.
pub(crate) fn read(file: &Path) -> Result<Vec<Document>> {
    let (name, text) = if file == Path::new("-") {
        ("standard input".to_owned(), std::io::read_to_string(std::io::stdin())?)
    } else {
        (file.display().to_string(), super::context::read(file)?)
    };
    parse(&name, &text)
}

/// Reads the documents of a text.
pub(crate) fn parse(name: &str, text: &str) -> Result<Vec<Document>> {
    // As YAML 1.2 has it: `on`, `no` and `y` are words, as a task may be called.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let roots: Vec<Spanned<Node>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|e| broken(name, &e))?;
    let documents = roots.into_iter().filter(|root| root.value != Node::Leaf(Value::Null));
    Ok(documents.map(|root| Document { file: name.into(), root }).collect())
}

/// What cannot be read, as `file:line:column`.
fn broken(name: &str, error: &Error) -> Failure {
    let place = error.location().map(|at| format!(":{}:{}", at.line(), at.column())).unwrap_or_default();
    let text = UserMessageFormatter.format_message(error).replace(char::is_control, " ");
    Failure::usage(format!("{name}{place}: {text}"))
}

// === impl Node ===

impl Node {
    fn to_value(&self) -> Value {
        match self {
            Self::Leaf(value) => value.clone(),
            Self::List(items) => items.iter().map(|i| i.value.to_value()).collect(),
            Self::Map(entries) => {
                Value::Object(entries.iter().map(|(k, v)| (k.value.clone(), v.value.to_value())).collect())
            }
        }
    }
}

// === impl Document ===

impl Document {
    /// What it says.
    pub fn value(&self) -> Value {
        self.root.value.to_value()
    }

    /// What a person calls it: `kind name`.
    pub fn title(&self) -> String {
        let value = self.value();
        let word = |key: &str| value[key].as_str().unwrap_or("?").to_owned();
        format!("{} {}", word("kind"), word("name"))
    }

    /// Where a field stands, as `file:line:column`. Of a field that is not there, where its nearest parent stands.
    pub fn place(&self, field: &str) -> String {
        let mut here = (self.root.referenced.line(), self.root.referenced.column());
        let mut node = &self.root.value;
        let path = field.replace('[', ".").replace(']', "");
        for part in path.split('.').filter(|p| !p.is_empty()) {
            match node {
                Node::Map(entries) => {
                    let Some((key, value)) = entries.iter().find(|(key, _)| key.value == part) else { break };
                    here = (key.referenced.line(), key.referenced.column());
                    node = &value.value;
                }
                Node::List(items) => {
                    let Some(item) = part.parse::<usize>().ok().and_then(|n| items.get(n)) else { break };
                    here = (item.referenced.line(), item.referenced.column());
                    node = &item.value;
                }
                Node::Leaf(_) => break,
            }
        }
        format!("{}:{}:{}", self.file, here.0, here.1)
    }
}
