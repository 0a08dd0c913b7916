//! The database: SQLite (embedded default) or PostgreSQL behind one SQL text.
//!
//! The text keeps to what both engines share: `$1`, `returning`, `on conflict`, TEXT ids, BIGINT milliseconds, 0 and 1
//! for truth, JSON as TEXT. The few differences are methods here and nowhere else.
//!
//! Writing is one closure given to [`Db::write`]. On SQLite there is one writer and its transaction begins as
//! `immediate`; on PostgreSQL the first statement locks the aggregate. A transaction that loses a race is run again, so
//! the closure has no effects but its statements. Lock order: aggregate rows, the event head, the rest.

use std::{fmt::Write, future::Future, ops, path::Path, str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    Any, AnyConnection, AnyPool, AssertSqlSafe, Executor, Row, Transaction,
    any::AnyConnectOptions,
    migrate::Migrator,
    pool::{PoolConnection, PoolOptions},
    query::Query,
};

use super::{
    clock::Clock,
    crash,
    wake::{self, Wake},
};
use crate::error::{Error, Result};

/// Arguments of a query on either engine.
pub type Arguments = <Any as sqlx::Database>::Arguments;

/// A connection, inside a transaction or not. Store functions take this.
pub type Conn = AnyConnection;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Readers of SQLite; connections in all on PostgreSQL.
const READERS: u32 = 8;

/// A statement that waits longer than this for the SQLite writer is an error.
const BUSY_MS: u64 = 10_000;

/// How often a transaction is run again before its loss of a race is an error.
const MAX_RERUNS: u32 = 20;

/// Rows of one multi-row statement: more gains nothing and meets SQLite's limit of parameters sooner.
pub const ROWS: usize = 50;

/// Which engine is behind the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A file beside the controller.
    Sqlite,
    /// A server, shared by replicas.
    Postgres,
}

/// A handle to the database; clones share it.
#[derive(Debug, Clone)]
pub struct Db {
    engine: Engine,
    url: Arc<str>,
    read: AnyPool,
    write: AnyPool,
    wake: Wake,
    clock: Clock,
}

/// A transaction under way. Dropped without [`Tx::done`], it never was.
#[derive(Debug)]
pub struct Tx {
    inner: Transaction<'static, Any>,
    engine: Engine,
    now: i64,
    pub(super) last_seq: Option<i64>,
    topics: Vec<String>,
    crash: Option<(crash::CrashPoint, crash::CrashPoint)>,
}

/// What a closure of [`Db::write`] ends with: its transaction, to be committed, and its value.
#[derive(Debug)]
pub struct Done<T> {
    tx: Tx,
    value: T,
}

// === impl Db ===

