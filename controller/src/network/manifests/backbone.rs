//! A backbone, with its sites, access points and links.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    super::{
        api::{AccessPoint, CreateLink, Link, links_of},
        model::{AccessKind, MAX_SITES, check_host, check_name, check_port},
        service::{Networks, NewAccessPoint, NewLink, What},
        store::{self, AccessPointRow, BackboneRow, Of, SiteRow},
    },
    Came, json, within,
};
use crate::{
    error::{Error, Result},
    platform::{db::Conn, events::Actor},
    web::{
        body::from_value,
        manifest::{Apply, outcome},
    },
};

/// How a backbone is declared: all of it; what is not named here is taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackboneSpec {
    /// Its interior sites, by name.
    #[serde(default)]
    pub sites: BTreeMap<String, SiteSpec>,
    /// The links between them.
    #[serde(default)]
    pub links: Vec<CreateLink>,
}

/// An interior site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteSpec {
    /// Where others may connect, by name.
    #[serde(default)]
    pub access_points: BTreeMap<String, AccessPointSpec>,
}

/// An access point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessPointSpec {
    /// For whom it is.
    pub kind: AccessKind,
    /// What others dial: a DNS name or an IP address.
    pub host: String,
    /// The IP address that is bound; empty for every one.
    #[serde(default)]
    pub bind: String,
    /// The first port.
    pub port: i64,
    /// How many ports from there on: one for peers; for members as many as there may be networks at it.
    #[serde(default = "one")]
    pub ports: i64,
}

fn one() -> i64 {
    1
}

/// A backbone as it is: its spec, and the ids of its links, which stand in the same order as there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// What it is.
    pub spec: BackboneSpec,
    /// The ids of its links.
    pub links: Vec<String>,
    /// Sites that have an agent.
    pub joined: BTreeSet<String>,
}

/// One change on the way from what is to what is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove an access point: site, name.
    RemovePoint(String, String),
    /// Remove a link, by its id.
    RemoveLink(String),
    /// Remove a site.
    RemoveSite(String),
    /// Make a site.
    MakeSite(String),
    /// Make an access point: site, name.
    MakePoint(String, String),
    /// Make a link, by its place in the spec.
    MakeLink(usize),
}

/// Applies a backbone.
pub async fn apply(it: Networks, apply: Apply) -> Came {
    check_name("name", &apply.name)?;
    let spec = complete(from_value("spec", apply.spec)?)?;
    let mut conn = it.fleet.db.read().await?;
    let found: Option<BackboneRow> = store::one(&mut conn, "name", &apply.name).await?;
    let held = match &found {
        Some(row) => Some(held(&mut conn, &row.id).await?),
        None => None,
    };
    drop(conn);
    // A file that does not know of a site is no reason to end a router that runs.
    if let Some(site) = held.iter().flat_map(|h| &h.joined).find(|site| !spec.sites.contains_key(*site)) {
        let text = format!("the site {site} has an agent and is not declared; declare it, or remove it by hand");
        return Err(Error::Conflict(text));
    }
    let came = outcome(held.as_ref().map(|h| view(&h.spec)).transpose()?.as_ref(), &view(&spec)?);
    if apply.dry_run {
        return Ok(came);
    }
    let actor = &apply.caller.actor;
    if held.is_none() {
        it.create_backbone(actor, &apply.name).await?;
    }
    for step in steps(&held.unwrap_or_default(), &spec) {
        carry_out(&it, actor, &apply.name, &spec, step).await?;
    }
    Ok(came)
}

/// Gives every backbone.
pub async fn export(it: Networks) -> Result<Vec<(String, Value)>> {
    let mut conn = it.fleet.db.read().await?;
    let rows: Vec<BackboneRow> = store::rows(&mut conn, Of::All).await?;
    let mut all = Vec::new();
    for row in rows {
        all.push((row.name, json(&held(&mut conn, &row.id).await?.spec)?));
    }
    Ok(all)
}

async fn held(conn: &mut Conn, backbone: &str) -> Result<Held> {
    let sites: Vec<SiteRow> = store::by(conn, "backbone_id", backbone).await?;
    let ids: Vec<_> = sites.iter().map(|s| s.id.clone()).collect();
    let points: Vec<AccessPointRow> = store::rows(conn, Of::Each("site_id", &ids)).await?;
    let (mut spec, mut joined) = (BackboneSpec::default(), BTreeSet::new());
    for site in sites {
        joined.extend(site.agent_id.as_ref().map(|_| site.name.clone()));
        let own = points.iter().filter(|p| p.site_id == site.id).cloned();
        let own = own.map(|row| AccessPoint::try_from(row).map(AccessPointSpec::named)).collect::<Result<_>>()?;
        spec.sites.insert(site.name, SiteSpec { access_points: own });
    }
    let mut links = Vec::new();
    for Link { id, from, to, access_point, cost } in links_of(conn, backbone).await? {
        spec.links.push(CreateLink { from, to, access_point, cost });
        links.push(id);
    }
    Ok(Held { spec, links, joined })
}

