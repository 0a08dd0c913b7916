//! Rotations as rows.

use sqlx::FromRow;

use super::{Table, by};
use crate::{
    error::Result,
    platform::db::{Conn, Tx, query},
};

/// The replacement of a line's authority as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RotationRow {
    pub id: String,
    pub line: String,
    pub step: String,
    pub level: i64,
    pub since: i64,
    pub paused: i64,
    pub drain: i64,
    pub left_behind: String,
    pub started_at: i64,
    pub finished_at: Option<i64>,
}

tables! {
    RotationRow: "select id, line, step, level, since, paused, drain, left_behind, started_at, finished_at \
        from network_rotation", "started_at desc, id desc";
}

/// The rotation of a line that is under way.
pub async fn open_rotation(conn: &mut Conn, line: &str) -> Result<Option<RotationRow>> {
    let all: Vec<RotationRow> = by(conn, "line", line).await?;
    Ok(all.into_iter().find(|r| r.finished_at.is_none()))
}

/// All rotations under way.
pub async fn open_rotations(conn: &mut Conn) -> Result<Vec<RotationRow>> {
    let text = format!("{} where finished_at is null order by id", RotationRow::SELECT.0);
    Ok(query(text).fetch_all(conn).await?.iter().map(RotationRow::from_row).collect::<sqlx::Result<_>>()?)
}

pub async fn insert_rotation(conn: &mut Conn, row: &RotationRow) -> Result<()> {
    let text = "insert into network_rotation (id, line, step, level, since, paused, drain, left_behind, started_at) \
                values ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    query(text.into())
        .bind(row.id.clone())
        .bind(row.line.clone())
        .bind(row.step.clone())
        .bind(row.level)
        .bind(row.since)
        .bind(row.paused)
        .bind(row.drain)
        .bind(row.left_behind.clone())
        .bind(row.started_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps where a rotation stands.
pub async fn save_rotation(conn: &mut Conn, row: &RotationRow) -> Result<()> {
    let text = "update network_rotation set step = $1, level = $2, since = $3, paused = $4, left_behind = $5, \
                finished_at = $6 where id = $7";
    query(text.into())
        .bind(row.step.clone())
        .bind(row.level)
        .bind(row.since)
        .bind(row.paused)
        .bind(row.left_behind.clone())
        .bind(row.finished_at)
        .bind(row.id.clone())
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends the rotation of a line that is no more.
pub async fn end_rotation(tx: &mut Tx, line: &str) -> Result<()> {
    let text = "update network_rotation set finished_at = $1 where line = $2 and finished_at is null";
    query(text.into()).bind(tx.now()).bind(line.to_owned()).execute(&mut **tx).await?;
    Ok(())
}
