//! `apply`, `diff`, `export`, `schema`: what people declare, as files.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::{
    Failure, Form, Global, Result,
    client::{Client, query},
    output::{self, green},
    yaml::{self, Document},
};
use crate::web::{Applied, Outcome, manifest::Difference};

/// Make or change what files declare
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  muster apply -f shop.yaml\n  muster apply -f shop.yaml --dry-run\n  cat shop.yaml | muster apply -f -"
)]
pub(crate) struct Apply {
    /// Files of manifests, YAML, several documents a file; `-` is standard input
    #[arg(short, long, required = true, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Show what applying a file would change
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  muster diff -f shop.yaml")]
pub(crate) struct Diff {
    /// Files of manifests, YAML; `-` is standard input
    #[arg(short, long, required = true, value_name = "FILE")]
    file: Vec<PathBuf>,
}

/// Print everything that is declared, in the form it is applied in
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  muster export --kind staging.project >projects.yaml\n\nSecrets are left out: nobody may read them."
)]
pub(crate) struct Export {
    /// Only this kind, such as staging.project
    #[arg(long)]
    kind: Option<String>,
}

// === impl Apply ===

impl Apply {
    pub fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        let documents = read_all(&self.file)?;
        // Everything is tried before anything is done: a file is applied whole or not at all, as far as can be told.
        for document in &documents {
            tolerant(apply(&client, document, true), &documents)?;
        }
        let mut applied = Vec::new();
        for document in &documents {
            let done = if self.dry_run {
                let Some(tried) = tolerant(apply(&client, document, true), &documents)? else { continue };
                tried
            } else {
                apply(&client, document, false)?
            };
            if global.output == Form::Table {
                let word =
                    if self.dry_run { format!("would be {}", word(done.outcome)) } else { word(done.outcome).into() };
                output::print(&format!("{} {} {}\n", done.kind, done.name, green(&word)))?;
            }
            applied.push(serde_json::to_value(done).map_err(|e| Failure::failed(e.to_string()))?);
        }
        match global.output {
            Form::Table => Ok(()),
            form => output::list(form, applied, &[], "/name", ""),
        }
    }
}

// === impl Diff ===

impl Diff {
    pub fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        let documents = read_all(&self.file)?;
        let mut all = Vec::new();
        for document in &documents {
            let Some(would) = tolerant(apply(&client, document, true), &documents)? else {
                eprintln!("{}: depends on another document of these files", document.title());
                continue;
            };
            if global.output != Form::Table {
                all.push(serde_json::to_value(would).map_err(|e| Failure::failed(e.to_string()))?);
                continue;
            }
            output::print(&format!("{} {}: {}\n", would.kind, would.name, word(would.outcome)))?;
            for difference in &would.diff {
                output::print(&lines(difference))?;
            }
        }
        match global.output {
            Form::Table => Ok(()),
            form => output::list(form, all, &[], "/name", ""),
        }
    }
}

// === impl Export ===

impl Export {
    pub fn run(&self, global: &Global) -> Result {
        let query = query(&[("kind", self.kind.clone().unwrap_or_default())]);
        let all: Vec<Value> = global.client()?.get(&format!("/api/v1/manifests/export?{query}"))?;
        if matches!(global.output, Form::Json | Form::Name) {
            return output::list(global.output, all, &[], "/name", "");
        }
        for manifest in all {
            let text = serde_saphyr::to_string(&manifest).map_err(|e| Failure::failed(e.to_string()))?;
            output::print(&format!("---\n{text}"))?;
        }
        Ok(())
    }
}

/// Prints the JSON Schema of manifests.
pub(crate) fn schema(global: &Global) -> Result {
    let schema: Value = global.client()?.get("/api/v1/manifests/schema")?;
    output::one(Form::Json, &schema, "/title", |_| String::new())
}

/// Applies the manifests of a file; for `muster dev`.
pub(crate) fn apply_file(client: &Client, file: &std::path::Path) -> Result<Vec<Applied>> {
    yaml::read(file)?.iter().map(|document| apply(client, document, false)).collect()
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for file in files {
        documents.extend(yaml::read(file)?);
    }
    if documents.is_empty() {
        return Err(Failure::usage("there is no document in these files"));
    }
    Ok(documents)
}

fn apply(client: &Client, document: &Document, dry_run: bool) -> Result<Applied> {
    client.post(&format!("/api/v1/manifests/apply?dry_run={dry_run}"), &document.value()).map_err(|failure| {
        // A refusal begins with the field it is about.
        let field = failure.message.split(": ").next().unwrap_or_default().to_owned();
        Failure::new(failure.code, format!("{}: {}: {failure}", document.place(&field), document.title()))
    })
}

/// A try that fails because something is missing is no mistake when there is more than one document: an earlier one may
/// be about to make it.
fn tolerant(tried: Result<Applied>, documents: &[Document]) -> Result<Option<Applied>> {
    match tried {
        Err(failure) if failure.code == Failure::NOT_FOUND && documents.len() > 1 => Ok(None),
        other => other.map(Some),
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Changed => "changed",
        Outcome::Unchanged => "unchanged",
    }
}

fn lines(difference: &Difference) -> String {
    let line = |mark: &str, value: &Option<Value>| match value {
        Some(value) => format!("  {mark} {}: {value}\n", difference.field),
        None => String::new(),
    };
    format!("{}{}", line("-", &difference.before), line("+", &difference.after))
}
