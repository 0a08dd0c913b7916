//! Use cases of connectors.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use muster_pki::{hex, sha256};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    client::Server,
    model::{Asked, ConnectorSpec, Fault, Health, Verb, part},
    reconcile::TOPIC,
    store::{self, ConnectorRow},
};
use crate::{
    error::{Error, Result},
    experiment::{
        model::FLEET,
        node::Placed,
        order::Order,
        pool::Pool,
        service::{Experiments, User, posted_by},
        store::DeploymentRow,
    },
    platform::{
        blobs::Blobs,
        db::{Conn, Tx},
        events::Actor,
    },
};

/// What connectors and contexts are sealed for.
const PURPOSE: &str = "experiment connector";

/// So long a connector keeps somebody waiting who asks for nodes, where it is known what it said last.
const SOON: Duration = Duration::from_secs(2);

/// What is kept sealed of a connector.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Secrets {
    /// What it knows this controller by.
    pub api_key: String,
    /// What it is told when it begins.
    pub init: BTreeMap<String, Value>,
    /// What its executors know.
    pub gateway_secret: String,
    /// The authorities its certificate may come from.
    pub ca_pem: String,
}

/// What a user told connectors with a request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Told {
    /// Of themselves, by connector.
    pub authentication: Value,
    /// Of what was asked for, by connector.
    pub context: Value,
}

/// What the connectors brought for an order: its nodes, and why some connectors brought none.
#[derive(Debug, Default)]
pub struct Brought {
    /// Nodes by connector and name.
    pub nodes: BTreeMap<(String, String), Placed>,
    /// Why a connector brought nothing; a relative clause.
    pub missing: BTreeMap<String, String>,
}

/// A connector is being asked for a user's nodes while this lives.
struct Asking {
    asking: Arc<Mutex<BTreeSet<(String, String)>>>,
    key: (String, String),
}

// === impl Asking ===

impl Asking {
    /// None while the same is asked already.
    fn begin(asking: &Arc<Mutex<BTreeSet<(String, String)>>>, connector: &str, user: &str) -> Option<Self> {
        let key = (connector.to_owned(), user.to_owned());
        let is_new = asking.lock().unwrap_or_else(|e| e.into_inner()).insert(key.clone());
        is_new.then(|| Self { asking: asking.clone(), key })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.asking.lock().unwrap_or_else(|e| e.into_inner()).remove(&self.key);
    }
}

// === impl Secrets ===

impl Secrets {
    /// What a connector is told when it begins.
    pub fn parameters(&self, row: &ConnectorRow, home: &str) -> Value {
        let base = if row.gateway.is_empty() { home } else { &row.gateway };
        let gateway = format!("{}/netunicorn/gateway/{}", base.trim_end_matches('/'), self.gateway_secret);
        let mut all: Map<String, Value> = self.init.clone().into_iter().collect();
        all.entry("netunicorn_gateway").or_insert_with(|| json!(gateway));
        Value::Object(all)
    }
}

// === impl Experiments ===

impl Experiments {
    /// Adds a connector, or changes one that still has the version named. Gives whether it is new.
    pub async fn save_connector(
        &self,
        actor: &Actor,
        name: &str,
        spec: &ConnectorSpec,
        version: Option<i64>,
    ) -> Result<bool> {
        spec.check(name)?;
        let write = self.fleet.db.write(|mut tx| async move {
            let before = store::connector(&mut tx, name).await?;
            let at = before.as_ref().map_or(0, |row| row.version);
            if version.is_some_and(|version| version != at) {
                return Err(Error::Stale);
            }
            let kept = before.as_ref().map(|row| self.secrets(row)).transpose()?;
            let is_new = kept.is_none();
            if is_new && spec.api_key.is_empty() {
                return Err(Error::invalid("api_key", "a new connector needs the key that its server expects"));
            }
            let mut secrets = kept.unwrap_or_default();
            if secrets.gateway_secret.is_empty() {
                secrets.gateway_secret = hex(&muster_pki::random::<16>());
            }
            if !spec.api_key.is_empty() {
                secrets.api_key.clone_from(&spec.api_key);
            }
            if let Some(init) = &spec.init {
                secrets.init.clone_from(init);
            }
            if let Some(ca_pem) = &spec.ca_pem {
                secrets.ca_pem.clone_from(ca_pem);
            }
            let gateway = spec.gateway.clone().or_else(|| before.as_ref().map(|row| row.gateway.clone()));
            Server::new(&spec.url, &secrets.api_key, &secrets.ca_pem).map_err(|why| Error::invalid("ca_pem", why))?;
            let now = tx.now();
            let row = ConnectorRow {
                name: name.into(),
                url: spec.url.trim_end_matches('/').into(),
                gateway: gateway.unwrap_or_default().trim_end_matches('/').into(),
                sealed: self.seal(&json!(secrets)),
                secret_digest: hex(&sha256(secrets.gateway_secret.as_bytes())),
                enabled: i64::from(spec.enabled),
                health: Health::New.word().into(),
                why: String::new(),
                failures: 0,
                health_at: now,
                next_at: now,
                created_at: before.as_ref().map_or(now, |row| row.created_at),
                version: at + 1,
            };
            store::save_connector(&mut tx, &row).await?;
            let said =
                |row: &ConnectorRow| json!({"url": row.url, "gateway": row.gateway, "enabled": row.enabled == 1});
            let kind = if is_new { "experiment.connector_added" } else { "experiment.connector_changed" };
            let mut change = actor.change(kind, subject(name)).after(said(&row));
            if let Some(before) = &before {
                change = change.before(said(before));
            }
            tx.record(change).await?;
            tx.wake(TOPIC);
            tx.done(is_new)
        });
        write.await
    }

