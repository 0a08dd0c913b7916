//! Databases for store tests: each test gets a fresh one on every engine there is, and a house over it where it needs one.

use std::{collections::BTreeMap, sync::Arc};

use muster_pki::seal::SealKey;

pub use crate::fleet::testing::{settle_agent, settle_joined, tell};
use crate::{
    certificate::{Certificates, model::Lives},
    fleet::{Fleet, Surroundings},
    platform::{blobs::Blobs, clock::Clock, db::Db, wake::Wake},
};

/// URLs of the engines to test on: SQLite always, PostgreSQL where `MUSTER_TEST_POSTGRES` names a server.
pub fn engines() -> Vec<String> {
    let mut engines = vec!["sqlite:".to_owned()];
    engines.extend(std::env::var("MUSTER_TEST_POSTGRES"));
    engines
}

/// A new, migrated database on the engine of `url`.
pub async fn fresh(url: &str) -> Db {
    let db = Db::open(&fresh_url(url).await, Wake::default(), Clock::default()).await.expect("the database opens");
    db.migrate().await.expect("the schema is made");
    db
}

/// The URL of a new, empty database on the engine of `url`.
pub async fn fresh_url(url: &str) -> String {
    let name = format!("muster_{}", crate::platform::id::fresh(Clock::default().now()));
    if url.starts_with("sqlite:") {
        return format!("sqlite:{}", std::env::temp_dir().join(format!("{name}.db")).display());
    }
    sqlx::any::install_default_drivers();
    let (server, _) = url.rsplit_once('/').expect("a server's URL names a database");
    let mut conn = <sqlx::AnyConnection as sqlx::Connection>::connect(url).await.expect("the server answers");
    let create = sqlx::AssertSqlSafe(format!("create database {name}"));
    sqlx::query(create).execute(&mut conn).await.expect("a database is made");
    format!("{server}/{name}")
}

/// The blobs of a house, in a new folder.
pub fn blobs() -> Blobs {
    let name = format!("muster_{}", crate::platform::id::fresh(Clock::default().now()));
    Blobs::open(&std::env::temp_dir().join(name)).expect("the folder is made")
}

/// A house over this database, at the replica of this name. Every house of a database has one seal key.
pub async fn house(db: &Db, replica: &str) -> Fleet {
    let seal = Arc::new(SealKey::new(&[7; 32]));
    let certificates = Certificates::open(db.clone(), seal, "muster.test", Lives::default()).await;
    let around = Surroundings {
        replica: replica.into(),
        homes: vec!["home.test:7443".into()],
        url: format!("https://{replica}.test"),
        sample_seconds: 60,
    };
    Fleet::new(db.clone(), certificates.expect("the house opens"), blobs(), around, BTreeMap::new())
}
