//! Use cases of stagings: load → decide → write in one transaction.

use std::collections::BTreeMap;

use muster_proto::{
    KIND_STAGING_OPERATION, KIND_STAGING_WATCH,
    fleet::{Answer, Ask, answer as ask_answer},
};

use super::{
    model::{
        self, Candidate, Evidence, OperationId, Override, ProjectSpec, Settings, SettingsChange, StagingId, Status,
        Verb, check_name, check_project, next, why_not,
    },
    plan::Watch,
    store::{self, OperationRow, ProjectRow, StagingRow},
    wire,
};
use crate::{
    domain::{Ground, ask_handler},
    error::{Error, Result},
    fleet::{
        AskHandler, Fleet,
        agents::{self, Agent},
        desired::{Document, OnInterrupt, OnRevoke, forget},
        logs,
        model::{AgentId, Class, Key, Liveness, Mode},
    },
    platform::{
        db::{Conn, Tx, is_duplicate},
        events::Actor,
        id,
    },
};

const PURPOSE: &str = "staging settings";

/// A staging to be made.
#[derive(Debug, Clone)]
pub struct NewStaging {
    /// Its project.
    pub project: String,
    /// Its name, unique in the project.
    pub name: String,
    /// Which version of the application.
    pub tag: String,
    /// What it is made with.
    pub overrides: Vec<Override>,
}

/// Which staging.
#[derive(Debug, Clone, Copy)]
pub struct Which<'a> {
    /// Its project.
    pub project: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// The door to stagings; clones share it.
#[derive(Debug, Clone)]
pub struct Staging {
    /// The fleet they live on.
    pub fleet: Fleet,
}

// === impl Staging ===

impl Staging {
    // --- projects ---

    /// Makes or changes a project. `version` is the one that was read; none: whatever is there. Gives the new version and
    /// whether anything changed.
    pub async fn save_project(
        &self,
        actor: &Actor,
        name: &str,
        spec: &ProjectSpec,
        version: Option<i64>,
    ) -> Result<(i64, bool)> {
        self.write_project(actor, name, spec, version, false).await
    }

    /// Makes a project that must not be there yet.
    pub async fn create_project(&self, actor: &Actor, name: &str, spec: &ProjectSpec) -> Result<i64> {
        Ok(self.write_project(actor, name, spec, None, true).await?.0)
    }

    async fn write_project(
        &self,
        actor: &Actor,
        name: &str,
        spec: &ProjectSpec,
        version: Option<i64>,
        is_new: bool,
    ) -> Result<(i64, bool)> {
        check_project(name, spec)?;
        let exists = || Error::Conflict(format!("project {name:?} exists already"));
        self.fleet
            .db
            .write(|mut tx| async move {
                store::lock_project(&mut tx, name).await?;
                let found = store::fetch_project(&mut tx, name).await?;
                if is_new && found.is_some() {
                    return Err(exists());
                }
                if version.is_some_and(|v| found.as_ref().is_none_or(|f| f.version != v)) {
                    return Err(Error::Stale);
                }
                let before = found.as_ref().map(ProjectRow::spec).transpose()?;
                if before.as_ref() == Some(spec) {
                    return tx.done((found.map_or(1, |f| f.version), false));
                }
                let row = project_row(name, spec, found.as_ref(), actor, tx.now())?;
                let saved = store::save_project(&mut tx, &row, found.is_none()).await;
                // Nobody can lock what is not there: of two who make it at once, the database lets one.
                saved.map_err(|e| if is_duplicate(&e) { exists() } else { e.into() })?;
                let kind = if found.is_some() { "project.changed" } else { "project.created" };
                let change = actor.change(kind, format!("staging/{name}")).after(spec);
                let seq = tx
                    .record(match before {
                        Some(before) => change.before(before),
                        None => change,
                    })
                    .await?;
                self.refresh_watches(&mut tx, seq, name, spec).await?;
                tx.wake("staging");
                tx.done((row.version + i64::from(found.is_some()), true))
            })
            .await
    }

