//! The pages of access: log in and out, one's own account, and the users.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, Method, header};
use serde::Deserialize;

use super::{
    api::{SessionInfo, TokenInfo, User, session_info},
    model::{SESSION_LIFE, UserChange},
    service::{Access, TokenOrder},
};
use crate::{
    error::{Error, Result},
    web::{
        Caller, Fields, Layout, Page, Paging, Policy, Query, Role, Routes,
        gate::{At, Client, LOGIN, PASSWORD, cookie},
        page::{self, local, redirect, redirect_refused, render, render_refused},
        screen::{Confirm, Secret},
        view::{Chip, Tone},
    },
};

const ACCOUNT: &str = "/account";
const USERS: &str = "/users";
const DAY: i64 = 86_400_000;

/// What a password form takes in, bytes.
const SMALL: usize = 16 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Next {
    next: String,
}

#[derive(Template)]
#[template(path = "access/templates/login.html")]
struct LoginPage {
    layout: Layout,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "access/templates/password.html")]
struct PasswordPage {
    layout: Layout,
    must_change: bool,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "access/templates/account.html")]
struct AccountPage {
    layout: Layout,
    sessions: Vec<SessionInfo>,
    tokens: Vec<TokenInfo>,
    roles: Vec<Role>,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "access/templates/users.html")]
struct UsersPage {
    layout: Layout,
    users: Page<User>,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "access/templates/user.html")]
struct UserPage {
    layout: Layout,
    user: User,
    sessions: Vec<SessionInfo>,
    tokens: Vec<TokenInfo>,
    fields: Fields,
}

impl User {
    /// Whether they may come in.
    fn chip(&self) -> Chip {
        match (self.disabled, self.must_change) {
            (true, _) => Chip { word: "disabled", tone: Tone::Bad },
            (false, true) => Chip { word: "must change password", tone: Tone::Warn },
            (false, false) => Chip { word: "active", tone: Tone::Good },
        }
    }
}

/// The pages of access.
pub fn routes(access: Access) -> Routes {
    let own = Policy::owner_or(Role::Admin);
    let (get, post) = (Method::GET, Method::POST);
    Routes::new()
        .page(get.clone(), LOGIN, Policy::public(), login)
        .page(post.clone(), LOGIN, Policy::public().body_limit(SMALL), log_in)
        .page(post.clone(), "/logout", Policy::logged_in().before_change(), log_out)
        .page(get.clone(), PASSWORD, Policy::logged_in().before_change(), password)
        .page(post.clone(), PASSWORD, Policy::logged_in().before_change().body_limit(SMALL), change_password)
        .page(get.clone(), "/account", Policy::logged_in(), account)
        .page(post.clone(), "/account/tokens", Policy::logged_in(), create_token)
        .page(get.clone(), "/account/tokens/{id}/revoke", own, ask_revoke)
        .page(post.clone(), "/account/tokens/{id}/revoke", own, revoke_token)
        .page(post.clone(), "/account/sessions/{id}/end", own, end_session)
        .page(post.clone(), "/account/sessions/end-others", Policy::logged_in(), end_other_sessions)
        .page(get.clone(), "/users", Policy::admin(), users)
        .page(post.clone(), "/users", Policy::admin(), create_user)
        .page(get.clone(), "/users/{name}", Policy::admin(), user)
        .page(post.clone(), "/users/{name}", Policy::admin(), change_user)
        .page(get.clone(), "/users/{name}/password", Policy::admin(), ask_reset)
        .page(post.clone(), "/users/{name}/password", Policy::admin(), reset_password)
        .page(get, "/users/{name}/remove", Policy::admin(), ask_remove)
        .page(post, "/users/{name}/remove", Policy::admin(), remove_user)
        .with_state(access)
}

// === in and out ===

async fn login(layout: Layout, Query(query): Query<Next>) -> Result<Response> {
    let fields = Fields::filled([("next", query.next)]);
    render(&LoginPage { layout: layout.title("Log in"), fields })
}

async fn log_in(
    State(access): State<Access>,
    At(gate): At,
    client: Client,
    layout: Layout,
    headers: HeaderMap,
    mut fields: Fields,
) -> Result<Response> {
    let entrance = match access.enter(fields.text("name"), fields.raw("password"), &client).await {
        Ok(entrance) => entrance,
        Err(error) => {
            // Who is not known is the one who fills in this form, so it says so in its own words.
            fields.refuse(match error {
                Error::Unauthenticated(text) => Error::Conflict(text),
                other => other,
            })?;
            return render_refused(&LoginPage { layout: layout.title("Log in"), fields });
        }
    };
    let name = gate.session_cookie();
    let secret = access.open_session(&entrance, &client, cookie(&headers, name).as_deref()).await?;
    let set = gate.set_cookie(name, &secret, SESSION_LIFE / 1000);
    Ok(([(header::SET_COOKIE, set)], Redirect::to(local(fields.text("next")))).into_response())
}

