//! `muster event …`: the history.

use clap::Subcommand;
use serde_json::Value;

use super::{Failure, Form, Global, Result, client::query, output};
use crate::platform::events::{Event, Verified};

/// Read the history
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what happened, newest first
    List {
        /// Only about this, such as staging/shop/hello
        #[arg(long)]
        subject: Option<String>,
        /// Only of this kind, such as agent or agent.enrolled
        #[arg(long)]
        kind: Option<String>,
        /// Only by this actor, such as user/admin
        #[arg(long)]
        actor: Option<String>,
        /// No more than this many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Print what happens as it happens
    Follow {
        /// Only about this
        #[arg(long)]
        subject: Option<String>,
        /// Only of this kind
        #[arg(long)]
        kind: Option<String>,
    },
    /// Check the seals of the history
    Verify,
}

impl Command {
    pub fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        let word = |o: &Option<String>| o.clone().unwrap_or_default();
        match self {
            Self::List { subject, kind, actor, limit } => {
                let query = query(&[("subject", word(subject)), ("kind", word(kind)), ("actor", word(actor))]);
                let page: Value = client.get(&format!("/api/v1/events?limit={}&{query}", (*limit).clamp(1, 500)))?;
                let items = page["items"].as_array().cloned().unwrap_or_default();
                let columns = [
                    ("SEQ", "/seq"),
                    ("TIME", "/at"),
                    ("KIND", "/kind"),
                    ("SUBJECT", "/subject"),
                    ("BY", "/actor"),
                    ("FROM", "/source"),
                ];
                output::list(global.output, items, &columns, "/seq", "nothing happened yet")
            }
            Self::Follow { subject, kind } => {
                let query = query(&[("subject", word(subject)), ("kind", word(kind))]);
                client.follow(&format!("/api/v1/events/stream?{}", query), |message| {
                    if message.event == "change" {
                        output::print(&line(global.output, &message.data)?)?;
                    }
                    Ok(None::<()>)
                })?;
                Ok(())
            }
            Self::Verify => {
                let found: Verified = client.get("/api/v1/events/verify")?;
                match found.fault {
                    Some(fault) => Err(Failure::failed(format!("the history was changed: {fault}"))),
                    None => output::print(&format!(
                        "sealed up to event {}: {} range(s) checked, {} dropped by retention\n",
                        found.sealed_up_to, found.checked, found.dropped
                    )),
                }
            }
        }
    }
}

fn line(form: Form, data: &str) -> Result<String> {
    if form == Form::Json {
        return Ok(format!("{data}\n"));
    }
    let event: Event = serde_json::from_str(data).map_err(|e| Failure::failed(e.to_string()))?;
    let after = event.after.map(|v| v.to_string()).unwrap_or_default();
    Ok(format!("{}  {:<28}  {:<32}  {}  {after}\n", output::when(event.at), event.kind, event.subject, event.actor))
}
