//! `muster invitation …` and `muster agent …`.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::{
    Failure, Form, Global, Result,
    client::{Client, encoded, query},
    output::{self, facts, green, text, when},
};
use crate::fleet::model::{Class, Labels, parse_labels};

/// Let agents join
#[derive(Debug, Subcommand)]
pub(crate) enum Invitation {
    /// Make an invitation; its token is printed this once
    #[command(after_help = "Examples:\n  muster invitation create --class staging-host --label pool=dev\n  \
        muster invitation create --class interior-site --uses 20 --hours 72 | ssh site muster-agent enroll")]
    Create {
        /// What those who join may be asked to do
        #[arg(long, value_parser = class)]
        class: Class,
        /// What to call it
        #[arg(long, default_value = "invitation")]
        name: String,
        /// Label of those who join, key=value; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// How many may join
        #[arg(long, default_value_t = 1)]
        uses: i64,
        /// Open for this many hours
        #[arg(long, default_value_t = 24)]
        hours: i64,
        /// Bring the identity of this agent, by its id, back instead of minting a new one
        #[arg(long, value_name = "AGENT")]
        for_agent: Option<String>,
    },
    /// List invitations
    List,
    /// Let nobody else join by an invitation
    Revoke {
        /// Its id
        id: String,
    },
}

/// Look after agents
#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// List agents
    #[command(after_help = "Example:\n  muster agent list --class staging-host --label pool=dev --state offline")]
    List {
        /// Only of this class
        #[arg(long, value_parser = class)]
        class: Option<Class>,
        /// Only those in this state
        #[arg(long, value_parser = ["online", "stale", "offline", "never"])]
        state: Option<String>,
        /// Only with these labels, key=value
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// Only with this text in name, id or labels
        #[arg(long)]
        search: Option<String>,
    },
    /// Show an agent, and what it holds
    Show {
        /// Its name or id
        #[arg(value_name = "AGENT")]
        id: String,
    },
    /// Change an agent's labels: key=value sets one, key- takes one away
    #[command(after_help = "Example:\n  muster agent label site-7 pool=dev rack-")]
    Label {
        /// Its name or id
        #[arg(value_name = "AGENT")]
        id: String,
        /// Changes
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        changes: Vec<String>,
    },
    /// Give an agent another name
    Rename {
        /// Its name or id
        #[arg(value_name = "AGENT")]
        id: String,
        /// The name
        name: String,
    },
    /// Take an agent's identity away: it is cut off at once
    #[command(after_help = "Example:\n  muster agent revoke site-7 --reason \"the machine was stolen\"\n\n\
        muster invitation create --for-agent AGENT brings the identity back.")]
    Revoke {
        /// Its name or id
        #[arg(value_name = "AGENT")]
        id: String,
        /// Why, for the history
        #[arg(long)]
        reason: String,
    },
    /// Remove an agent and everything home knows of it; its host is left as it is
    Remove {
        /// Its name or id
        #[arg(value_name = "AGENT")]
        id: String,
        /// Even if it holds assignments: what they did stays on the host
        #[arg(long)]
        force: bool,
    },
}

// === impl Invitation ===

impl Invitation {
    pub fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        match self {
            Self::Create { class, name, labels, uses, hours, for_agent } => {
                let labels = parse(labels)?;
                let made: Value = client.post(
                    "/api/v1/invitations",
                    &json!({
                        "name": name, "class": class, "labels": labels, "max_uses": uses,
                        "expires_in_seconds": hours.saturating_mul(3600), "for_agent": for_agent,
                    }),
                )?;
                eprintln!("keep this token; it is not shown again. On the host: muster-agent enroll < token");
                match global.output {
                    Form::Table | Form::Name => output::print(&format!("{}\n", text(made.pointer("/token")))),
                    form => output::one(form, &made, "/token", |_| String::new()),
                }
            }
            Self::List => {
                let items = client.all("/api/v1/invitations")?;
                let columns = [
                    ("ID", "/id"),
                    ("NAME", "/name"),
                    ("CLASS", "/class"),
                    ("LABELS", "/labels"),
                    ("USED", "/used"),
                    ("OF", "/max_uses"),
                    ("EXPIRES", "/expires_at"),
                    ("STATE", "/state"),
                ];
                output::list(
                    global.output,
                    plain_used(items),
                    &columns,
                    "/id",
                    "no invitations; see `muster invitation create`",
                )
            }
            Self::Revoke { id } => {
                client.act(Method::DELETE, &format!("/api/v1/invitations/{}", encoded(id)), None::<&()>)?;
                eprintln!("{}", green("revoked"));
                Ok(())
            }
        }
    }
}

/// `USED` is a moment elsewhere; here it is a count and is printed as it is.
fn plain_used(mut items: Vec<Value>) -> Vec<Value> {
    for item in &mut items {
        item["used"] = item["used"].to_string().into();
    }
    items
}

// === impl Agent ===