/// What is declared, with all that may be left out, or what is wrong with it.
pub fn complete(mut spec: BackboneSpec) -> Result<BackboneSpec> {
    if spec.sites.len() > MAX_SITES {
        let text = format!("a backbone has at most {MAX_SITES} interior sites, as many as its routers carry");
        return Err(Error::invalid("spec.sites", text));
    }
    for (name, site) in &spec.sites {
        let at = format!("spec.sites.{name}");
        check_name(&at, name)?;
        site.check(&at)?;
    }
    for n in 0..spec.links.len() {
        let link = &spec.links[n];
        let point = target(&spec, link).map_err(|e| within(&format!("spec.links[{n}]"), e))?;
        let same =
            |l: &CreateLink| (&l.from, &l.to) == (&link.from, &link.to) || (&l.from, &l.to) == (&link.to, &link.from);
        if spec.links[..n].iter().any(|l| same(l) && l.cost == link.cost) {
            let text =
                format!("{} and {} are linked at that cost already; another link needs another", link.from, link.to);
            return Err(Error::invalid(format!("spec.links[{n}].cost"), text));
        }
        spec.links[n].access_point = point;
    }
    Ok(spec)
}

/// The access point a link leads to.
fn target(spec: &BackboneSpec, link: &CreateLink) -> Result<String> {
    let site = |field: &str, name: &String| {
        spec.sites.get(name).ok_or_else(|| Error::invalid(field, format!("the backbone has no site {name:?}")))
    };
    site("from", &link.from)?;
    let points = &site("to", &link.to)?.access_points;
    if link.from == link.to {
        return Err(Error::invalid("to", "a link leads to another site"));
    }
    if !(1..=1_000_000).contains(&link.cost) {
        return Err(Error::invalid("cost", "a link costs 1 to 1000000"));
    }
    let peers: Vec<_> = points.iter().filter(|(_, p)| p.kind == AccessKind::Peer).map(|(name, _)| name).collect();
    let there = peers.iter().map(|p| p.as_str()).collect::<Vec<_>>().join(", ");
    match (link.access_point.as_str(), &peers[..]) {
        ("", [one]) => Ok((*one).clone()),
        ("", []) => Err(Error::invalid("to", format!("{} has no access point for peers; give it one", link.to))),
        ("", _) => Err(Error::invalid("access_point", format!("{} has several for peers: {there}; name one", link.to))),
        (name, _) if peers.iter().any(|p| *p == name) => Ok(name.into()),
        (name, _) => {
            let there = if there.is_empty() { "none" } else { &there };
            Err(Error::invalid(
                "access_point",
                format!("{} has no access point {name:?} for peers; it has {there}", link.to),
            ))
        }
    }
}

/// What is to be done, in order. What may be refused because others stand on it comes first, so that nothing is lost when
/// it is; an access point that changes is made anew, and with it the links that lead to it.
pub fn steps(held: &Held, wanted: &BackboneSpec) -> Vec<Step> {
    let is = &held.spec;
    let points = |of: &BackboneSpec| -> BTreeMap<(String, String), AccessPointSpec> {
        let each = |(site, spec): (&String, &SiteSpec)| {
            let named = spec.access_points.iter().map(|(name, point)| ((site.clone(), name.clone()), point.clone()));
            named.collect::<Vec<_>>()
        };
        of.sites.iter().flat_map(each).collect()
    };
    let (points_are, points_wanted) = (points(is), points(wanted));
    let stays = |at: &(String, String)| points_are.get(at).is_some_and(|p| points_wanted.get(at) == Some(p));
    let link_stays = |link: &CreateLink| stays(&(link.to.clone(), link.access_point.clone()));
    let kept = |link: &CreateLink| is.links.contains(link) && wanted.links.contains(link) && link_stays(link);
    let (mut members, mut peers) = (Vec::new(), Vec::new());
    for ((site, name), point) in points_are.iter().filter(|(at, _)| !stays(at)) {
        let steps = if point.kind == AccessKind::Member { &mut members } else { &mut peers };
        steps.push(Step::RemovePoint(site.clone(), name.clone()));
    }
    let links = is.links.iter().zip(&held.links).filter(|(link, _)| !kept(link));
    let gone = is.sites.keys().filter(|site| !wanted.sites.contains_key(*site));
    let new = wanted.sites.keys().filter(|site| !is.sites.contains_key(*site));
    let made = points_wanted.keys().filter(|at| !stays(at));
    let linked = (0..wanted.links.len()).filter(|n| !kept(&wanted.links[*n]));
    (members.into_iter())
        .chain(links.map(|(_, id)| Step::RemoveLink(id.clone())))
        .chain(peers)
        .chain(gone.map(|site| Step::RemoveSite(site.clone())))
        .chain(new.map(|site| Step::MakeSite(site.clone())))
        .chain(made.map(|(site, name)| Step::MakePoint(site.clone(), name.clone())))
        .chain(linked.map(Step::MakeLink))
        .collect()
}

