//! All SQL of access.

use sqlx::{FromRow, Row};

use crate::{
    error::Result,
    platform::db::{Conn, query},
};

/// A user as stored.
#[derive(Debug, Clone, FromRow)]
pub struct UserRow {
    pub id: String,
    pub name: String,
    pub role: String,
    pub password_hash: String,
    pub must_change: i64,
    pub disabled: i64,
    pub tags: String,
    pub created_at: i64,
    pub version: i64,
}

/// A session as stored, without its secret.
#[derive(Debug, Clone, FromRow)]
pub struct SessionRow {
    pub id: String,
    pub user_id: String,
    pub csrf: String,
    pub user_agent: String,
    pub address: String,
    pub created_at: i64,
    pub used_at: i64,
    pub expires_at: i64,
}

/// A token as stored, without its secret.
#[derive(Debug, Clone, FromRow)]
pub struct TokenRow {
    pub id: String,
    pub user_id: String,
    pub name: String,
    pub role: String,
    pub created_at: i64,
    pub used_at: Option<i64>,
    pub expires_at: Option<i64>,
}

const USER: &str = "id, name, role, password_hash, must_change, disabled, tags, created_at, version";
const SESSION: &str = "id, user_id, csrf, user_agent, address, created_at, used_at, expires_at";
const TOKEN: &str = "id, user_id, name, role, created_at, used_at, expires_at";

// === users ===

