//! `muster-agent flag`: the flags of an experiment, for the tasks of its pipelines.
//!
//! A task finds its relay and its experiment in its environment, as the agent put them there. Whatever is asked is held
//! until home has answered; waiting is done at home, and not by asking again and again.

use std::{env, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Deserialize;

/// A flag that was never set, or is not as awaited when the time is over.
const NOT_SO: u8 = 3;

/// As long as anybody waits, milliseconds.
const FOR_EVER: u64 = 365 * 24 * 3_600_000;

const EXAMPLES: &str = "Examples:
  muster-agent flag set ready --text yes            Say that something is ready
  muster-agent flag wait ready --text yes           Wait until it is
  muster-agent flag add rounds                      Count one more
  muster-agent flag get rounds                      How many there are
  muster-agent flag barrier start 5 --timeout 60    Go on when five are here, or fail after a minute

A task finds the flags of its own experiment. Exit codes: 0 done, 1 failed, 3 never set or not as awaited in time.";

/// Look at and change the flags of the experiment that a task belongs to.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a flag: its text, or else its number
    Get {
        /// The flag
        name: String,
        /// Print both as JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a flag a text, a number, or both
    #[command(group = clap::ArgGroup::new("value").required(true).multiple(true))]
    Set {
        /// The flag
        name: String,
        /// Its text
        #[arg(long, group = "value")]
        text: Option<String>,
        /// Its number
        #[arg(long, group = "value", default_value_t = 0, allow_negative_numbers = true, hide_default_value = true)]
        number: i64,
    },
    /// Add to a flag's number, whoever else does so at the same time
    Add {
        /// The flag
        name: String,
        /// How much
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Wait until a flag is set, and as it should be; then print it
    Wait {
        /// The flag
        name: String,
        /// Until its text is this
        #[arg(long)]
        text: Option<String>,
        /// Until its number is at least this
        #[arg(long, allow_negative_numbers = true)]
        at_least: Option<i64>,
        /// Give up after so many seconds
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Add one to a flag's number, then wait until so many did
    Barrier {
        /// The flag
        name: String,
        /// How many there are to be
        count: i64,
        /// Give up after so many seconds
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
}

#[derive(Debug, Deserialize)]
struct Values {
    text_value: Option<String>,
    int_value: i64,
}

struct Relay {
    agent: ureq::Agent,
    flags: String,
}

/// Carries out what was asked for.
///
/// # Errors
/// This is no task of an experiment, the relay is not there, or home refuses.
pub fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    let relay = Relay::of_this_task()?;
    match flags.verb {
        Verb::Get { name, json } => match relay.get(&name, &[])? {
            Some((values, text)) => {
                if json {
                    println!("{text}")
                } else {
                    print(values)
                }
                Ok(ExitCode::SUCCESS)
            }
            None => not_so(&format!("the flag {name} was never set")),
        },
        Verb::Set { name, text, number } => {
            let body = serde_json::json!({"text_value": text, "int_value": number});
            relay.post(&encoded(&name), &body.to_string()).map(|()| ExitCode::SUCCESS)
        }
        Verb::Add { name, by } => relay.add(&name, by).map(|()| ExitCode::SUCCESS),
        Verb::Wait { name, text, at_least, timeout } => relay.wait(&name, text, at_least, timeout),
        Verb::Barrier { name, count, timeout } => {
            relay.add(&name, 1)?;
            relay.wait(&name, None, Some(count), timeout)
        }
    }
}

// === impl Relay ===

impl Relay {
    fn of_this_task() -> anyhow::Result<Self> {
        let first = |names: [&str; 2]| names.iter().find_map(|name| env::var(name).ok());
        let lacking = "this is no task of an experiment: MUSTER_RELAY and MUSTER_EXPERIMENT are not set";
        let relay = first(["MUSTER_RELAY", "NETUNICORN_GATEWAY_ENDPOINT"]).context(lacking)?;
        let experiment = first(["MUSTER_EXPERIMENT", "NETUNICORN_EXPERIMENT_ID"]).context(lacking)?;
        let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent();
        let flags = format!("{}/api/v1/experiment/{}/flag", relay.trim_end_matches('/'), encoded(&experiment));
        Ok(Self { agent, flags })
    }

    /// The values of a flag, and their JSON; none when it was never set.
    fn get(&self, name: &str, query: &[(&str, String)]) -> anyhow::Result<Option<(Values, String)>> {
        let request = self.agent.get(format!("{}/{}", self.flags, encoded(name)));
        let request = query.iter().fold(request, |request, (name, value)| request.query(name, value));
        let mut answer = request.call().context("the agent's relay cannot be reached")?;
        let text = answer.body_mut().read_to_string()?;
        match answer.status().as_u16() {
            200 => Ok(Some((serde_json::from_str(&text).context("the relay's answer")?, text))),
            404 => Ok(None),
            _ => bail!("refused: {text}"),
        }
    }

    fn post(&self, path: &str, body: &str) -> anyhow::Result<()> {
        let sent = self.agent.post(format!("{}/{path}", self.flags)).send(body);
        let mut answer = sent.context("the agent's relay cannot be reached")?;
        match answer.status().as_u16() {
            200 => Ok(()),
            404 => bail!("refused: this flag is not this task's to change"),
            _ => bail!("refused: {}", answer.body_mut().read_to_string()?),
        }
    }

    fn add(&self, name: &str, by: i64) -> anyhow::Result<()> {
        self.post(&format!("{}/increment?by={by}", encoded(name)), "")
    }

    fn wait(
        &self,
        name: &str,
        text: Option<String>,
        at_least: Option<i64>,
        timeout: Option<u64>,
    ) -> anyhow::Result<ExitCode> {
        let wait_ms = timeout.map_or(FOR_EVER, |seconds| seconds.saturating_mul(1000).min(FOR_EVER));
        let mut query = vec![("wait_ms", wait_ms.to_string())];
        query.extend(text.iter().map(|text| ("until_text", text.clone())));
        query.extend(at_least.map(|least| ("until_at_least", least.to_string())));
        let found = self.get(name, &query)?;
        let is_so = |values: &Values| {
            text.as_ref().is_none_or(|text| values.text_value.as_ref() == Some(text))
                && at_least.is_none_or(|least| values.int_value >= least)
        };
        match found {
            Some((values, _)) if is_so(&values) => {
                print(values);
                Ok(ExitCode::SUCCESS)
            }
            _ => not_so(&format!("the flag {name} did not become as awaited in time")),
        }
    }
}

fn print(values: Values) {
    match values.text_value {
        Some(text) => println!("{text}"),
        None => println!("{}", values.int_value),
    }
}

fn not_so(why: &str) -> anyhow::Result<ExitCode> {
    eprintln!("muster-agent: {why}");
    Ok(ExitCode::from(NOT_SO))
}

fn encoded(text: &str) -> String {
    let piece = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(piece).collect()
}
