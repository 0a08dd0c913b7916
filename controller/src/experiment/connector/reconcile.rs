//! The loop of connectors: each is looked at when it is due, and asked what is to be asked of its executors.
//!
//! Questions take as long as a connector takes to answer, so they are put beside the loop, one an experiment at a time and
//! a few a connector. Before one is sent its rows say who asks: a replica that died meanwhile leaves them to another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;

use super::{
    model::{Asked, Fate, Fault, Health, Standing, Verb, fate, is_overdue, part},
    service::subject,
    store::{self, ConnectorRow, QuestionRow},
};
use crate::{
    error::{Error, Result},
    experiment::{
        netunicorn::Document,
        service::Experiments,
        store::{self as experiments, DeploymentRow},
    },
    fleet::REPLICA_LIFE,
    platform::{crash::CrashPoint, events::Actor, lease, reconcile::Reconciler},
};

/// Wakes the loop.
pub const TOPIC: &str = "experiment-connector";

/// Questions to one connector at once.
const AT_ONCE: usize = 8;

/// Cleanups of one connector at once: nobody waits for them, and they hold up nobody.
const CLEANUPS: usize = 2;

/// How the place of a cleanup begins.
const CLEANUP: &str = "cleanup ";

/// A replica that died lets another ask after this time.
const LEASE: Duration = Duration::from_millis(REPLICA_LIFE.unsigned_abs());

/// Looks at connectors and asks them, on the one replica that holds the lease.
#[derive(Debug, Clone)]
pub struct Calls {
    experiments: Experiments,
    /// What is under way here: a connector that is looked at, or one of its experiments.
    busy: Arc<Mutex<BTreeSet<(String, String)>>>,
}

/// Something is under way while this lives.
struct Busy {
    busy: Arc<Mutex<BTreeSet<(String, String)>>>,
    key: (String, String),
}

/// A question about executors of one experiment.
struct Question {
    connector: ConnectorRow,
    experiment: String,
    verb: Verb,
    rows: Vec<QuestionRow>,
}

/// What is under way at a connector: one question an experiment, and beside it one cleanup.
fn place(verb: Verb, experiment: &str) -> String {
    let begin = if verb == Verb::Cleanup { CLEANUP } else { "" };
    format!("{begin}{experiment}")
}

/// What a question about one executor came to.
enum CameTo {
    /// It was done.
    Done,
    /// The connector says that it was not, and why.
    Refused(String),
    /// Nothing was answered.
    Nothing(Fault),
}

// === impl Calls ===

impl Reconciler for Calls {
    type Status = Result<usize, String>;
    const PERIOD: Duration = Duration::from_secs(1);

    async fn reconcile(&mut self) -> Self::Status {
        self.round().await.map_err(|error| {
            tracing::error!(%error, "connectors could not be looked after; the next round tries again");
            error.to_string()
        })
    }
}

impl Calls {
    /// A loop with nothing under way.
    pub fn new(experiments: Experiments) -> Self {
        Self { experiments, busy: Arc::default() }
    }

