//! Carrying out a native pipeline: what begins when follows from `plan`; here are the folders, processes and files.
//!
//! Each try of a task has a folder of its own below the executor's, with copies of its inputs. What it leaves is kept for
//! home and for later tasks; the folder goes when a newer try of the task has ended and nobody can want it any more.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    artifact, content,
    executor::Place,
    ground,
    image::{self, Start},
    lines::Lines,
    model::{Content, Executed, Run, RunState, State},
    plan::{self, Action, History, Outcome, Pipeline, Slot, Task, Work},
    runs::Runs,
};
use crate::host::Program;

/// The most of a result that is told, bytes.
const VALUE: usize = 4096;

/// How a try ended.
struct Tried {
    task: usize,
    number: u64,
    outcome: Outcome,
    run: Run,
    folder: PathBuf,
}

/// One try, before it begins.
struct Try<'a> {
    task: &'a Task,
    at: usize,
    slot: Slot,
    number: u64,
    /// Where each of its inputs comes from and lies.
    inputs: Vec<(Option<PathBuf>, &'a plan::Input)>,
    cancel: CancellationToken,
}

/// The folders of one task's tries that stay.
#[derive(Default)]
struct Folders {
    newest: Option<PathBuf>,
    good: Option<PathBuf>,
}

/// Runs a pipeline to its end.
pub async fn run(place: &Place<'_>, pipeline: &Pipeline) -> (bool, Executed) {
    let (began, limit) = (Instant::now(), place.executor.limit);
    let mut history = History::new(pipeline);
    let mut runs = Runs::default();
    let mut tries: FuturesUnordered<BoxFuture<'_, Tried>> = FuturesUnordered::new();
    let mut cancels: BTreeMap<usize, CancellationToken> = BTreeMap::new();
    let mut folders: BTreeMap<usize, Folders> = BTreeMap::new();
    let mut timed_out = false;
    let told = |runs: &Runs| Executed {
        state: State::Executing,
        started_ms: place.started_ms,
        runs: runs.list().cloned().collect(),
        runs_left_out: runs.left_out,
        ..Executed::default()
    };
    let verdict = 'pipeline: loop {
        let mut wake = None;
        let mut again = true;
        while std::mem::take(&mut again) {
            for action in plan::next(pipeline, &history, began.elapsed()) {
                match action {
                    Action::Start(at) => {
                        history.started(at);
                        let (task, slot) = (&pipeline.tasks[at], history.slots[at]);
                        let cancel = place.cancel.child_token();
                        cancels.insert(at, cancel.clone());
                        let from = |other| folders.get(other).and_then(|folders: &Folders| folders.good.clone());
                        let inputs = task.inputs.iter().map(|input| (from(&input.task), input)).collect();
                        let started_ms = place.ground.host.now_ms();
                        let number = runs.add(Run { started_ms, ..named(task, slot) });
                        let it = Try { task, at, slot, number, inputs, cancel };
                        tries.push(Box::pin(attempt(place, it, started_ms)));
                    }
                    Action::Skip(at, message) => {
                        history.skipped(at);
                        let (task, cycle) = (pipeline.tasks[at].name.clone(), history.slots[at].cycle);
                        runs.add(Run { task, cycle, state: RunState::Skipped, message, ..Run::default() });
                        again = true;
                    }
                    Action::Cancel(at) => cancels.get(&at).into_iter().for_each(CancellationToken::cancel),
                    Action::Wake(at) => wake = Some(began + at),
                    Action::End(verdict) => break 'pipeline verdict,
                }
            }
        }
        place.tell(told(&runs));
        tokio::select! {
            Some(tried) = tries.next() => {
                history.ended(pipeline, tried.task, tried.outcome, began.elapsed());
                folders.entry(tried.task).or_default().keep(tried.folder, tried.outcome == Outcome::Succeeded);
                runs.end(tried.number, tried.run);
            }
            () = async { sleep_until(wake.unwrap_or(began)).await }, if wake.is_some() => {}
            () = place.cancel.cancelled(), if history.stopped.is_none() => history.stop("it was cancelled".into()),
            () = sleep_until(began + limit), if history.stopped.is_none() => {
                timed_out = true;
                history.stop(format!("its limit of {} s was over", limit.as_secs()));
            }
        }
    };
    let message = verdict.clone().unwrap_or_default();
    (verdict.is_none(), Executed { state: State::Finished, message, timed_out, ..told(&runs) })
}

