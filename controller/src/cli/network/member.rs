//! `muster network member …`.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::{
    super::{
        Failure, Form, Global, Result,
        client::{Client, encoded},
        output::{self, green},
    },
    line, path, word,
    words::{self, Pair},
};

/// Look after the sites that joined networks
#[derive(Debug, Subcommand)]
pub(crate) enum Member {
    /// List the sites of a network
    List {
        /// The network
        network: String,
    },
    /// Give a site another name
    #[command(after_help = "Example:\n  muster network member rename shop/host-7 till-7")]
    Rename {
        #[command(flatten)]
        which: Which,
        /// The name
        name: String,
    },
    /// Give a site another class; what is allocated to it changes with it
    #[command(after_help = "Example:\n  muster network member reclass shop/till-7 back")]
    Reclass {
        #[command(flatten)]
        which: Which,
        /// The class
        class: String,
    },
    /// Let in a site that waits for approval
    Approve(Which),
    /// List what is allocated to a site, and what was made of it there
    #[command(after_help = "Example:\n  muster network member endpoints shop/till-7")]
    Endpoints(Which),
    /// Accept an endpoint at a site, with the host and the port that are left to the site
    #[command(
        after_help = "Examples:\n  muster network member accept shop/till-7 printer --host 10.0.0.9 --port 9100\n\n\
        Whoever uses the site's host may say the same there, in its console: `muster-agent console`."
    )]
    Accept {
        #[command(flatten)]
        which: Which,
        /// The endpoint
        endpoint: String,
        /// The server outside, where that is left to the site
        #[arg(long, default_value = "")]
        host: String,
        /// Its port, where that is left to the site
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        port: i64,
    },
    /// Decline an endpoint at a site: it is not carried out there
    #[command(after_help = "Example:\n  muster network member decline shop/till-7 printer")]
    Decline {
        #[command(flatten)]
        which: Which,
        /// The endpoint
        endpoint: String,
    },
    /// Send a site away for good: its links are cut at once and its identity goes
    Evict(Which),
}

/// Which site of a network
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Network and site, as in shop/till-7; the site's id will do as well
    #[arg(value_name = "NETWORK/SITE", value_parser = words::pair)]
    which: Pair,
}

// === impl Member ===

impl Member {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        let at = |Which { which: Pair(network, site) }: &Which| path(&["networks", network, "members", site]);
        match self {
            Self::List { network } => {
                let items = client.all(&path(&["networks", network, "members"]))?;
                let columns = [
                    ("SITE", "/name"),
                    ("CLASS", "/class"),
                    ("MEMBERSHIP", "/membership"),
                    ("AGENT", "/agent"),
                    ("JOINED", "/joined_at"),
                    ("ID", "/id"),
                ];
                let empty = format!("no sites; let some join with `muster network invitation create {network}`");
                output::list(global.output, items, &columns, "/name", &empty)
            }
            Self::Rename { which, name } => {
                client.act(Method::PATCH, &at(which), Some(&json!({"name": name})))?;
                eprintln!("{}", green("renamed"));
                Ok(())
            }
            Self::Reclass { which, class } => {
                client.act(Method::PATCH, &at(which), Some(&json!({"class": class})))?;
                eprintln!("{}", green("reclassed"));
                Ok(())
            }
            Self::Approve(which) => {
                client.act(Method::POST, &format!("{}/approve", at(which)), Some(&json!({})))?;
                eprintln!("{}", green("let in"));
                Ok(())
            }
            Self::Endpoints(which) => {
                let mut items = client.all(&format!("{}/endpoints", at(which)))?;
                for item in items.iter_mut().filter(|_| global.output == Form::Table) {
                    item["links"] = line(&item["parts"], |part| {
                        let host = if word(part, "host").is_empty() { "?" } else { word(part, "host") };
                        let port = part["port"].as_i64().map_or("?".into(), |port| port.to_string());
                        format!("{} {} at {host}:{port}", word(part, "part"), word(part, "service_link"))
                    })
                    .into();
                }
                let columns = [
                    ("ENDPOINT", "/name"),
                    ("KIND", "/kind"),
                    ("CHOICE", "/choice"),
                    ("RUNS", "/runs"),
                    ("SERVICE LINKS", "/links"),
                ];
                let empty = "nothing is allocated to this site; see `muster network endpoint set`";
                output::list(global.output, items, &columns, "/name", empty)
            }
            Self::Accept { which, endpoint, host, port } => {
                decide(client, &at(which), endpoint, json!({"accept": true, "host": host, "port": port}))
            }
            Self::Decline { which, endpoint } => decide(client, &at(which), endpoint, json!({"accept": false})),
            Self::Evict(which) => {
                let Pair(network, site) = &which.which;
                global.confirm(&format!(
                    "Send {site} away from {network}, for good? Its links are cut at once, and its identity goes."
                ))?;
                client.act(Method::POST, &format!("{}/evict", at(which)), Some(&json!({})))?;
                eprintln!("{}", green("evicted"));
                Ok(())
            }
        }
    }
}

/// Says what is made of an endpoint as it is now.
fn decide(client: &Client, at: &str, endpoint: &str, mut said: Value) -> Result {
    let there = client.all(&format!("{at}/endpoints"))?;
    let Some(it) = there.iter().find(|it| it["name"] == endpoint) else {
        let names: Vec<_> = there.iter().map(|it| word(it, "name")).collect();
        let there = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        return Err(Failure::new(Failure::NOT_FOUND, format!("no endpoint {endpoint:?} at this site; it has {there}")));
    };
    said["generation"] = it["generation"].clone();
    client.act(Method::PUT, &format!("{at}/endpoints/{}/decision", encoded(endpoint)), Some(&said))?;
    eprintln!("{endpoint} {}", green(if said["accept"] == true { "accepted" } else { "declined" }));
    Ok(())
}
