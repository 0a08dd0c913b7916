//! What deployments run in, as home knows it: images that are built once and travel from there, and what is kept no longer.
//!
//! An image without a name is built by one agent for all nodes of its architecture, saved, and kept here as a blob; its
//! nodes wait and are given that. Any other environment each node makes for itself. Where environments are is remembered
//! for as long as somebody uses them, and a time beyond that.

pub mod plan;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::{KIND_EXPERIMENT_CLEANUP, KIND_EXPERIMENT_DEPLOYMENT};
use serde_json::json;

use self::plan::{Action, Build, Host, Snapshot, Told};
pub use self::store::{EnvironmentRow, Wanted, of, touch, want};
use super::{
    model::{ExecutorId, uuid},
    reconcile::{definition, once},
    service::{Experiments, key, placed},
    store::{DeploymentRow, fetch_deployment},
    wire,
};
use crate::{
    error::{Error, Result},
    fleet::{
        agents, desired, logs,
        model::{AgentId, Key},
    },
    platform::{
        blobs::Blobs,
        db::{Conn, Tx},
        events::Actor,
    },
};

/// How ids of deployments begin that build an image for others.
const BUILD: &str = "image-";

/// Ends of builds and old environments looked at in one round.
const AT_ONCE: i64 = 500;

/// Whether a deployment can be sent, as far as its environment goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Provision {
    /// Its node makes it, or there is what it is made from.
    #[default]
    There,
    /// Somebody is to build it first.
    Awaited,
    /// Nobody could, and why.
    Failed(String),
}

/// An image before it is built, with what was observed of it.
struct Observed {
    row: EnvironmentRow,
    snapshot: Snapshot,
    /// The first deployment that waits for it.
    first: Option<DeploymentRow>,
    /// What people call the agents that could build it.
    names: BTreeMap<AgentId, String>,
}

// === impl EnvironmentRow ===

impl EnvironmentRow {
    /// Whether what runs in it can be sent.
    pub fn provision(&self) -> Provision {
        match self.state.as_str() {
            "waiting" | "building" => Provision::Awaited,
            "failed" => Provision::Failed(self.message.clone()),
            _ => Provision::There,
        }
    }

    /// What those are told who wait for it.
    pub fn waits_for(&self) -> String {
        match self.state.as_str() {
            "waiting" => "an agent that is online and can build its image".into(),
            "building" => format!("its image, {}", self.message),
            _ => String::new(),
        }
    }

    /// The saved image, if it is here.
    pub fn saved(&self) -> Option<wire::Bytes> {
        let is_here = self.state == "built";
        is_here.then(|| wire::Bytes::Blob(self.archive.clone(), self.archive_bytes.unsigned_abs()))
    }

    /// Names the newest build's work and its output, if there was one.
    pub fn work(&self) -> Option<Key> {
        (!self.build.is_empty()).then(|| key(KIND_EXPERIMENT_DEPLOYMENT, &self.build))
    }

    fn become_(&mut self, state: &str, message: String) {
        self.state = state.into();
        self.message = message;
    }
}

/// Environments by digest.
pub async fn by_digest(conn: &mut Conn, rows: &[&DeploymentRow]) -> Result<BTreeMap<String, EnvironmentRow>> {
    let digests: BTreeSet<_> = rows.iter().map(|row| row.environment_digest.clone()).collect();
    let found = of(conn, &digests.into_iter().collect::<Vec<_>>()).await?;
    Ok(found.into_iter().map(|row| (row.digest.clone(), row)).collect())
}

/// What names the newest build of the image that a deployment runs in, if that was built for others.
pub async fn build_of(conn: &mut Conn, row: &DeploymentRow) -> Result<Option<Key>> {
    let found = of(conn, std::slice::from_ref(&row.environment_digest)).await?.pop();
    Ok(found.and_then(|environment| environment.work()))
}

/// What names the output of making a deployment's environment: until it is sent, that of its image's build.
pub async fn output(conn: &mut Conn, row: &DeploymentRow) -> Result<Key> {
    let own = key(KIND_EXPERIMENT_DEPLOYMENT, &row.id);
    if let Some(agent) = row.agent_id.clone().map(AgentId)
        && !logs::is_expected(conn, &agent, &own).await?
    {
        return Ok(build_of(conn, row).await?.unwrap_or(own));
    }
    Ok(own)
}

/// Leads every image on that is not built yet. Gives those that could not be, and why.
pub async fn look_after(experiments: &Experiments, here_since: i64) -> Result<Vec<(String, String)>> {
    let open = store::open(&mut *experiments.fleet.db.read().await?).await?;
    let mut failed = Vec::new();
    for digest in open {
        if let Err(error) = lead_on(experiments, &digest, here_since).await {
            tracing::error!(environment = digest, %error, "an image could not be looked after");
            failed.push((digest, error.to_string()));
        }
    }
    forget_builds(experiments).await?;
    Ok(failed)
}