    /// Removes a connector none of whose executors is under way.
    pub async fn remove_connector(&self, actor: &Actor, name: &str) -> Result<()> {
        let write = self.fleet.db.write(|mut tx| async move {
            let row = store::connector(&mut tx, name).await?.ok_or_else(|| Error::not_found("connector", name))?;
            let open = store::open_executors(&mut tx, name).await?;
            if open > 0 {
                let text = format!(
                    "{open} executor(s) of the connector {name} have not ended; cancel their experiments first"
                );
                return Err(Error::Conflict(text));
            }
            store::remove_connector(&mut tx, name).await?;
            let change = actor.change("experiment.connector_removed", subject(name));
            tx.record(change.before(json!({"url": row.url}))).await?;
            tx.done(())
        });
        write.await
    }

    /// The nodes that connectors have for a user at this moment. One that fails brings none, and keeps nobody waiting who
    /// asks for others.
    pub async fn pools(&self, user: &User) -> Result<Vec<(String, Pool)>> {
        let rows = store::connectors(&mut *self.fleet.db.read().await?).await?;
        let rows = rows.iter().filter(|row| row.enabled == 1 && row.health != Health::Failing.word());
        let asked = rows.map(|row| async move { (row.name.clone(), self.nodes_soon(row, user).await) });
        let mut pools = Vec::new();
        for (name, asked) in futures::future::join_all(asked).await {
            match asked? {
                Ok(pool) => pools.push((name, pool)),
                Err(fault) => tracing::warn!(connector = name, why = fault.why(), "a connector brings no nodes"),
            }
        }
        Ok(pools)
    }

    /// The nodes of one connector. A slow one is believed what it said last, and its answer is kept for the next time.
    async fn nodes_soon(&self, row: &ConnectorRow, user: &User) -> Result<Result<Pool, Fault>> {
        let Some(asking) = Asking::begin(&self.asking, &row.name, &user.name) else {
            // Who asks again and again is not asked for again and again.
            let not_yet = || Fault::Unsure("it has not said its nodes yet".into());
            return Ok(self.last_pool(&row.name, user).await?.ok_or_else(not_yet));
        };
        let (it, connector, asks) = (self.clone(), row.clone(), user.clone());
        let mut asked = tokio::spawn(async move {
            let answer = it.ask_for_nodes(&connector, &asks).await;
            drop(asking);
            answer
        });
        if let Ok(answer) = tokio::time::timeout(SOON, &mut asked).await {
            return answer.map_err(Error::internal)?;
        }
        match self.last_pool(&row.name, user).await? {
            Some(last) => Ok(Ok(last)),
            None => asked.await.map_err(Error::internal)?,
        }
    }

    /// The nodes a connector brought for a user the last time.
    async fn last_pool(&self, connector: &str, user: &User) -> Result<Option<Pool>> {
        let last = store::pool(&mut *self.fleet.db.read().await?, connector, &user.name).await?;
        last.map(|text| Pool::read(&text).map_err(broken)).transpose()
    }

    /// The nodes that an order names and connectors have, as far as they are open to the user. A connector that does not
    /// answer is believed what it said last.
    pub async fn brought(&self, user: &User, order: &Order) -> Result<Brought> {
        let mut brought = Brought::default();
        let names: BTreeSet<_> = order.deployments.iter().map(|d| d.node.connector()).collect();
        for name in names {
            let row = store::connector(&mut *self.fleet.db.read().await?, name).await?;
            let row = match row {
                _ if name == FLEET => continue,
                Some(row) if row.enabled == 1 => row,
                Some(_) => {
                    brought.missing.insert(name.into(), "which is switched off".into());
                    continue;
                }
                None => {
                    brought.missing.insert(name.into(), "which is not there".into());
                    continue;
                }
            };
            let pool = match self.ask_for_nodes(&row, user).await? {
                Ok(pool) => pool,
                Err(fault) => {
                    let Some(last) = self.last_pool(name, user).await? else {
                        brought.missing.insert(name.into(), format!("which does not say its nodes: {}", fault.why()));
                        continue;
                    };
                    last
                }
            };
            let named = order.deployments.iter().filter(|d| d.node.connector() == name);
            let found = pool.find(named.map(|d| d.node.name.as_str())).into_values().map(Placed::brought);
            let open = found.filter(|it| it.is_open_to(&user.tags));
            brought.nodes.extend(open.map(|it| ((name.to_owned(), it.node.name.clone()), it)));
        }
        Ok(brought)
    }

