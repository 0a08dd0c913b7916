//! `muster staging …`: the life of preview deployments.

mod check;
pub(super) mod dev;

use std::{
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::{
    Failure, Form, Global, Result,
    client::{Client, encoded, query},
    context,
    fleet::agent_id,
    logs,
    output::{self, Progress, facts, green, red, when},
};
use crate::{
    fleet::model::AgentId,
    staging::{
        api::{Accepted, CreateStaging, MoveStaging, OperationView, StagingView, UpdateStaging},
        model::{Level, MaskedSettings, Outcome, Override, OverrideKey, Status, Verb},
    },
};

/// Look after stagings: preview deployments on staging hosts
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List stagings
    #[command(after_help = "Example:\n  muster staging list --project shop --status failure")]
    List {
        /// Only of this project
        #[arg(long)]
        project: Option<String>,
        /// Only in this status, such as Running
        #[arg(long, value_parser = status)]
        status: Option<Status>,
        /// Only with this text in name, project or tag
        #[arg(long)]
        search: Option<String>,
    },
    /// Show a staging and its last operations
    Show(Name),
    /// Make a staging
    #[command(after_help = "Examples:\n  muster staging create shop/hello --tag v1 --wait\n  \
        muster staging create shop/hello --tag v1 --set-app COLOUR=blue --set-staging greeting=Hi\n  \
        muster staging create shop/hello --tag v1 --secret-app PASSWORD=./password.txt")]
    Create {
        #[command(flatten)]
        name: Name,
        /// Which version of the application
        #[arg(short, long)]
        tag: String,
        #[command(flatten)]
        set: Set,
        #[command(flatten)]
        wait: Wait,
    },
    /// Change a staging's tag or overrides
    #[command(after_help = "Examples:\n  muster staging update shop/hello --tag v2 --wait\n  \
        muster staging update shop/hello --set-app COLOUR=red --unset-staging greeting\n  \
        muster staging update shop/hello --secret-app PASSWORD=- <password.txt")]
    Update {
        #[command(flatten)]
        name: Name,
        /// A new version of the application
        #[arg(short, long)]
        tag: Option<String>,
        #[command(flatten)]
        set: Set,
        /// Take an application override away
        #[arg(long, value_name = "KEY")]
        unset_app: Vec<String>,
        /// Take a staging override away
        #[arg(long, value_name = "KEY")]
        unset_staging: Vec<String>,
        #[command(flatten)]
        version: IfVersion,
        #[command(flatten)]
        wait: Wait,
    },
    /// Archive a staging: stop it and keep its data
    #[command(alias = "archive")]
    Delete {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        wait: Wait,
    },
    /// Bring an archived staging back with its last settings
    Restore {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove an archived staging with its data
    Cleanup {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        wait: Wait,
    },
    /// End the pending operation: its wrapper is stopped in the middle if it runs already
    Cancel(Name),
    /// Give an archived or failed staging another host; its data stays where it is
    #[command(
        after_help = "Example:\n  muster staging move shop/hello --to host-2 && muster staging restore shop/hello --wait\n\n\
        Settings, secrets among them, and the action log go along. Nothing runs on either host."
    )]
    Move {
        #[command(flatten)]
        name: Name,
        /// The agent that is to carry it: its name or id
        #[arg(long, value_name = "AGENT")]
        to: String,
        #[command(flatten)]
        version: IfVersion,
    },
    /// Drop a staging whose host is gone, without running anything
    Forget(Name),
    /// List what was done
    Operations(Name),
    /// Print the whole output of an operation, or of a staging's newest
    #[command(after_help = "Examples:\n  muster staging logs shop/hello --follow\n  \
        muster staging logs shop/hello --stream stdout >output.txt\n\n\
        What went to standard error on the host goes to standard error here.")]
    Logs {
        /// PROJECT/NAME, or the id of an operation
        #[arg(value_name = "NAME")]
        of: String,
        /// Go on until the operation ends
        #[arg(short, long)]
        follow: bool,
        /// Only one of the two
        #[arg(long, value_parser = ["stdout", "stderr"])]
        stream: Option<String>,
    },
    /// List projects
    Projects,
    /// Remove a project without stagings
    RemoveProject {
        /// Its name
        project: String,
    },
}

/// Which staging
#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    /// Which, as in shop/hello
    #[arg(value_name = "PROJECT/NAME", value_parser = parse_name)]
    name: (String, String),
}