async fn lead_on(experiments: &Experiments, digest: &str, here_since: i64) -> Result<()> {
    let db = &experiments.fleet.db;
    let now = db.clock().now();
    let seen = observe(&mut *db.read().await?, digest, here_since, now).await?;
    if seen.and_then(|it| plan::plan(&it.snapshot)).is_none() {
        return Ok(());
    }
    db.write(|mut tx| async move {
        // Locked first, so that nothing changes between the plan and its execution.
        store::lock(&mut tx, digest).await?;
        let now = tx.now();
        let Some(mut it) = observe(&mut tx, digest, here_since, now).await? else { return tx.done(()) };
        if let Some(action) = plan::plan(&it.snapshot) {
            apply(experiments, &mut tx, &mut it, action).await?;
        }
        tx.done(())
    })
    .await
}

/// Everything that is known of an image that is not built yet.
async fn observe(conn: &mut Conn, digest: &str, here_since: i64, now: i64) -> Result<Option<Observed>> {
    let Some(row) = of(conn, &[digest.to_owned()]).await?.pop() else { return Ok(None) };
    if row.provision() != Provision::Awaited {
        return Ok(None);
    }
    let waiting = store::waiting(conn, digest).await?;
    let first = match waiting.first() {
        Some((id, _)) => fetch_deployment(conn, &ExecutorId(id.clone())).await?,
        None => None,
    };
    let able = placed(conn).await?.into_iter().filter(|it| it.has_engine() && it.node.architecture == row.platform);
    let (mut hosts, mut names) = (Vec::new(), BTreeMap::new());
    for it in able {
        let Some(agent) = it.agent else { continue };
        names.insert(agent.clone(), it.node.name);
        hosts.push(Host { agent, is_builder: it.is_builder, is_online: it.online });
    }
    let build = if row.state == "building" { Some(build(conn, &row).await?) } else { None };
    let nodes = waiting.into_iter().map(|(_, agent)| AgentId(agent)).collect();
    let snapshot = Snapshot { build, lost: row.lost, nodes, hosts, here_since, now };
    Ok(Some(Observed { row, snapshot, first, names }))
}

/// What is known of the build of an image.
async fn build(conn: &mut Conn, row: &EnvironmentRow) -> Result<Build> {
    let gone = || Told::Gone("its builder is gone".into());
    let Some(agent) = row.builder.clone().map(AgentId) else {
        return Ok(Build { agent: AgentId(String::new()), away_since: None, told: gone() });
    };
    let ids = [row.build.clone()];
    let report = desired::reports(conn, KIND_EXPERIMENT_DEPLOYMENT, &ids).await?.pop();
    let mut told = report.as_ref().map_or(Ok(Told::Working), wire::build_told)?;
    if let (Told::Built(digest, _), Some(report)) = (&told, &report) {
        let owner = desired::blob_owner(&agent, &key(KIND_EXPERIMENT_DEPLOYMENT, &row.build));
        told = match Blobs::use_of(conn, &owner).await?.get(digest) {
            Some(bytes) => Told::Built(digest.clone(), *bytes),
            None => Told::Arriving(report.received_at),
        };
    }
    if told == Told::Working {
        let sent = desired::assignments_of_kind(conn, KIND_EXPERIMENT_DEPLOYMENT, &ids).await?.pop();
        told = match sent {
            None => gone(),
            Some(sent) => sent.refusal.map_or(Told::Working, |(_, why)| Told::Failed(why)),
        };
    }
    let away_since = agents::away(conn, std::slice::from_ref(&agent.0)).await?.remove(&agent);
    Ok(Build { agent, away_since, told })
}

/// Carries out what was decided about a locked image.
async fn apply(experiments: &Experiments, tx: &mut Tx, it: &mut Observed, action: Action) -> Result<()> {
    let (desired, actor) = (&experiments.fleet.desired, Actor::controller());
    let row = &mut it.row;
    let subject = format!("environment/{}", row.digest);
    let former = row.builder.clone().map(AgentId).zip(row.work());
    let said = |word: &'static str, after| actor.change(word, subject.clone()).after(after);
    match action {
        Action::Build(agent) => {
            let first = it.first.as_ref().ok_or_else(|| Error::internal(anyhow::anyhow!("nobody waits for it")))?;
            let name = it.names.get(&agent).map_or(agent.0.as_str(), String::as_str);
            if let Some(work) = row.work() {
                logs::forget(tx, &work).await?;
            }
            row.build = format!("{BUILD}{}", uuid(muster_pki::random()));
            row.builder = Some(agent.0.clone());
            row.become_("building", format!("built on {name}"));
            let seq = tx.record(said("experiment.image_build_sent", json!({"builder": name}))).await?;
            let (definition, _) = definition(first)?;
            let mut document = once(wire::build(&definition, &row.digest, &row.platform));
            document.store_bytes = wire::ARCHIVE_BYTES;
            let work = key(KIND_EXPERIMENT_DEPLOYMENT, &row.build);
            desired.put(tx, seq, std::slice::from_ref(&agent), &work, &document).await?;
            touch(tx, &[(row.digest.clone(), agent.0)]).await?;
        }
        Action::Keep(archive, bytes) => {
            let seq = tx.record(said("experiment.image_built", json!({"archive": archive, "bytes": bytes}))).await?;
            let keeper = keeper(&row.digest);
            Blobs::forget(tx, &keeper).await?;
            Blobs::keep_also(tx, std::slice::from_ref(&archive), &keeper).await?;
            (row.archive, row.archive_bytes, row.made_at) = (archive, bytes, Some(tx.now()));
            let message = std::mem::take(&mut row.message);
            row.become_("built", message);
            end_build(experiments, tx, seq, former).await?;
        }
        Action::Fail(why) => {
            let why = format!("its image could not be {}: {why}", row.message);
            let seq = tx.record(said("experiment.image_failed", json!({"message": why}))).await?;
            row.become_("failed", why);
            match it.snapshot.build.as_ref().map(|build| &build.told) {
                // It may come to an end there yet, if its builder is back.
                Some(Told::Working) => withdraw(experiments, tx, seq, former).await?,
                _ => end_build(experiments, tx, seq, former).await?,
            }
        }
        Action::PassOn(why) => {
            let seq = tx.record(said("experiment.image_build_passed_on", json!({"message": why}))).await?;
            row.lost += 1;
            row.builder = None;
            row.become_("waiting", String::new());
            withdraw(experiments, tx, seq, former).await?;
        }
        Action::Stop => {
            let seq = tx.record(said("experiment.image_build_stopped", json!({}))).await?;
            row.builder = None;
            row.become_("waiting", String::new());
            withdraw(experiments, tx, seq, former).await?;
        }
    }
    store::save(tx, row).await?;
    tx.wake("experiment");
    Ok(())
}