async fn log_out(State(access): State<Access>, At(gate): At, caller: Caller) -> Result<Response> {
    access.log_out(&caller).await?;
    let gone = gate.set_cookie(gate.session_cookie(), "", 0);
    Ok(([(header::SET_COOKIE, gone)], Redirect::to(LOGIN)).into_response())
}

// === one's own account ===

async fn password(layout: Layout, caller: Caller) -> Result<Response> {
    let fields = Fields::default();
    render(&PasswordPage { layout: layout.title("Change your password"), must_change: caller.must_change, fields })
}

async fn change_password(
    State(access): State<Access>,
    caller: Caller,
    client: Client,
    layout: Layout,
    mut fields: Fields,
) -> Result<Response> {
    let changed = match fields.raw("password") == fields.raw("again") {
        true => access.change_password(&caller, &client, fields.raw("current"), fields.raw("password")).await,
        false => Err(Error::invalid("again", "this is not the same as the new password")),
    };
    if let Err(error) = changed {
        fields.refuse(error)?;
        let layout = layout.title("Change your password");
        return render_refused(&PasswordPage { layout, must_change: caller.must_change, fields });
    }
    let to = if caller.must_change { "/" } else { ACCOUNT };
    Ok(redirect(to, "Your password is changed. Your other sessions were ended."))
}

async fn account(State(access): State<Access>, caller: Caller, layout: Layout) -> Result<Response> {
    render(&account_page(&access, &caller, layout, Fields::filled([("days", "90".into())])).await?)
}

async fn account_page(access: &Access, caller: &Caller, layout: Layout, fields: Fields) -> Result<AccountPage> {
    let (sessions, tokens) = credentials(access, caller, &caller.user_id).await?;
    let roles = [Role::Viewer, Role::Operator, Role::Admin].into_iter().filter(|r| *r <= caller.role).collect();
    Ok(AccountPage { layout: layout.title("Your account"), sessions, tokens, roles, fields })
}

async fn credentials(access: &Access, caller: &Caller, user_id: &str) -> Result<(Vec<SessionInfo>, Vec<TokenInfo>)> {
    let sessions = access.sessions(user_id).await?.into_iter().map(|row| session_info(row, caller)).collect();
    let tokens = access.tokens(user_id).await?.into_iter().map(TokenInfo::try_from).collect::<Result<_>>()?;
    Ok((sessions, tokens))
}

async fn create_token(
    State(access): State<Access>,
    caller: Caller,
    layout: Layout,
    mut fields: Fields,
) -> Result<Response> {
    let made = async {
        let role = role_in(&fields)?;
        let life = match fields.text("days") {
            "" => None,
            _ => Some(fields.number("days")?.saturating_mul(DAY)),
        };
        let order = TokenOrder { name: fields.text("name").into(), role, life };
        access.create_token(&caller, &order).await.map_err(|error| match error {
            Error::Invalid { field, message } if field == "expires_in_seconds" => Error::invalid("days", message),
            other => other,
        })
    };
    match made.await {
        Ok((row, secret)) => render(&Secret {
            layout: layout.title(format!("Token {}", row.name)),
            label: "Token",
            secret,
            text: "This token is shown this once. Programs send it as `Authorization: Bearer …`.".into(),
            commands: vec![],
            back: ACCOUNT,
        }),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&account_page(&access, &caller, layout, fields).await?)
        }
    }
}

async fn ask_revoke(layout: Layout) -> Result<Response> {
    let question = "Programs that use this token are refused from now on. A token that is revoked does not come back.";
    Confirm::new(layout.title("Revoke the token?"), question, "Revoke token", ACCOUNT).render()
}

async fn revoke_token(State(access): State<Access>, caller: Caller, Path(id): Path<String>) -> Result<Response> {
    match access.revoke_token(&caller, &id).await {
        Ok(()) => Ok(redirect(ACCOUNT, "The token is revoked.")),
        Err(error) => redirect_refused(ACCOUNT, error),
    }
}

