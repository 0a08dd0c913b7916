//! `muster experiment connector …`: servers that bring nodes which are no agents.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use crate::{
    cli::{
        Failure, Global, Result,
        client::Client,
        output::{self, green},
    },
    experiment::connector::{api::ConnectorView, model::ConnectorSpec},
    web::url::encoded,
};

const CONNECTORS: &str = "/api/v1/experiment/connectors";

/// List connectors, which bring nodes that are no agents; add, change and remove them
#[derive(Debug, Subcommand)]
pub(super) enum Connector {
    /// List connectors and how they fare
    List,
    /// Add a connector, or change one
    #[command(after_help = "Examples:\n  \
        muster experiment connector set lab --server https://lab.example.org:8000 --api-key-file ./lab.key\n  \
        muster experiment connector set lab --server http://10.0.0.7:8000 --init endpoint=salt:8000\n  \
        muster experiment connector set lab --server http://10.0.0.7:8000 --gateway http://10.0.0.1:8080\n  \
        muster experiment connector set lab --server http://10.0.0.7:8000 --off     # offer its nodes no more\n\n\
        The server speaks netunicorn's REST connector. Its executors reach this controller at the gateway; the server \
        is told where that is.")]
    Set {
        /// Its name, which its nodes carry
        name: String,
        /// Where its server listens
        #[arg(long, value_name = "URL")]
        server: String,
        /// File with the key that the server expects, or `-` for standard input; without it the key stays as it is
        #[arg(long, value_name = "FILE")]
        api_key_file: Option<PathBuf>,
        /// What the server is told when it begins; without any, what was given before stays
        #[arg(long, value_name = "KEY=VALUE")]
        init: Vec<String>,
        /// Where its executors reach this controller, if not where people reach the console; "" for that again
        #[arg(long, value_name = "URL")]
        gateway: Option<String>,
        /// File with the authorities that its certificate may come from; without it they stay as they are
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// Keep it and ask it nothing
        #[arg(long)]
        off: bool,
    },
    /// Remove a connector whose executors have all ended
    Remove {
        /// Its name
        name: String,
    },
}

impl Connector {
    /// Does what was asked for.
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List => {
                let mut items: Vec<Value> = client.get(CONNECTORS)?;
                for item in &mut items {
                    if item["enabled"] == false {
                        item["health"] = "off".into();
                    }
                }
                let columns = [
                    ("CONNECTOR", "/name"),
                    ("STATE", "/health"),
                    ("SINCE", "/health_at"),
                    ("SERVER", "/url"),
                    ("IT SAYS", "/why"),
                ];
                let empty =
                    "no connectors; the fleet's own nodes need none. Add one with `muster experiment connector set`";
                output::list(global.output, items, &columns, "/name", empty)
            }
            Self::Set { name, server, api_key_file, init, gateway, ca_file, off } => {
                let read = |file: &PathBuf| match file.as_os_str() == "-" {
                    true => std::io::read_to_string(std::io::stdin()).map_err(|e| Failure::failed(e.to_string())),
                    false => std::fs::read_to_string(file)
                        .map_err(|e| Failure::usage(format!("{} cannot be read: {e}", file.display()))),
                };
                let api_key = api_key_file.as_ref().map(read).transpose()?.unwrap_or_default();
                let spec = ConnectorSpec {
                    url: server.clone(),
                    api_key: api_key.trim().into(),
                    init: (!init.is_empty()).then(|| parameters(init)).transpose()?,
                    gateway: gateway.clone(),
                    ca_pem: ca_file.as_ref().map(read).transpose()?,
                    enabled: !off,
                };
                let saved: ConnectorView = client.put(&format!("{CONNECTORS}/{}", encoded(name)), &spec, None)?;
                eprintln!(
                    "{} {}; see how it fares with `muster experiment connector list`",
                    saved.name,
                    green("saved")
                );
                output::one(global.output, &json!(saved), "/name", |_| String::new())
            }
            Self::Remove { name } => {
                global.confirm(&format!("Remove the connector {name}? Its nodes are no longer offered."))?;
                client.act(Method::DELETE, &format!("{CONNECTORS}/{}", encoded(name)), None::<&()>)?;
                eprintln!("{name} {}", green("removed"));
                Ok(())
            }
        }
    }
}

/// Parameters from `KEY=VALUE`. A value that is JSON is taken as such.
fn parameters(pairs: &[String]) -> Result<BTreeMap<String, Value>> {
    let one = |pair: &String| {
        let (key, value) = pair.split_once('=').ok_or_else(|| Failure::usage(format!("{pair:?} is not KEY=VALUE")))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Ok((key.to_owned(), value))
    };
    pairs.iter().map(one).collect()
}
