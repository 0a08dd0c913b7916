//! How backbones, networks and their sites stand.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::{
    super::{
        model::Phase,
        service::{Networks, Standings, standings, word},
        status::{self, Health, Summary, Told, Traffic, divided},
        store::{self, EndpointRow, MemberRow, NetworkRow, ServiceLinkRow, SiteRow},
    },
    backbone::{Link, Site, links_of, sites_of},
    network::owned,
};
use crate::{
    error::Result,
    platform::db::Conn,
    web::{
        Caller, Policy, Role, Routes,
        exposition::{Exposition, labels},
    },
};

/// How a site is, with all that its agent said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteStatus {
    /// How it is, and why.
    #[serde(flatten)]
    pub state: status::State,
    /// What its agent said last; none before it said anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

/// A backbone as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Topology {
    /// How many interior sites are how.
    pub summary: Summary,
    /// Its interior sites.
    pub sites: Vec<Site>,
    /// Its links.
    pub links: Vec<LinkState>,
    /// Pairs of running interior sites of which the first does not reach the second.
    pub divided: Vec<(String, String)>,
}

/// A link as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkState {
    /// The link.
    #[serde(flatten)]
    pub link: Link,
    /// Whether the router it leads to is at its other end; none while the site that makes it said nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// An application network as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// How many of its sites are how.
    pub summary: Summary,
    /// Its traffic, by service link, site and endpoint.
    pub traffic: Vec<SiteTraffic>,
}

/// The traffic of one endpoint at one site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteTraffic {
    /// The site.
    pub site: String,
    /// What goes over it.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// Adds these routes.
pub fn add(routes: Routes<Networks>) -> Routes<Networks> {
    let own = Policy::owner_or(Role::Operator);
    routes
        .add(Policy::viewer(), routes!(topology))
        .add(Policy::operator(), routes!(site_status))
        .add(own, routes!(network_status))
        .add(own, routes!(member_status))
        .add(own, routes!(network_metrics))
}

/// Shows a backbone as it stands: its sites, its links, and who does not reach whom
#[utoipa::path(get, path = "/api/v1/network/backbones/{backbone}/topology", tag = "network",
    responses((status = 200, body = Topology)))]
async fn topology(State(it): State<Networks>, Path(backbone): Path<String>) -> Result<Json<Topology>> {
    Ok(Json(topology_of(&it, &mut *it.fleet.db.read().await?, &backbone).await?))
}

/// A backbone as it stands.
pub async fn topology_of(it: &Networks, conn: &mut Conn, backbone: &str) -> Result<Topology> {
    let on = it.backbone(conn, backbone).await?;
    let sites = sites_of(it, conn, backbone).await?;
    let links = links_of(conn, &on.id).await?;
    let rows: Vec<SiteRow> = store::by(conn, "backbone_id", &on.id).await?;
    let standings = standings(conn, rows.iter().map(|r| (&r.id, r.agent_id.as_ref()))).await?;
    let of_site = |link: &Link| {
        let told = standings.told(&rows.iter().find(|r| r.name == link.from)?.id)?;
        told.links.iter().find(|l| l.name == format!("link/{}", link.id))
    };
    let link = |link: Link| {
        let told = of_site(&link);
        LinkState { up: told.map(|t| t.up), message: told.map(|t| t.message.clone()).unwrap_or_default(), link }
    };
    let links = links.into_iter().map(link).collect();
    let told = rows.iter().filter_map(|r| Some((r.router.as_str(), standings.told(&r.id)?)));
    let name = |router: &str| rows.iter().find(|r| r.router == router).map_or_else(String::new, |r| r.name.clone());
    let divided = divided(told).into_iter().map(|(one, other)| (name(one), name(other))).collect();
    Ok(Topology { summary: sites.iter().map(|s| s.state.health).collect(), sites, links, divided })
}

/// Shows how an interior site is, with all that its agent said last
#[utoipa::path(get, path = "/api/v1/network/backbones/{backbone}/sites/{site}/status", tag = "network",
    responses((status = 200, body = SiteStatus)))]
pub async fn site_status(
    State(it): State<Networks>,
    Path((backbone, site)): Path<(String, String)>,
) -> Result<Json<SiteStatus>> {
    let mut conn = it.fleet.db.read().await?;
    let row = it.site(&mut conn, &backbone, &site).await?;
    let standings = standings(&mut conn, [(&row.id, row.agent_id.as_ref())].into_iter()).await?;
    let state = standings.state(&row.id, row.agent_id.as_ref(), None);
    Ok(Json(SiteStatus { state, told: standings.told(&row.id).cloned() }))
}

/// Shows an application network as it stands: its sites, and the traffic of its service links
#[utoipa::path(get, path = "/api/v1/network/networks/{network}/status", tag = "network",
    responses((status = 200, body = NetworkStatus)))]
pub async fn network_status(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<NetworkStatus>> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(&it, &mut conn, &caller, &name).await?;
    Ok(Json(network_status_of(&mut conn, &on).await?))
}

/// An application network as it stands.
pub async fn network_status_of(conn: &mut Conn, on: &NetworkRow) -> Result<NetworkStatus> {
    let standing = Standing::of(conn, on).await?;
    Ok(NetworkStatus { summary: standing.healths().collect(), traffic: standing.traffic() })
}

/// Shows how a member site is, with all that its agent said last
#[utoipa::path(get, path = "/api/v1/network/networks/{network}/members/{member}/status", tag = "network",
    responses((status = 200, body = SiteStatus)))]
