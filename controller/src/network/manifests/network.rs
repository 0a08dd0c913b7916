//! An application network, with its times, classes, service links and endpoints.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    super::{
        api::{EndpointSpec, ImageSpec, ServiceLink, ServiceLinkSpec, endpoints_of, images_of},
        model::{EndpointKind, Membership, Part, Phase, Times, check_address, check_host, check_name, check_port},
        service::{Networks, NewNetwork, What, spell, times_of},
        store::{self, BackboneRow, ClassRow, MemberRow, NetworkRow, ServiceLinkRow, ServiceRow},
    },
    Came, json, within,
};
use crate::{
    error::{Error, Result},
    platform::{db::Conn, events::Actor},
    web::{
        Caller, Outcome, Role,
        body::from_value,
        manifest::{Apply, outcome},
    },
};

/// How an application network is declared: all of it; service links and endpoints that are not named here are taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The backbone that carries it; stays what it is.
    pub backbone: String,
    /// When it starts, as 2026-12-01T08:00:00Z; if not said, when it is made, and then as it is.
    #[serde(default, with = "moment", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub starts_at: Option<i64>,
    /// When it ends; never if not said.
    #[serde(default, with = "moment", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ends_at: Option<i64>,
    /// How long after its end it is removed, seconds.
    #[serde(default)]
    pub delete_delay_seconds: i64,
    /// The classes of its sites: name, and what each is for. They are made and described, never removed.
    #[serde(default)]
    pub classes: BTreeMap<String, String>,
    /// Its service links, by name.
    #[serde(default)]
    pub service_links: BTreeMap<String, ServiceLinkSpec>,
    /// Its endpoints, by name.
    #[serde(default)]
    pub endpoints: BTreeMap<String, EndpointSpec>,
}

/// What a network is declared against.
#[derive(Debug, Clone, Default)]
pub struct Ground {
    /// The network's classes.
    pub classes: BTreeSet<String>,
    /// The network's sites: name by name and by id.
    pub sites: BTreeMap<String, String>,
    /// The library's services: default port by name.
    pub services: BTreeMap<String, i64>,
    /// The library's images.
    pub images: BTreeMap<String, ImageSpec>,
}

/// Applies a network.
pub async fn apply(it: Networks, apply: Apply) -> Came {
    check_name("name", &apply.name)?;
    let spec: NetworkSpec = from_value("spec", apply.spec)?;
    let mut conn = it.fleet.db.read().await?;
    let backbone = it.backbone(&mut conn, &spec.backbone).await?;
    let row: Option<NetworkRow> = store::one(&mut conn, "name", &apply.name).await?;
    let before = match &row {
        Some(row) => {
            // That somebody else has a network of this name is all that is told of it.
            let taken = |_| Error::Conflict(format!("application network {:?} exists already", apply.name));
            apply.caller.must_own(&row.owner, Role::Operator).map_err(taken)?;
            Some(held(&mut conn, row).await?)
        }
        None => None,
    };
    let ground = ground(&mut conn, row.as_ref()).await?;
    drop(conn);
    let now = it.fleet.db.clock().now();
    let spec = complete(spec, &ground)?;
    let times = times(&spec, row.as_ref(), now)?;
    if row.as_ref().is_some_and(|row| row.backbone_id != backbone.id) {
        let was = before.as_ref().map(|b| b.backbone.as_str()).unwrap_or_default();
        return Err(Error::invalid("spec.backbone", format!("a network stays on its backbone, which is {was}")));
    }
    let came = outcome(before.as_ref().map(json).transpose()?.as_ref(), &json(&settled(&spec, before.as_ref()))?);
    if !apply.dry_run && came.0 != Outcome::Unchanged {
        carry_out(&it, &apply.caller.actor, &apply.name, (before.as_ref(), row.as_ref()), &spec, times).await?;
    }
    Ok(came)
}

