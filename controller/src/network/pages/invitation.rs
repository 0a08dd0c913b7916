//! Invitations to a network.

use askama::Template;
use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};

use super::{
    super::{
        api::{self, Invitation, Site, SiteClass, owned},
        model::AccessKind,
        service::{Networks, NewInvitation},
    },
    DAY,
    backbone::invited,
};
use crate::{
    error::{Error, Result},
    web::{
        Caller, Fields, Layout,
        page::{redirect, render, render_refused},
        screen::Confirm,
    },
};

#[derive(Template)]
#[template(path = "network/templates/invite.html")]
struct InvitePage {
    layout: Layout,
    network: String,
    classes: Vec<SiteClass>,
    /// Access points for members: `site/access point`.
    points: Vec<String>,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "network/templates/invitation.html")]
struct InvitationPage {
    layout: Layout,
    network: String,
    invitation: Invitation,
    fields: Fields,
}

fn hours_from_now(it: &Networks, hours: i64) -> i64 {
    it.fleet.db.clock().now().saturating_add(hours.saturating_mul(DAY / 24))
}

async fn invite_page(
    it: &Networks,
    caller: Caller,
    layout: Layout,
    network: String,
    fields: Fields,
) -> Result<InvitePage> {
    let (_, Json(on)) = api::network(State(it.clone()), caller.clone(), Path(network.clone())).await?;
    let Json(classes) = api::classes(State(it.clone()), caller, Path(network.clone())).await?;
    let Json(sites) = api::sites(State(it.clone()), Path(on.backbone)).await?;
    let of_site = |site: Site| {
        let points = site.access_points.into_iter().filter(|p| p.kind == AccessKind::Member);
        points.map(|p| format!("{}/{}", site.name, p.name)).collect::<Vec<_>>()
    };
    let points = sites.into_iter().flat_map(of_site).collect();
    Ok(InvitePage { layout: layout.title("Invite sites"), network, classes, points, fields })
}

pub(super) async fn ask_invite(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
) -> Result<Response> {
    let fields = Fields::filled([("limit", "1".into()), ("hours", "24".into())]);
    render(&invite_page(&it, caller, layout, name, fields).await?)
}

pub(super) async fn invite(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    mut fields: Fields,
) -> Result<Response> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    let made = async {
        // The first that is ticked comes first.
        let points = fields.all("at").into_iter().filter_map(|at| at.split_once('/')).zip(1_i64..);
        let new = NewInvitation {
            name: fields.text("name").into(),
            class: fields.text("class").into(),
            deadline: hours_from_now(&it, fields.number("hours")?),
            limit: fields.number("limit")?,
            approval: fields.is_on("approval"),
            edge_links: points.map(|((site, point), n)| (site.to_owned(), point.to_owned(), n)).collect(),
        };
        it.invite(&caller.actor, &name, &new).await
    };
    match made.await {
        Ok((_, token)) => invited(layout, token),
        Err(error) => {
            fields.refuse(error.renamed(&[("deadline_at", "hours"), ("edge_links", "at")]))?;
            render_refused(&invite_page(&it, caller, layout, name, fields).await?)
        }
    }
}

async fn invitation_page(
    it: Networks,
    caller: Caller,
    layout: Layout,
    (network, id): (String, String),
    fields: Option<Fields>,
) -> Result<InvitationPage> {
    let Json(all) = api::invitations(State(it), caller, Path(network.clone())).await?;
    let invitation = all.into_iter().find(|i| i.id == id).ok_or_else(|| Error::not_found("invitation", &id))?;
    let fields = fields.unwrap_or_else(|| Fields::filled([("limit", invitation.limit.to_string())]));
    Ok(InvitationPage { layout: layout.title(invitation.name.clone()), network, invitation, fields })
}

pub(super) async fn show(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(at): Path<(String, String)>,
) -> Result<Response> {
    render(&invitation_page(it, caller, layout, at, None).await?)
}

pub(super) async fn change(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path((network, id)): Path<(String, String)>,
    mut fields: Fields,
) -> Result<Response> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    let changed = async {
        let deadline = fields.number_if_any("hours")?.map(|hours| hours_from_now(&it, hours));
        it.change_invitation(&caller.actor, &network, &id, (Some(fields.number("limit")?), deadline)).await
    };
    match changed.await {
        Ok(()) => Ok(redirect(&format!("/networks/net/{network}"), "The invitation is changed.")),
        Err(error) => {
            fields.refuse(error.renamed(&[("deadline_at", "hours")]))?;
            render_refused(&invitation_page(it, caller, layout, (network, id), Some(fields)).await?)
        }
    }
}

async fn revoke_screen(
    it: &Networks,
    caller: Caller,
    layout: Layout,
    (network, id): (String, String),
) -> Result<Confirm> {
    let back = format!("/networks/net/{network}/invitations/{id}");
    let page = invitation_page(it.clone(), caller, layout, (network, id), None).await?;
    let Invitation { name, used, .. } = page.invitation;
    let question = format!("Nobody else joins by {name} any more. Who did, {used} so far, stays.");
    Ok(Confirm::new(page.layout.title("Revoke the invitation?"), question, "Revoke it", back))
}

pub(super) async fn ask_revoke(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(at): Path<(String, String)>,
) -> Result<Response> {
    revoke_screen(&it, caller, layout, at).await?.render()
}

pub(super) async fn revoke(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(at): Path<(String, String)>,
    fields: Fields,
) -> Result<Response> {
    let actor = caller.actor.clone();
    let screen = revoke_screen(&it, caller, layout, at.clone()).await?;
    match it.revoke_invitation(&actor, &at.0, &at.1).await {
        Ok(()) => Ok(redirect(&format!("/networks/net/{}", at.0), "The invitation is revoked.")),
        Err(error) => screen.refused(fields, error),
    }
}