/// Overrides
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// Set an override of the application
    #[arg(short = 'a', long, value_name = "KEY=VALUE")]
    set_app: Vec<String>,
    /// Set an override of the staging
    #[arg(short = 's', long, value_name = "KEY=VALUE")]
    set_staging: Vec<String>,
    /// Set a secret override of the application; its value is what the file holds, `-` for standard input
    #[arg(long, value_name = "KEY=FILE")]
    secret_app: Vec<String>,
    /// Set a secret override of the staging; its value is what the file holds, `-` for standard input
    #[arg(long, value_name = "KEY=FILE")]
    secret_staging: Vec<String>,
}

/// Refusing what another changed meanwhile
#[derive(Debug, clap::Args)]
pub(crate) struct IfVersion {
    /// Only if nobody has changed its settings or host since this version, as `show` tells it
    #[arg(long, value_name = "VERSION")]
    if_version: Option<i64>,
}

/// Waiting
#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// Wait for the operation and what comes of it
    #[arg(short, long)]
    wait: bool,
    /// Wait no longer than this many seconds
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    timeout: u64,
}

// === impl Args ===

impl Args {
    /// Does what was asked for.
    pub fn run(&self, global: &Global) -> Result {
        self.command.run(global)
    }
}

// === impl Command ===

impl Command {
    fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        match self {
            Self::List { project, status, search } => list(global, &client, project, *status, search),
            Self::Show(name) => show(global, &client, name),
            Self::Create { name, tag, set, wait } => {
                let (project, staging) = (encoded(&name.name.0), name.name.1.clone());
                let new = CreateStaging { name: staging, tag: tag.clone(), overrides: set.overrides()? };
                let accepted = client.post(&format!("/api/v1/staging/projects/{project}/stagings"), &new)?;
                wait.follow(global, &client, name, &accepted)
            }
            Self::Update { name, tag, set, unset_app, unset_staging, version, wait } => {
                let key = |level, keys: &[String]| -> Vec<_> {
                    keys.iter().map(|key| OverrideKey { level, key: key.clone() }).collect()
                };
                let unset = [key(Level::App, unset_app), key(Level::Staging, unset_staging)].concat();
                let change = UpdateStaging { tag: tag.clone(), overrides: set.overrides()?, unset };
                let accepted = client.patch(&name.path(""), &change, version.if_version)?;
                wait.follow(global, &client, name, &accepted)
            }
            Self::Delete { name, wait } => operate(global, &client, name, "delete", wait),
            Self::Restore { name, wait } => operate(global, &client, name, "restore", wait),
            Self::Cleanup { name, wait } => {
                global.confirm(&format!("Remove {name} with all its data? This cannot be undone."))?;
                operate(global, &client, name, "cleanup", wait)
            }
            Self::Cancel(name) => {
                let accepted: Accepted = client.post(&name.path("/cancel"), &json!({}))?;
                eprintln!("its end is asked for; follow it with `muster staging logs -f {}`", accepted.operation);
                Ok(())
            }
            Self::Move { name, to, version } => {
                let agent = AgentId(agent_id(&client, to)?);
                global.confirm(&format!(
                    "Move {name} to {to}? Its settings go along; its data, and what still runs of it, stays where it is."
                ))?;
                let _: StagingView = client.post_if(&name.path("/move"), &MoveStaging { agent }, version.if_version)?;
                eprintln!("{name} {}", green("moved"));
                Ok(())
            }
            Self::Forget(name) => {
                global.confirm(&format!("Forget {name}? Whatever is left of it on its host stays there."))?;
                client.act(Method::POST, &name.path("/forget"), Some(&json!({})))?;
                eprintln!("{name} {}", green("forgotten"));
                Ok(())
            }
            Self::Operations(name) => operations(global, &client, name),
            Self::Logs { of, follow, stream } => print_log(&client, of, *follow, stream.as_deref()),
            Self::Projects => {
                let items = client.all("/api/v1/staging/projects")?;
                let columns = [
                    ("NAME", "/name"),
                    ("BASE DOMAIN", "/spec/base_domain"),
                    ("NAMESPACE", "/spec/namespace"),
                    ("WRAPPERS", "/spec/wrappers"),
                    ("AGENTS", "/spec/agents"),
                ];
                output::list(global.output, items, &columns, "/name", "no projects; declare one with `muster apply -f`")
            }
            Self::RemoveProject { project } => {
                global.confirm(&format!("Remove the project {project}?"))?;
                client.act(Method::DELETE, &format!("/api/v1/staging/projects/{}", encoded(project)), None::<&()>)?;
                eprintln!("{project} {}", green("removed"));
                Ok(())
            }
        }
    }
}