    /// Removes a project without stagings.
    pub async fn remove_project(&self, actor: &Actor, name: &str) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                if !store::lock_project(&mut tx, name).await? {
                    return Err(Error::not_found("project", name));
                }
                let filter = store::Filter { project: name.into(), ..store::Filter::default() };
                if let Some(first) = store::stagings(&mut tx, &filter, 1).await?.first() {
                    let text =
                        format!("the project still has stagings, {:?} among them; clean them up first", first.name);
                    return Err(Error::Conflict(text));
                }
                store::delete_project(&mut tx, name).await?;
                tx.record(actor.change("project.removed", format!("staging/{name}"))).await?;
                tx.done(())
            })
            .await
    }

    /// A project, or the error that there is none.
    pub async fn project(&self, conn: &mut Conn, name: &str) -> Result<ProjectRow> {
        store::fetch_project(conn, name).await?.ok_or_else(|| Error::not_found("project", name))
    }

    /// Where a staging stands and whether an operation is under way; none when there is no such staging.
    pub async fn status(&self, which: Which<'_>) -> Result<Option<(Status, bool)>> {
        let row = store::fetch_staging(&mut *self.fleet.db.read().await?, which.project, which.name).await?;
        row.map(|row| Ok((status_of(&row)?, !row.operation_id.is_empty()))).transpose()
    }

    // --- operations ---

    /// Makes a staging: places it, stores it, and sends the operation that creates it.
    pub async fn create(&self, actor: &Actor, new: &NewStaging) -> Result<OperationId> {
        check_name(&new.name)?;
        let settings = Settings::new(new.tag.clone(), new.overrides.clone())?;
        let settings = &settings;
        self.fleet
            .db
            .write(|mut tx| async move {
                if !store::lock_project(&mut tx, &new.project).await? {
                    return Err(Error::not_found("project", &new.project));
                }
                let project = self.project(&mut tx, &new.project).await?;
                let spec = project.spec()?;
                let candidates = self.candidates(&mut tx, &spec).await?;
                let now = tx.now();
                let mut row = StagingRow {
                    id: id::fresh(now),
                    project: new.project.clone(),
                    name: new.name.clone(),
                    agent_id: None,
                    tag: settings.tag.clone(),
                    settings_sealed: self.seal(settings)?,
                    settings_masked: mask(settings)?,
                    status: model::FIRST.word().into(),
                    status_at: now,
                    status_why: String::new(),
                    operation_id: String::new(),
                    watch: String::new(),
                    watch_after: String::new(),
                    created_at: now,
                    updated_at: now,
                    archived_at: None,
                    retention_warned_at: None,
                    owner: actor.name.clone(),
                    version: 1,
                };
                if let Some(there) = store::fetch_staging(&mut tx, &new.project, &new.name).await? {
                    let why = why_not(status_of(&there)?, Verb::Create).unwrap_or_default();
                    return Err(Error::Conflict(format!("{}/{}: {why}", new.project, new.name)));
                }
                row.agent_id = Some(model::place(&new.project, &spec, &candidates)?.0);
                store::insert_staging(&mut tx, &row).await.map_err(|e| match is_duplicate(&e) {
                    true => Error::Conflict(format!("{}/{} exists already", new.project, new.name)),
                    false => e.into(),
                })?;
                let operation = self.begin(&mut tx, actor, &spec, &mut row, Verb::Create, None).await?;
                tx.done(operation)
            })
            .await
    }

    /// Changes a staging's tag or overrides. `version` is the one that was read.
    pub async fn update(
        &self,
        actor: &Actor,
        which: Which<'_>,
        change: &SettingsChange,
        version: Option<i64>,
    ) -> Result<OperationId> {
        self.operate(actor, which, Verb::Update, Some(change), version).await
    }

    /// Archives a staging: stops it and keeps its data.
    pub async fn delete(&self, actor: &Actor, which: Which<'_>) -> Result<OperationId> {
        self.operate(actor, which, Verb::Delete, None, None).await
    }

    /// Brings an archived staging back with its last settings.
    pub async fn restore(&self, actor: &Actor, which: Which<'_>) -> Result<OperationId> {
        self.operate(actor, which, Verb::Restore, None, None).await
    }

    /// Removes an archived staging with its data.
    pub async fn cleanup(&self, actor: &Actor, which: Which<'_>) -> Result<OperationId> {
        self.operate(actor, which, Verb::Cleanup, None, None).await
    }

    async fn operate(
        &self,
        actor: &Actor,
        which: Which<'_>,
        verb: Verb,
        change: Option<&SettingsChange>,
        version: Option<i64>,
    ) -> Result<OperationId> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let mut row = self.lock(&mut tx, which).await?;
                if version.is_some_and(|v| v != row.version) {
                    return Err(Error::Stale);
                }
                self.refuse_while_pending(&mut tx, &row).await?;
                if let Some(why) = why_not(status_of(&row)?, verb) {
                    return Err(Error::Conflict(why));
                }
                let spec = self.project(&mut tx, which.project).await?.spec()?;
                let operation = self.begin(&mut tx, actor, &spec, &mut row, verb, change).await?;
                tx.done(operation)
            })
            .await
    }

    /// Begins an operation on a locked staging: the one place where operations begin.
    pub(super) async fn begin(
        &self,
        tx: &mut Tx,
        actor: &Actor,
        spec: &ProjectSpec,
        row: &mut StagingRow,
        verb: Verb,
        change: Option<&SettingsChange>,
    ) -> Result<OperationId> {
        let now = tx.now();
        let agent = host_of(row)?;
        let previous = status_of(row)?;
        let (previous_sealed, previous_masked) = (row.settings_sealed.clone(), row.settings_masked.clone());
        let mut settings = self.unseal(&row.settings_sealed)?;
        let changed = change.map(|change| settings.changed(change)).transpose()?;
        if let Some(changed) = changed.filter(|changed| *changed != settings) {
            settings = changed;
            row.tag.clone_from(&settings.tag);
            row.settings_sealed = self.seal(&settings)?;
            row.settings_masked = mask(&settings)?;
        }
        let operation = OperationId(id::fresh(now));
        row.operation_id.clone_from(&operation.0);
        row.updated_at = now;
        if verb != Verb::Create {
            let status = next(previous, Evidence::Requested(verb)).unwrap_or(previous);
            set_status(row, status, String::new(), now);
        }
        let first = verb == Verb::Create;
        store::insert_operation(
            tx,
            &OperationRow {
                id: operation.0.clone(),
                staging_id: row.id.clone(),
                project: row.project.clone(),
                name: row.name.clone(),
                agent_id: agent.0.clone(),
                verb: verb.word().into(),
                outcome: String::new(),
                actor: actor.name.clone(),
                source: actor.source.word().into(),
                requested_at: now,
                cancelled_by: String::new(),
                started_at: None,
                ended_at: None,
                exit_code: None,
                signal: None,
                message: String::new(),
                settings_masked: row.settings_masked.clone(),
                previous_status: if first { String::new() } else { previous.word().into() },
                previous_sealed: (!first).then_some(previous_sealed),
                previous_masked: if first { String::new() } else { previous_masked },
            },
        )
        .await?;
        let after = serde_json::json!({
            "operation": operation, "status": row.status, "agent": agent, "settings": masked_of(row)?,
        });
        let seq = tx.record(actor.change(requested(verb), subject(row)).after(after)).await?;
        let document = Document {
            mode: Mode::Once,
            version: 1,
            bytes: wire::operation(&row.project, spec, &row.name, verb, &settings),
            on_interrupt: OnInterrupt::Report,
            on_revoke: OnRevoke::Keep,
            start_by: now + spec.pending_limit_seconds * 1000,
            blobs: Vec::new(),
            store_bytes: 0,
        };
        self.fleet.desired.put(tx, seq, std::slice::from_ref(&agent), &operation_key(&operation), &document).await?;
        self.unwatch(tx, seq, row).await?;
        store::save_staging(tx, row).await?;
        tx.wake("staging");
        Ok(operation)
    }

    /// Ends the pending operation: at once if it was not sent, else by the host's hand.
    pub async fn cancel(&self, actor: &Actor, which: Which<'_>) -> Result<OperationId> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let row = self.lock(&mut tx, which).await?;
                let Some(mut operation) = self.pending(&mut tx, &row).await? else {
                    return Err(Error::Conflict("nothing is pending; there is nothing to cancel".into()));
                };
                let id = OperationId(operation.id.clone());
                if operation.cancelled_by.is_empty() {
                    operation.cancelled_by.clone_from(&actor.name);
                    store::save_operation(&mut tx, &operation).await?;
                    let after = serde_json::json!({"operation": id, "verb": operation.verb});
                    let seq = tx.record(actor.change("staging.cancel_requested", subject(&row)).after(after)).await?;
                    let agent = AgentId(operation.agent_id.clone());
                    self.fleet.desired.withdraw(&mut tx, seq, &agent, &operation_key(&id)).await?;
                    tx.wake("staging");
                }
                tx.done(id)
            })
            .await
    }

    /// Hosts that a staging may move to: those that carry its project's labels and offer its wrappers, but its own.
    pub async fn destinations(&self, which: Which<'_>) -> Result<Vec<Candidate>> {
        let mut conn = self.fleet.db.read().await?;
        let row = store::fetch_staging(&mut conn, which.project, which.name).await?;
        let row = row.ok_or_else(|| Error::not_found("staging", format!("{}/{}", which.project, which.name)))?;
        let spec = self.project(&mut conn, which.project).await?.spec()?;
        let mut hosts = self.candidates(&mut conn, &spec).await?;
        hosts.retain(|c| Some(&c.agent.0) != row.agent_id.as_ref() && c.offers(&spec.wrappers));
        Ok(hosts)
    }

    /// Gives a staging another host. Its data stays where it is: the next restore or update makes it anew there.
    /// `version` is the one that was read.
    pub async fn relocate(&self, actor: &Actor, which: Which<'_>, to: &AgentId, version: Option<i64>) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let mut row = self.lock(&mut tx, which).await?;
                if version.is_some_and(|v| v != row.version) {
                    return Err(Error::Stale);
                }
                self.refuse_while_pending(&mut tx, &row).await?;
                if let Some(why) = model::why_not_moved(status_of(&row)?) {
                    return Err(Error::Conflict(why));
                }
                let spec = self.project(&mut tx, which.project).await?.spec()?;
                let candidates = self.candidates(&mut tx, &spec).await?;
                let chosen: Vec<_> = candidates.into_iter().filter(|c| c.agent == *to).collect();
                if chosen.is_empty() {
                    let text = format!(
                        "{:?} is no staging-host that carries the labels of project {:?}; give the id of one that does",
                        to.0, which.project
                    );
                    return Err(Error::invalid("agent", text));
                }
                if row.agent_id.as_ref() == Some(&to.0) {
                    return Err(Error::invalid("agent", "this host carries the staging already; choose another"));
                }
                model::place(which.project, &spec, &chosen)?;
                let before = serde_json::json!({"agent": row.agent_id});
                let after = serde_json::json!({"agent": to});
                let seq = tx.record(actor.change("staging.moved", subject(&row)).before(before).after(after)).await?;
                self.unwatch(&mut tx, seq, &mut row).await?;
                row.agent_id = Some(to.0.clone());
                row.updated_at = tx.now();
                store::save_staging(&mut tx, &row).await?;
                tx.done(())
            })
            .await
    }

    /// Drops a staging whose host is gone, without running anything.
    pub async fn forget(&self, actor: &Actor, which: Which<'_>) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                let mut row = self.lock(&mut tx, which).await?;
                if let Some(mut operation) = self.pending(&mut tx, &row).await? {
                    let agent = AgentId(operation.agent_id.clone());
                    operation.outcome = model::Outcome::Lost.word().into();
                    operation.ended_at = Some(tx.now());
                    operation.message = format!("the staging was forgotten by {}", actor.name);
                    operation.previous_sealed = None;
                    store::save_operation(&mut tx, &operation).await?;
                    forget(&mut tx, &agent, &operation_key(&OperationId(operation.id.clone()))).await?;
                }
                let before =
                    serde_json::json!({"status": row.status, "agent": row.agent_id, "settings": masked_of(&row)?});
                let seq = tx.record(actor.change("staging.forgotten", subject(&row)).before(before)).await?;
                self.unwatch(&mut tx, seq, &mut row).await?;
                store::delete_staging(&mut tx, &StagingId(row.id.clone())).await?;
                tx.done(())
            })
            .await
    }

    // --- pieces ---

    /// Runs a check again and again, from the event `seq` on.
    pub(super) async fn watch(
        &self,
        tx: &mut Tx,
        seq: i64,
        row: &mut StagingRow,
        watch: Watch,
        spec: &ProjectSpec,
    ) -> Result<()> {
        row.watch = watch_word(watch).into();
        let bytes = wire::watch(&row.project, spec, &row.name, watch, &row.watch_after);
        let (mode, on_interrupt, on_revoke) = (Mode::Standing, OnInterrupt::Report, OnRevoke::Stop);
        let (blobs, store_bytes) = (Vec::new(), 0);
        let document = Document { mode, version: 1, bytes, on_interrupt, on_revoke, start_by: 0, blobs, store_bytes };
        let Some(agent) = row.agent_id.clone().map(AgentId) else { return Ok(()) };
        self.fleet.desired.put(tx, seq, &[agent], &watch_key(&row.id), &document).await
    }

    /// Stops running checks.
    pub(super) async fn unwatch(&self, tx: &mut Tx, seq: i64, row: &mut StagingRow) -> Result<()> {
        row.watch.clear();
        row.watch_after.clear();
        let Some(agent) = row.agent_id.clone().map(AgentId) else { return Ok(()) };
        self.fleet.desired.withdraw(tx, seq, &agent, &watch_key(&row.id)).await
    }

    /// Puts the checks of a project's stagings anew after the project has changed.
    async fn refresh_watches(&self, tx: &mut Tx, seq: i64, project: &str, spec: &ProjectSpec) -> Result<()> {
        let mut filter = store::Filter { project: project.into(), ..store::Filter::default() };
        loop {
            let page = store::stagings(tx, &filter, 100).await?;
            let Some(last) = page.last() else { return Ok(()) };
            filter.after = (last.project.clone(), last.name.clone());
            for mut row in page {
                if let Some(watch) = watch_from(&row.watch) {
                    self.watch(tx, seq, &mut row, watch, spec).await?;
                }
            }
        }
    }

    /// Forgets what the log keeps of an operation that is over.
    pub(super) async fn forget_operation(&self, tx: &mut Tx, id: &OperationId) -> Result<()> {
        logs::forget(tx, &operation_key(id)).await?;
        store::delete_operation(tx, id).await
    }

    async fn lock(&self, tx: &mut Tx, which: Which<'_>) -> Result<StagingRow> {
        let row = store::lock_staging(tx, which.project, which.name).await?;
        row.ok_or_else(|| Error::not_found("staging", format!("{}/{}", which.project, which.name)))
    }

    async fn pending(&self, conn: &mut Conn, row: &StagingRow) -> Result<Option<OperationRow>> {
        if row.operation_id.is_empty() {
            return Ok(None);
        }
        store::fetch_operation(conn, &OperationId(row.operation_id.clone())).await
    }

    async fn refuse_while_pending(&self, tx: &mut Tx, row: &StagingRow) -> Result<()> {
        let Some(operation) = self.pending(tx, row).await? else { return Ok(()) };
        let ago = (tx.now() - operation.requested_at) / 1000;
        Err(Error::Conflict(format!(
            "{} is pending, asked for {ago} s ago by {} ({}); wait for its end, or cancel it",
            operation.verb, operation.actor, operation.id
        )))
    }

    /// Hosts that carry a project's labels.
    pub(super) async fn candidates(&self, conn: &mut Conn, spec: &ProjectSpec) -> Result<Vec<Candidate>> {
        let carried = store::counts_by_agent(conn).await?;
        let hosts = agents::select(conn, Class::StagingHost, &spec.agents).await?;
        let candidate = |host: Agent| Candidate {
            stagings: carried.iter().find(|(id, _)| *id == host.id.0).map_or(0, |(_, n)| *n),
            folders: folders(&host),
            is_offline: host.liveness == Liveness::Offline,
            agent: host.id,
        };
        Ok(hosts.into_iter().map(candidate).collect())
    }

    pub(super) fn seal(&self, settings: &Settings) -> Result<Vec<u8>> {
        let plain = serde_json::to_vec(settings).map_err(Error::internal)?;
        Ok(self.fleet.certificates.seal(PURPOSE, &plain))
    }

    pub(super) fn unseal(&self, sealed: &[u8]) -> Result<Settings> {
        serde_json::from_slice(&self.fleet.certificates.unseal(PURPOSE, sealed)?).map_err(Error::internal)
    }
}