pub async fn member_status(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, member)): Path<(String, String)>,
) -> Result<Json<SiteStatus>> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(&it, &mut conn, &caller, &network).await?;
    let row = it.member(&mut conn, &on, &member).await?;
    let standings = standings(&mut conn, [(&row.id, row.agent_id.as_ref())].into_iter()).await?;
    let state = standings.state(&row.id, row.agent_id.as_ref(), Some(word(&on.phase)?));
    let mut told = standings.told(&row.id).cloned();
    let endpoints: Vec<EndpointRow> = store::by(&mut conn, "network_id", &on.id).await?;
    // Agents know endpoints by their ids, people by their names.
    for process in told.iter_mut().flat_map(|told| &mut told.processes) {
        if let Some(endpoint) = endpoints.iter().find(|e| e.id == process.endpoint) {
            process.endpoint.clone_from(&endpoint.name);
        }
    }
    Ok(Json(SiteStatus { state, told }))
}

/// The metrics of one application network, in Prometheus' text form
#[utoipa::path(get, path = "/api/v1/network/networks/{network}/metrics", tag = "network",
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn network_metrics(State(it): State<Networks>, caller: Caller, Path(name): Path<String>) -> Result<Exposition> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(&it, &mut conn, &caller, &name).await?;
    Ok(Standing::of(&mut conn, &on).await?.metrics(&on.name))
}

/// A network's sites as they stand.
struct Standing {
    members: Vec<MemberRow>,
    standings: Standings,
    phase: Phase,
    /// Names of endpoints and service links by id.
    names: BTreeMap<String, String>,
}

// === impl Standing ===

impl Standing {
    /// That of a network; sites that were sent away are left out.
    pub async fn of(conn: &mut Conn, on: &NetworkRow) -> Result<Self> {
        let members: Vec<MemberRow> = store::by(conn, "network_id", &on.id).await?;
        let members: Vec<_> = members.into_iter().filter(|m| m.evicted_at.is_none()).collect();
        let standings = standings(conn, members.iter().map(|m| (&m.id, m.agent_id.as_ref()))).await?;
        let links: Vec<ServiceLinkRow> = store::by(conn, "network_id", &on.id).await?;
        let endpoints: Vec<EndpointRow> = store::by(conn, "network_id", &on.id).await?;
        let names = links.into_iter().map(|l| (l.id, l.name)).chain(endpoints.into_iter().map(|e| (e.id, e.name)));
        Ok(Self { members, standings, phase: word(&on.phase)?, names: names.collect() })
    }

    /// How each site is.
    pub fn healths(&self) -> impl Iterator<Item = Health> + '_ {
        self.members.iter().map(|m| self.state(m).health)
    }

    fn state(&self, member: &MemberRow) -> status::State {
        self.standings.state(&member.id, member.agent_id.as_ref(), Some(self.phase))
    }

    /// The traffic at each site.
    pub fn traffic(&self) -> Vec<SiteTraffic> {
        let name = |id: String| self.names.get(&id).cloned().unwrap_or(id);
        let of_member = |member: &MemberRow| {
            let all = self.standings.told(&member.id).map(Told::traffic).unwrap_or_default();
            let site = member.name.clone();
            all.into_iter().map(move |traffic| SiteTraffic { site: site.clone(), traffic })
        };
        let named = self.members.iter().flat_map(of_member).map(|mut it| {
            it.traffic.service_link = name(it.traffic.service_link);
            it.traffic.endpoint = name(it.traffic.endpoint);
            it
        });
        let mut all: Vec<_> = named.collect();
        all.sort_by(|a, b| (&a.traffic.service_link, &a.site).cmp(&(&b.traffic.service_link, &b.site)));
        all
    }

    fn metrics(&self, network: &str) -> Exposition {
        let mut text = Exposition::default();
        let told = || self.members.iter().filter_map(|m| Some((m, self.standings.told(&m.id)?)));
        let site = |m: &MemberRow| labels(&[("network", network), ("site", &m.name)]);
        let well = self.members.iter().map(|m| (site(m), f64::from(u8::from(self.state(m).health == Health::Well))));
        text.family("muster_network_site_well", "gauge", "Whether a site does all that it should.", well);
        let links = told().flat_map(|(m, told)| {
            let of_link = |l: &status::Link| {
                let labels = labels(&[("network", network), ("site", &m.name), ("link", &l.name)]);
                (labels, f64::from(u8::from(l.up)))
            };
            told.links.iter().map(of_link).collect::<Vec<_>>()
        });
        text.family("muster_network_link_up", "gauge", "Whether the expected router is at a link's other end.", links);
        let memory = told().map(|(m, told)| (site(m), told.router.memory_bytes as f64));
        text.family("muster_network_router_memory_bytes", "gauge", "Resident memory of a site's router.", memory);
        let connections = told().map(|(m, told)| (site(m), told.router.connections as f64));
        text.family("muster_network_router_connections", "gauge", "Connections of a site's router.", connections);
        let traffic = self.traffic();
        let series = |value: fn(&Traffic) -> f64| {
            let line = move |it: &SiteTraffic| {
                let way = if it.traffic.comes_in { "in" } else { "out" };
                let pairs = [
                    ("network", network),
                    ("site", &it.site),
                    ("service_link", &it.traffic.service_link),
                    ("endpoint", &it.traffic.endpoint),
                    ("way", way),
                ];
                (labels(&pairs), value(&it.traffic))
            };
            traffic.iter().map(line).collect::<Vec<_>>()
        };
        let up = series(|t| f64::from(u8::from(t.up)));
        text.family("muster_network_endpoint_up", "gauge", "Whether an endpoint's port does its work.", up);
        let open = series(|t| t.open as f64);
        text.family("muster_network_connections", "gauge", "Connections open by endpoint.", open);
        let opened = series(|t| t.opened as f64);
        text.family("muster_network_connections_opened_total", "counter", "Connections opened by endpoint.", opened);
        text
    }
}
