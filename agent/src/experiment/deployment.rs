//! Preparing an executor: its environment is made, its folder holds what it will run.

use std::sync::Arc;

use futures::future::BoxFuture;
use muster_proto::KIND_EXPERIMENT_DEPLOYMENT;

use super::{
    content,
    environment::{Failure, Job, Made},
    ground::{self, GRAPH, Ground},
    image,
    model::{Content, Deployed, Deployment, Kind, Step, is_fit, unfit},
    tail::Tail,
    wire,
};
use crate::{
    driver::{Act, Attempt, Capability, Driver, End, Once, condition},
    durable,
    ledger::{Reason, Refused},
};

/// The driver of deployments.
pub struct Deployments(pub Arc<Ground>);

// === impl Deployments ===

impl Driver for Deployments {
    fn capability(&self) -> Capability {
        let mut offers = vec!["shell".to_owned()];
        if self.0.engine().is_ok() {
            offers.push("image".to_owned());
            offers.extend(self.0.settings.builder.then(|| "builder".to_owned()));
        }
        if let Some(python) = &self.0.python {
            offers.push(format!("python={}", python.version));
            offers.extend(python.executor.iter().map(|version| format!("executor={version}")));
        }
        offers.sort();
        Capability { kind: KIND_EXPERIMENT_DEPLOYMENT, versions: (1, 1), offers }
    }

    fn admit(&self, document: &[u8]) -> Result<(), Refused> {
        let not_allowed = |message: String| Refused::new(Reason::NotAllowed, message);
        match wire::deployment(document)?.environment.kind {
            Kind::Image(_) => self.0.engine().map(drop).map_err(not_allowed),
            Kind::Shell(shell) if shell.python && self.0.python.is_none() => Err(not_allowed(
                "this host has no Python for Python pipelines; set experiment.python to one that answers".into(),
            )),
            Kind::Shell(_) => Ok(()),
        }
    }

    fn act(&self) -> Act<'_> {
        Act::Once(self)
    }
}

impl Once for Deployments {
    fn run<'a>(&'a self, work: Attempt<'a>) -> BoxFuture<'a, End> {
        Box::pin(async move {
            let started_ms = self.0.host.now_ms();
            let tail = Tail::new(self.0.host.as_ref(), Some(work.watch));
            let tell = |step| work.home.tell(wire::deployed(&Deployed { step, started_ms, ..Deployed::default() }));
            let job = Job { cancel: &work.cancel, tail: &tail, tell: &tell };
            let ended = match wire::deployment(&work.assignment.document) {
                Ok(deployment) => self.prepare(&deployment, &work, &job).await,
                Err(refused) => Err(Failure::of(refused.message)),
            };
            let ended_ms = self.0.host.now_ms();
            let succeeded = ended.is_ok();
            let deployed = match ended {
                Ok((made, archive)) => Deployed {
                    step: Step::Ready,
                    cached: made.cached,
                    bytes: made.bytes,
                    python_version: made.python_version,
                    archive,
                    started_ms,
                    ended_ms,
                    ..Deployed::default()
                },
                Err(Failure { message, exit_code }) => {
                    Deployed { step: Step::Building, exit_code, message, started_ms, ended_ms, ..Deployed::default() }
                }
            };
            let failed = (!succeeded).then(|| condition("Ready", false, "NotPrepared", deployed.message.clone()));
            End { succeeded, conditions: failed.into_iter().collect(), result: wire::deployed(&deployed) }
        })
    }
}

impl Deployments {
    async fn prepare(
        &self,
        deployment: &Deployment,
        work: &Attempt<'_>,
        job: &Job<'_>,
    ) -> Result<(Made, Option<Content>), Failure> {
        let (ground, id) = (self.0.as_ref(), work.assignment.key.id.as_str());
        if !is_fit(id) {
            return Err(Failure::of(unfit(id)));
        }
        let folder = ground.executor(id);
        durable::folder(&folder).map_err(|e| Failure::of(format!("{} cannot be made: {e}", folder.display())))?;
        let prepared = self.fill(deployment, work, job).await;
        if prepared.is_err() {
            // Nobody will run it, and a later deployment has an id of its own.
            let _ = ground.forget(id).and_then(|()| ground::remove(&folder));
        }
        prepared
    }

    async fn fill(
        &self,
        deployment: &Deployment,
        work: &Attempt<'_>,
        job: &Job<'_>,
    ) -> Result<(Made, Option<Content>), Failure> {
        let (ground, key) = (self.0.as_ref(), &work.assignment.key);
        let graph = ground.executor(&key.id).join(GRAPH);
        if let Some(content) = &deployment.graph {
            (job.tell)(Step::Fetching);
            tokio::select! {
                placed = content::place(&ground.blobs, content, &graph) => placed.map_err(Failure::of)?,
                () = job.cancel.cancelled() => return Err(Failure::of("it was cancelled")),
            }
        }
        let graph = deployment.graph.as_ref().map(|_| graph.as_path());
        // From here on the environment is not removed as unused.
        let kept = ground.prepared(&deployment.environment.digest, &key.id);
        kept.map_err(|e| Failure::of(format!("that it is prepared cannot be kept: {e}")))?;
        let made = ground.provide(&deployment.environment, graph, job).await?;
        let archive = match &deployment.environment.kind {
            Kind::Image(image) if image.save => {
                let (folder, budget) = (ground.scratch(), ground.budget(&deployment.environment)?);
                let saved = match image::save(ground, &image.name, &folder, budget, job).await {
                    Ok(file) => content::keep_file(&ground.blobs, key, &file, 0).await.map_err(Failure::of),
                    Err(failure) => Err(failure),
                };
                let _ = ground::remove(&folder);
                Some(saved?)
            }
            _ => None,
        };
        Ok((made, archive))
    }
}
