//! `muster dev`: a whole house on this machine, to try things out. It starts the programs it finds beside itself and links
//! none of them; what it does, anybody can do by hand.

mod check;
mod house;

use std::{path::PathBuf, sync::mpsc, time::Duration};

use serde_json::{Value, json};

use super::{
    Failure, Form, Result, apply,
    output::{self, green},
    staging,
};
use house::House;

/// A staging of the manifest may take this long to be running.
const PATIENCE: Duration = Duration::from_secs(120);

/// Run a whole house on this machine: a controller and some agents, to try things out
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  muster dev\n  muster dev --agents staging-host=2,interior-site=1 --data-dir /tmp/house\n  \
    muster dev --check        live a staging's life, then stop"
)]
pub(crate) struct Args {
    /// Where everything lies; a second start with the same folder goes on where the first stopped
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Which agents to run, class=number
    #[arg(long, default_value = "staging-host=1,interior-site=1,experiment-node=1", value_name = "CLASS=N,…", value_parser = house::parse_agents)]
    agents: house::Agents,
    /// Manifests to apply
    #[arg(short = 'f', long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Folder of wrappers, one set a folder, that staging hosts offer under the folders' names
    #[arg(long, value_name = "DIR")]
    wrappers: Option<PathBuf>,
    /// Live a staging's whole life, check each step, stop everything, and end with 0 if all was well
    #[arg(long)]
    check: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result {
    let stopped = stop_signal()?;
    let mut house = House::open(args)?;
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
    wait_for_stagings(house)?;
    if args.check {
        check::live_a_life(house)?;
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

/// Waits until no staging is pending, with a line of progress.
fn wait_for_stagings(house: &mut House) -> Result {
    let client = house.client()?;
    let mut progress = output::Progress::new();
    house::wait(PATIENCE, "the stagings of the manifest are done", || {
        house.must_live()?;
        let stagings = client.all("/api/v1/staging/stagings")?;
        let line: Vec<_> = stagings.iter().map(|s| format!("{} {}", word(s, "name"), word(s, "status"))).collect();
        progress.show(&format!("  stagings: {}", line.join(", ")), "");
        let is_done = |s: &Value| s["pending"].is_null() && !word(s, "status").ends_with("Pending");
        Ok(stagings.iter().all(is_done).then_some(()))
    })?;
    progress.end();
    Ok(())
}

/// Prints what there is.
fn report(house: &House) -> Result {
    let client = house.client()?;
    let mut agents = client.all("/api/v1/agents")?;
    for agent in &mut agents {
        agent["driver"] = driver(word(agent, "class")).into();
    }
    let columns =
        [("AGENT", "/name"), ("CLASS", "/class"), ("STATE", "/liveness"), ("LABELS", "/labels"), ("DRIVER", "/driver")];
    output::print("\n")?;
    output::list(Form::Table, agents, &columns, "/id", "no agents")?;
    let mut stagings = client.all("/api/v1/staging/stagings")?;
    for staging in &mut stagings {
        staging["full_name"] = format!("{}/{}", word(staging, "project"), word(staging, "name")).into();
        staging["url"] = house.url_of(staging).map_or(Value::Null, Value::from);
    }
    let mut columns = staging::columns()[..4].to_vec();
    columns.push(("URL", "/url"));
    output::print("\n")?;
    output::list(Form::Table, stagings, &columns, "/full_name", "no stagings")?;
    let (url, user) = (house.url(), "admin");
    let password = house.password().unwrap_or("(changed since)");
    output::print("\n")?;
    output::print(&output::facts(&[
        ("Console", url.to_owned()),
        ("User", user.to_owned()),
        ("Password", password.to_owned()),
        ("Data", house.data_dir().display().to_string()),
        ("Try", format!("muster --url {url} --token-file {} staging list", house.token_file().display())),
    ]))?;
    eprintln!("\nCtrl-C stops everything; `muster dev --data-dir {}` goes on.", house.data_dir().display());
    Ok(())
}

/// Which driver carries out what agents of a class are asked to do.
fn driver(class: &str) -> &'static str {
    match class {
        "staging-host" => "staging",
        _ => "no driver yet",
    }
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
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

fn failed(what: impl Into<String>) -> Failure {
    Failure::failed(what)
}