impl Db {
    /// Opens the database. `url` is `sqlite:<path>` or `postgres://…`. Runs no migration.
    pub async fn open(url: &str, wake: Wake, clock: Clock) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let engine = match url.split(':').next() {
            Some("sqlite") => Engine::Sqlite,
            Some("postgres" | "postgresql") => Engine::Postgres,
            _ => return Err(Error::invalid("database", "a database URL begins with sqlite: or postgres:")),
        };
        let full = if engine == Engine::Sqlite { sqlite_url(url) } else { url.to_owned() };
        let options = AnyConnectOptions::from_str(&full).map_err(|e| Error::invalid("database", e.to_string()))?;
        let pool = |size| {
            let options = PoolOptions::<Any>::new()
                .max_connections(size)
                .acquire_timeout(Duration::from_secs(30))
                .after_connect(move |conn, _| Box::pin(prepare(conn, engine)));
            match engine {
                Engine::Postgres => options,
                // A server may go away and come back; a file does not. So connections are not tested, all are opened at
                // the start, and none is closed while it rests: each costs milliseconds to open.
                Engine::Sqlite => {
                    options.min_connections(size).test_before_acquire(false).idle_timeout(None).max_lifetime(None)
                }
            }
        };
        let write = pool(if engine == Engine::Sqlite { 1 } else { READERS })
            .connect_with(options.clone())
            .await
            .map_err(|e| Error::internal(anyhow::Error::from(e).context("cannot open the database")))?;
        let read = match engine {
            Engine::Sqlite => pool(READERS).connect_with(options).await?,
            Engine::Postgres => write.clone(),
        };
        Ok(Self { engine, url: url.into(), read, write, wake, clock })
    }

    /// Brings the schema up to date. Refuses a database that a newer controller has made unfit for this one.
    pub async fn migrate(&self) -> Result<()> {
        let mut conn = self.write.acquire().await?;
        refuse_newer(&mut conn, self.engine).await?;
        let mut migrator = Migrator { migrations: MIGRATIONS.migrations.clone(), ..Migrator::DEFAULT };
        migrator.set_ignore_missing(true);
        migrator.run_direct(None, &mut *conn, false).await.map_err(Error::internal)?;
        Ok(())
    }

    /// Which engine is behind it.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The URL it was opened with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The clock that transactions read.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Hints that something changed.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// A connection to read with.
    pub async fn read(&self) -> Result<PoolConnection<Any>> {
        Ok(self.read.acquire().await?)
    }

    /// Runs `act` in a transaction and commits what it is [done](Tx::done) with. Runs it again when the database asks for
    /// that. After the commit, loops and subscribers are woken.
    pub async fn write<T, F, Fut>(&self, mut act: F) -> Result<T>
    where
        F: FnMut(Tx) -> Fut,
        Fut: Future<Output = Result<Done<T>>>,
    {
        let mut reruns = 0;
        loop {
            match self.try_write(&mut act).await {
                Err(Error::Internal(cause)) if reruns < MAX_RERUNS && lost_race(&cause) => {
                    reruns += 1;
                    tokio::time::sleep(Duration::from_millis(u64::from(reruns) * 2)).await;
                }
                other => return other,
            }
        }
    }

    async fn try_write<T, F, Fut>(&self, act: &mut F) -> Result<T>
    where
        F: FnMut(Tx) -> Fut,
        Fut: Future<Output = Result<Done<T>>>,
    {
        let begin = if self.engine == Engine::Sqlite { "begin immediate" } else { "begin" };
        let inner = self.write.begin_with(begin).await?;
        let now = self.clock.now();
        let tx = Tx { inner, engine: self.engine, now, last_seq: None, topics: Vec::new(), crash: None };
        let Done { mut tx, value } = act(tx).await?;
        if let (Engine::Postgres, Some(news)) = (tx.engine, wake::spell(tx.last_seq, &tx.topics)) {
            sqlx::query("select pg_notify('muster', $1)").bind(news).execute(&mut *tx).await?;
        }
        let Tx { inner, last_seq, topics, crash, .. } = tx;
        if let Some((before, _)) = crash {
            crash::at(before);
        }
        inner.commit().await?;
        if let Some((_, after)) = crash {
            crash::at(after);
        }
        self.wake.committed(last_seq, &topics);
        Ok(value)
    }

    /// Answers whether the database can be written to and read from, and how long that took.
    pub async fn ping(&self) -> Result<Duration> {
        let begun = std::time::Instant::now();
        sqlx::query("select 1").execute(&mut *self.read().await?).await?;
        Ok(begun.elapsed())
    }

    /// Waits for running statements and closes every connection.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

// === impl Tx ===

impl Tx {
    /// Ends the closure: commit, and give `value` to the caller.
    pub fn done<T>(self, value: T) -> Result<Done<T>> {
        Ok(Done { tx: self, value })
    }

    /// The time of this transaction, milliseconds since the Unix epoch. One reading serves the whole of it.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// Which engine is behind it.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// After the commit, wakes the loops that listen to `topic`.
    pub fn wake(&mut self, topic: &str) {
        if !self.topics.iter().any(|t| t == topic) {
            self.topics.push(topic.to_owned());
        }
    }

    /// Where a test may pull the plug around this commit.
    pub fn crash_points(&mut self, before: crash::CrashPoint, after: crash::CrashPoint) {
        self.crash = Some((before, after));
    }
}

impl ops::Deref for Tx {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        &self.inner
    }
}

impl ops::DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.inner
    }
}

// === the differences between the engines ===

impl Engine {
    /// Which engine a connection leads to.
    pub fn of(conn: &Conn) -> Self {
        if conn.backend_name() == "SQLite" { Self::Sqlite } else { Self::Postgres }
    }

    /// The parameter `number` of a statement whose parameters all stand once and in order. Without a name where that can
    /// be: for SQLite each name is looked up among all of the statement's, which a hundred rows make costly.
    fn parameter(self, number: usize) -> String {
        match self {
            Self::Sqlite => "?".to_owned(),
            Self::Postgres => format!("${number}"),
        }
    }