/// A try as it is told from its begin.
fn named(task: &Task, slot: Slot) -> Run {
    Run { task: task.name.clone(), cycle: slot.cycle, attempt: slot.attempt, ..Run::default() }
}

async fn attempt(place: &Place<'_>, it: Try<'_>, started_ms: i64) -> Tried {
    let host = place.ground.host.as_ref();
    let name = folder_name(it.at, it.task, it.slot);
    let folder = place.ground.executor(&place.work.assignment.key.id).join("tasks").join(name);
    let mut run = Run { started_ms, ..named(it.task, it.slot) };
    let outcome = match carry_out(place, &it, &folder, &mut run).await {
        Ok(outcome) => outcome,
        Err(message) => {
            (run.state, run.message) = (RunState::Failed, message);
            Outcome::Failed
        }
    };
    run.ended_ms = host.now_ms();
    Tried { task: it.at, number: it.number, outcome, run, folder }
}

async fn carry_out(place: &Place<'_>, it: &Try<'_>, folder: &Path, run: &mut Run) -> Result<Outcome, String> {
    fs::create_dir_all(folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
    if !it.inputs.is_empty() {
        let copies = it.inputs.iter().map(|(from, input)| {
            let from =
                from.as_ref().ok_or_else(|| format!("the input {} is not there: its task left nothing", input.path))?;
            Ok((from.join(&input.path), folder.join(&input.to), input.path.clone()))
        });
        let copies: Vec<_> = copies.collect::<Result<_, String>>()?;
        let copied = tokio::task::spawn_blocking(move || {
            let copy = |(from, to, path): &(PathBuf, PathBuf, String)| {
                artifact::copy(from, to).map_err(|e| format!("the input {path} cannot be copied: {e}"))
            };
            copies.iter().try_for_each(copy)
        });
        copied.await.map_err(|e| e.to_string())??;
    }
    let value = folder.with_extension("result");
    let (program, container) = program(place, it, folder, &value)?;
    let lines = Lines::new(&it.task.name, place.tail);
    let ended = place.ground.host.run(program, it.cancel.clone(), &lines).await;
    lines.end();
    if let Some(name) = container {
        image::remove_container(place.ground, &name).await;
    }
    let exit = ended.map_err(|e| e.to_string())?;
    (run.exit_code, run.signal) = (exit.code, exit.signal);
    run.value = read_value(&value);
    let well = exit.code == Some(0) && !exit.timed_out;
    let outcome = if well {
        run.state = RunState::Succeeded;
        Outcome::Succeeded
    } else if exit.timed_out {
        run.state = RunState::TimedOut;
        run.message = "its time was over".into();
        Outcome::Failed
    } else if exit.cancelled {
        run.state = RunState::Cancelled;
        run.message = "it was cut off".into();
        Outcome::Cancelled
    } else {
        run.state = RunState::Failed;
        let how = exit.code.map_or_else(
            || format!("it was ended by signal {}", exit.signal.unwrap_or_default()),
            |code| format!("it exited with {code}"),
        );
        let words = lines.last_words();
        run.message = if words.is_empty() { how } else { format!("{how}: {words}") };
        Outcome::Failed
    };
    let kept = keep(place, it.task, folder, well).await;
    match kept {
        Ok(artifacts) => run.artifacts = artifacts,
        // Of what failed already, the first reason counts.
        Err(why) if well => return Err(why),
        Err(why) => place.tail.note(&format!("{} | {why}", it.task.name)),
    }
    Ok(outcome)
}

/// What a try executes, and the name of its container if it has one.
fn program(place: &Place<'_>, it: &Try<'_>, folder: &Path, value: &Path) -> Result<(Program, Option<String>), String> {
    let (executor, id) = (place.executor, &place.work.assignment.key.id);
    let mut env = place.variables(&it.task.variables);
    let own = [
        ("MUSTER_TASK", it.task.name.clone()),
        ("MUSTER_CYCLE", it.slot.cycle.to_string()),
        ("MUSTER_ATTEMPT", it.slot.attempt.to_string()),
        ("MUSTER_RESULT", value.display().to_string()),
        ("MUSTER_EXPERIMENT", executor.experiment_id.clone()),
        ("MUSTER_EXECUTOR", id.clone()),
        ("MUSTER_RELAY", place.seated.url.clone()),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value)));
    let command = match &it.task.work {
        Work::Command(command) => command.clone(),
        Work::Script(text) => {
            let file = folder.with_extension("sh");
            fs::write(&file, text).map_err(|e| format!("its script cannot be written: {e}"))?;
            vec!["/bin/sh".into(), "-eu".into(), file.display().to_string()]
        }
    };
    let (path, args, env, name) = match &executor.container {
        None => {
            let (path, args) = command.split_first().ok_or("it has nothing to execute")?;
            (PathBuf::from(path), args.to_vec(), env, None)
        }
        Some(container) => {
            let name = format!("muster-{id}-{}", it.number);
            let shared = place.ground.executor(id);
            let start = Start { name: &name, env, folder: Some(&shared), works_in: Some(folder), command };
            let (args, env) = image::run_arguments(container, &start, &place.ground.label());
            (place.ground.engine()?, args, env.into_iter().chain(image::inherited()).collect(), Some(name))
        }
    };
    // The executor's own limit is kept where its end is judged.
    let limit = it.task.limit.unwrap_or(executor.limit + executor.limit);
    let (memory_bytes, file_bytes, folder) = (executor.memory_bytes, executor.file_bytes, folder.to_owned());
    Ok((Program { path, args, env, folder, keep_folder: true, limit, memory_bytes, file_bytes }, name))
}