fn list(
    global: &Global,
    client: &Client,
    project: &Option<String>,
    status: Option<Status>,
    search: &Option<String>,
) -> Result {
    let word = |o: &Option<String>| o.clone().unwrap_or_default();
    let query = query(&[
        ("project", word(project)),
        ("status", status.map_or("", Status::word).to_owned()),
        ("search", word(search)),
    ]);
    let mut items = client.all(&format!("/api/v1/staging/stagings?{query}"))?;
    for item in &mut items {
        item["full_name"] =
            format!("{}/{}", item["project"].as_str().unwrap_or_default(), item["name"].as_str().unwrap_or_default())
                .into();
    }
    output::list(global.output, items, &columns(), "/full_name", "no stagings; make one with `muster staging create`")
}

/// Columns of a list of stagings.
fn columns() -> [output::Column<'static>; 6] {
    [
        ("STAGING", "/full_name"),
        ("STATUS", "/status"),
        ("SINCE", "/status_at"),
        ("TAG", "/settings/tag"),
        ("AGENT", "/agent"),
        ("PENDING", "/pending/verb"),
    ]
}

fn show(global: &Global, client: &Client, name: &Name) -> Result {
    let item: Value = client.get(&name.path(""))?;
    if global.output != Form::Table {
        return output::one(global.output, &item, "/name", |_| String::new());
    }
    let view: StagingView = serde_json::from_value(item).map_err(|e| Failure::failed(e.to_string()))?;
    let pending = view.pending.as_ref().map(|p| format!("{} since {}", p.verb.word(), when(p.requested_at)));
    output::print(&facts(&[
        ("Staging", name.to_string()),
        ("Status", format!("{} since {}", view.status.word(), when(view.status_at))),
        ("Why", view.status_why),
        ("Pending", pending.unwrap_or_default()),
        ("Agent", view.agent.map_or("removed; move or forget the staging".into(), |a| a.0)),
        ("Tag", view.settings.tag.clone()),
        ("Overrides", overrides(&view.settings)),
        ("Owner", view.owner),
        ("Version", view.version.to_string()),
        ("Created", when(view.created_at)),
        ("Archived", view.archived_at.map(when).unwrap_or_default()),
    ]))?;
    output::print("\n")?;
    operations(global, client, name)
}

fn overrides(settings: &MaskedSettings) -> String {
    let line = |o: &crate::staging::model::MaskedOverride| {
        let level = if o.level == Level::App { "app" } else { "staging" };
        format!("{level} {}={}", o.key, o.value.as_deref().unwrap_or("(secret)"))
    };
    settings.overrides.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn operations(global: &Global, client: &Client, name: &Name) -> Result {
    let (project, staging) = &name.name;
    let path = format!("/api/v1/staging/projects/{}/operations?name={}", encoded(project), encoded(staging));
    let items = client.all(&path)?;
    let columns = [
        ("OPERATION", "/id"),
        ("VERB", "/verb"),
        ("OUTCOME", "/outcome"),
        ("TIME", "/requested_at"),
        ("BY", "/actor"),
        ("FROM", "/source"),
        ("EXIT", "/exit_code"),
        ("MS", "/duration_ms"),
    ];
    output::list(global.output, items, &columns, "/id", "nothing was done yet")
}

fn operate(global: &Global, client: &Client, name: &Name, verb: &str, wait: &Wait) -> Result {
    let accepted: Accepted = client.post(&name.path(&format!("/{verb}")), &json!({}))?;
    wait.follow(global, client, name, &accepted)
}

fn print_log(client: &Client, of: &str, follow: bool, stream: Option<&str>) -> Result {
    let id = match of.split_once('/') {
        None => of.to_owned(),
        Some((project, name)) => {
            let (project, name) = (encoded(project), encoded(name));
            let newest: Value =
                client.get(&format!("/api/v1/staging/projects/{project}/operations?name={name}&limit=1"))?;
            let id = newest["items"][0]["id"].as_str().map(str::to_owned);
            id.ok_or_else(|| Failure::new(Failure::NOT_FOUND, format!("nothing was done with {of} yet")))?
        }
    };
    let path = format!("/api/v1/staging/operations/{}/log", encoded(&id));
    if !follow {
        return logs::whole(client, &path, stream);
    }
    let ended = logs::follow(client, &format!("{path}/stream"), stream)?;
    let operation: OperationView = serde_json::from_value(ended).map_err(|e| Failure::failed(e.to_string()))?;
    conclude(&operation)
}

// === impl Set ===

impl Set {
    fn overrides(&self) -> Result<Vec<Override>> {
        let mut all = Vec::new();
        for (level, pairs) in [(Level::App, &self.set_app), (Level::Staging, &self.set_staging)] {
            for pair in pairs {
                let (key, value) = split(pair, "KEY=VALUE")?;
                all.push(Override { level, key, value, secret: false });
            }
        }
        for (level, pairs) in [(Level::App, &self.secret_app), (Level::Staging, &self.secret_staging)] {
            for pair in pairs {
                let (key, file) = split(pair, "KEY=FILE")?;
                let value = match file.as_str() {
                    "-" => std::io::read_to_string(std::io::stdin())?,
                    file => context::read(&PathBuf::from(file))?,
                };
                all.push(Override { level, key, value: value.trim_end_matches('\n').into(), secret: true });
            }
        }
        Ok(all)
    }
}

fn split(pair: &str, form: &str) -> Result<(String, String)> {
    let split = pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
    split.ok_or_else(|| Failure::usage(format!("{pair:?} is not {form}")))
}

// === impl Name ===

impl Name {
    fn path(&self, rest: &str) -> String {
        format!("/api/v1/staging/projects/{}/stagings/{}{rest}", encoded(&self.name.0), encoded(&self.name.1))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.name.0, self.name.1)
    }
}

