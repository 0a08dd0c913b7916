//! `muster event …`: the history.

use clap::Subcommand;
use serde_json::Value;

use super::{Failure, Form, Global, Result, client::query, output};
use crate::platform::events::{Event, Verified};

/// Read the history
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what happened, newest first
    #[command(
        after_help = "Examples:\n  muster event list --subject staging/shop/hello\n  muster event list --kind agent --limit 500 -o json\n  muster event list --actor user/admin"
    )]
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
        /// No more than this many, at most 500
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Print what happens as it happens
    #[command(after_help = "Example:\n  muster event follow --kind staging -o json | jq .subject")]
    Follow {
        /// Only about this, such as staging/shop
        #[arg(long)]
        subject: Option<String>,
        /// Only of this kind, such as agent
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
                let answer: Value = client.get("/api/v1/events/verify")?;
                let found: Verified =
                    serde_json::from_value(answer.clone()).map_err(|e| Failure::failed(e.to_string()))?;
                if let Some(fault) = &found.fault {
                    return Err(Failure::failed(format!("the history was changed: {fault}")));
                }
                output::one(global.output, &answer, "/sealed_up_to", |_| {
                    let Verified { sealed_up_to, checked, dropped, .. } = found;
                    format!(
                        "sealed up to event {sealed_up_to}: {checked} range(s) checked, {dropped} dropped by retention\n"
                    )
                })
            }
        }
    }
}

fn line(form: Form, data: &str) -> Result<String> {
    if form == Form::Json {
        return Ok(format!("{data}\n"));
    }
    let event: Event = serde_json::from_str(data).map_err(|e| Failure::failed(e.to_string()))?;
    match form {
        Form::Yaml => {
            let text = serde_saphyr::to_string(&event).map_err(|e| Failure::failed(e.to_string()))?;
            return Ok(format!("---\n{text}"));
        }
        Form::Name => return Ok(format!("{}\n", event.seq)),
        Form::Table | Form::Json => {}
    }
    let after = event.after.map(|v| v.to_string()).unwrap_or_default();
    Ok(format!("{}  {:<28}  {:<32}  {}  {after}\n", output::when(event.at), event.kind, event.subject, event.actor))
}
