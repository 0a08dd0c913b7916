//! `muster network status`, `muster network rotation …`.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::{
    super::{
        Form, Global, Result,
        client::Client,
        output::{self, age, facts, green, text, when},
    },
    path, word,
};

/// Whose sites, or whose authority
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Of {
    /// An application network
    network: Option<String>,
    /// A backbone
    #[arg(long, value_name = "NAME")]
    backbone: Option<String>,
}

/// Show how the sites of a network or a backbone stand, and its traffic or links
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  muster network status shop\n  muster network status --backbone europe -o json")]
pub(crate) struct Status {
    #[command(flatten)]
    of: Of,
}

/// Replace the certificate authority of a network or a backbone, step by step across its sites
#[derive(Debug, Subcommand)]
pub(crate) enum Rotation {
    /// Show where it stands and who is waited for
    #[command(after_help = "Example:\n  muster network rotation show shop")]
    Show(Of),
    /// Begin it
    #[command(after_help = "Examples:\n  muster network rotation begin shop\n  \
        muster network rotation begin --backbone europe --drain-seconds 600\n\n\
        Traffic goes on meanwhile. Transfers that are under way when the sites have new leaves get the time that is said;\n\
        then what is left of old connections is cut.")]
    Begin {
        #[command(flatten)]
        of: Of,
        /// How long transfers under way have to come to their ends
        #[arg(long, default_value_t = 3600, value_name = "N")]
        drain_seconds: i64,
    },
    /// Hold it where it stands
    #[command(after_help = "Example:\n  muster network rotation pause shop")]
    Pause(Of),
    /// Let it go on
    #[command(after_help = "Example:\n  muster network rotation resume shop")]
    Resume(Of),
}

// === impl Of ===

impl Of {
    fn path(&self, rest: &str) -> String {
        match (&self.network, &self.backbone) {
            (Some(network), _) => path(&["networks", network, rest]),
            (None, backbone) => path(&["backbones", backbone.as_deref().unwrap_or_default(), rest]),
        }
    }
}

// === impl Status ===

impl Status {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        let Some(network) = &self.of.network else { return self.backbone(global, client) };
        let status: Value = client.get(&self.of.path("status"))?;
        if global.output != Form::Table {
            return output::one(global.output, &status, "/summary", |_| String::new());
        }
        let members = client.all(&path(&["networks", network, "members"]))?;
        let members = members.into_iter().filter(|m| m["evicted_at"].is_null()).collect();
        let columns = [("SITE", "/name"), ("CLASS", "/class"), ("STATE", "/state/health"), ("WHY", "/state/why")];
        output::list(
            Form::Table,
            members,
            &columns,
            "/name",
            "no sites; invite some with `muster network invitation`",
        )?;
        let mut traffic = status["traffic"].as_array().cloned().unwrap_or_default();
        if traffic.is_empty() {
            return Ok(());
        }
        for row in &mut traffic {
            row["way"] = if row["comes_in"] == true { "in" } else { "out" }.into();
        }
        let columns = [
            ("SERVICE LINK", "/service_link"),
            ("SITE", "/site"),
            ("ENDPOINT", "/endpoint"),
            ("WAY", "/way"),
            ("UP", "/up"),
            ("OPEN", "/open"),
            ("OPENED", "/opened"),
            ("WHY", "/message"),
        ];
        output::print("\n")?;
        output::list(Form::Table, traffic, &columns, "/site", "")
    }

    fn backbone(&self, global: &Global, client: &Client) -> Result {
        let topology: Value = client.get(&self.of.path("topology"))?;
        if global.output != Form::Table {
            return output::one(global.output, &topology, "/summary", |_| String::new());
        }
        let rows = |field: &str| topology[field].as_array().cloned().unwrap_or_default();
        let columns =
            [("SITE", "/name"), ("STATE", "/state/health"), ("DEPLOYMENT", "/deployment"), ("WHY", "/state/why")];
        output::list(Form::Table, rows("sites"), &columns, "/name", "no sites")?;
        output::print("\n")?;
        let columns = [("FROM", "/from"), ("TO", "/to"), ("COST", "/cost"), ("UP", "/up"), ("WHY", "/message")];
        output::list(Form::Table, rows("links"), &columns, "/id", "no links")?;
        for pair in rows("divided") {
            eprintln!("{} runs and does not reach {}", text(pair.get(0)), text(pair.get(1)));
        }
        Ok(())
    }
}

// === impl Rotation ===

impl Rotation {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        let change =
            |of: &Of, paused: bool| client.act(Method::PATCH, &of.path("rotation"), Some(&json!({"paused": paused})));
        let of = match self {
            Self::Show(of) => of,
            Self::Begin { of, drain_seconds } => {
                client.act(Method::POST, &of.path("rotation"), Some(&json!({"drain_seconds": drain_seconds})))?;
                eprintln!("the rotation has {}", green("begun"));
                of
            }
            Self::Pause(of) => {
                change(of, true)?;
                of
            }
            Self::Resume(of) => {
                change(of, false)?;
                of
            }
        };
        let rotation: Value = client.get(&of.path("rotation"))?;
        output::one(global.output, &rotation, "/step", |it| {
            let said = |at: &Value| at.as_i64().map(when).unwrap_or_default();
            let waits = it["waits_for"].as_array().into_iter().flatten();
            let waits: Vec<_> = waits.map(|w| format!("{} {}", word(w, "site"), word(w, "why"))).collect();
            let behind: Vec<_> = it["left_behind"].as_array().into_iter().flatten().map(|s| text(Some(s))).collect();
            let at = it["since_at"].as_i64().map(|at| age(jiff::Timestamp::now().as_millisecond() - at));
            facts(&[
                ("Step", format!("{} for {}", word(it, "step").replace('_', " "), at.unwrap_or_default())),
                ("Held", if it["paused"] == true { "yes".into() } else { "no".into() }),
                ("Waits for", waits.join("\n")),
                ("Left behind", behind.join(", ")),
                ("Begun", said(&it["started_at"])),
                ("Over", said(&it["finished_at"])),
            ])
        })
    }
}
