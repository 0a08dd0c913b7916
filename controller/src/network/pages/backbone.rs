//! Backbones and their sites.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};

use super::{
    super::{
        api::{self, LinkState, Rotation, Site, SiteStatus, Topology},
        model::AccessKind,
        picture::{FEW, SIZE, label, places},
        rotation::{DRAIN, Step},
        service::{Line, Networks, NewAccessPoint, NewLink},
    },
    rotating, up,
};
use crate::{
    error::{Error, Result},
    web::{
        Caller, Fields, Layout,
        page::{redirect, render, render_refused},
        screen::Secret,
        view::Chip,
    },
};

#[derive(Template)]
#[template(path = "network/templates/backbone.html")]
struct BackbonePage {
    layout: Layout,
    name: String,
    topology: Topology,
    nodes: Vec<Node>,
    lines: Vec<Wire>,
    rotation: Option<Rotation>,
    fields: Fields,
}

/// A site in the picture.
struct Node {
    x: f64,
    y: f64,
    label: String,
    site: Site,
}

/// A link in the picture.
struct Wire {
    from: (f64, f64),
    to: (f64, f64),
    link: LinkState,
}

#[derive(Template)]
#[template(path = "network/templates/site.html")]
struct SitePage {
    layout: Layout,
    backbone: String,
    site: Site,
    status: SiteStatus,
    fields: Fields,
}

// === impl BackbonePage ===

impl BackbonePage {
    fn rotating(&self) -> (bool, bool) {
        rotating(self.rotation.as_ref())
    }
}

// === impl Wire ===

impl Wire {
    fn class(&self) -> &'static str {
        match self.link.up {
            Some(true) => "good",
            Some(false) => "bad",
            None => "quiet",
        }
    }
}

// === impl LinkState ===

impl LinkState {
    fn chip(&self) -> Option<Chip> {
        self.up.map(up)
    }
}

async fn page(it: &Networks, layout: Layout, name: String, fields: Fields) -> Result<BackbonePage> {
    let mut conn = it.fleet.db.read().await?;
    let topology = api::topology_of(it, &mut conn, &name).await?;
    let line = Line::Backbone(it.backbone(&mut conn, &name).await?);
    let rotation = api::rotation_of(it, &mut conn, &line).await?;
    let index: BTreeMap<_, _> = topology.sites.iter().enumerate().map(|(n, s)| (s.name.clone(), n)).collect();
    let ends = |l: &LinkState| Some((*index.get(&l.link.from)?, *index.get(&l.link.to)?));
    let pairs: Vec<_> = topology.links.iter().filter_map(ends).collect();
    let labels: Vec<_> = topology.sites.iter().map(|site| label(&site.name)).collect();
    let places = places(&labels.iter().map(String::as_str).collect::<Vec<_>>(), &pairs);
    let wire = |l: &LinkState| ends(l).map(|(from, to)| Wire { from: places[from], to: places[to], link: l.clone() });
    let lines = topology.links.iter().filter_map(wire).collect();
    let nodes = topology.sites.iter().zip(labels).zip(&places);
    let nodes = nodes.map(|((site, label), (x, y))| Node { x: *x, y: *y, label, site: site.clone() });
    Ok(BackbonePage { layout: layout.title(&name), nodes: nodes.collect(), lines, rotation, name, topology, fields })
}

pub(super) async fn show(State(it): State<Networks>, layout: Layout, Path(name): Path<String>) -> Result<Response> {
    render(&page(&it, layout, name, Fields::filled([("cost", "1".into())])).await?)
}

pub(super) async fn act(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    mut fields: Fields,
) -> Result<Response> {
    let to = format!("/networks/backbones/{name}");
    let actor = &caller.actor;
    let line = Line::Backbone(it.backbone(&mut *it.fleet.db.read().await?, &name).await?);
    let result = match fields.text("do") {
        "site" => it.create_site(actor, &name, fields.text("name")).await.map(|_| "The site is made."),
        "link" => {
            let new = fields.number("cost").map(|cost| NewLink {
                from: fields.text("from").into(),
                to: fields.text("to").into(),
                access_point: String::new(),
                cost,
            });
            match new {
                Ok(new) => it.create_link(actor, &name, &new).await.map(|_| "The link is made."),
                Err(error) => Err(error),
            }
        }
        "rotate" => it.rotate(actor, &line, DRAIN).await.map(|()| "The rotation has begun."),
        "pause" => it.pause_rotation(actor, &line, true).await.map(|()| "The rotation is held."),
        "resume" => it.pause_rotation(actor, &line, false).await.map(|()| "The rotation goes on."),
        other => Err(Error::invalid("do", format!("{other:?} is nothing that can be done here"))),
    };
    match result {
        Ok(message) => Ok(redirect(&to, message)),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&page(&it, layout, name, fields).await?)
        }
    }
}

async fn site_page(
    it: Networks,
    layout: Layout,
    (backbone, name): (String, String),
    fields: Fields,
) -> Result<SitePage> {
    let at = || Path((backbone.clone(), name.clone()));
    let Json(site) = api::site(State(it.clone()), at()).await?;
    let Json(status) = api::site_status(State(it), at()).await?;
    Ok(SitePage { layout: layout.title(name), backbone, site, status, fields })
}

pub(super) async fn site(
    State(it): State<Networks>,
    layout: Layout,
    Path(at): Path<(String, String)>,
) -> Result<Response> {
    let fields = Fields::filled([("ports", "1".into())]);
    render(&site_page(it, layout, at, fields).await?)
}

pub(super) async fn act_on_site(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path((backbone, name)): Path<(String, String)>,
    mut fields: Fields,
) -> Result<Response> {
    let to = format!("/networks/backbones/{backbone}/sites/{name}");
    let result = match fields.text("do") {
        "access_point" => {
            let made = async {
                let new = NewAccessPoint {
                    name: fields.text("name").into(),
                    kind: if fields.text("kind") == "peer" { AccessKind::Peer } else { AccessKind::Member },
                    host: fields.text("host").into(),
                    bind: fields.text("bind").into(),
                    port: fields.number("port")?,
                    ports: fields.number("ports")?,
                };
                it.create_access_point(&caller.actor, &backbone, &name, &new).await
            };
            made.await.map(|_| "The access point is made.")
        }
        "invite" => {
            let token = it.invite_site(&caller.actor, &backbone, &name).await?;
            return invited(layout, token);
        }
        other => Err(Error::invalid("do", format!("{other:?} is nothing that can be done here"))),
    };
    match result {
        Ok(message) => Ok(redirect(&to, message)),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&site_page(it, layout, (backbone, name), fields).await?)
        }
    }
}

/// Shows the token of an invitation, this once.
pub(super) fn invited(layout: Layout, token: String) -> Result<Response> {
    render(&Secret {
        layout: layout.title("Invitation"),
        label: "Token",
        secret: token,
        text: "This token is shown this once. The host that enrols with it becomes the site.".into(),
        commands: vec![("On the host", "muster-agent enroll --token-file FILE".into())],
        back: "/networks",
    })
}
