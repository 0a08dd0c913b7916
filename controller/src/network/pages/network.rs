//! One application network.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};

use super::{
    super::{
        api::{self, Endpoint, Invitation, Member, Network, NetworkStatus, Rotation, ServiceLink, SiteClass, owned},
        model::{Membership, Phase},
        rotation::{DRAIN, Step},
        service::{Line, Networks},
    },
    rotating,
};
use crate::{
    error::{Error, Result},
    fleet::{
        agents::{self, Agent},
        model::{Class, Labels},
    },
    web::{
        Caller, Fields, Layout,
        page::{redirect, render, render_refused},
        screen::Confirm,
    },
};

#[derive(Template)]
#[template(path = "network/templates/network.html")]
struct NetworkPage {
    layout: Layout,
    network: Network,
    members: Vec<Member>,
    classes: Vec<SiteClass>,
    invitations: Vec<Invitation>,
    service_links: Vec<ServiceLink>,
    endpoints: Vec<Endpoint>,
    status: NetworkStatus,
    rotation: Option<Rotation>,
    /// Agents that may be its home.
    homes: Vec<Agent>,
    fields: Fields,
}

// === impl NetworkPage ===

impl NetworkPage {
    fn rotating(&self) -> (bool, bool) {
        rotating(self.rotation.as_ref())
    }

    /// What people call the agent that is its home; its id, once it is there for that no more.
    fn home_name(&self) -> String {
        let id = self.network.home.as_ref();
        let agent = self.homes.iter().find(|a| Some(&a.id) == id);
        agent.map(|a| a.name.clone()).or_else(|| id.map(ToString::to_string)).unwrap_or_default()
    }
}

async fn page(it: &Networks, caller: &Caller, layout: Layout, name: String, fields: Fields) -> Result<NetworkPage> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(it, &mut conn, caller, &name).await?;
    Ok(NetworkPage {
        layout: layout.title(name),
        members: api::members_of(&mut conn, &on).await?,
        classes: api::classes_of(&mut conn, &on).await?,
        invitations: api::invitations_of(&mut conn, &on).await?,
        service_links: api::service_links_of(&mut conn, &on.id).await?,
        endpoints: api::endpoints_of(&mut conn, &on.id).await?,
        status: api::network_status_of(&mut conn, &on).await?,
        rotation: api::rotation_of(it, &mut conn, &Line::Network(on.clone())).await?,
        homes: agents::select(&mut conn, Class::NetworkHome, &Labels::new()).await?,
        network: api::network_of(&mut conn, on).await?,
        fields,
    })
}

pub(super) async fn show(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
) -> Result<Response> {
    render(&page(&it, &caller, layout, name, Fields::default()).await?)
}

pub(super) async fn act(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    mut fields: Fields,
) -> Result<Response> {
    let actor = &caller.actor;
    let line = Line::Network(owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?);
    let text = |field: &str| fields.text(field).to_owned();
    let result = match fields.text("do") {
        "class" => {
            it.save_class(actor, &name, &text("name"), &text("description")).await.map(|()| "The class is saved.")
        }
        "approve" => it.approve(actor, &name, &text("member")).await.map(|()| "The site is let in."),
        "rotate" => it.rotate(actor, &line, DRAIN).await.map(|()| "The rotation has begun."),
        "pause" => it.pause_rotation(actor, &line, true).await.map(|()| "The rotation is held."),
        "resume" => it.pause_rotation(actor, &line, false).await.map(|()| "The rotation goes on."),
        other => Err(Error::invalid("do", format!("{other:?} is nothing that can be done here"))),
    };
    match result {
        Ok(message) => Ok(redirect(&format!("/networks/net/{name}"), message)),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&page(&it, &caller, layout, name, fields).await?)
        }
    }
}

pub(super) async fn home(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    mut fields: Fields,
) -> Result<Response> {
    let agent = Some(fields.text("agent")).filter(|agent| !agent.is_empty());
    match it.set_home(&caller.actor, &name, agent).await {
        Ok(()) => Ok(redirect(&format!("/networks/net/{name}"), "The home is set.")),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&page(&it, &caller, layout, name, fields).await?)
        }
    }
}

fn end_screen(layout: Layout, name: &str) -> Confirm {
    let question = format!(
        "The network {name} ends now: the links of its sites are cut. Its sites keep their identities until its delete \
         delay is over; then it is removed with all that is under it."
    );
    Confirm::new(layout.title("End the network?"), question, "End network", format!("/networks/net/{name}"))
}

pub(super) async fn ask_end(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
) -> Result<Response> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    end_screen(layout, &name).render()
}

pub(super) async fn end(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    fields: Fields,
) -> Result<Response> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    match it.end_network(&caller.actor, &name).await {
        Ok(()) => Ok(redirect("/networks", format!("The network {name} has ended."))),
        Err(error) => end_screen(layout, &name).refused(fields, error),
    }
}
