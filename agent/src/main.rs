//! `muster-agent`: arguments in, library called, exit code out.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use muster_agent::{
    app::{self, Sign},
    config::{self, Loaded},
    console,
    doctor::{self, Grade},
    flag,
    host::{Host, Machine, limited},
    identity::{self, Identity},
    ledger::{self, Ledger},
    status::{Holds, Status},
};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const EXAMPLES: &str = "Examples:
  muster-agent enroll < invitation      Join, with the token from standard input
  muster-agent run                      Call home and do what it asks
  muster-agent status -o json           What the running agent says of itself
  muster-agent console                  An address that opens this host's console
  muster-agent doctor                   What may keep this host from home
  muster-agent config show --origin     Every setting and where it comes from";

/// The agent of Muster: calls home and keeps this host as home wants it.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    /// Configuration file
    #[arg(long, global = true, env = "MUSTER_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of identity, ledger and spool
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What is logged, as directives like `info` or `muster_agent=debug`
    #[arg(long, global = true, value_name = "DIRECTIVES")]
    log: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Trade an invitation for an identity. The token comes from standard input, a file, or the credential
    /// `invitation` of the service manager, never from the command line.
    Enroll {
        /// File that holds the token
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Replace the identity this state folder has
        #[arg(long)]
        replace: bool,
    },
    /// Run until told to stop
    Run,
    /// Show what the running agent says of itself
    Status {
        /// Form of the answer
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Print an address that opens the running agent's console in a browser of this host. It lets its reader in
    Console,
    /// Examine what may keep this host from home; exits with 1 when something does
    Doctor,
    /// Look at and change the flags of an experiment, from within a task of it
    Flag(flag::Flags),
    /// Look at the configuration
    #[command(subcommand)]
    Config(Look),
    /// Set limits, then become a program
    #[command(hide = true)]
    ExecLimited(limited::Args),
}