fn status(word: &str) -> Result<Status, String> {
    let known = Status::ALL.into_iter().find(|s| s.word().eq_ignore_ascii_case(word));
    known.ok_or_else(|| format!("there are {}", Status::ALL.map(Status::word).join(", ")))
}

fn parse_name(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/').filter(|(p, n)| !p.is_empty() && !n.is_empty() && !n.contains('/'));
    parts.map(|(p, n)| (p.into(), n.into())).ok_or_else(|| "a staging is named PROJECT/NAME, as in shop/hello".into())
}

// === impl Wait ===

impl Wait {
    fn follow(&self, global: &Global, client: &Client, name: &Name, accepted: &Accepted) -> Result {
        let id = &accepted.operation;
        if !self.wait {
            eprintln!("accepted; follow it with `muster staging logs -f {id}`");
            return output::one(global.output, &json!({"operation": id}), "/operation", |_| format!("{id}\n"));
        }
        follow(client, name, &id.0, Duration::from_secs(self.timeout))
    }
}

/// Waits for an operation and for what comes of it, with a line of progress.
fn follow(client: &Client, name: &Name, id: &str, limit: Duration) -> Result {
    let begun = Instant::now();
    let mut progress = Progress::new();
    loop {
        let operation: OperationView = client.get(&format!("/api/v1/staging/operations/{id}"))?;
        let staging = match client.get::<StagingView>(&name.path("")) {
            Ok(view) => Some(view),
            Err(failure) if failure.code == Failure::NOT_FOUND => None,
            Err(failure) => return Err(failure),
        };
        let line = match (&operation.outcome, &staging) {
            (Some(_), Some(view)) => format!("{name} {}: {}", operation.verb.word(), view.status.word()),
            (Some(_), None) => format!("{name} {}: gone", operation.verb.word()),
            (None, _) if operation.started_at.is_some() => {
                format!("{name} {}: running on its host", operation.verb.word())
            }
            (None, _) => format!("{name} {}: waiting for its host", operation.verb.word()),
        };
        progress.show(&line, &format!("({} s)", begun.elapsed().as_secs()));
        if let Some(ended) = settled(&operation, staging.as_ref()) {
            progress.end();
            return ended.and_then(|()| conclude(&operation));
        }
        if begun.elapsed() > limit {
            progress.end();
            return Err(Failure::new(
                Failure::ENDED_BADLY,
                format!("not done after {} s; it goes on without being watched", limit.as_secs()),
            ));
        }
        sleep(Duration::from_millis(200));
    }
}

/// Whether all has come of an operation that will; and whether that is well.
fn settled(operation: &OperationView, staging: Option<&StagingView>) -> Option<Result> {
    operation.outcome?;
    if operation.outcome != Some(Outcome::Succeeded) {
        return Some(Ok(()));
    }
    let Some(view) = staging else { return Some(Ok(())) };
    match (operation.verb, view.status) {
        (_, status) if status.is_pending() => None,
        (_, Status::Failure) => {
            Some(Err(Failure::new(Failure::ENDED_BADLY, format!("it is in Failure: {}", view.status_why))))
        }
        // Forgetting the row follows the wrapper's end by a moment.
        (Verb::Cleanup, _) => None,
        _ => Some(Ok(())),
    }
}

/// Says how an operation ended; badly is a failure.
fn conclude(operation: &OperationView) -> Result {
    match operation.outcome {
        Some(Outcome::Succeeded) => {
            eprintln!("{} {}", operation.verb.word(), green("succeeded"));
            Ok(())
        }
        outcome => {
            let word = outcome.map_or("unfinished", Outcome::word);
            let code = operation.exit_code.map(|c| format!(" (exit code {c})")).unwrap_or_default();
            eprintln!("{} {}{code}", operation.verb.word(), red(word));
            Err(Failure::new(Failure::ENDED_BADLY, operation.message.clone()))
        }
    }
}
