//! One site of an application network.

use askama::Template;
use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};

use super::super::{
    api::{self, Allocation, Member, SiteClass, SiteStatus, owned},
    model::{Choice, Word},
    service::Networks,
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
#[template(path = "network/templates/member.html")]
struct MemberPage {
    layout: Layout,
    network: String,
    member: Member,
    classes: Vec<SiteClass>,
    status: SiteStatus,
    allocations: Vec<Allocation>,
    fields: Fields,
}

async fn page(
    it: &Networks,
    caller: Caller,
    layout: Layout,
    (network, name): (String, String),
    fields: Option<Fields>,
) -> Result<MemberPage> {
    let on = owned(it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    let members = api::members_of(&mut *it.fleet.db.read().await?, &on).await?;
    let found = members.into_iter().find(|m| m.id == name || m.name == name && m.evicted_at.is_none());
    let member = found.ok_or_else(|| Error::not_found("site", &name))?;
    let Json(classes) = api::classes(State(it.clone()), caller.clone(), Path(network.clone())).await?;
    let at = || Path((network.clone(), member.id.clone()));
    let Json(status) = api::member_status(State(it.clone()), caller.clone(), at()).await?;
    let Json(allocations) = api::allocations(State(it.clone()), caller, at()).await?;
    let fields =
        fields.unwrap_or_else(|| Fields::filled([("name", member.name.clone()), ("class", member.class.clone())]));
    let layout = layout.title(member.name.clone());
    Ok(MemberPage { layout, network, member, classes, status, allocations, fields })
}

pub(super) async fn show(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(at): Path<(String, String)>,
) -> Result<Response> {
    render(&page(&it, caller, layout, at, None).await?)
}

pub(super) async fn change(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path((network, name)): Path<(String, String)>,
    mut fields: Fields,
) -> Result<Response> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    let text = |field: &str| fields.text(field).to_owned();
    let result = match fields.text("do") {
        "save" => it.amend(&caller.actor, &network, &name, Some(&text("name")), Some(&text("class"))).await,
        "accept" | "decline" => {
            let decided = async {
                let said = Word {
                    endpoint: text("endpoint"),
                    generation: fields.number("generation")?,
                    accept: text("do") == "accept",
                    host: text("host"),
                    port: fields.number_if_any("port")?.unwrap_or_default(),
                };
                it.decide(&caller.actor, &network, &name, &said).await
            };
            decided.await
        }
        other => Err(Error::invalid("do", format!("{other:?} is nothing that can be done here"))),
    };
    match result {
        // By its id: its name may be another now.
        Ok(()) => Ok(redirect(&layout.path, "Saved.")),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&page(&it, caller, layout, (network, name), Some(fields)).await?)
        }
    }
}

fn evict_screen(layout: Layout, network: &str, name: &str) -> Confirm {
    let question = format!(
        "The site {name} is sent away from {network} for good: its links are cut at once, its processes are stopped and its \
         identity ends. It can only join anew."
    );
    let back = format!("/networks/net/{network}/members/{name}");
    Confirm::new(layout.title("Evict the site?"), question, "Evict site", back)
}

pub(super) async fn ask_evict(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path((network, name)): Path<(String, String)>,
) -> Result<Response> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(&it, &mut conn, &caller, &network).await?;
    it.member(&mut conn, &on, &name).await?;
    evict_screen(layout, &network, &name).render()
}

pub(super) async fn evict(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path((network, name)): Path<(String, String)>,
    fields: Fields,
) -> Result<Response> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    match it.evict(&caller.actor, &network, &name).await {
        Ok(()) => Ok(redirect(&format!("/networks/net/{network}"), format!("{name} is evicted."))),
        Err(error) => evict_screen(layout, &network, &name).refused(fields, error),
    }
}