pub async fn insert_user(conn: &mut Conn, row: &UserRow) -> Result<(), sqlx::Error> {
    let text = format!("insert into access_user ({USER}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    query(text)
        .bind(row.id.clone())
        .bind(row.name.clone())
        .bind(row.role.clone())
        .bind(row.password_hash.clone())
        .bind(row.must_change)
        .bind(row.disabled)
        .bind(row.tags.clone())
        .bind(row.created_at)
        .bind(row.version)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn users(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<UserRow>> {
    let text = format!("select {USER} from access_user where name > $1 order by name limit $2");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(after).bind(limit).fetch_all(conn).await?)
}

pub async fn find_user(conn: &mut Conn, name: &str) -> Result<Option<UserRow>> {
    let text = format!("select {USER} from access_user where name = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(name).fetch_optional(conn).await?)
}

pub async fn fetch_user(conn: &mut Conn, id: &str) -> Result<Option<UserRow>> {
    let text = format!("select {USER} from access_user where id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id).fetch_optional(conn).await?)
}

/// Locks every admin who can log in, and gives their ids: what follows sees them as they are.
pub async fn lock_admins(conn: &mut Conn) -> Result<Vec<String>> {
    let text = "update access_user set version = version where role = 'admin' and disabled = 0 returning id";
    let rows = sqlx::query(text).fetch_all(conn).await?;
    rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
}

pub async fn is_empty(conn: &mut Conn) -> Result<bool> {
    let row = sqlx::query("select count(*) from access_user").fetch_one(conn).await?;
    Ok(row.try_get::<i64, _>(0)? == 0)
}

/// Changes role, standing and tags to what the row says, if it is still of the version that was read. None: it has
/// changed since.
pub async fn save_user(conn: &mut Conn, row: &UserRow, version: i64) -> Result<Option<i64>> {
    let row = sqlx::query(
        "update access_user set role = $1, disabled = $2, tags = $3, version = version + 1 where id = $4 and version = $5 \
         returning version",
    )
    .bind(row.role.clone())
    .bind(row.disabled)
    .bind(row.tags.clone())
    .bind(row.id.clone())
    .bind(version)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|r| r.try_get(0)).transpose()?)
}

pub async fn save_password(conn: &mut Conn, id: &str, hash: &str, must_change: bool) -> Result<()> {
    sqlx::query("update access_user set password_hash = $1, must_change = $2, version = version + 1 where id = $3")
        .bind(hash)
        .bind(i64::from(must_change))
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn delete_user(conn: &mut Conn, id: &str) -> Result<()> {
    sqlx::query("delete from access_user where id = $1").bind(id).execute(conn).await?;
    Ok(())
}

// === sessions ===

pub async fn insert_session(conn: &mut Conn, row: &SessionRow, secret_hash: &str) -> Result<()> {
    let text =
        format!("insert into access_session ({SESSION}, secret_hash) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    query(text)
        .bind(row.id.clone())
        .bind(row.user_id.clone())
        .bind(row.csrf.clone())
        .bind(row.user_agent.clone())
        .bind(row.address.clone())
        .bind(row.created_at)
        .bind(row.used_at)
        .bind(row.expires_at)
        .bind(secret_hash)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn find_session(conn: &mut Conn, secret_hash: &str) -> Result<Option<SessionRow>> {
    let text = format!("select {SESSION} from access_session where secret_hash = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(secret_hash).fetch_optional(conn).await?)
}

pub async fn fetch_session(conn: &mut Conn, id: &str) -> Result<Option<SessionRow>> {
    let text = format!("select {SESSION} from access_session where id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id).fetch_optional(conn).await?)
}

/// Sessions of a user, newest first.
pub async fn sessions(conn: &mut Conn, user_id: &str) -> Result<Vec<SessionRow>> {
    let text = format!("select {SESSION} from access_session where user_id = $1 order by id desc");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(user_id).fetch_all(conn).await?)
}

pub async fn save_session_used(conn: &mut Conn, id: &str, now: i64) -> Result<()> {
    sqlx::query("update access_session set used_at = $1 where id = $2 and used_at < $1")
        .bind(now)
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn delete_session(conn: &mut Conn, id: &str) -> Result<bool> {
    let gone = sqlx::query("delete from access_session where id = $1").bind(id).execute(conn).await?;
    Ok(gone.rows_affected() == 1)
}

/// Ends the sessions of a user, but the one named.
pub async fn delete_sessions(conn: &mut Conn, user_id: &str, but: &str) -> Result<u64> {
    let text = "delete from access_session where user_id = $1 and id <> $2";
    Ok(sqlx::query(text).bind(user_id).bind(but).execute(conn).await?.rows_affected())
}

// === tokens ===

pub async fn insert_token(conn: &mut Conn, row: &TokenRow, secret_hash: &str) -> Result<(), sqlx::Error> {
    let text = format!("insert into access_token ({TOKEN}, secret_hash) values ($1, $2, $3, $4, $5, $6, $7, $8)");
    query(text)
        .bind(row.id.clone())
        .bind(row.user_id.clone())
        .bind(row.name.clone())
        .bind(row.role.clone())
        .bind(row.created_at)
        .bind(row.used_at)
        .bind(row.expires_at)
        .bind(secret_hash)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn find_token(conn: &mut Conn, id: &str, secret_hash: &str) -> Result<Option<TokenRow>> {
    let text = format!("select {TOKEN} from access_token where id = $1 and secret_hash = $2");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id).bind(secret_hash).fetch_optional(conn).await?)
}

pub async fn fetch_token(conn: &mut Conn, id: &str) -> Result<Option<TokenRow>> {
    let text = format!("select {TOKEN} from access_token where id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(id).fetch_optional(conn).await?)
}

/// Tokens of a user, newest first.
pub async fn tokens(conn: &mut Conn, user_id: &str) -> Result<Vec<TokenRow>> {
    let text = format!("select {TOKEN} from access_token where user_id = $1 order by id desc");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(user_id).fetch_all(conn).await?)
}

pub async fn save_token_used(conn: &mut Conn, id: &str, now: i64) -> Result<()> {
    sqlx::query("update access_token set used_at = $1 where id = $2").bind(now).bind(id).execute(conn).await?;
    Ok(())
}

pub async fn delete_token(conn: &mut Conn, id: &str) -> Result<bool> {
    let gone = sqlx::query("delete from access_token where id = $1").bind(id).execute(conn).await?;
    Ok(gone.rows_affected() == 1)
}

pub async fn delete_tokens(conn: &mut Conn, user_id: &str) -> Result<u64> {
    Ok(sqlx::query("delete from access_token where user_id = $1").bind(user_id).execute(conn).await?.rows_affected())
}

// === failed log-ins ===

pub async fn insert_attempt(conn: &mut Conn, id: &str, name: &str, address: &str, now: i64) -> Result<()> {
    sqlx::query("insert into access_attempt (id, name, address, at) values ($1, $2, $3, $4)")
        .bind(id)
        .bind(name)
        .bind(address)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn delete_attempt(conn: &mut Conn, id: &str) -> Result<()> {
    sqlx::query("delete from access_attempt where id = $1").bind(id).execute(conn).await?;
    Ok(())
}

/// When log-ins of a name and from an address failed, each oldest first.
pub async fn attempts(conn: &mut Conn, name: &str, address: &str, since: i64) -> Result<(Vec<i64>, Vec<i64>)> {
    let mut found = (Vec::new(), Vec::new());
    for (column, value, into) in [("name", name, &mut found.0), ("address", address, &mut found.1)] {
        let text = format!("select at from access_attempt where {column} = $1 and at > $2 order by at");
        let rows = query(text).bind(value).bind(since).fetch_all(&mut *conn).await?;
        for row in rows {
            into.push(row.try_get(0)?);
        }
    }
    Ok(found)
}

/// Forgets what is over: failed log-ins, sessions and tokens.
pub async fn delete_over(conn: &mut Conn, attempts: i64, idle: i64, now: i64) -> Result<()> {
    sqlx::query("delete from access_attempt where at < $1").bind(attempts).execute(&mut *conn).await?;
    let text = "delete from access_session where expires_at < $1 or used_at < $2";
    sqlx::query(text).bind(now).bind(idle).execute(&mut *conn).await?;
    sqlx::query("delete from access_token where expires_at < $1").bind(now).execute(conn).await?;
    Ok(())
}