/// Answers agents who ask whether an operation is still wanted: yes while it is pending and nobody has cancelled it.
pub fn asks(ground: &Ground) -> BTreeMap<&'static str, AskHandler> {
    let db = ground.db.clone();
    let handler = ask_handler(move |agent: AgentId, ask: Ask| {
        let db = db.clone();
        async move {
            let answered = async {
                let row =
                    store::fetch_operation(&mut *db.read().await?, &OperationId(ask.id.replace('\0', ""))).await?;
                Ok::<_, Error>(row.filter(|o| o.agent_id == agent.0))
            };
            let (outcome, message) = match answered.await {
                Ok(Some(o)) if o.outcome.is_empty() && o.cancelled_by.is_empty() => {
                    (ask_answer::Outcome::Ok, String::new())
                }
                Ok(Some(_)) => (ask_answer::Outcome::Denied, "the operation is not wanted any more".into()),
                Ok(None) => (ask_answer::Outcome::Denied, "this agent has no such operation".into()),
                Err(_) => (ask_answer::Outcome::Unavailable, "home could not find out".into()),
            };
            Answer { outcome: outcome.into(), message, ..Answer::default() }
        }
    });
    BTreeMap::from([(KIND_STAGING_OPERATION, handler)])
}

/// The wrapper folders that an agent's capabilities name; none before it has been home.
fn folders(host: &Agent) -> Option<Vec<String>> {
    let is_known = !host.capabilities.is_empty();
    is_known.then(|| host.offers(KIND_STAGING_OPERATION).unwrap_or_default().to_vec())
}