impl Agent {
    pub fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        match self {
            Self::List { class, state, labels, search } => {
                let labels: Vec<_> = parse(labels)?.iter().map(|(k, v)| format!("{k}={v}")).collect();
                let filters = [
                    ("class", class.map_or("", Class::name).to_owned()),
                    ("liveness", state.clone().unwrap_or_default()),
                    ("label", labels.join(",")),
                    ("search", search.clone().unwrap_or_default()),
                ];
                let path = format!("/api/v1/agents?{}", query(&filters));
                output::list(
                    global.output,
                    client.all(&path)?,
                    &COLUMNS,
                    "/id",
                    "no agents; see `muster invitation create`",
                )
            }
            Self::Show { id } => {
                let id = agent_id(&client, id)?;
                let detail: Value = client.get(&format!("/api/v1/agents/{id}"))?;
                if global.output != Form::Table {
                    return output::one(global.output, &detail, "/agent/id", |_| String::new());
                }
                output::print(&describe(&detail))?;
                output::print("\n")?;
                let columns = [
                    ("KIND", "/kind"),
                    ("ID", "/id"),
                    ("WANTED", "/desired_generation"),
                    ("REPORTED", "/observed_generation"),
                    ("PHASE", "/report/phase"),
                    ("STATE", "/state"),
                    ("REFUSED", "/refusal/message"),
                ];
                let holdings = detail["holdings"].as_array().cloned().unwrap_or_default();
                output::list(Form::Table, holdings, &columns, "/id", "it holds nothing")
            }
            Self::Label { id, changes } => {
                let id = agent_id(&client, id)?;
                let detail: Value = client.get(&format!("/api/v1/agents/{id}"))?;
                let agent = &detail["agent"];
                let mut labels: Labels = serde_json::from_value(agent["labels"].clone()).unwrap_or_default();
                for change in changes {
                    match (change.split_once('='), change.strip_suffix('-')) {
                        (Some((key, value)), _) => drop(labels.insert(key.into(), value.into())),
                        (None, Some(key)) => drop(labels.remove(key)),
                        (None, None) => {
                            return Err(Failure::usage(format!("{change:?} is neither KEY=VALUE nor KEY-")));
                        }
                    }
                }
                let _: Value = client.patch(
                    &format!("/api/v1/agents/{id}"),
                    &json!({"labels": labels}),
                    agent["version"].as_i64(),
                )?;
                eprintln!("{}", green("labelled"));
                Ok(())
            }
            Self::Rename { id, name } => {
                let id = agent_id(&client, id)?;
                let _: Value = client.patch(&format!("/api/v1/agents/{id}"), &json!({"name": name}), None)?;
                eprintln!("{}", green("renamed"));
                Ok(())
            }
            Self::Revoke { id, reason } => {
                let id = agent_id(&client, id)?;
                global
                    .confirm(&format!("Take the identity of {id} away? It is cut off at once, and its work ends."))?;
                client.act(Method::POST, &format!("/api/v1/agents/{id}/revoke"), Some(&json!({"reason": reason})))?;
                eprintln!("{}", green("revoked"));
                Ok(())
            }
            Self::Remove { id, force } => {
                let id = agent_id(&client, id)?;
                global.confirm(&format!("Remove {id} and everything about it?"))?;
                client.act(Method::DELETE, &format!("/api/v1/agents/{id}?force={force}"), None::<&()>)?;
                eprintln!("{}", green("removed"));
                Ok(())
            }
        }
    }
}

/// The id of an agent that is called by its name or its id. Names need not be unique; ids are.
pub(crate) fn agent_id(client: &Client, called: &str) -> Result<String> {
    let found = client.all(&format!("/api/v1/agents?{}", query(&[("search", called.to_owned())])))?;
    let of =
        |at: &str| -> Vec<&str> { found.iter().filter(|a| a[at] == called).filter_map(|a| a["id"].as_str()).collect() };
    match (of("id").as_slice(), of("name").as_slice()) {
        ([id], _) | ([], [id]) => Ok((*id).to_owned()),
        (_, []) => Err(Failure::new(
            Failure::NOT_FOUND,
            format!("no agent has the name or id {called:?}; see `muster agent list`"),
        )),
        (_, ids) => {
            Err(Failure::usage(format!("{} agents are named {called:?}; give an id: {}", ids.len(), ids.join(", "))))
        }
    }
}

/// Columns of a list of agents.
pub(crate) const COLUMNS: [output::Column<'static>; 6] = [
    ("ID", "/id"),
    ("NAME", "/name"),
    ("CLASS", "/class"),
    ("STATE", "/liveness"),
    ("SINCE", "/liveness_at"),
    ("LABELS", "/labels"),
];

fn describe(detail: &Value) -> String {
    let word = |at: &str| detail.pointer(at).filter(|v| !v.is_null()).map(|v| text(Some(v))).unwrap_or_default();
    let time = |at: &str| detail.pointer(at).and_then(Value::as_i64).map(when).unwrap_or_default();
    let standing = match detail["agent"]["is_revoked"].as_bool() {
        Some(true) => format!("revoked at {}: {}", time("/agent/revoked_at"), word("/agent/revoke_reason")),
        _ => String::new(),
    };
    facts(&[
        ("Agent", word("/agent/id")),
        ("Name", word("/agent/name")),
        ("Class", word("/agent/class")),
        ("Labels", word("/agent/labels")),
        ("State", format!("{} since {}", word("/agent/liveness"), time("/agent/liveness_at"))),
        ("Standing", standing),
        ("Enrolled", time("/agent/enrolled_at")),
        ("Program", word("/agent/agent_version")),
        ("Host", word("/facts/hostname")),
        ("System", format!("{} {} {}", word("/facts/os"), word("/facts/kernel"), word("/facts/arch"))),
        ("Drivers", drivers(detail)),
    ])
}

/// What an agent can do, with what its owner offers for it.
fn drivers(detail: &Value) -> String {
    let one = |c: &Value| {
        let offers: Vec<_> = c["offers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let offers = if offers.is_empty() { String::new() } else { format!(" ({})", offers.join(", ")) };
        format!("{}{offers}", c["kind"].as_str().unwrap_or_default())
    };
    detail["capabilities"].as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join("\n")
}

fn parse(labels: &[String]) -> Result<Labels> {
    parse_labels("label", &labels.join(",")).map_err(|e| Failure::usage(e.to_string()))
}

fn class(name: &str) -> Result<Class, String> {
    Class::parse(name).map_err(|e| e.to_string())
}
