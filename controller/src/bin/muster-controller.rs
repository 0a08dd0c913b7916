//! The controller's program: arguments → settings → run.

use std::{collections::BTreeMap, io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use muster_controller::{
    access::Access,
    app,
    config::{Config, KEYS, LogFormat, Settings},
    fleet::desired::raise_epoch,
    platform::{
        clock::Clock,
        events::{Actor, Source},
    },
};

/// Where the file is looked for when nobody says.
const FILE: &str = "/etc/muster-controller/controller.toml";

#[derive(Parser)]
#[command(
    name = "muster-controller",
    version,
    about = "Muster's controller: database, PKI, API and console of one fleet",
    after_help = "Examples:\n  \
        muster-controller --data-dir ./data\n  \
        muster-controller config show --origin\n  \
        muster-controller user reset-password admin\n\n\
        Settings come from a flag, else MUSTER_<NAME> in the environment, else the file, else a default."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Do>,
    /// The settings file; by default controller.toml in $CONFIGURATION_DIRECTORY or /etc/muster-controller, if there
    #[arg(long, global = true, env = "MUSTER_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Do {
    /// Run the controller (what it does without a subcommand)
    Run,
    /// Bring the database up to date and end
    Migrate,
    /// Look at the settings
    Config {
        #[command(subcommand)]
        what: ConfigDo,
    },
    /// Help users who are locked out
    User {
        #[command(subcommand)]
        what: UserDo,
    },
    /// Say that the database was restored from a backup; to be done before the first start after that
    RestoreMark,
    /// Ask the controller running here whether it is ready
    Healthcheck,
}

#[derive(Subcommand)]
enum ConfigDo {
    /// Print the settings
    Show {
        /// With where each comes from
        #[arg(long)]
        origin: bool,
    },
}

#[derive(Subcommand)]
enum UserDo {
    /// Make up another password, to be changed at the next log-in; sessions and tokens end
    ResetPassword {
        /// Who
        name: String,
    },
}

/// One flag for each setting.
struct Flags(BTreeMap<String, String>);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muster-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let settings = settings(&cli)?;
    match cli.command.unwrap_or(Do::Run) {
        Do::Run => serve(settings.check()?).await,
        Do::Migrate => {
            app::open(&settings.check()?, Clock::default()).await?.close().await;
            println!("the database is up to date");
            Ok(())
        }
        Do::Config { what: ConfigDo::Show { origin } } => {
            print!("{}", settings.show(origin));
            settings.check().map(drop).map_err(Into::into)
        }
        Do::User { what: UserDo::ResetPassword { name } } => reset_password(&settings.check()?, &name).await,
        Do::RestoreMark => restore_mark(&settings.check()?).await,
        Do::Healthcheck => healthcheck(&settings.check()?),
    }
}

fn settings(cli: &Cli) -> anyhow::Result<Settings> {
    let env = |name: &str| std::env::var(name).ok();
    let folder = env("CONFIGURATION_DIRECTORY").map(|dir| PathBuf::from(dir).join("controller.toml"));
    let default = folder.unwrap_or_else(|| FILE.into());
    let path = cli.config.clone().or_else(|| default.exists().then_some(default));
    let text = path.as_ref().map(std::fs::read_to_string).transpose();
    let text = text.with_context(|| format!("cannot read {}", path.clone().unwrap_or_default().display()))?;
    let file = path.as_deref().zip(text.as_deref());
    Ok(Settings::resolve(&cli.flags.0, env, file)?)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    start_log(config.log);
    let notice = config.data_dir.join("first-admin");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut running = app::start(config, Clock::default()).await?;
    if let Some(password) = &running.first_admin {
        tell_first_admin(&running.api_url, password, &notice)?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        () = running.failed() => bail!("a port failed; the log says why"),
    }
    tracing::info!("the controller stops");
    running.stop().await;
    Ok(())
}

/// Shows the first admin's password once: to whoever looks on, else in a file for its owner alone.
fn tell_first_admin(url: &str, password: &str, notice: &std::path::Path) -> anyhow::Result<()> {
    if std::io::stdout().is_terminal() {
        println!("First start. Log in at {url} as admin with this password, once:\n\n    {password}\n");
        return Ok(());
    }
    app::write_private(notice, format!("{password}\n").as_bytes())?;
    tracing::info!(file = %notice.display(), "first start: the password of admin is in this file; remove it when read");
    Ok(())
}

fn start_log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MUSTER_LOG_FILTER");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sqlx=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    let log = log.with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn reset_password(config: &Config, name: &str) -> anyhow::Result<()> {
    let db = app::open(config, Clock::default()).await?;
    let actor = Actor { name: "controller".into(), source: Source::Controller };
    let password = Access::new(db.clone()).reset_password(&actor, name, None).await?;
    db.close().await;
    println!("{password}");
    eprintln!("This is {name}'s password for the next log-in, where it must be changed.");
    Ok(())
}

async fn restore_mark(config: &Config) -> anyhow::Result<()> {
    let db = app::open(config, Clock::default()).await?;
    // One that runs has read the epoch already.
    let _lock = app::lock(&config.data_dir)?;
    let epoch = db
        .write(|mut tx| async move {
            let epoch = raise_epoch(&mut tx).await?;
            let change = Actor::controller().change("database.restored", "database");
            tx.record(change.after(serde_json::json!({"epoch": epoch}))).await?;
            tx.done(epoch)
        })
        .await?;
    db.close().await;
    println!("the database is of epoch {epoch}: what agents hold from before is kept and shown, not withdrawn");
    Ok(())
}

/// Asks `/readyz` here, over plain HTTP: with TLS, whether the port answers.
fn healthcheck(config: &Config) -> anyhow::Result<()> {
    use std::io::{Read, Write};
    let mut address = config.http_listen;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv6() { std::net::Ipv6Addr::LOCALHOST.into() } else { [127, 0, 0, 1].into() };
        address.set_ip(loopback);
    }
    let limit = std::time::Duration::from_secs(5);
    let mut stream = std::net::TcpStream::connect_timeout(&address, limit)
        .with_context(|| format!("nobody answers at {address}"))?;
    if config.http_tls != muster_controller::config::HttpTls::Off {
        return Ok(());
    }
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET /readyz?verbose HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    print!("{body}");
    if head.split(' ').nth(1) != Some("200") {
        bail!("the controller at {address} is not ready");
    }
    Ok(())
}

// === impl Flags ===

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let flag = |key: &'static muster_controller::config::Key| {
            Arg::new(key.name).long(key.flag).value_name("VALUE").help(key.help).global(true)
        };
        command.args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |name: &str| matches.get_one::<String>(name).map(|value| (name.to_owned(), value.clone()));
        Ok(Self(KEYS.iter().filter_map(|key| given(key.name)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }
}
