//! The pages of networks: what there is, backbones with their picture, application networks, and the library.

mod backbone;
mod composition;
mod invitation;
mod member;
mod network;
mod removal;
mod tables;

use std::sync::Arc;

use askama::Template;
use axum::{Json, extract::State, response::Response};
use http::Method;

use super::{
    api::{self, Allocation, Backbone, Network, Rotation},
    model::{Choice, Deployment, Membership, Phase, Times},
    rotation::Step,
    service::{Networks, NewNetwork},
    status::{self, Health, RouterState},
    store::{self, BackboneRow, NetworkRow, Of},
};
use crate::{
    error::{Error, Result},
    web::{
        Caller, Fields, Layout, NavItem, Policy, Role, Routes,
        home::{Card, Figure, First, Glance},
        page::{redirect, render, render_refused},
        view::{Chip, Tone, bytes},
    },
};

const LIST: &str = "/networks";

/// Milliseconds.
const DAY: i64 = 86_400_000;

/// The domain's entry of the navigation.
pub const NAV: NavItem = NavItem { label: "Networks", href: LIST, role: Role::Viewer };

#[derive(Template)]
#[template(path = "network/templates/list.html")]
struct ListPage {
    layout: Layout,
    backbones: Vec<Backbone>,
    networks: Vec<Network>,
}

#[derive(Template)]
#[template(path = "network/templates/new_backbone.html")]
struct NewBackbonePage {
    layout: Layout,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "network/templates/new_network.html")]
struct NewNetworkPage {
    layout: Layout,
    backbones: Vec<Backbone>,
    fields: Fields,
}

/// The pages of the domain.
pub fn routes(networks: Networks) -> Routes {
    let own = Policy::owner_or(Role::Operator);
    let (get, post) = (Method::GET, Method::POST);
    let net = |routes: Routes<Networks>| {
        routes
            .page(get.clone(), "/networks/net/{network}", own, network::show)
            .page(post.clone(), "/networks/net/{network}", own, network::act)
            .page(get.clone(), "/networks/net/{network}/invite", own, invitation::ask_invite)
            .page(post.clone(), "/networks/net/{network}/invite", own, invitation::invite)
            .page(get.clone(), "/networks/net/{network}/invitations/{invitation}", own, invitation::show)
            .page(post.clone(), "/networks/net/{network}/invitations/{invitation}", own, invitation::change)
            .page(get.clone(), "/networks/net/{network}/invitations/{invitation}/revoke", own, invitation::ask_revoke)
            .page(post.clone(), "/networks/net/{network}/invitations/{invitation}/revoke", own, invitation::revoke)
            .page(get.clone(), "/networks/net/{network}/end", own, network::ask_end)
            .page(post.clone(), "/networks/net/{network}/end", own, network::end)
            .page(get.clone(), "/networks/net/{network}/service-link", own, composition::ask_link)
            .page(post.clone(), "/networks/net/{network}/service-link", own, composition::link)
            .page(get.clone(), "/networks/net/{network}/endpoint", own, composition::ask_endpoint)
            .page(post.clone(), "/networks/net/{network}/endpoint", own, composition::endpoint)
            .page(get.clone(), "/networks/net/{network}/members/{member}", own, member::show)
            .page(post.clone(), "/networks/net/{network}/members/{member}", own, member::change)
            .page(get.clone(), "/networks/net/{network}/members/{member}/evict", own, member::ask_evict)
            .page(post.clone(), "/networks/net/{network}/members/{member}/evict", own, member::evict)
    };
    let (admin, operator) = (Policy::admin(), Policy::operator());
    let routes = Routes::new()
        .page(get.clone(), LIST, Policy::viewer(), list)
        .page(get.clone(), "/networks/new", Policy::viewer(), ask_network)
        .page(post.clone(), "/networks/new", Policy::viewer(), make_network)
        .page(get.clone(), "/networks/new-backbone", admin, ask_backbone)
        .page(post.clone(), "/networks/new-backbone", admin, make_backbone)
        .page(get.clone(), "/networks/backbones/{backbone}", Policy::viewer(), backbone::show)
        .page(post.clone(), "/networks/backbones/{backbone}", admin, backbone::act)
        .page(get.clone(), "/networks/backbones/{backbone}/sites/{site}", operator, backbone::site)
        .page(post.clone(), "/networks/backbones/{backbone}/sites/{site}", admin, backbone::act_on_site)
        .page(post.clone(), "/networks/net/{network}/home", operator, network::home)
        .page(get.clone(), "/networks/tables/{table}", admin, tables::show)
        .page(get.clone(), "/networks/library", Policy::viewer(), composition::library)
        .page(get.clone(), "/networks/library/service", operator, composition::ask_service)
        .page(post.clone(), "/networks/library/service", operator, composition::service)
        .page(get.clone(), "/networks/library/image", operator, composition::ask_image)
        .page(post.clone(), "/networks/library/image", operator, composition::image);
    let removals = [
        (admin, "/networks/backbones/{backbone}/remove"),
        (admin, "/networks/backbones/{backbone}/sites/{site}/remove"),
        (admin, "/networks/backbones/{backbone}/sites/{site}/access-points/{access_point}/remove"),
        (admin, "/networks/backbones/{backbone}/links/{link}/remove"),
        (own, "/networks/net/{network}/service-links/{service_link}/remove"),
        (own, "/networks/net/{network}/endpoints/{endpoint}/remove"),
        (operator, "/networks/library/services/{service}/remove"),
        (operator, "/networks/library/images/{image}/remove"),
    ];
    let routes = removals.into_iter().fold(net(routes), |routes, (policy, path)| {
        routes.page(get.clone(), path, policy, removal::ask).page(post.clone(), path, policy, removal::remove)
    });
    routes.with_state(networks)
}

