//! The API of access.

use std::collections::BTreeSet;

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::{
    model::{SESSION_LIFE, UserChange},
    service::{Access, TokenOrder, role_of, tags_of},
    store::{SessionRow, TokenRow, UserRow},
};
use crate::{
    error::{Error, Result},
    platform::events::Source,
    web::{
        Body, Caller, Page, Paging, Policy, Query, Role, Routes,
        etag::{ETag, IfMatch},
        gate::{At, Client, Via, cookie},
        paging::PagingQuery,
    },
};

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Name.
    pub name: String,
    /// What they may.
    pub role: Role,
    /// May not log in.
    pub disabled: bool,
    /// The password must be changed at the next log-in.
    pub must_change: bool,
    /// Nodes that carry one of these, and nodes without any, are open to them; none: all are.
    pub tags: BTreeSet<String>,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// For `If-Match`.
    pub version: i64,
}

/// A user to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// 1 to 32 characters of a-z, 0-9, dot, underscore, hyphen.
    pub name: String,
    /// What they may.
    pub role: Role,
    /// At least 12 characters. Without it one is made up, to be changed at the first log-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// A user that was made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UserCreated {
    /// The user.
    pub user: User,
    /// The password that was made up; shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Another password for somebody.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// At least 12 characters. Without it one is made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Another password for oneself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnPassword {
    /// The password there is.
    pub current: String,
    /// The one there is to be; at least 12 characters.
    pub password: String,
}

/// What a log-in is to give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// A token that lives thirty days.
    #[default]
    Token,
    /// A session, by cookie.
    Session,
}

/// A log-in.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// Name.
    pub name: String,
    /// Password.
    pub password: String,
    /// A token, or a session.
    #[serde(default)]
    pub want: Want,
    /// Name of the token; one of the same name is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_name: Option<String>,
}

/// What a log-in gave.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LoggedIn {
    /// Who logged in.
    pub name: String,
    /// What they may.
    pub role: Role,
    /// The password should be changed; a session allows nothing else before.
    pub must_change: bool,
    /// The token, if one was wanted; shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When it ends, milliseconds since the Unix epoch.
    pub expires_at: i64,
}

/// Who one is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// Name.
    pub name: String,
    /// What one may by this credential.
    pub role: Role,
    /// The password must be changed before anything else.
    pub must_change: bool,
    /// For the header `X-CSRF-Token`; only of sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csrf: Option<String>,
}

/// A web session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionInfo {
    /// Id.
    pub id: String,
    /// What the browser called itself.
    pub user_agent: String,
    /// Where it came from.
    pub address: String,
    /// When it was opened, milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was last used, to the minute.
    pub used_at: i64,
    /// When it ends at the latest.
    pub expires_at: i64,
    /// It is the one that asks.
    pub is_current: bool,
}

/// An API token, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// What it may, if its owner may.
    pub role: Role,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When it was last used, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<i64>,
    /// When it ends; absent: when it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// A token to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What people call it.
    pub name: String,
    /// What it may; no more than its owner.
    pub role: Role,
    /// Its life, seconds; absent: until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<i64>,
}

/// A token that was made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// The token as it is listed.
    pub info: TokenInfo,
    /// Its text; shown this once.
    pub token: String,
}

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OwnerQuery {
    /// Of this user instead of oneself; takes the role admin.
    user: Option<String>,
}

/// The routes of access.
pub fn routes(access: Access) -> Routes {
    let own = Policy::owner_or(Role::Admin);
    Routes::new()
        .add(Policy::public().body_limit(16 * 1024), routes!(log_in))
        .add(Policy::logged_in().before_change(), routes!(log_out))
        .add(Policy::logged_in().before_change(), routes!(me))
        .add(Policy::logged_in().before_change().body_limit(16 * 1024), routes!(change_password))
        .add(Policy::admin(), routes!(users))
        .add(Policy::admin().idempotent(), routes!(create_user))
        .add(Policy::admin(), routes!(user))
        .add(Policy::admin(), routes!(change_user))
        .add(Policy::admin(), routes!(remove_user))
        .add(Policy::admin(), routes!(reset_password))
        .add(own, routes!(sessions))
        .add(Policy::logged_in(), routes!(end_other_sessions))
        .add(own, routes!(end_session))
        .add(own, routes!(tokens))
        .add(Policy::logged_in().idempotent(), routes!(create_token))
        .add(own, routes!(revoke_token))
        .with_state(access)
}