/// Gives every network that somebody may see.
pub async fn export(it: Networks, caller: Caller) -> Result<Vec<(String, Value)>> {
    let mut conn = it.fleet.db.read().await?;
    let rows: Vec<NetworkRow> = store::rows(&mut conn, store::Of::All).await?;
    let mut all = Vec::new();
    for row in rows.into_iter().filter(|row| caller.must_own(&row.owner, Role::Operator).is_ok()) {
        let spec = held(&mut conn, &row).await?;
        all.push((row.name, json(&spec)?));
    }
    Ok(all)
}

async fn held(conn: &mut Conn, row: &NetworkRow) -> Result<NetworkSpec> {
    let backbone: Option<BackboneRow> = store::one(conn, "id", &row.backbone_id).await?;
    let classes: Vec<ClassRow> = store::by(conn, "network_id", &row.id).await?;
    let links: Vec<ServiceLinkRow> = store::by(conn, "network_id", &row.id).await?;
    let links = links.into_iter().map(|l| ServiceLink::try_from(l).map(|l| (l.name, l.spec))).collect::<Result<_>>()?;
    let endpoints = endpoints_of(conn, &row.id).await?.into_iter().map(|e| (e.name, sorted(e.spec)));
    Ok(NetworkSpec {
        backbone: backbone.map(|b| b.name).unwrap_or_default(),
        starts_at: Some(row.starts_at),
        ends_at: row.ends_at,
        delete_delay_seconds: row.delete_delay / 1000,
        classes: classes.into_iter().map(|c| (c.name, c.description)).collect(),
        service_links: links,
        endpoints: endpoints.collect(),
    })
}

async fn ground(conn: &mut Conn, row: Option<&NetworkRow>) -> Result<Ground> {
    let id = row.map(|row| row.id.clone()).unwrap_or_default();
    let classes: Vec<ClassRow> = store::by(conn, "network_id", &id).await?;
    let members: Vec<MemberRow> = store::by(conn, "network_id", &id).await?;
    let members = members.into_iter().filter(|m| m.membership != spell(&Membership::Evicted));
    let services: Vec<ServiceRow> = store::rows(conn, store::Of::All).await?;
    Ok(Ground {
        classes: classes.into_iter().map(|c| c.name).collect(),
        sites: members.flat_map(|m| [(m.id, m.name.clone()), (m.name.clone(), m.name)]).collect(),
        services: services.into_iter().map(|s| (s.name, s.default_port)).collect(),
        images: images_of(conn).await?.into_iter().map(|i| (i.name, i.spec)).collect(),
    })
}

/// What is declared, with all that may be left out, or what is wrong with it.
pub fn complete(mut spec: NetworkSpec, ground: &Ground) -> Result<NetworkSpec> {
    for name in spec.classes.keys() {
        check_name(&format!("spec.classes.{name}"), name)?;
    }
    let mut addresses = BTreeMap::new();
    for (name, link) in &mut spec.service_links {
        let at = format!("spec.service_links.{name}");
        check_name(&at, name)?;
        if link.address.is_empty() {
            link.address.clone_from(name);
        }
        check_address(&format!("{at}.address"), &link.address)?;
        if let Some(other) = addresses.insert(link.address.clone(), name) {
            let text = format!("the address is the service link {other}'s already");
            return Err(Error::invalid(format!("{at}.address"), text));
        }
        if !ground.services.contains_key(&link.service) {
            return Err(Error::not_found("service of the library", &link.service));
        }
    }
    let classes: BTreeSet<_> = spec.classes.keys().chain(&ground.classes).cloned().collect();
    let mut endpoints = BTreeMap::new();
    for (name, endpoint) in std::mem::take(&mut spec.endpoints) {
        let at = format!("spec.endpoints.{name}");
        check_name(&at, &name)?;
        let whole = whole(endpoint, &spec.service_links, &classes, ground).map_err(|e| within(&at, e))?;
        endpoints.insert(name, whole);
    }
    spec.endpoints = endpoints;
    Ok(spec)
}