#[derive(Subcommand)]
enum Look {
    /// Show every setting
    Show {
        /// Show where each comes from
        #[arg(long)]
        origin: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Verb::ExecLimited(args) = cli.verb {
        let error = limited::exec(args);
        eprintln!("muster-agent exec-limited: {error}");
        return ExitCode::from(127);
    }
    let done = match cli.verb {
        // A task has nothing to do with the agent's own settings.
        Verb::Flag(flags) => flag::run(flags),
        verb => act(Cli { verb, ..cli }),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("muster-agent: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(cli: Cli) -> anyhow::Result<ExitCode> {
    let text = |path: PathBuf| toml::Value::String(path.to_string_lossy().into_owned());
    let mut flags = Vec::new();
    flags.extend(cli.state_dir.map(|dir| ("state_dir", text(dir))));
    flags.extend(cli.log.map(|log| ("log", toml::Value::String(log))));
    let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let config = cli.config.or_else(config::from_service_manager);
    let loaded = config::load(config.as_deref(), flags, env)?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&loaded.config.log).context("log")?)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The link survives a replaced executable: an agent upgraded in place still starts wrappers.
    let machine = Arc::new(Machine::new(Some("/proc/self/exe".into())));
    match cli.verb {
        Verb::Enroll { token_file, replace } => runtime.block_on(enroll(&loaded, &*machine, token_file, replace)),
        Verb::Run => runtime.block_on(run(loaded, machine)),
        Verb::Status { output } => status(&loaded, output),
        Verb::Console => {
            let state_dir = &loaded.config.state_dir;
            println!("{}", runtime.block_on(console::url(state_dir, &read_status(state_dir)?.console))?);
            Ok(ExitCode::SUCCESS)
        }
        Verb::Doctor => {
            let findings = runtime.block_on(doctor::examine(&loaded.config, &*machine));
            findings.iter().for_each(|finding| println!("{finding}"));
            let failed = findings.iter().any(|finding| finding.grade == Grade::Fail);
            Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Verb::Config(Look::Show { origin }) => {
            for (key, (value, from)) in &loaded.origins {
                if origin { println!("{key} = {value}  # {from}") } else { println!("{key} = {value}") }
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::ExecLimited(_) | Verb::Flag(_) => unreachable!("taken before anything is set up"),
    }
}

async fn enroll(
    loaded: &Loaded,
    host: &dyn Host,
    token_file: Option<PathBuf>,
    replace: bool,
) -> anyhow::Result<ExitCode> {
    let state_dir = &loaded.config.state_dir;
    let former = Identity::load(state_dir).unwrap_or_else(|e| {
        tracing::warn!(error = %format!("{e:#}"), "the identity found cannot be read");
        None
    });
    if let Some(former) = former.as_ref().filter(|_| !replace) {
        bail!("{} is enrolled as {}; --replace gives that identity up", state_dir.display(), former.agent_id);
    }
    let token = muster_proto::token::parse(&read_token(token_file)?)?;
    let identity = identity::enroll(state_dir, &token, &host.facts()).await?;
    if let Some(former) = former.filter(|former| former.agent_id != identity.agent_id) {
        eprintln!("warning: the identity {} is given up on this host", former.agent_id);
        if let Some(path) = Ledger::retire(state_dir, host.now_ms())? {
            eprintln!("warning: its ledger lies aside as {}", path.display());
        }
    }
    println!("{}", identity.agent_id);
    eprintln!("enrolled as {} ({}); start it with: muster-agent run", identity.agent_id, identity.class);
    Ok(ExitCode::SUCCESS)
}

/// The invitation that the service manager hands over; none when it is blank, which is how a unit says that it has none.
fn credential() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join("invitation");
    fs::read_to_string(&path).is_ok_and(|text| !text.trim().is_empty()).then_some(path)
}

fn read_token(file: Option<PathBuf>) -> anyhow::Result<String> {
    if let Some(path) = file.or_else(credential) {
        return fs::read_to_string(&path).with_context(|| path.display().to_string());
    }
    if io::stdin().is_terminal() {
        eprintln!("paste the invitation token, then press Enter and Ctrl-D:");
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("standard input")?;
    Ok(text)
}

async fn run(loaded: Loaded, machine: Arc<Machine>) -> anyhow::Result<ExitCode> {
    // A host that was given its invitation with its unit joins by itself at its first start.
    if let (None, Some(invitation)) = (Identity::load(&loaded.config.state_dir)?, credential()) {
        enroll(&loaded, &*machine, Some(invitation), false).await?;
    }
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopping = async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        stop.cancel();
        std::future::pending::<()>().await;
    };
    let tell = |sign| {
        // Without a service manager there is nobody to tell.
        let _ = match sign {
            Sign::Ready => sd_notify::notify(&[NotifyState::Ready]),
            Sign::Turn => sd_notify::notify(&[NotifyState::Watchdog]),
            Sign::Status(line) => sd_notify::notify(&[NotifyState::Status(&line)]),
        };
    };
    tokio::select! {
        ended = app::run_observed(loaded.config, machine, stop.clone(), tell) => ended?,
        () = stopping => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn read_status(state_dir: &Path) -> anyhow::Result<Status> {
    let none = || format!("no agent has run on {}; start one with: muster-agent run", state_dir.display());
    Status::read(state_dir)?.with_context(none)
}

fn status(loaded: &Loaded, output: Output) -> anyhow::Result<ExitCode> {
    let state_dir = &loaded.config.state_dir;
    let mut status = read_status(state_dir)?;
    // The ledger is the truth of what is held, also while no agent runs.
    if let Some(state) = ledger::peek(state_dir)? {
        status.holds = Holds::of(&state);
    }
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Text => {
            println!("agent        {} ({}), version {}", status.agent_id, status.class, status.version);
            println!("home         {}", status.line());
            if !status.link.last_error.is_empty() {
                println!("last end     {}", status.link.last_error);
            }
            let holds = &status.holds;
            println!("waiting      {} to start, {} outcomes to bring home", holds.waiting, holds.unacknowledged);
            match status.console.address {
                Some(address) => println!("console      http://{address}; let yourself in with: muster-agent console"),
                None => println!("console      not served: {}", status.console.message),
            }
            println!("clock        home is {} ms ahead", status.skew_ms);
        }
    }
    Ok(ExitCode::SUCCESS)
}