/// Keeps what a task leaves. When it ended well, all it names must be there.
async fn keep(place: &Place<'_>, task: &Task, folder: &Path, strictly: bool) -> Result<Vec<(String, Content)>, String> {
    if task.outputs.is_empty() {
        return Ok(Vec::new());
    }
    let (from, patterns) = (folder.to_owned(), task.outputs.clone());
    let found = tokio::task::spawn_blocking(move || artifact::find(&from, &patterns, strictly)).await;
    let mut kept = Vec::new();
    for (name, file) in found.map_err(|e| e.to_string())?? {
        let size = fs::metadata(&file).map_or(u64::MAX, |found| found.len());
        let inline = place.inline.take(usize::try_from(size).unwrap_or(usize::MAX));
        let content = content::keep_file(&place.ground.blobs, &place.work.assignment.key, &file, inline).await;
        kept.push((name.clone(), content.map_err(|e| format!("the output {name}: {e}"))?));
    }
    Ok(kept)
}

fn read_value(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    let mut text = String::from_utf8_lossy(&bytes).replace('\0', "");
    if text.len() > VALUE {
        let cut = (0..=VALUE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(cut);
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

/// Readable, and that of no other task, cycle or try.
fn folder_name(at: usize, task: &Task, slot: Slot) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let readable: String = task.name.chars().take(40).map(letter).collect();
    format!("{at}-{readable}-{}-{}", slot.cycle, slot.attempt)
}

// === impl Folders ===

impl Folders {
    /// The folder of a try that ended; what nobody can want any more goes.
    fn keep(&mut self, folder: PathBuf, is_good: bool) {
        let mut former = vec![self.newest.replace(folder.clone())];
        if is_good {
            former.push(self.good.replace(folder));
        }
        let unwanted = former
            .into_iter()
            .flatten()
            .filter(|old| self.newest.as_ref() != Some(old) && self.good.as_ref() != Some(old));
        let unwanted: Vec<_> = unwanted.collect();
        if !unwanted.is_empty() {
            tokio::task::spawn_blocking(move || {
                for old in unwanted {
                    let files = ["result", "sh"].map(|kind| fs::remove_file(old.with_extension(kind)));
                    drop((ground::remove(&old), files));
                }
            });
        }
    }
}
