//! The operator's command line. It talks to the REST API alone and shares its types.
//!
//! Data goes to standard output, talk to standard error. Exit codes stand in `--help`.

mod apply;
mod client;
mod context;
mod dev;
mod event;
mod experiment;
mod fleet;
mod logs;
mod network;
mod output;
mod people;
mod staging;
mod yaml;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use client::Client;

/// Talks to a Muster controller
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done · 1 failed · 2 wrong use · 3 not found · 4 the state of things forbids it · 5 not \
                  logged in or not allowed · 6 an operation ended badly · 7 the controller cannot be reached\n\n\
                  Examples:\n  muster dev                                   a whole house on this machine\n  \
                  muster login https://muster.example.org      log in and remember it\n  \
                  muster staging create shop/hello --tag v1 --wait\n  \
                  muster apply -f shop.yaml                    declare what a file says"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Heading of what every command takes: apart from its own.
const EVERYWHERE: &str = "Options of every command";

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// Which remembered controller to talk to
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "MUSTER_CONTEXT", value_name = "NAME")]
    context: Option<String>,
    /// Controller's URL in place of a remembered one
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "MUSTER_URL", value_name = "URL")]
    url: Option<String>,
    /// File with the certificate authority of the URL, PEM
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "MUSTER_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// File with an API token; the environment variable MUSTER_TOKEN holds a token itself
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "MUSTER_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Form of the data on standard output
    #[arg(short, long, global = true, help_heading = EVERYWHERE, value_enum, default_value = "table")]
    output: Form,
    /// Answer every question with yes
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    yes: bool,
}

/// Form of data on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Columns for people
    Table,
    /// JSON, as the API gives it
    Json,
    /// The same as YAML
    Yaml,
    /// Names, a line each, for scripts
    Name,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole house on this machine: a controller and some agents, to try things out
    Dev(dev::Args),
    /// Log in to a controller and remember it
    Login(people::Login),
    /// Forget a controller and end the token it was used with
    Logout,
    /// Look after the controllers that are remembered
    #[command(subcommand)]
    Context(context::Command),
    /// Say who you are to the controller
    Whoami,
    /// Make or change what files declare
    Apply(apply::Apply),
    /// Show what applying a file would change
    Diff(apply::Diff),
    /// Print everything that is declared, in the form it is applied in
    Export(apply::Export),
    /// Print the JSON Schema of manifests, for editors
    Schema,
    /// Let agents join
    #[command(subcommand)]
    Invitation(fleet::Invitation),
    /// Look after agents
    #[command(subcommand)]
    Agent(fleet::Agent),
    /// Look after stagings: preview deployments on staging hosts
    Staging(staging::Args),
    /// Run experiments: pipelines of tasks on pools of nodes
    Experiment(experiment::Args),
    /// Look after backbones, and the application networks on them
    Network(network::Args),
    /// Read the history: who changed what, and when
    #[command(subcommand)]
    Event(event::Command),
    /// Look after your API tokens
    #[command(subcommand)]
    Token(people::Token),
    /// Look after your web sessions
    #[command(subcommand)]
    Session(people::Session),
    /// Look after users
    #[command(subcommand)]
    User(people::User),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  muster completions bash >~/.local/share/bash-completion/completions/muster")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Why a command failed: what is said, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// What a person reads.
    message: String,
    /// The process's exit code.
    code: u8,
    /// What would have to go with what was to be removed, and the word that says so much is known.
    standing: Option<Box<(Vec<String>, String)>>,
}

type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// What domains bring to `muster dev`.
const DEV: &[dev::Tenant] = &[
    // A domain is taken out by its line.
    staging::dev::TENANT,
    network::dev::TENANT,
    experiment::dev::TENANT,
];

// === impl Failure ===

impl Failure {
    const FAILED: u8 = 1;
    const USAGE: u8 = 2;
    const NOT_FOUND: u8 = 3;
    const CONFLICT: u8 = 4;
    const DENIED: u8 = 5;
    const ENDED_BADLY: u8 = 6;
    const UNREACHABLE: u8 = 7;

    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { message: message.into(), code, standing: None }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self::new(Self::FAILED, message)
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::new(Self::USAGE, message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

// === impl Global ===

impl Global {
    /// A client of the controller that is meant.
    fn client(&self) -> Result<Client> {
        let target = context::resolve(self)?;
        let client = Client::new(&target)?;
        if target.token.is_none() {
            let text =
                format!("not logged in at {0}; log in with `muster login {0}`, or give --token-file", target.url);
            return Err(Failure::new(Failure::DENIED, text));
        }
        Ok(client)
    }

    /// Asks before something is lost. Off a terminal only `--yes` is a yes.
    fn confirm(&self, question: &str) -> Result {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure::usage(format!("{question} Say --yes to do it without being asked.")));
        }
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::failed("nothing was done")),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{} {failure}", output::red("error:"));
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result {
    let global = cli.global;
    match cli.command {
        Command::Dev(args) => dev::run(&args, DEV),
        Command::Login(login) => login.run(&global),
        Command::Logout => people::log_out(&global),
        Command::Context(command) => command.run(&global),
        Command::Whoami => people::whoami(&global),
        Command::Apply(apply) => apply.run(&global),
        Command::Diff(diff) => diff.run(&global),
        Command::Export(export) => export.run(&global),
        Command::Schema => apply::schema(&global),
        Command::Invitation(command) => command.run(&global),
        Command::Agent(command) => command.run(&global),
        Command::Staging(args) => args.run(&global),
        Command::Experiment(args) => args.run(&global),
        Command::Network(args) => args.run(&global),
        Command::Event(command) => command.run(&global),
        Command::Token(command) => command.run(&global),
        Command::Session(command) => command.run(&global),
        Command::User(command) => command.run(&global),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "muster", &mut std::io::stdout());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