    async fn round(&mut self) -> Result<usize> {
        let fleet = &self.experiments.fleet;
        let connectors = store::connectors(&mut *fleet.db.read().await?).await?;
        let questions = store::questions(&mut *fleet.db.read().await?).await?;
        if connectors.is_empty() && questions.is_empty()
            || lease::hold(&fleet.db, "call/connector", &fleet.replica, LEASE).await?.is_none()
        {
            return Ok(0);
        }
        let now = fleet.db.clock().now();
        for row in connectors.iter().filter(|row| row.enabled == 1 && row.next_at <= now) {
            if let Some(busy) = self.take(&row.name, "") {
                tokio::spawn(self.clone().look(row.clone(), busy));
            }
        }
        let questions = self.still_good(questions, &connectors, now).await?;
        let mut groups: BTreeMap<(u8, String, String, &'static str), Vec<QuestionRow>> = BTreeMap::new();
        for row in questions.into_iter().filter(|row| row.next_at <= now) {
            let verb = store::verb(&row.verb)?;
            let group = (verb.rank(), row.connector.clone(), row.experiment_id.clone(), verb.word());
            groups.entry(group).or_default().push(row);
        }
        let mut asked = 0;
        for ((_, name, experiment, word), rows) in groups {
            let well = |row: &&ConnectorRow| row.name == name && row.enabled == 1 && row.health == Health::Well.word();
            let Some(connector) = connectors.iter().find(well).cloned() else { continue };
            let verb = store::verb(word)?;
            let Some(busy) = self.take(&name, &place(verb, &experiment)) else { continue };
            asked += 1;
            let question = Question { connector, experiment, verb, rows };
            tokio::spawn(self.clone().ask(question, busy));
        }
        Ok(asked)
    }

    fn take(&self, connector: &str, place: &str) -> Option<Busy> {
        let key = (connector.to_owned(), place.to_owned());
        let mut busy = self.busy.lock().unwrap_or_else(|e| e.into_inner());
        let is_alike = |of: &str| !of.is_empty() && of.starts_with(CLEANUP) == place.starts_with(CLEANUP);
        let under_way = busy.iter().filter(|(name, of)| name == connector && is_alike(of)).count();
        let most = if place.starts_with(CLEANUP) { CLEANUPS } else { AT_ONCE };
        let has_room = place.is_empty() || under_way < most;
        (has_room && busy.insert(key.clone())).then(|| Busy { busy: self.busy.clone(), key })
    }

    /// Questions that are to be sent; what was repeated for long enough fails, and what a replica that is gone left under
    /// way counts as not answered.
    async fn still_good(
        &self,
        questions: Vec<QuestionRow>,
        connectors: &[ConnectorRow],
        now: i64,
    ) -> Result<Vec<QuestionRow>> {
        let fleet = &self.experiments.fleet;
        let live = if questions.iter().any(|row| row.state == Asked::Asking.word()) {
            fleet.live_replicas().await?
        } else {
            Vec::new()
        };
        let (mut good, mut over) = (Vec::new(), Vec::new());
        for row in questions {
            let verb = store::verb(&row.verb)?;
            if row.state == Asked::Asking.word() {
                let here = (row.connector.clone(), place(verb, &row.experiment_id));
                let under_way = match row.asked_by == *fleet.replica {
                    true => self.busy.lock().unwrap_or_else(|e| e.into_inner()).contains(&here),
                    false => live.contains(&row.asked_by),
                };
                if !under_way {
                    let why = "the controller that asked it was stopped before it was answered";
                    over.push((row, CameTo::Nothing(Fault::Unsure(why.into()))));
                }
                continue;
            }
            let why = match connectors.iter().find(|it| it.name == row.connector) {
                None => Some(format!("the connector {} was removed", row.connector)),
                Some(it) if it.enabled == 0 => Some(format!("the connector {} is switched off", it.name)),
                Some(it) => is_overdue(verb, row.asked_at, row.keep_alive_minutes * 60_000, now).then(|| {
                    format!("the connector {} did not come to it in time; {}: {}", it.name, it.health, it.why)
                }),
            };
            match why {
                Some(why) => over.push((row, CameTo::Refused(why))),
                None => good.push(row),
            }
        }
        self.settle(&over).await?;
        Ok(good)
    }

    /// Looks how a connector fares. One that did not fare well before is told anew what it needs to begin: it may have
    /// been restarted.
    async fn look(self, row: ConnectorRow, busy: Busy) {
        if let Err(error) = self.try_look(&row).await {
            tracing::error!(connector = row.name, %error, "how a connector fares could not be noted");
        }
        drop(busy);
    }

    async fn try_look(&self, row: &ConnectorRow) -> Result<()> {
        let experiments = &self.experiments;
        let server = experiments.server(row)?;
        let before = row.standing()?;
        let begin = async {
            if before.health != Health::Well {
                let parameters = experiments.secrets(row)?.parameters(row, &experiments.fleet.url);
                if let Err(fault) = server.initialize(&parameters).await {
                    return Ok(Err(format!("it does not begin: {}", fault.why())));
                }
            }
            Ok::<_, Error>(server.health().await.map_err(|fault| fault.why().to_owned()))
        };
        let said = begin.await?;
        self.note(row, &before, said).await
    }

    /// Notes how a connector fares.
    async fn note(
        &self,
        row: &ConnectorRow,
        before: &Standing,
        said: std::result::Result<String, String>,
    ) -> Result<()> {
        let db = &self.experiments.fleet.db;
        let after = &before.after(said, db.clock().now(), chance());
        db.write(|mut tx| async move {
            if store::save_standing(&mut tx, &row.name, row.version, after).await? && before.health != after.health {
                let kind = match after.health {
                    Health::Failing => "experiment.connector_failing",
                    Health::New | Health::Well => "experiment.connector_well",
                };
                let what = json!({"why": after.why});
                tx.record(Actor::controller().change(kind, subject(&row.name)).after(what)).await?;
                tx.wake(TOPIC);
            }
            tx.done(())
        })
        .await
    }

    async fn ask(self, question: Question, busy: Busy) {
        let (connector, experiment) = (question.connector.name.clone(), question.experiment.clone());
        if let Err(error) = self.try_ask(question).await {
            tracing::error!(connector, experiment, %error, "what a connector answered could not be noted");
        }
        drop(busy);
        self.experiments.fleet.db.wake().committed(None, &[TOPIC.to_owned()]);
    }

    async fn try_ask(&self, mut question: Question) -> Result<()> {
        let fleet = &self.experiments.fleet;
        let verb = question.verb;
        let ids: Vec<_> = question.rows.iter().map(|row| row.executor_id.clone()).collect();
        let ids = &ids;
        let begun = fleet.db.write(|mut tx| async move {
            let begun = store::begin(&mut tx, ids, verb, &fleet.replica).await?;
            tx.crash_points(CrashPoint::BeforePlanCommit, CrashPoint::AfterPlanCommit);
            tx.done(begun)
        });
        let begun: BTreeSet<_> = begun.await?.into_iter().collect();
        question.rows.retain(|row| begun.contains(&row.executor_id));
        if question.rows.is_empty() {
            return Ok(());
        }
        for row in &mut question.rows {
            row.attempts += 1;
            row.state = Asked::Asking.word().into();
        }
        // What goes wrong here goes wrong before anything is sent.
        let sent = self.send(&question, &begun).await;
        let answered = sent.unwrap_or_else(|e| Err(Fault::NotTaken(format!("home could not put its question: {e}"))));
        if let Err(fault) = &answered {
            tracing::warn!(
                connector = question.connector.name,
                verb = verb.word(),
                why = fault.why(),
                "a connector failed"
            );
        }
        let came_to = |row: QuestionRow| {
            let name = &question.connector.name;
            let said = match &answered {
                Err(Fault::NotTaken(why)) => {
                    CameTo::Nothing(Fault::NotTaken(format!("the connector {name} failed: {why}")))
                }
                Err(Fault::Unsure(why)) => {
                    CameTo::Nothing(Fault::Unsure(format!("the connector {name} failed: {why}")))
                }
                Ok(_) if verb == Verb::Cleanup => CameTo::Done,
                Ok(results) => match results.get(&row.executor_id) {
                    Some(Ok(_)) => CameTo::Done,
                    Some(Err(why)) if why.is_empty() => {
                        CameTo::Refused(format!("the connector {name} gives no reason"))
                    }
                    Some(Err(why)) => CameTo::Refused(why.clone()),
                    // It may have begun: its own report will say so.
                    None => CameTo::Nothing(Fault::Unsure(format!("the connector {name} said nothing of it"))),
                },
            };
            (row, said)
        };
        let came_to: Vec<_> = std::mem::take(&mut question.rows).into_iter().map(came_to).collect();
        self.settle(&came_to).await
    }

    /// Sends a question, and gives what came of that; an error where it could not be put.
    async fn send(
        &self,
        question: &Question,
        executors: &BTreeSet<String>,
    ) -> Result<std::result::Result<super::client::Results, Fault>> {
        let experiments = &self.experiments;
        let mut conn = experiments.fleet.db.read().await?;
        let Some(row) = experiments::fetch_any(&mut conn, &question.experiment.as_str().into()).await? else {
            return Ok(Err(Fault::NotTaken("the experiment is gone".into())));
        };
        let mut rows = experiments::deployments(&mut conn, &row.id).await?;
        rows.retain(|row| executors.contains(&row.id));
        let told = experiments.told(&mut conn, &row.id, question.verb).await?;
        let body = match question.verb {
            Verb::Stop => {
                let stop = |row: &DeploymentRow| json!({"executor_id": row.id, "node_name": row.node_name});
                json!(rows.iter().map(stop).collect::<Vec<_>>()).to_string()
            }
            Verb::Deploy | Verb::Execute | Verb::Cleanup => {
                let graphs: BTreeSet<_> = rows.iter().map(|row| row.graph.clone()).collect();
                let graphs = experiments.blobs.read_many(&mut conn, &graphs.into_iter().collect::<Vec<_>>()).await?;
                let graph = |row: &DeploymentRow| graphs.get(&row.graph).map(|graph| &graph[..]);
                let all = rows.iter().map(|row| Document::of(row, graph(row))).collect::<Result<Vec<_>>>()?;
                serde_json::to_string(&all).map_err(Error::internal)?
            }
        };
        drop(conn);
        let server = experiments.server(&question.connector)?;
        let name = &question.connector.name;
        // What a deployment is told of stands with the experiment, where its client reads it again.
        let context = match question.verb {
            Verb::Deploy => serde_json::from_str(&row.context).map_err(Error::internal)?,
            _ => told.context,
        };
        let (authentication, context) = (part(&told.authentication, name), part(&context, name));
        Ok(server.work(question.verb, &row.owner, &row.id, body, authentication, context).await)
    }

    /// Notes what questions came to: each was done, refused by the connector, or not answered.
    async fn settle(&self, came_to: &[(QuestionRow, CameTo)]) -> Result<()> {
        if came_to.is_empty() {
            return Ok(());
        }
        let db = &self.experiments.fleet.db;
        let (now, chance) = (db.clock().now(), chance());
        let write = db.write(|mut tx| async move {
            for (row, said) in came_to {
                let verb = store::verb(&row.verb)?;
                let keep_alive = row.keep_alive_minutes * 60_000;
                let (to, why, next_at) = match said {
                    CameTo::Done => (Asked::Done, "", now),
                    CameTo::Refused(why) => (Asked::Failed, why.as_str(), now),
                    CameTo::Nothing(fault) => {
                        match fate(verb, fault, row.attempts, row.asked_at, keep_alive, now, chance) {
                            Fate::Again(at) => (Asked::Queued, fault.why(), at),
                            Fate::Wait => (Asked::Done, fault.why(), now),
                            Fate::Fail => (Asked::Failed, fault.why(), now),
                        }
                    }
                };
                let was = (row.state.as_str(), row.attempts);
                store::settle(&mut tx, &row.executor_id, verb, was, to, why, next_at).await?;
            }
            tx.wake("experiment");
            tx.done(())
        });
        write.await
    }
}

// === impl Busy ===

impl Drop for Busy {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(|e| e.into_inner()).remove(&self.key);
    }
}

/// A number between 0 and 1, by chance.
fn chance() -> f64 {
    f64::from(u32::from_be_bytes(muster_pki::random())) / f64::from(u32::MAX)
}