fn project_row(
    name: &str,
    spec: &ProjectSpec,
    found: Option<&ProjectRow>,
    actor: &Actor,
    now: i64,
) -> Result<ProjectRow> {
    Ok(ProjectRow {
        name: name.into(),
        base_domain: spec.base_domain.clone(),
        namespace: spec.namespace.clone(),
        wrappers: spec.wrappers.clone(),
        agents: serde_json::to_string(&spec.agents).map_err(Error::internal)?,
        check_interval_seconds: spec.check_interval_seconds,
        pending_limit_seconds: spec.pending_limit_seconds,
        timeout_seconds: spec.timeout_seconds,
        memory_bytes: spec.memory_bytes,
        file_bytes: spec.file_bytes,
        archived_retention_days: spec.archived_retention_days,
        owner: found.map_or_else(|| actor.name.clone(), |f| f.owner.clone()),
        created_at: found.map_or(now, |f| f.created_at),
        version: found.map_or(1, |f| f.version),
    })
}

/// Changes a status in the row.
pub(super) fn set_status(row: &mut StagingRow, status: Status, why: String, now: i64) {
    row.archived_at = (status == Status::Archived).then(|| row.archived_at.unwrap_or(now));
    if status != Status::Archived {
        row.retention_warned_at = None;
    }
    row.status = status.word().into();
    row.status_at = now;
    row.status_why = why;
}

