//! Running an executor: netunicorn's own in Python, or a native pipeline, in its environment and folder.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use muster_proto::KIND_EXPERIMENT_EXECUTOR;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    apply, content,
    ground::{GRAPH, Ground},
    image::{self, Start},
    model::{Content, Executed, Executor, INLINE, State, Work, is_fit, unfit},
    relay::{Posted, Seated},
    runs::Inline,
    tail::Tail,
    wire,
};
use crate::{
    driver::{Act, Attempt, Capability, Driver, End, Home, Once, condition},
    host::{Exit, NotStarted, Program},
    ledger::{Reason, Refused},
};

/// How long an executor may go on after its final result: its own children may keep it.
const FAREWELL: Duration = Duration::from_secs(2);

/// A lease is looked at this often at least: no timer sees the time that a host sleeps.
const LOOK: Duration = Duration::from_secs(10);

/// The driver of executors.
pub struct Executors(pub Arc<Ground>);

/// What an executor runs with.
pub struct Place<'a> {
    /// What the domain's drivers share.
    pub ground: &'a Ground,
    /// Its document.
    pub executor: &'a Executor,
    /// Its attempt.
    pub work: &'a Attempt<'a>,
    /// Its seat at the relay.
    pub seated: &'a Seated,
    /// Ends it.
    pub cancel: &'a CancellationToken,
    /// Takes its output and its processes.
    pub tail: &'a Tail<'a>,
    /// Room for files in its report.
    pub inline: Inline,
    /// When it began, milliseconds since the Unix epoch.
    pub started_ms: i64,
}

// === impl Executors ===

impl Driver for Executors {
    fn capability(&self) -> Capability {
        Capability { kind: KIND_EXPERIMENT_EXECUTOR, versions: (1, 1), offers: Vec::new() }
    }

    fn admit(&self, document: &[u8]) -> Result<(), Refused> {
        match wire::executor(document)?.container {
            Some(_) => self.0.engine().map(drop).map_err(|why| Refused::new(Reason::NotAllowed, why)),
            None => Ok(()),
        }
    }

    fn act(&self) -> Act<'_> {
        Act::Once(self)
    }
}

impl Once for Executors {
    fn run<'a>(&'a self, work: Attempt<'a>) -> BoxFuture<'a, End> {
        Box::pin(async move {
            let started_ms = self.0.host.now_ms();
            let id = work.assignment.key.id.as_str();
            let ended = match wire::executor(&work.assignment.document) {
                Ok(executor) if is_fit(id) => self.carry_out(&executor, &work, started_ms).await,
                Ok(_) => Err(unfit(id)),
                Err(refused) => Err(refused.message),
            };
            let (succeeded, executed) = match ended {
                Ok((succeeded, executed)) => (succeeded, executed),
                Err(message) => (false, Executed { message, started_ms, ..Executed::default() }),
            };
            let executed = Executed { ended_ms: self.0.host.now_ms(), ..executed };
            let failed =
                (!succeeded).then(|| condition("Succeeded", false, "ExecutorFailed", executed.message.clone()));
            End { succeeded, conditions: failed.into_iter().collect(), result: wire::executed(&executed) }
        })
    }
}

impl Executors {
    async fn carry_out(
        &self,
        executor: &Executor,
        work: &Attempt<'_>,
        started_ms: i64,
    ) -> Result<(bool, Executed), String> {
        let (ground, key) = (self.0.as_ref(), &work.assignment.key);
        ground.swept().await;
        let _use = ground.used(&executor.environment, &key.id);
        let folder = ground.executor(&key.id);
        if ground.ready(&executor.environment).is_none() || !folder.is_dir() {
            return Err(format!("nothing is prepared for {}: its deployment comes first", key.id));
        }
        let seated = ground.relay.seat(key.clone(), &executor.experiment_id, folder.join(GRAPH)).await?;
        let (cancel, tail) = (work.cancel.child_token(), Tail::new(ground.host.as_ref(), Some(work.watch)));
        let place = Place {
            ground,
            executor,
            work,
            seated: &seated,
            cancel: &cancel,
            tail: &tail,
            inline: Inline::default(),
            started_ms,
        };
        let mut lease_ended = false;
        let running = async {
            match &executor.work {
                Work::Python { heartbeat_seconds } => place.run_python(*heartbeat_seconds).await,
                Work::Pipeline(pipeline) => apply::run(&place, pipeline).await,
            }
        };
        tokio::pin!(running);
        let (succeeded, mut executed) = tokio::select! {
            ended = &mut running => ended,
            () = lease_ends(work.home, executor.lease) => {
                lease_ended = true;
                cancel.cancel();
                running.await
            }
        };
        tail.end_groups().await;
        executed.lease_ended = lease_ended && !succeeded;
        if executed.lease_ended {
            executed.message = "home was away for longer than its lease".into();
        }
        Ok((succeeded, executed))
    }
}

// === impl Place ===