/// What networks say on the first page.
pub fn card(networks: Networks) -> Card {
    let look = move || {
        let networks = networks.clone();
        Box::pin(async move {
            let mut conn = networks.fleet.db.read().await?;
            let backbones: Vec<BackboneRow> = store::rows(&mut conn, Of::All).await?;
            let rows: Vec<NetworkRow> = store::rows(&mut conn, Of::All).await?;
            Ok(glance(backbones.is_empty(), &rows))
        }) as _
    };
    Card { title: "Networks", href: LIST, look: Arc::new(look) }
}

fn glance(no_backbone: bool, rows: &[NetworkRow]) -> Glance {
    let of = |phase: &str| rows.iter().filter(|r| r.phase == phase).count() as i64;
    let figures = vec![
        Figure { count: of("active"), label: "active", tone: Tone::Good },
        Figure { count: of("waiting"), label: "waiting", tone: Tone::Busy },
        Figure { count: of("ended"), label: "ended", tone: Tone::Quiet },
    ];
    let first = |text, action, href, role| Some(First { text, action, href, role });
    let first = match (no_backbone, rows.is_empty()) {
        (true, _) => first(
            "Make a backbone: interior sites whose routers carry the traffic of application networks.",
            "Make a backbone",
            "/networks/new-backbone",
            Role::Admin,
        ),
        (false, true) => first(
            "Make an application network: sites that join by invitation, and services linked across them.",
            "Make a network",
            "/networks/new",
            Role::Viewer,
        ),
        (false, false) => None,
    };
    Glance { figures, first }
}

async fn list(State(it): State<Networks>, caller: Caller, layout: Layout) -> Result<Response> {
    let Json(backbones) = api::backbones(State(it.clone())).await?;
    let Json(networks) = api::networks(State(it), caller).await?;
    render(&ListPage { layout: layout.title("Networks"), backbones, networks })
}

async fn ask_backbone(layout: Layout) -> Result<Response> {
    render(&NewBackbonePage { layout: layout.title("New backbone"), fields: Fields::default() })
}

async fn make_backbone(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    mut fields: Fields,
) -> Result<Response> {
    match it.create_backbone(&caller.actor, fields.text("name")).await {
        Ok(row) => Ok(redirect(&format!("/networks/backbones/{}", row.name), "The backbone is made. Give it sites.")),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&NewBackbonePage { layout: layout.title("New backbone"), fields })
        }
    }
}

async fn ask_network(State(it): State<Networks>, layout: Layout) -> Result<Response> {
    let Json(backbones) = api::backbones(State(it)).await?;
    let fields = Fields::filled([("delete_days", "7".into())]);
    render(&NewNetworkPage { layout: layout.title("New network"), backbones, fields })
}

async fn make_network(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    mut fields: Fields,
) -> Result<Response> {
    let made = async {
        let starts_at = it.fleet.db.clock().now();
        let days = |name: &str| Ok::<_, Error>(fields.number_if_any(name)?.map(|days| days.saturating_mul(DAY)));
        let times = Times {
            starts_at,
            ends_at: days("ends_in_days")?.map(|life| starts_at.saturating_add(life)),
            delete_delay: days("delete_days")?.unwrap_or(0),
        };
        let owner = caller.actor.name.clone();
        let new =
            NewNetwork { name: fields.text("name").into(), backbone: fields.text("backbone").into(), owner, times };
        it.create_network(&caller.actor, &new).await
    };
    match made.await {
        Ok(row) => {
            Ok(redirect(&format!("/networks/net/{}", row.name), "The network is made. Give it a class of sites."))
        }
        Err(error) => {
            fields.refuse(error.renamed(&[("ends_at", "ends_in_days"), ("delete_delay", "delete_days")]))?;
            let Json(backbones) = api::backbones(State(it)).await?;
            render_refused(&NewNetworkPage { layout: layout.title("New network"), backbones, fields })
        }
    }
}

