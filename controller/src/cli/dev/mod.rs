//! `muster dev`: a whole house on this machine, to try things out. It starts the programs it finds beside itself and links
//! none of them; what it does, anybody can do by hand.

mod house;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Failure, Form, Result, apply,
    output::{self, green},
};
use crate::fleet::model::Class;
pub(super) use house::{House, wait};

/// What a domain brings to a house on one machine, listed in `cli`.
pub(super) struct Tenant {
    /// Its name, as its section in an agent's configuration.
    pub name: &'static str,
    /// Whose agents carry out what it asks for.
    pub classes: &'static [Class],
    /// Its section in the configuration of such an agent, whose folder is given; none without what it needs.
    pub agent_config: fn(&House, &Path) -> Result<Option<toml::Table>>,
    /// Waits until what was applied is there.
    pub settle: fn(&mut House) -> Result,
    /// Prints what there is.
    pub show: fn(&House) -> Result,
    /// Lives a whole life and checks each step.
    pub check: fn(&mut House) -> Result,
    /// What to try, after `muster` and its options.
    pub example: &'static str,
}

/// Run a whole house on this machine: a controller and some agents, to try things out
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  muster dev\n  muster dev --agents staging-host=2,task-runner=1 --data-dir /tmp/house\n  \
    muster dev --check        live the life of what the manifest declares, then stop"
)]
pub(crate) struct Args {
    /// Where everything lies; a second start with the same folder goes on where the first stopped
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Which agents to run, class=number
    #[arg(long, default_value = "staging-host=1,experiment-node=2", value_name = "CLASS=N,…", value_parser = house::parse_agents)]
    agents: house::Agents,
    /// Manifests to apply
    #[arg(short = 'f', long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Folder of wrappers, one set a folder, that hosts offer under the folders' names
    #[arg(long, value_name = "DIR")]
    wrappers: Option<PathBuf>,
    /// Live a whole life, check each step, stop everything, and end with 0 if all was well
    #[arg(long)]
    check: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args, tenants: &'static [Tenant]) -> Result {
    let stopped = stop_signal()?;
    let mut house = House::open(args, tenants)?;
    let lived = live(args, &mut house, &stopped);
    house.stop();
    lived
}

fn live(args: &Args, house: &mut House, stopped: &mpsc::Receiver<()>) -> Result {
    house.start(&args.agents)?;
    let client = house.client()?;
    if let Some(manifest) = &args.manifest {
        for applied in apply::apply_file(&client, manifest)? {
            eprintln!("  {} {} applied", applied.kind, applied.name);
        }
    }
    for tenant in house.tenants() {
        (tenant.settle)(house)?;
    }
    if args.check {
        for tenant in house.tenants() {
            (tenant.check)(house)?;
        }
        eprintln!("{}", green("everything is as it should be"));
        return Ok(());
    }
    report(house)?;
    loop {
        match stopped.recv_timeout(Duration::from_secs(1)) {
            Err(mpsc::RecvTimeoutError::Timeout) => house.must_live()?,
            _ => return Ok(()),
        }
    }
}

/// Prints what there is.
fn report(house: &House) -> Result {
    let client = house.client()?;
    let mut agents = client.all("/api/v1/agents")?;
    for agent in &mut agents {
        let tenant = house.tenants().iter().find(|t| t.classes.iter().any(|c| c.name() == word(agent, "class")));
        agent["driver"] = tenant.map_or("no driver yet", |t| t.name).into();
    }
    let columns =
        [("AGENT", "/name"), ("CLASS", "/class"), ("STATE", "/liveness"), ("LABELS", "/labels"), ("DRIVER", "/driver")];
    output::print("\n")?;
    output::list(Form::Table, agents, &columns, "/id", "no agents")?;
    for tenant in house.tenants() {
        output::print("\n")?;
        (tenant.show)(house)?;
    }
    let (url, user) = (house.url(), "admin");
    let password = house.password().unwrap_or("(changed since)");
    let example = house.tenants().first().map_or("agent list", |t| t.example);
    output::print("\n")?;
    output::print(&output::facts(&[
        ("Console", url.to_owned()),
        ("User", user.to_owned()),
        ("Password", password.to_owned()),
        ("Data", house.data_dir().display().to_string()),
        ("Try", format!("muster --url {url} --token-file {} {example}", house.token_file().display())),
    ]))?;
    eprintln!("\nCtrl-C stops everything; `muster dev --data-dir {}` goes on.", house.data_dir().display());
    Ok(())
}

/// A text of an answer; empty where it is none.
pub(super) fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Resolves when this process is asked to stop.
fn stop_signal() -> Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .expect("a process may listen to its signals");
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        });
        // Whoever waited may be gone already.
        let _ = sender.send(());
    });
    Ok(receiver)
}

/// What scripts read.
fn dev_json(house: &House, agents: &[Value]) -> Value {
    json!({
        "url": house.url(), "agents_address": house.agents_address(), "ca_file": house.ca_file(),
        "user": "admin", "password": house.password(), "token_file": house.token_file(), "agents": agents,
    })
}

/// Says that a step of a check went well.
pub(super) fn step(text: &str) {
    eprintln!("  {} {text}", green("ok"));
}

/// The body of a page. The stand-in servers of the examples close each connection when they have answered.
pub(super) fn get(url: &str) -> Result<String> {
    let rest = url.trim_start_matches("http://");
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).map_err(|e| Failure::failed(format!("{url}: {e}")))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| Failure::failed(format!("{url} did not answer in HTTP")))?;
    if head.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(Failure::failed(format!("{url}: {head}")))
    }
}

fn failed(what: impl Into<String>) -> Failure {
    Failure::failed(what)
}