impl Place<'_> {
    /// What every process of this executor finds in its environment: the experimenter's variables, and over them what
    /// is the agent's to say.
    pub fn variables(&self, further: &[(String, String)]) -> Vec<(String, String)> {
        let mut all = [self.executor.variables.as_slice(), further].concat();
        if self.executor.container.is_none() {
            let environment = &self.executor.environment;
            all.push(("PATH".into(), self.ground.path(environment)));
            if self.ground.ready(environment).is_some_and(|made| !made.python_version.is_empty()) {
                all.push(("VIRTUAL_ENV".into(), self.ground.environment(environment).display().to_string()));
            }
        }
        all
    }

    /// Tells home how far it is.
    pub fn tell(&self, executed: Executed) {
        self.work.home.tell(wire::executed(&Executed { started_ms: self.started_ms, ..executed }));
    }

    async fn run_python(&self, heartbeat_seconds: u32) -> (bool, Executed) {
        let (program, container) = match self.python(heartbeat_seconds) {
            Ok(program) => program,
            Err(message) => return (false, Executed { message, started_ms: self.started_ms, ..Executed::default() }),
        };
        self.tell(Executed { state: State::Executing, ..Executed::default() });
        let run = self.ground.host.run(program, self.cancel.clone(), self.tail);
        tokio::pin!(run);
        let mut farewell = None;
        let exit = loop {
            tokio::select! {
                exit = &mut run => break exit,
                () = self.seated.seat.news.notified() => {
                    let posted = self.seated.seat.posted();
                    let state = if posted.is_final { State::Reporting } else { State::Executing };
                    // What is too long for a report is kept for the outcome.
                    let results = posted.results.filter(|bytes| bytes.len() <= INLINE).map(Content::Inline);
                    self.tell(Executed { state, results, ..Executed::default() });
                    if posted.is_final {
                        farewell.get_or_insert(Instant::now() + FAREWELL);
                    }
                }
                () = until(farewell), if !self.cancel.is_cancelled() => self.cancel.cancel(),
            }
        };
        if let Some(name) = container {
            image::remove_container(self.ground, &name).await;
        }
        self.judge(exit, self.seated.seat.posted()).await
    }

    /// The executor's program, and the name of its container if it has one.
    fn python(&self, heartbeat_seconds: u32) -> Result<(Program, Option<String>), String> {
        let (ground, executor, id) = (self.ground, self.executor, &self.work.assignment.key.id);
        let mut env = self.variables(&[]);
        env.extend([
            ("NETUNICORN_EXECUTOR_ID".to_owned(), id.clone()),
            ("NETUNICORN_EXPERIMENT_ID".into(), executor.experiment_id.clone()),
            ("NETUNICORN_GATEWAY_ENDPOINT".into(), self.seated.url.clone()),
            ("NETUNICORN_EXECUTOR_HEARTBEAT_SECONDS".into(), heartbeat_seconds.to_string()),
        ]);
        let folder = ground.executor(id);
        let (path, args, env, name) = match &executor.container {
            None => {
                let path = ground.environment(&executor.environment).join("bin/python3");
                if !path.exists() {
                    return Err(format!("the environment {} has no Python", executor.environment));
                }
                (path, ["-m", "netunicorn.executor"].map(str::to_owned).to_vec(), env, None)
            }
            Some(container) => {
                image::notes(container).iter().for_each(|note| self.tail.note(note));
                let name = format!("muster-{id}");
                let start = Start { name: &name, env, ..Start::default() };
                let (args, env) = image::run_arguments(container, &start, &ground.label());
                (ground.engine()?, args, env.into_iter().chain(image::inherited()).collect(), Some(name))
            }
        };
        let (limit, memory_bytes, file_bytes) = (executor.limit, executor.memory_bytes, executor.file_bytes);
        let program = Program { path, args, env, folder, keep_folder: true, limit, memory_bytes, file_bytes };
        Ok((program, name))
    }

    /// What the end of the executor's process means.
    async fn judge(&self, exit: Result<Exit, NotStarted>, posted: Posted) -> (bool, Executed) {
        let mut executed = Executed { started_ms: self.started_ms, ..Executed::default() };
        let mut succeeded = posted.is_final && posted.results.is_some();
        let state = if posted.is_final { State::Finished } else { State::Executing };
        let mut why = None;
        match exit {
            Ok(exit) => {
                (executed.exit_code, executed.signal) = (exit.code, exit.signal);
                // What was still running after the result was ended by the agent, whatever the limit says.
                executed.timed_out = exit.timed_out && !succeeded;
                succeeded |= exit.code == Some(0) && !exit.timed_out && !posted.too_long;
                executed.message = match exit {
                    Exit { timed_out: true, .. } => {
                        format!("its limit of {} s was over", self.executor.limit.as_secs())
                    }
                    Exit { cancelled: true, .. } => "it was cancelled".into(),
                    _ if posted.too_long => "its result is longer than may be and was thrown away".into(),
                    Exit { code: Some(code), .. } => self.words(&format!("it exited with {code}")),
                    Exit { signal, .. } => {
                        self.words(&format!("it was ended by signal {}", signal.unwrap_or_default()))
                    }
                };
            }
            Err(e) => executed.message = e.to_string(),
        }
        executed.state = if succeeded { State::Finished } else { state };
        if let Some(results) = posted.results {
            match content::keep(&self.ground.blobs, &self.work.assignment.key, results, INLINE).await {
                Ok(kept) => executed.results = Some(kept),
                Err(e) => {
                    succeeded = false;
                    why = Some(format!("its result cannot be kept: {e}"));
                }
            }
        }
        if succeeded {
            executed.message = String::new();
        }
        executed.message = why.unwrap_or(executed.message);
        (succeeded, executed)
    }

    fn words(&self, how: &str) -> String {
        let words = self.tail.last_words();
        if words.is_empty() { format!("{how} and wrote nothing") } else { format!("{how}: {words}") }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn lease_ends(home: &dyn Home, lease: Option<Duration>) {
    let Some(lease) = lease else { return std::future::pending().await };
    while let Some(left) = lease.checked_sub(home.silence()).filter(|left| !left.is_zero()) {
        sleep(left.min(LOOK)).await;
    }
}