/// Logs in with name and password
#[utoipa::path(post, path = "/api/v1/login", tag = "access", request_body = LogIn, responses((status = 200, body = LoggedIn)))]
async fn log_in(
    State(access): State<Access>,
    At(gate): At,
    client: Client,
    headers: HeaderMap,
    Body(asked): Body<LogIn>,
) -> Result<Response> {
    let entrance = access.enter(&asked.name, &asked.password, &client).await?;
    let name = asked.name.trim().to_owned();
    let mut answer =
        LoggedIn { name, role: entrance.role, must_change: entrance.must_change, token: None, expires_at: 0 };
    match asked.want {
        Want::Token => {
            let source = if client.user_agent.starts_with("muster/") { Source::Cli } else { Source::Api };
            let (row, text) = access.open_token(&entrance, source, asked.token_name).await?;
            answer.token = Some(text);
            answer.expires_at = row.expires_at.unwrap_or_default();
            Ok(Json(answer).into_response())
        }
        Want::Session => {
            let name = gate.session_cookie();
            let secret = access.open_session(&entrance, &client, cookie(&headers, name).as_deref()).await?;
            answer.expires_at = gate.db.clock().now() + SESSION_LIFE;
            let set = gate.set_cookie(name, &secret, SESSION_LIFE / 1000);
            Ok(([(header::SET_COOKIE, set)], Json(answer)).into_response())
        }
    }
}

/// Ends the session or token that asks
#[utoipa::path(post, path = "/api/v1/logout", tag = "access", responses((status = 204)))]
async fn log_out(State(access): State<Access>, At(gate): At, caller: Caller) -> Result<Response> {
    access.log_out(&caller).await?;
    let gone = gate.set_cookie(gate.session_cookie(), "", 0);
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, gone)]).into_response())
}

/// Who one is
#[utoipa::path(get, path = "/api/v1/me", tag = "access", responses((status = 200, body = Me)))]
async fn me(caller: Caller) -> Json<Me> {
    let csrf = matches!(caller.via, Via::Session { .. }).then(|| caller.csrf().to_owned());
    Json(Me { name: caller.name, role: caller.role, must_change: caller.must_change, csrf })
}

/// Changes one's own password
#[utoipa::path(put, path = "/api/v1/me/password", tag = "access", request_body = OwnPassword, responses((status = 204)))]
async fn change_password(
    State(access): State<Access>,
    caller: Caller,
    client: Client,
    Body(asked): Body<OwnPassword>,
) -> Result<StatusCode> {
    access.change_password(&caller, &client, &asked.current, &asked.password).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists users
#[utoipa::path(get, path = "/api/v1/users", tag = "access", params(PagingQuery), responses((status = 200, body = Page<User>)))]
async fn users(State(access): State<Access>, paging: Paging) -> Result<Json<Page<User>>> {
    let rows = access.users(&paging.after, paging.rows()).await?;
    paging.page(rows, |u| u.name.clone()).try_map(User::try_from).map(Json)
}

/// Makes a user
#[utoipa::path(post, path = "/api/v1/users", tag = "access", request_body = NewUser,
    responses((status = 201, body = UserCreated)))]
async fn create_user(
    State(access): State<Access>,
    caller: Caller,
    Body(new): Body<NewUser>,
) -> Result<(StatusCode, Json<UserCreated>)> {
    let (row, password) = access.create_user(&caller.actor, &new.name, new.role, new.password.as_deref()).await?;
    Ok((StatusCode::CREATED, Json(UserCreated { user: User::try_from(row)?, password })))
}

/// Shows a user
#[utoipa::path(get, path = "/api/v1/users/{name}", tag = "access", params(("name" = String, Path)),
    responses((status = 200, body = User)))]
async fn user(State(access): State<Access>, Path(name): Path<String>) -> Result<(ETag, Json<User>)> {
    let row = access.user(&name).await?;
    Ok((ETag(row.version), Json(User::try_from(row)?)))
}

/// Changes what a user may
#[utoipa::path(patch, path = "/api/v1/users/{name}", tag = "access",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header)), request_body = UserChange,
    responses((status = 200, body = User)))]
async fn change_user(
    State(access): State<Access>,
    caller: Caller,
    Path(name): Path<String>,
    IfMatch(version): IfMatch,
    Body(change): Body<UserChange>,
) -> Result<(ETag, Json<User>)> {
    let row = access.change_user(&caller.actor, &name, &change, version).await?;
    Ok((ETag(row.version), Json(User::try_from(row)?)))
}

/// Removes a user
#[utoipa::path(delete, path = "/api/v1/users/{name}", tag = "access", params(("name" = String, Path)),
    responses((status = 204)))]