async fn end_session(
    State(access): State<Access>,
    caller: Caller,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response> {
    let to = back(&fields);
    match access.end_session(&caller, &id).await {
        Ok(()) => Ok(redirect(to, "The session is ended.")),
        Err(error) => redirect_refused(to, error),
    }
}

async fn end_other_sessions(State(access): State<Access>, caller: Caller) -> Result<Response> {
    let count = access.end_other_sessions(&caller).await?;
    Ok(redirect(ACCOUNT, format!("{count} other session(s) ended.")))
}

// === users ===

async fn users(State(access): State<Access>, layout: Layout, paging: Paging) -> Result<Response> {
    render(&users_page(&access, layout, &paging, Fields::default()).await?)
}

async fn users_page(access: &Access, layout: Layout, paging: &Paging, fields: Fields) -> Result<UsersPage> {
    let rows = access.users(&paging.after, paging.rows()).await?;
    let users = paging.page(rows, |u| u.name.clone()).try_map(User::try_from)?;
    Ok(UsersPage { layout: layout.title("Users"), users, fields })
}

async fn create_user(
    State(access): State<Access>,
    caller: Caller,
    layout: Layout,
    paging: Paging,
    mut fields: Fields,
) -> Result<Response> {
    let made = async {
        let role = role_in(&fields)?;
        access.create_user(&caller.actor, fields.text("name"), role, None).await
    };
    match made.await {
        Ok((row, password)) => render(&one_time(layout, &row.name, password.unwrap_or_default())),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&users_page(&access, layout, &paging, fields).await?)
        }
    }
}

fn one_time(layout: Layout, name: &str, password: String) -> Secret {
    Secret {
        layout: layout.title(format!("Password of {name}")),
        label: "One-time password",
        secret: password,
        text: format!("This password is shown this once. {name} is asked for another at the next log-in."),
        commands: vec![],
        back: USERS,
    }
}

async fn user(
    State(access): State<Access>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
) -> Result<Response> {
    render(&user_page(&access, &caller, layout, &name, None).await?)
}

async fn user_page(
    access: &Access,
    caller: &Caller,
    layout: Layout,
    name: &str,
    typed: Option<Fields>,
) -> Result<UserPage> {
    let row = access.user(name).await?;
    let (sessions, tokens) = credentials(access, caller, &row.id).await?;
    let user = User::try_from(row)?;
    let tags: Vec<_> = user.tags.iter().map(String::as_str).collect();
    let fields = typed.unwrap_or_else(|| Fields::filled([("tags", tags.join(", "))]));
    Ok(UserPage { layout: layout.title(name), user, sessions, tokens, fields })
}

async fn change_user(
    State(access): State<Access>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    mut fields: Fields,
) -> Result<Response> {
    let changed = async {
        let tags = fields.text("tags").split([',', ' ']).filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        let change =
            UserChange { role: Some(role_in(&fields)?), disabled: Some(fields.is_on("disabled")), tags: Some(tags) };
        access.change_user(&caller.actor, &name, &change, Some(fields.number("version")?)).await
    };
    match changed.await {
        Ok(_) => Ok(redirect(&format!("{USERS}/{name}"), "Saved.")),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&user_page(&access, &caller, layout, &name, Some(fields)).await?)
        }
    }
}

async fn ask_reset(State(access): State<Access>, layout: Layout, Path(name): Path<String>) -> Result<Response> {
    access.user(&name).await?;
    reset_screen(layout, &name).render()
}

fn reset_screen(layout: Layout, name: &str) -> Confirm {
    let question =
        format!("{name} gets a one-time password. The password there is, every session and every token end.");
    Confirm::new(layout.title("Reset the password?"), question, "Reset password", format!("{USERS}/{name}"))
}

async fn reset_password(
    State(access): State<Access>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
) -> Result<Response> {
    let password = access.reset_password(&caller.actor, &name, None).await?;
    page::render(&one_time(layout, &name, password))
}

async fn ask_remove(State(access): State<Access>, layout: Layout, Path(name): Path<String>) -> Result<Response> {
    access.user(&name).await?;
    remove_screen(layout, &name).render()
}

fn remove_screen(layout: Layout, name: &str) -> Confirm {
    let question = format!("{name} is removed with every session and every token. What they did stays in the history.");
    Confirm::new(layout.title("Remove the user?"), question, "Remove user", format!("{USERS}/{name}"))
}

async fn remove_user(
    State(access): State<Access>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    fields: Fields,
) -> Result<Response> {
    match access.remove_user(&caller.actor, &name).await {
        Ok(()) => Ok(redirect(USERS, format!("{name} is removed."))),
        Err(error) => remove_screen(layout, &name).refused(fields, error),
    }
}

// === pieces ===

fn role_in(fields: &Fields) -> Result<Role> {
    let role = Role::from_word(fields.text("role"));
    role.ok_or_else(|| Error::invalid("role", "choose viewer, operator or admin"))
}

/// Where a small form of one's own page, or of a user's, leads back to.
fn back(fields: &Fields) -> &str {
    match local(fields.text("back")) {
        "/" => ACCOUNT,
        path => path,
    }
}