    async fn ask_for_nodes(&self, row: &ConnectorRow, user: &User) -> Result<Result<Pool, Fault>> {
        let server = self.server(row)?;
        let text = match server.nodes(&user.name, part(&user.context, &row.name)).await {
            Ok(text) => text,
            Err(fault) => return Ok(Err(fault)),
        };
        // It may be long: it is read beside the runtime.
        let name = row.name.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut pool = Pool::read(&text)?;
            pool.stamp(&name);
            let text = pool.json().to_string();
            Ok((pool, text))
        });
        let (pool, text) = match read.await.map_err(Error::internal)? {
            Ok(read) => read,
            Err(why) => return Ok(Err(Fault::Unsure(why))),
        };
        let before = store::pool(&mut *self.fleet.db.read().await?, &row.name, &user.name).await?;
        if before.as_ref() != Some(&text) {
            let text = &text;
            let write = self.fleet.db.write(|mut tx| async move {
                store::save_pool(&mut tx, &row.name, &user.name, text).await?;
                tx.done(())
            });
            write.await?;
        }
        Ok(Ok(pool))
    }

    /// The server of a connector.
    pub(super) fn server(&self, row: &ConnectorRow) -> Result<Server> {
        let secrets = self.secrets(row)?;
        Server::new(&row.url, &secrets.api_key, &secrets.ca_pem).map_err(broken)
    }

    /// What is kept sealed of a connector.
    pub(in crate::experiment) fn secrets(&self, row: &ConnectorRow) -> Result<Secrets> {
        self.unseal(&row.sealed)
    }

    /// Keeps what a user told connectors with a request, where there is anything.
    pub(in crate::experiment) async fn keep_told(
        &self,
        tx: &mut Tx,
        experiment: &str,
        verb: Verb,
        user: &User,
        context: &Value,
    ) -> Result<()> {
        if user.context.is_null() && context.is_null() {
            return Ok(());
        }
        let told = Told { authentication: user.context.clone(), context: context.clone() };
        store::save_context(tx, experiment, verb, &self.seal(&json!(told))).await
    }

    /// What a user told connectors with the request behind a question.
    pub(super) async fn told(&self, conn: &mut Conn, experiment: &str, verb: Verb) -> Result<Told> {
        let sealed = store::context(conn, experiment, verb).await?;
        sealed.map_or_else(|| Ok(Told::default()), |sealed| self.unseal(&sealed))
    }

    fn seal(&self, value: &Value) -> Vec<u8> {
        self.fleet.certificates.seal(PURPOSE, value.to_string().as_bytes())
    }

    fn unseal<T: for<'a> Deserialize<'a>>(&self, sealed: &[u8]) -> Result<T> {
        serde_json::from_slice(&self.fleet.certificates.unseal(PURPOSE, sealed)?).map_err(Error::internal)
    }
}

/// Asks a connector something of one executor.
pub(in crate::experiment) async fn ask(tx: &mut Tx, row: &DeploymentRow, verb: Verb) -> Result<()> {
    let executor = (row.id.clone(), row.experiment_id.clone(), row.connector.clone());
    store::ask(tx, &[executor], verb).await
}

/// Withdraws what a connector was asked of an executor: it is asked to end it, unless it never heard of it.
pub(in crate::experiment) async fn withdraw(tx: &mut Tx, row: &DeploymentRow) -> Result<()> {
    let Some(known) = store::lock_remote(tx, &row.id).await? else { return Ok(()) };
    let is_unheard = known.verb == Verb::Deploy.word() && known.state == Asked::Queued.word() && known.attempts == 0;
    if matches!(store::verb(&known.verb)?, Verb::Deploy | Verb::Execute) {
        ask(tx, row, Verb::Stop).await?;
    }
    if is_unheard {
        store::settle(tx, &row.id, Verb::Stop, (Asked::Queued.word(), 0), Asked::Done, "", 0).await?;
    }
    Ok(())
}

/// Lets go of what an executor posted.
pub(in crate::experiment) async fn forget_posted(tx: &mut Tx, row: &DeploymentRow) -> Result<()> {
    Blobs::forget(tx, &posted_by(row)).await
}

/// What events about a connector name.
pub(super) fn subject(name: &str) -> String {
    format!("connector/{name}")
}

fn broken(why: String) -> Error {
    Error::internal(anyhow::anyhow!("a stored connector cannot be used: {why}"))
}