async fn remove_user(State(access): State<Access>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode> {
    access.remove_user(&caller.actor, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a user another password
#[utoipa::path(put, path = "/api/v1/users/{name}/password", tag = "access", params(("name" = String, Path)),
    request_body = NewPassword, responses((status = 200, body = NewPassword)))]
async fn reset_password(
    State(access): State<Access>,
    caller: Caller,
    Path(name): Path<String>,
    Body(asked): Body<NewPassword>,
) -> Result<Json<NewPassword>> {
    let password = access.reset_password(&caller.actor, &name, asked.password.as_deref()).await?;
    // A password that the caller chose is not sent back.
    Ok(Json(NewPassword { password: asked.password.is_none().then_some(password) }))
}

/// Lists web sessions
#[utoipa::path(get, path = "/api/v1/sessions", tag = "access", params(OwnerQuery),
    responses((status = 200, body = Vec<SessionInfo>)))]
async fn sessions(
    State(access): State<Access>,
    caller: Caller,
    Query(query): Query<OwnerQuery>,
) -> Result<Json<Vec<SessionInfo>>> {
    let owner = owner(&access, &caller, query.user).await?;
    let rows = access.sessions(&owner).await?;
    Ok(Json(rows.into_iter().map(|row| session_info(row, &caller)).collect()))
}

/// Ends every session of one's own but the one that asks
#[utoipa::path(delete, path = "/api/v1/sessions", tag = "access", responses((status = 204)))]
async fn end_other_sessions(State(access): State<Access>, caller: Caller) -> Result<StatusCode> {
    access.end_other_sessions(&caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a session
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", tag = "access", params(("id" = String, Path)),
    responses((status = 204)))]
async fn end_session(State(access): State<Access>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode> {
    access.end_session(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists tokens
#[utoipa::path(get, path = "/api/v1/tokens", tag = "access", params(OwnerQuery),
    responses((status = 200, body = Vec<TokenInfo>)))]
async fn tokens(
    State(access): State<Access>,
    caller: Caller,
    Query(query): Query<OwnerQuery>,
) -> Result<Json<Vec<TokenInfo>>> {
    let owner = owner(&access, &caller, query.user).await?;
    let rows = access.tokens(&owner).await?;
    rows.into_iter().map(TokenInfo::try_from).collect::<Result<_>>().map(Json)
}

/// Makes a token for oneself
#[utoipa::path(post, path = "/api/v1/tokens", tag = "access", request_body = NewToken,
    responses((status = 201, body = CreatedToken)))]
async fn create_token(
    State(access): State<Access>,
    caller: Caller,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<CreatedToken>)> {
    let life = new.expires_in_seconds.map(|s| s.saturating_mul(1000));
    let order = TokenOrder { name: new.name, role: new.role, life };
    let (row, token) = access.create_token(&caller, &order).await?;
    Ok((StatusCode::CREATED, Json(CreatedToken { info: TokenInfo::try_from(row)?, token })))
}

/// Revokes a token
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "access", params(("id" = String, Path)),
    responses((status = 204)))]
async fn revoke_token(State(access): State<Access>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode> {
    access.revoke_token(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The id of the user meant: the caller, or another for an admin.
async fn owner(access: &Access, caller: &Caller, user: Option<String>) -> Result<String> {
    let Some(name) = user.filter(|name| *name != caller.name) else { return Ok(caller.user_id.clone()) };
    caller.must_own("", Role::Admin)?;
    Ok(access.user(&name).await?.id)
}

pub(super) fn session_info(row: SessionRow, caller: &Caller) -> SessionInfo {
    let is_current = matches!(&caller.via, Via::Session { id, .. } if *id == row.id);
    let SessionRow { id, user_agent, address, created_at, used_at, expires_at, .. } = row;
    SessionInfo { id, user_agent, address, created_at, used_at, expires_at, is_current }
}

impl TryFrom<UserRow> for User {
    type Error = Error;

    fn try_from(row: UserRow) -> Result<Self> {
        Ok(Self {
            role: role_of(&row.role)?,
            name: row.name.clone(),
            disabled: row.disabled == 1,
            must_change: row.must_change == 1,
            tags: tags_of(&row)?,
            created_at: row.created_at,
            version: row.version,
        })
    }
}

impl TryFrom<TokenRow> for TokenInfo {
    type Error = Error;

    fn try_from(row: TokenRow) -> Result<Self> {
        let TokenRow { id, name, role, created_at, used_at, expires_at, .. } = row;
        Ok(Self { id, name, role: role_of(&role)?, created_at, used_at, expires_at })
    }
}