/// The status in a row.
pub(super) fn status_of(row: &StagingRow) -> Result<Status> {
    let unknown = || Error::internal(anyhow::anyhow!("the database holds the status {:?}", row.status));
    Status::from_word(&row.status).ok_or_else(unknown)
}

/// The host of a staging.
fn host_of(row: &StagingRow) -> Result<AgentId> {
    let gone = || Error::Conflict("its host was removed; move the staging to another, or forget it".into());
    row.agent_id.clone().map(AgentId).ok_or_else(gone)
}

/// Its settings as anybody may see them.
pub(super) fn masked_of(row: &StagingRow) -> Result<serde_json::Value> {
    serde_json::from_str(&row.settings_masked).map_err(Error::internal)
}

fn mask(settings: &Settings) -> Result<String> {
    serde_json::to_string(&settings.masked()).map_err(Error::internal)
}

/// What events about a staging name.
pub(super) fn subject(row: &StagingRow) -> String {
    format!("staging/{}/{}", row.project, row.name)
}

/// What names an operation's assignment.
pub(super) fn operation_key(id: &OperationId) -> Key {
    Key { kind: KIND_STAGING_OPERATION.into(), id: id.0.clone() }
}

/// What names a staging's watch.
pub(super) fn watch_key(staging: &str) -> Key {
    Key { kind: KIND_STAGING_WATCH.into(), id: staging.into() }
}

fn watch_word(watch: Watch) -> &'static str {
    match watch {
        Watch::Check => "check",
        Watch::ArchiveCheck => "archive_check",
    }
}

/// The watch in a row.
pub(super) fn watch_from(word: &str) -> Option<Watch> {
    match word {
        "check" => Some(Watch::Check),
        "archive_check" => Some(Watch::ArchiveCheck),
        _ => None,
    }
}

fn requested(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "staging.create_requested",
        Verb::Update => "staging.update_requested",
        Verb::Delete => "staging.delete_requested",
        Verb::Restore => "staging.restore_requested",
        Verb::Cleanup => "staging.cleanup_requested",
    }
}
