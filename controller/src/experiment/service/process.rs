//! Running an administrator's processors: before an experiment is prepared, and once it has ended.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Experiments, Refusable, Refusal, User};
use crate::{
    experiment::{
        order::Order,
        processor,
        store::{self, ExperimentRow},
    },
    platform::program::Programs,
};

impl Experiments {
    /// Whether an experiment of this name and content is there; refused when its content is another.
    pub(super) async fn is_there(&self, user: &User, name: &str, digest: &str) -> Refusable<bool> {
        let found = store::find_experiment(&mut *self.fleet.db.read().await?, &user.name, name).await?;
        is_repeat(found.as_ref(), name, digest)
    }

    /// What the preprocessors make of an order, one after the other. Everything is checked again after them.
    pub(super) async fn preprocess(&self, user: &User, name: &str, mut order: Order) -> Refusable<Order> {
        let programs = &self.processors.pre;
        let list = list(programs, "preprocessors").await.map_err(Refusal::Sentence)?;
        for program in list {
            let refused = |why: String| Refusal::Sentence(format!("The preprocessor {} {why}", called(&program)));
            let question = processor::question(&user.name, name, &order);
            let answer = run(programs, &program, &question, "refuses it").await.map_err(refused)?;
            if let Some(revised) = processor::revised(&user.name, name, &order, &answer).map_err(refused)? {
                order = revised;
                order.check(user.is_admin).map_err(|why| refused(format!("made it one that is refused: {}", why.0)))?;
            }
        }
        Ok(order)
    }

    /// Tells every postprocessor of an experiment's end; what they said, or why one failed.
    pub(in crate::experiment) async fn postprocess(&self, question: &Value) -> Result<String, String> {
        let programs = &self.processors.post;
        let mut sentences = Vec::new();
        for program in list(programs, "postprocessors").await? {
            let failed = |why: String| format!("The postprocessor {} {why}", called(&program));
            let answer = run(programs, &program, question, "failed").await.map_err(failed)?;
            sentences.push(processor::sentence(&answer).map_err(failed)?);
        }
        sentences.retain(|sentence| !sentence.is_empty());
        Ok(sentences.join("\n"))
    }
}

/// Whether what was found is the same; refused when its content is another.
pub(super) fn is_repeat(found: Option<&ExperimentRow>, name: &str, digest: &str) -> Refusable<bool> {
    match found {
        None => Ok(false),
        Some(same) if same.digest == digest => Ok(true),
        Some(_) => Err(Refusal::OtherContent(name.into())),
    }
}

async fn list(programs: &Programs, what: &str) -> Result<Vec<PathBuf>, String> {
    programs.list().await.map_err(|error| {
        tracing::error!(%error, "the folder of {what} cannot be read");
        format!("The {what} cannot be found; an administrator must look at the controller's settings and log")
    })
}

/// A processor's answer; `no` says what it means that it exited with another code than 0.
async fn run(programs: &Programs, program: &Path, question: &Value, no: &str) -> Result<Vec<u8>, String> {
    let ended = programs.run(program, question.to_string().as_bytes()).await.map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(ended.output);
    }
    let said = processor::complaint(&ended.complaint);
    Err(if said.is_empty() { format!("{no}: {}", ended.status) } else { format!("{no}: {said}") })
}

fn called(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