async fn carry_out(it: &Networks, actor: &Actor, on: &str, spec: &BackboneSpec, step: Step) -> Result<()> {
    match step {
        Step::RemovePoint(site, name) => it.remove(actor, &What::AccessPoint(on.into(), site, name), None).await,
        Step::RemoveLink(id) => it.remove(actor, &What::Link(on.into(), id), None).await,
        Step::RemoveSite(site) => it.remove(actor, &What::Site(on.into(), site), None).await,
        Step::MakeSite(site) => it.create_site(actor, on, &site).await.map(drop),
        Step::MakePoint(site, name) => {
            let Some(point) = spec.sites.get(&site).and_then(|s| s.access_points.get(&name)) else { return Ok(()) };
            let AccessPointSpec { kind, host, bind, port, ports } = point.clone();
            let at = format!("spec.sites.{site}.access_points.{name}");
            let new = NewAccessPoint { name, kind, host, bind, port, ports };
            it.create_access_point(actor, on, &site, &new).await.map(drop).map_err(|e| within(&at, e))
        }
        Step::MakeLink(n) => {
            let CreateLink { from, to, access_point, cost } = spec.links[n].clone();
            let new = NewLink { from, to, access_point, cost };
            it.create_link(actor, on, &new).await.map(drop).map_err(|e| within(&format!("spec.links[{n}]"), e))
        }
    }
}

/// The spec as it is compared: links by what they are, since they have no names and no order.
fn view(spec: &BackboneSpec) -> Result<Value> {
    let name = |l: &CreateLink| (format!("{}->{}/{}", l.from, l.to, l.access_point), l.cost);
    let mut links: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for (name, cost) in spec.links.iter().map(name) {
        links.entry(name).or_default().insert(cost);
    }
    let mut view = json(spec)?;
    view["links"] = json(&links)?;
    Ok(view)
}

// === impl SiteSpec ===

impl SiteSpec {
    fn check(&self, at: &str) -> Result<()> {
        let points: Vec<_> = self.access_points.iter().collect();
        for (n, (name, point)) in points.iter().enumerate() {
            let at = format!("{at}.access_points.{name}");
            check_name(&at, name)?;
            point.check(&at)?;
            let overlaps = |p: &AccessPointSpec| point.port < p.port + p.ports && p.port < point.port + point.ports;
            if let Some((other, p)) = points[..n].iter().find(|(_, p)| overlaps(p)) {
                let text =
                    format!("ports {} to {} are those of the access point {other}", p.port, p.port + p.ports - 1);
                return Err(Error::invalid(format!("{at}.port"), text));
            }
        }
        Ok(())
    }
}

// === impl AccessPointSpec ===

impl AccessPointSpec {
    fn named(point: AccessPoint) -> (String, Self) {
        let AccessPoint { name, kind, host, bind, port, ports } = point;
        (name, Self { kind, host, bind, port, ports })
    }

    fn check(&self, at: &str) -> Result<()> {
        check_host(&format!("{at}.host"), &self.host)?;
        check_port(&format!("{at}.port"), self.port)?;
        if self.ports < 1 || (self.kind == AccessKind::Peer && self.ports != 1) {
            let text = "an access point for peers has one port, one for members one or more";
            return Err(Error::invalid(format!("{at}.ports"), text));
        }
        check_port(&format!("{at}.ports"), self.port.saturating_add(self.ports - 1))?;
        if !self.bind.is_empty() && self.bind.parse::<std::net::IpAddr>().is_err() {
            let text = "what is bound is an IP address of the site, or empty for every one";
            return Err(Error::invalid(format!("{at}.bind"), text));
        }
        Ok(())
    }
}
