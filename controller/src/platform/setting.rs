//! Single values of the house: the database's epoch, the trust domain, numbers that only go up.

use sqlx::Row;

use super::db::Conn;
use crate::error::Result;

/// Reads a value.
pub async fn fetch(conn: &mut Conn, name: &str) -> Result<Option<String>> {
    let row = sqlx::query("select value from setting where name = $1").bind(name).fetch_optional(conn).await?;
    Ok(row.map(|r| r.try_get(0)).transpose()?)
}

/// Writes a value.
pub async fn save(conn: &mut Conn, name: &str, value: &str) -> Result<()> {
    sqlx::query(
        "insert into setting (name, value) values ($1, $2) on conflict (name) do update set value = excluded.value",
    )
    .bind(name)
    .bind(value)
    .execute(conn)
    .await?;
    Ok(())
}

/// The database's epoch: raised by each restore, so that generations given out before it are told from those after.
pub async fn epoch(conn: &mut Conn) -> Result<i64> {
    Ok(fetch(conn, "epoch").await?.and_then(|v| v.parse().ok()).unwrap_or(1))
}
