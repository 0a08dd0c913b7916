//! What is asked before something is lost: cancel, cleanup, move, forget.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};

use super::LIST;
use crate::{
    error::{Error, Result},
    fleet::model::AgentId,
    staging::{
        api::{StagingView, owned, show},
        model::{Status, why_not_moved},
        service::{Staging, Which},
    },
    web::{
        Caller, Fields, Layout,
        page::{redirect, redirect_refused, render, render_refused},
        screen::Confirm,
    },
};

/// A host to move to.
struct Host {
    id: AgentId,
    name: String,
    is_offline: bool,
    stagings: i64,
}

#[derive(Template)]
#[template(path = "staging/templates/move.html")]
struct MovePage {
    layout: Layout,
    staging: StagingView,
    /// The host it is on; empty when that was removed.
    from: String,
    hosts: Vec<Host>,
    /// Why it cannot be moved; none when it can.
    why_not: Option<String>,
    fields: Fields,
}

fn here(which: Which<'_>) -> String {
    format!("/staging/projects/{}/stagings/{}", which.project, which.name)
}

// === cancel ===

fn cancel_screen(layout: Layout, view: &StagingView) -> Result<Confirm> {
    let nothing = || Error::Conflict("nothing is pending; there is nothing to cancel".into());
    let pending = view.pending.as_ref().ok_or_else(nothing)?;
    let verb = pending.verb.word();
    let question = format!(
        "{verb} of {}/{}, asked for by {}, is ended. If its wrapper runs already, its host stops it in the middle: what \
         it has done so far stays, and the staging becomes Failure until it is updated, archived or checked well again.",
        view.project, view.name, pending.actor
    );
    let screen = Confirm::new(layout.title(format!("Cancel the {verb}?")), question, "Cancel it", view.href());
    Ok(screen.keep("Let it go on"))
}

pub(super) async fn ask_cancel(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    Path((project, name)): Path<(String, String)>,
) -> Result<Response> {
    let which = owned(&staging, &caller, &project, &name).await?;
    match cancel_screen(layout, &show(&staging, which).await?) {
        Ok(screen) => screen.render(),
        Err(error) => redirect_refused(&here(which), error),
    }
}

pub(super) async fn cancel(
    State(staging): State<Staging>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
) -> Result<Response> {
    let which = owned(&staging, &caller, &project, &name).await?;
    match staging.cancel(&caller.actor, which).await {
        Ok(_) => Ok(redirect(&here(which), "The end of what is pending is asked for.")),
        // It may have ended while the question was read: its page says how.
        Err(error) => redirect_refused(&here(which), error),
    }
}

// === cleanup ===

fn cleanup_screen(layout: Layout, which: Which<'_>) -> Confirm {
    let Which { project, name } = which;
    let question = format!("{project}/{name} is removed from its host with all of its data. It cannot be restored.");
    Confirm::new(layout.title("Clean up the staging?"), question, "Clean up", here(which))
}

pub(super) async fn ask_cleanup(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    Path((project, name)): Path<(String, String)>,
) -> Result<Response> {
    cleanup_screen(layout, owned(&staging, &caller, &project, &name).await?).render()
}

pub(super) async fn cleanup(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    Path((project, name)): Path<(String, String)>,
    fields: Fields,
) -> Result<Response> {
    let which = owned(&staging, &caller, &project, &name).await?;
    match staging.cleanup(&caller.actor, which).await {
        Ok(_) => Ok(redirect(LIST, format!("Cleaning up {project}/{name} has begun."))),
        Err(error) => cleanup_screen(layout, which).refused(fields, error),
    }
}

// === move ===

async fn move_page(staging: &Staging, layout: Layout, which: Which<'_>, fields: Fields) -> Result<MovePage> {
    let view = show(staging, which).await?;
    let destinations = staging.destinations(which).await?;
    let mut conn = staging.fleet.db.read().await?;
    let mut hosts = Vec::with_capacity(destinations.len());
    for it in destinations {
        let name = staging.fleet.agent(&mut conn, &it.agent).await?.name;
        hosts.push(Host { id: it.agent, name, is_offline: it.is_offline, stagings: it.stagings });
    }
    let from = match &view.agent {
        Some(agent) => staging.fleet.agent(&mut conn, agent).await?.name,
        None => String::new(),
    };
    let layout = layout.title(format!("Move {}/{}", which.project, which.name));
    let pending =
        view.pending.as_ref().map(|p| format!("{} is pending; wait for its end, or cancel it", p.verb.word()));
    let why_not = pending.or_else(|| why_not_moved(view.status));
    Ok(MovePage { layout, staging: view, from, hosts, why_not, fields })
}

pub(super) async fn ask_move(
    State(staging): State<Staging>,
    layout: Layout,
    Path((project, name)): Path<(String, String)>,
) -> Result<Response> {
    let which = Which { project: &project, name: &name };
    let mut page = move_page(&staging, layout, which, Fields::default()).await?;
    page.fields = Fields::filled([("version", page.staging.version.to_string())]);
    render(&page)
}

pub(super) async fn relocate(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    Path((project, name)): Path<(String, String)>,
    mut fields: Fields,
) -> Result<Response> {
    let which = Which { project: &project, name: &name };
    let to = AgentId(fields.text("agent").into());
    let moved = async {
        let version = Some(fields.number("version")?);
        staging.relocate(&caller.actor, which, &to, version).await
    };
    if let Err(error) = moved.await {
        fields.refuse(error)?;
        return render_refused(&move_page(&staging, layout, which, fields).await?);
    }
    let host = staging.fleet.agent(&mut *staging.fleet.db.read().await?, &to).await?.name;
    Ok(redirect(&here(which), format!("It belongs to {host} now. Nothing has run there yet.")))
}

// === forget ===

fn forget_screen(layout: Layout, which: Which<'_>) -> Confirm {
    let Which { project, name } = which;
    let question = format!(
        "{project}/{name} is dropped here without running anything. Do this only when its host is gone: what is left there \
         stays there. Its action log is kept for ninety days."
    );
    Confirm::new(layout.title("Forget the staging?"), question, "Forget it", here(which))
}

pub(super) async fn ask_forget(
    State(staging): State<Staging>,
    layout: Layout,
    Path((project, name)): Path<(String, String)>,
) -> Result<Response> {
    let which = Which { project: &project, name: &name };
    show(&staging, which).await?;
    forget_screen(layout, which).render()
}

pub(super) async fn forget(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    Path((project, name)): Path<(String, String)>,
    fields: Fields,
) -> Result<Response> {
    let which = Which { project: &project, name: &name };
    match staging.forget(&caller.actor, which).await {
        Ok(()) => Ok(redirect(LIST, format!("{project}/{name} is forgotten."))),
        Err(error) => forget_screen(layout, which).refused(fields, error),
    }
}