// === what things look like ===

impl Health {
    /// As a chip.
    pub fn chip(self) -> Chip {
        let (word, tone) = match self {
            Self::Well => ("well", Tone::Good),
            Self::Waiting => ("waiting", Tone::Busy),
            Self::Impaired => ("impaired", Tone::Warn),
            Self::Down => ("down", Tone::Bad),
            Self::Away => ("away", Tone::Bad),
        };
        Chip { word, tone }
    }
}

impl Deployment {
    fn chip(self) -> Chip {
        let (word, tone) = match self {
            Self::NotReady => ("not ready", Tone::Quiet),
            Self::ReadyAutomatic => ("ready (automatic)", Tone::Busy),
            Self::ReadyBootstrap => ("ready (bootstrap)", Tone::Busy),
            Self::Deployed => ("deployed", Tone::Good),
        };
        Chip { word, tone }
    }
}

impl Phase {
    fn chip(self) -> Chip {
        let (word, tone) = match self {
            Self::Waiting => ("waiting", Tone::Busy),
            Self::Active => ("active", Tone::Good),
            Self::Ended => ("ended", Tone::Quiet),
            Self::Over => ("over", Tone::Quiet),
        };
        Chip { word, tone }
    }
}

impl Choice {
    fn chip(self) -> Chip {
        let (word, tone) = match self {
            Self::Open => ("carried out", Tone::Good),
            Self::Accepted => ("accepted", Tone::Good),
            Self::Declined => ("declined", Tone::Quiet),
            Self::Incomplete => ("lacks a host or port", Tone::Warn),
        };
        Chip { word, tone }
    }
}

impl Allocation {
    /// Whether its host or its port is left to the site.
    fn is_open(&self) -> bool {
        self.parts.iter().any(|p| p.host.is_empty() || p.port.is_none())
    }
}

impl Membership {
    fn chip(self) -> Chip {
        let (word, tone) = match self {
            Self::Asking => ("asking", Tone::Busy),
            Self::Member => ("member", Tone::Good),
            Self::Evicted => ("evicted", Tone::Quiet),
        };
        Chip { word, tone }
    }
}

impl RouterState {
    fn chip(self) -> Chip {
        let (word, tone) = match self {
            Self::Rendered => ("rendered", Tone::Quiet),
            Self::Starting => ("starting", Tone::Busy),
            Self::Running => ("running", Tone::Good),
            Self::Silent => ("silent", Tone::Bad),
            Self::Failed => ("failed", Tone::Bad),
        };
        Chip { word, tone }
    }
}

impl Step {
    /// In words for people.
    fn say(self) -> &'static str {
        match self {
            Self::TrustBoth => "every site comes to trust the new authority beside the old one",
            Self::Leaves => "sites get leaves of the new authority, listening ends first",
            Self::Drain => "transfers over old connections may come to their ends",
            Self::TrustNew => "every site ceases to trust the old authority",
            Self::Cut => "what is left of old connections is cut",
            Self::Done => "it is over",
        }
    }
}

/// Up or not, as a chip.
fn up(is_up: bool) -> Chip {
    if is_up { Chip { word: "up", tone: Tone::Good } } else { Chip { word: "down", tone: Tone::Bad } }
}

/// Whether a rotation is under way, and whether it is held.
fn rotating(rotation: Option<&Rotation>) -> (bool, bool) {
    rotation.map_or((false, false), |r| (r.finished_at.is_none(), r.paused))
}

impl status::Link {
    fn chip(&self) -> Chip {
        up(self.up)
    }
}

impl status::Port {
    fn chip(&self) -> Chip {
        up(self.up)
    }

    /// Connections open.
    fn open(&self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }
}

impl status::Process {
    fn chip(&self) -> Chip {
        up(self.running && self.healthy)
    }
}

impl status::Profile {
    fn has_older(&self) -> bool {
        self.older_connections > 0
    }
}

impl status::Router {
    /// Resident memory for people.
    fn memory(&self) -> String {
        bytes(self.memory_bytes)
    }
}

impl status::Traffic {
    fn chip(&self) -> Chip {
        up(self.up)
    }
}