/// An endpoint with its site called by its name, and each attachment with its port and part.
fn whole(
    mut endpoint: EndpointSpec,
    links: &BTreeMap<String, ServiceLinkSpec>,
    classes: &BTreeSet<String>,
    ground: &Ground,
) -> Result<EndpointSpec> {
    if !endpoint.class.is_empty() && !classes.contains(&endpoint.class) {
        let there = classes.iter().cloned().collect::<Vec<_>>().join(", ");
        return Err(Error::invalid("class", format!("the network has no class {:?}; it has {there}", endpoint.class)));
    }
    if !endpoint.site.is_empty() {
        let Some(name) = ground.sites.get(&endpoint.site) else {
            let text = format!("no site {:?} has joined the network; declare this when it has", endpoint.site);
            return Err(Error::invalid("site", text));
        };
        endpoint.site.clone_from(name);
    }
    if endpoint.class.is_empty() == endpoint.site.is_empty() {
        return Err(Error::invalid("class", "it is allocated to a class or to one site: name one of them"));
    }
    let image = match endpoint.kind {
        EndpointKind::Process if endpoint.image.is_empty() => {
            return Err(Error::invalid("image", "a process names an image of the library"));
        }
        EndpointKind::Process => Some(
            ground
                .images
                .get(&endpoint.image)
                .ok_or_else(|| Error::not_found("image of the library", &endpoint.image))?,
        ),
        _ if !endpoint.image.is_empty() => return Err(Error::invalid("image", "only a process runs an image")),
        _ => None,
    };
    let (kind, is_open) = (endpoint.kind, endpoint.host.is_empty());
    match kind {
        EndpointKind::Process if !is_open => {
            return Err(Error::invalid("host", "a process is reached at its site; it has no host of its own"));
        }
        EndpointKind::Ingress if is_open => endpoint.host = "0.0.0.0".into(),
        EndpointKind::Ingress if endpoint.host.parse::<std::net::IpAddr>().is_err() => {
            return Err(Error::invalid("host", "what an ingress binds is an IP address of the site"));
        }
        EndpointKind::Egress if !is_open => check_host("host", &endpoint.host)?,
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for (n, it) in endpoint.attachments.iter_mut().enumerate() {
        let field = |name: &str| format!("attachments[{n}].{name}");
        let Some(link) = links.get(&it.service_link) else {
            let text = format!("the network has no service link {:?}; declare it too", it.service_link);
            return Err(Error::invalid(field("service_link"), text));
        };
        if !seen.insert(it.service_link.clone()) {
            return Err(Error::invalid(field("service_link"), "it is attached to that service link already"));
        }
        let default = ground.services.get(&link.service).copied();
        let (part, own) = match kind {
            EndpointKind::Ingress => (Part::Connects, default),
            EndpointKind::Egress => (Part::Accepts, default.filter(|_| !is_open)),
            EndpointKind::Process => part_of(image, &link.service, default).ok_or_else(|| {
                let text = format!("the image neither offers nor requires the service {}", link.service);
                Error::invalid(field("service_link"), text)
            })?,
        };
        if it.part.is_some_and(|said| said != part) {
            let text = "which part it has follows from what it is; leave this out";
            return Err(Error::invalid(field("part"), text));
        }
        it.port.map(|port| check_port(&field("port"), port)).transpose()?;
        (it.port, it.part) = (it.port.or(own), Some(part));
    }
    Ok(sorted(endpoint))
}

/// What a process does with a service, and at which port.
fn part_of(image: Option<&ImageSpec>, service: &str, default: Option<i64>) -> Option<(Part, Option<i64>)> {
    let image = image?;
    let offered = image.offers.iter().find(|o| o.service == service);
    match offered {
        Some(offered) => Some((Part::Accepts, offered.port.or(default))),
        None => image.requires.iter().any(|r| r == service).then_some((Part::Connects, default)),
    }
}

/// Attachments have no order of their own.
fn sorted(mut endpoint: EndpointSpec) -> EndpointSpec {
    endpoint.attachments.sort_by(|a, b| a.service_link.cmp(&b.service_link));
    endpoint
}

/// When the network is to live.
fn times(spec: &NetworkSpec, row: Option<&NetworkRow>, now: i64) -> Result<Times> {
    let before = row.map(times_of);
    let has_ended = before.is_some_and(|b| matches!(b.phase(now), Phase::Ended | Phase::Over));
    if has_ended && spec.ends_at.is_none() {
        let text = "the network has ended; name an end that is to come to have it live again";
        return Err(Error::invalid("spec.ends_at", text));
    }
    let delay = spec.delete_delay_seconds;
    if !(0..=1 << 40).contains(&delay) {
        return Err(Error::invalid("spec.delete_delay_seconds", "a delay is a number of seconds, 0 or more"));
    }
    let times = Times {
        starts_at: spec.starts_at.or(before.map(|b| b.starts_at)).unwrap_or(now),
        ends_at: spec.ends_at,
        // Kept to the millisecond where nothing else is said.
        delete_delay: before.map(|b| b.delete_delay).filter(|was| was / 1000 == delay).unwrap_or(delay * 1000),
    };
    times.check(before.as_ref(), now).map_err(|e| within("spec", e))?;
    Ok(times)
}

/// What is declared, with what stays as it is where nothing is said of it.
fn settled(spec: &NetworkSpec, before: Option<&NetworkSpec>) -> NetworkSpec {
    let mut spec = spec.clone();
    if let Some(before) = before {
        spec.starts_at = spec.starts_at.or(before.starts_at);
        for (name, description) in &before.classes {
            spec.classes.entry(name.clone()).or_insert_with(|| description.clone());
        }
    }
    spec
}

async fn carry_out(
    it: &Networks,
    actor: &Actor,
    name: &str,
    (before, row): (Option<&NetworkSpec>, Option<&NetworkRow>),
    spec: &NetworkSpec,
    times: Times,
) -> Result<()> {
    match row {
        None => {
            let new =
                NewNetwork { name: name.into(), backbone: spec.backbone.clone(), owner: actor.name.clone(), times };
            it.create_network(actor, &new).await?;
        }
        Some(row) if times_of(row) != times => drop(it.set_times(actor, name, times, Some(row.version)).await?),
        Some(_) => {}
    }
    for (class, description) in &spec.classes {
        if before.and_then(|b| b.classes.get(class)) != Some(description) {
            it.save_class(actor, name, class, description).await?;
        }
    }
    let endpoints = before.into_iter().flat_map(|b| b.endpoints.keys());
    for endpoint in endpoints.filter(|e| !spec.endpoints.contains_key(*e)) {
        it.remove(actor, &What::Endpoint(name.into(), endpoint.clone()), None).await?;
    }
    for (link, wanted) in &spec.service_links {
        if before.and_then(|b| b.service_links.get(link)) != Some(wanted) {
            let saved = it.save_service_link(actor, name, &wanted.clone().named(link)).await;
            saved.map_err(|e| within(&format!("spec.service_links.{link}"), e))?;
        }
    }
    for (endpoint, wanted) in &spec.endpoints {
        if before.and_then(|b| b.endpoints.get(endpoint)) != Some(wanted) {
            let saved = it.save_endpoint(actor, name, &wanted.clone().named(endpoint)).await;
            saved.map_err(|e| within(&format!("spec.endpoints.{endpoint}"), e))?;
        }
    }
    let links = before.into_iter().flat_map(|b| b.service_links.keys());
    for link in links.filter(|l| !spec.service_links.contains_key(*l)) {
        it.remove(actor, &What::ServiceLink(name.into(), link.clone()), None).await?;
    }
    Ok(())
}

/// Moments as people write them in files.
mod moment {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

    pub fn serialize<S: Serializer>(at: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
        let text = at.map(|at| jiff::Timestamp::from_millisecond(at).map(|at| at.to_string())).transpose();
        text.map_err(S::Error::custom)?.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let at = text.parse::<jiff::Timestamp>().map(|at| Some(at.as_millisecond()));
        at.map_err(|_| D::Error::custom(format!("{text:?} is no time; write it as 2026-12-01T08:00:00Z")))
    }
}