    /// `($1, cast($2 as bigint)), ($3, …)`: the values of a multi-row statement that has no other parameters. `types` names
    /// each column's type, empty for text.
    pub fn values(self, types: &[&str], rows: usize) -> String {
        let mut out = String::with_capacity(rows * types.len() * 12);
        for row in 0..rows {
            out.push_str(if row == 0 { "(" } else { ", (" });
            for (column, ty) in types.iter().enumerate() {
                let parameter = self.parameter(row * types.len() + column + 1);
                let comma = if column == 0 { "" } else { ", " };
                // Writing to a string cannot fail.
                let _ = match *ty {
                    "bytea" if self == Self::Sqlite => write!(out, "{comma}cast({parameter} as blob)"),
                    "" => write!(out, "{comma}{parameter}"),
                    ty => write!(out, "{comma}cast({parameter} as {ty})"),
                };
            }
            out.push(')');
        }
        out
    }

    /// `$1, $2, …`: the right side of an `in`, in a statement that has no other parameters.
    pub fn each(self, count: usize) -> String {
        (1..=count).map(|n| self.parameter(n)).collect::<Vec<_>>().join(", ")
    }

    /// Behind a `select`: keeps the rows as they are until the transaction ends. SQLite has one writer anyway.
    pub fn for_share(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " for share",
        }
    }

    /// The database's own clock, milliseconds since the Unix epoch: leases live by one clock for all replicas.
    pub fn now(self) -> &'static str {
        match self {
            Self::Sqlite => "cast(unixepoch('now', 'subsec') * 1000 as bigint)",
            Self::Postgres => "cast(extract(epoch from clock_timestamp()) * 1000 as bigint)",
        }
    }
}

/// A query whose text is put together here from constant pieces; values are always bound.
pub fn query<'q>(text: String) -> Query<'q, Any, Arguments> {
    sqlx::query(AssertSqlSafe(text))
}

/// `$3, $4, …`: the right side of an `in` after `offset` other parameters.
pub fn list(count: usize, offset: usize) -> String {
    (1..=count).map(|i| format!("${}", offset + i)).collect::<Vec<_>>().join(", ")
}

/// Text from outside without the one character that PostgreSQL refuses.
pub fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Whether a statement failed because a row like it is there already.
pub fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.is_unique_violation())
}

fn sqlite_url(url: &str) -> String {
    let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
    if path.contains('?') { format!("sqlite://{path}") } else { format!("sqlite://{path}?mode=rwc") }
}

/// The URL of a SQLite file.
pub fn file_url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

async fn prepare(conn: &mut Conn, engine: Engine) -> sqlx::Result<()> {
    if engine == Engine::Sqlite {
        let pragmas = format!(
            "pragma journal_mode = wal; pragma synchronous = full; pragma busy_timeout = {BUSY_MS}; pragma foreign_keys = on"
        );
        conn.execute(AssertSqlSafe(pragmas)).await?;
    }
    Ok(())
}

async fn refuse_newer(conn: &mut Conn, engine: Engine) -> Result<()> {
    let exists = match engine {
        Engine::Sqlite => "select count(*) from sqlite_master where name = 'schema_guard'",
        Engine::Postgres => {
            "select count(*) from pg_tables where tablename = 'schema_guard' and schemaname = any(current_schemas(false))"
        }
    };
    if sqlx::query(exists).fetch_one(&mut *conn).await?.try_get::<i64, _>(0)? == 0 {
        return Ok(());
    }
    let row = sqlx::query("select oldest from schema_guard").fetch_one(conn).await?;
    let oldest: String = row.try_get(0)?;
    let own = env!("CARGO_PKG_VERSION");
    if version(own) < version(&oldest) {
        return Err(Error::Conflict(format!(
            "this database was migrated by a newer controller and may only be run by {oldest} or newer; this is {own}"
        )));
    }
    Ok(())
}

/// A version as numbers, so that 0.10 comes after 0.9.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Busy, serialization failure, deadlock: the transaction did nothing and may be run again.
fn lost_race(cause: &anyhow::Error) -> bool {
    let Some(sqlx::Error::Database(error)) = cause.downcast_ref::<sqlx::Error>() else { return false };
    match error.code().as_deref() {
        Some("40001" | "40P01") => true,
        // SQLite's extended codes keep the primary one in the low byte: 5 is busy, 6 is locked.
        Some(code) => code.parse::<u32>().is_ok_and(|c| matches!(c & 0xff, 5 | 6)) && error.message().contains("lock"),
        None => false,
    }
}