/// A build, by its agent and what names it.
type Work = Option<(AgentId, Key)>;

async fn withdraw(experiments: &Experiments, tx: &mut Tx, seq: i64, work: Work) -> Result<()> {
    match work {
        Some((agent, work)) => experiments.fleet.desired.withdraw(tx, seq, &agent, &work).await,
        None => Ok(()),
    }
}

/// Forgets a build but for what it printed, and has its agent remove what is left of it there. The image stays.
async fn end_build(experiments: &Experiments, tx: &mut Tx, seq: i64, work: Work) -> Result<()> {
    let Some((agent, work)) = work else { return Ok(()) };
    desired::forget(tx, &agent, &work).await?;
    let document = once(wire::cleanup("", true, &[]));
    experiments.fleet.desired.put(tx, seq, &[agent], &key(KIND_EXPERIMENT_CLEANUP, &work.id), &document).await
}

/// Who keeps a saved image.
fn keeper(digest: &str) -> String {
    format!("environment/{digest}")
}

/// Forgets builds that were passed on or stopped, once their agents have said their last of them.
async fn forget_builds(experiments: &Experiments) -> Result<()> {
    let db = &experiments.fleet.db;
    let mut conn = db.read().await?;
    let ended = desired::ended(&mut conn, KIND_EXPERIMENT_DEPLOYMENT, BUILD, AT_ONCE).await?;
    if ended.is_empty() {
        return Ok(());
    }
    let under_way = store::builds(&mut conn).await?;
    drop(conn);
    let left: Vec<_> = ended.into_iter().filter(|report| !under_way.contains(&report.key.id)).collect();
    if left.is_empty() {
        return Ok(());
    }
    let left = &left;
    db.write(|mut tx| async move {
        let change = Actor::controller().change("experiment.image_builds_ended", "experiment");
        let seq = tx.record(change.after(json!({"builds": left.len()}))).await?;
        for report in left {
            end_build(experiments, &mut tx, seq, Some((report.agent.clone(), report.key.clone()))).await?;
        }
        tx.done(())
    })
    .await
}

/// Has agents remove environments that nobody used for so long, milliseconds, and forgets those that no agent has.
pub async fn retire(experiments: &Experiments, keep: i64) -> Result<()> {
    let db = &experiments.fleet.db;
    let before = db.clock().now() - keep;
    if store::old(&mut *db.read().await?, before, 1).await?.is_empty() {
        return Ok(());
    }
    db.write(|mut tx| async move {
        let unused = plan::unused(&store::old(&mut tx, before, AT_ONCE).await?, before);
        if unused == plan::Unused::default() {
            return tx.done(());
        }
        let after = json!({"agents": unused.at.keys().collect::<Vec<_>>(), "forgotten": unused.here});
        let change = Actor::controller().change("experiment.environments_removed", "experiment");
        let seq = tx.record(change.after(after)).await?;
        for (agent, digests) in &unused.at {
            let document = once(wire::cleanup("", false, digests));
            let work = key(KIND_EXPERIMENT_CLEANUP, &uuid(muster_pki::random()));
            experiments.fleet.desired.put(&mut tx, seq, std::slice::from_ref(agent), &work, &document).await?;
            for digest in digests {
                store::remove_place(&mut tx, digest, agent).await?;
            }
        }
        for digest in &unused.here {
            let former = of(&mut tx, std::slice::from_ref(digest)).await?.pop();
            if let Some(work) = former.and_then(|row| row.work()) {
                logs::forget(&mut tx, &work).await?;
            }
            Blobs::forget(&mut tx, &keeper(digest)).await?;
            store::remove(&mut tx, digest).await?;
        }
        tx.done(())
    })
    .await
}
