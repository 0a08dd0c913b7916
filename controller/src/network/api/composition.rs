//! The library, and how networks are composed.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::{
    super::{
        model::{Choice, Distribution, EndpointKind, Part, Protocol, Scope, Word},
        plan,
        service::{self, Networks, NewEndpoint, NewServiceLink, What, word},
        store::{
            self, AttachmentRow, EndpointRow, ImageRow, MemberRow, Of, OfferedRow, RequiredRow, ServiceLinkRow,
            ServiceRow,
        },
    },
    network::owned,
    removal::{Cascade, removed},
};
use crate::{
    error::{Problem, Result},
    platform::db::Conn,
    web::{Body, Caller, Policy, Query, Role, Routes},
};

/// A service of the library: what images offer and require.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// How to make it.
    #[serde(flatten)]
    pub spec: ServiceSpec,
}

/// What a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// What is spoken.
    pub protocol: Protocol,
    /// Where it is looked for unless something else is said.
    pub default_port: i64,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// An image of the library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// How to make it.
    #[serde(flatten)]
    pub spec: ImageSpec,
}

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// An OCI reference without tag, or the name of an executable in a folder that hosts' owners allowed.
    pub reference: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Services it offers.
    #[serde(default)]
    pub offers: Vec<Offer>,
    /// Services it requires, by name.
    #[serde(default)]
    pub requires: Vec<String>,
}

/// A service that an image offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The service.
    pub service: String,
    /// Where the image listens; the service's own port if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

/// A service link: a name under which endpoints find one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceLink {
    /// Its name, unique in its network.
    pub name: String,
    /// How to make it.
    #[serde(flatten)]
    pub spec: ServiceLinkSpec,
}

/// What a service link is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceLinkSpec {
    /// The service it carries.
    pub service: String,
    /// Its address, unique in its network; its name if not said.
    #[serde(default)]
    pub address: String,
    /// How far its address reaches.
    #[serde(default = "van")]
    pub scope: Scope,
    /// How connections are spread.
    #[serde(default = "balanced")]
    pub distribution: Distribution,
}

fn van() -> Scope {
    Scope::Van
}

fn balanced() -> Distribution {
    Distribution::Balanced
}

/// Something allocated to sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Its name, unique in its network.
    pub name: String,
    /// How to make it.
    #[serde(flatten)]
    pub spec: EndpointSpec,
}

/// What an endpoint is, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// What it is.
    pub kind: EndpointKind,
    /// The class it is allocated to: each of its sites gets it. Either this or `site`.
    #[serde(default)]
    pub class: String,
    /// The one site it is allocated to.
    #[serde(default)]
    pub site: String,
    /// Processes: an image of the library.
    #[serde(default)]
    pub image: String,
    /// Processes: the image's tag; nothing for an executable.
    #[serde(default)]
    pub tag: String,
    /// Processes: arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Ingresses: the IP address to bind, every one if not said. Egresses: the server outside; each site names its own if
    /// not said.
    #[serde(default)]
    pub host: String,
    /// Service links it takes part in.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
}

/// An endpoint's part in a service link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The service link.
    pub service_link: String,
    /// The port; the image's or the service's own if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Whether connections go to it or come from it; follows from what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// An endpoint at one site, and what was made of it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Allocation {
    /// The endpoint's name.
    pub name: String,
    /// What it is.
    pub kind: EndpointKind,
    /// What the site's participants made of it.
    pub choice: Choice,
    /// Version of the allocation; a decision names the one it is about.
    pub generation: i64,
    /// What a process runs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub runs: String,
    /// Its parts in service links.
    pub parts: Vec<AllocatedPart>,
}

/// The part that an endpoint at one site has in a service link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllocatedPart {
    /// The service link.
    pub service_link: String,
    /// Its address as this endpoint uses it.
    pub address: String,
    /// Whether connections go to it or come from it.
    pub part: Part,
    /// Host; empty until the site names one.
    pub host: String,
    /// Port; none until the site names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What is made of an endpoint at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// Version of the allocation that was seen.
    pub generation: i64,
    /// Accepted, or declined.
    pub accept: bool,
    /// The server outside, where that is left open to the site.
    #[serde(default)]
    pub host: String,
    /// Its port, where that is left open; 0 otherwise.
    #[serde(default)]
    pub port: i64,
}

/// Adds these routes.
pub fn add(routes: Routes<Networks>) -> Routes<Networks> {
    let own = Policy::owner_or(Role::Operator);
    routes
        .add(Policy::viewer(), routes!(services))
        .add(Policy::operator(), routes!(put_service))
        .add(Policy::operator(), routes!(remove_service))
        .add(Policy::viewer(), routes!(images))
        .add(Policy::operator(), routes!(put_image))
        .add(Policy::operator(), routes!(remove_image))
        .add(own, routes!(service_links))
        .add(own, routes!(put_service_link))
        .add(own, routes!(remove_service_link))
        .add(own, routes!(endpoints))
        .add(own, routes!(put_endpoint))
        .add(own, routes!(remove_endpoint))
        .add(own, routes!(allocations))
        .add(own, routes!(decide))
}

/// Lists the services of the library
#[utoipa::path(get, path = "/api/v1/network/services", tag = "network", responses((status = 200, body = Vec<Service>)))]
pub async fn services(State(it): State<Networks>) -> Result<Json<Vec<Service>>> {
    let rows: Vec<ServiceRow> = store::rows(&mut *it.fleet.db.read().await?, Of::All).await?;
    Ok(Json(rows.into_iter().map(Service::try_from).collect::<Result<_>>()?))
}

/// Makes a service of the library, or changes it
#[utoipa::path(put, path = "/api/v1/network/services/{service}", tag = "network", request_body = ServiceSpec,
    responses((status = 200, body = Service)))]
async fn put_service(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Body(spec): Body<ServiceSpec>,
) -> Result<Json<Service>> {
    it.save_service(&caller.actor, &spec.clone().row(name.clone())).await?;
    Ok(Json(Service { name, spec }))
}

/// Removes a service; what names it only by `cascade`
#[utoipa::path(delete, path = "/api/v1/network/services/{service}", tag = "network", params(Cascade),
    responses((status = 204), (status = 409, body = Problem)))]
async fn remove_service(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Query(how): Query<Cascade>,
) -> Result<StatusCode> {
    removed(&it, &caller, &What::Service(name), &how).await
}

/// Lists the images of the library
#[utoipa::path(get, path = "/api/v1/network/images", tag = "network", responses((status = 200, body = Vec<Image>)))]
pub async fn images(State(it): State<Networks>) -> Result<Json<Vec<Image>>> {
    Ok(Json(images_of(&mut *it.fleet.db.read().await?).await?))
}

/// The images of the library.
pub async fn images_of(conn: &mut Conn) -> Result<Vec<Image>> {
    let rows: Vec<ImageRow> = store::rows(conn, Of::All).await?;
    let offered: Vec<OfferedRow> = store::rows(conn, Of::All).await?;
    let required: Vec<RequiredRow> = store::rows(conn, Of::All).await?;
    let image = |row: ImageRow| {
        let offers = offered.iter().filter(|o| o.image == row.name);
        let requires = required.iter().filter(|r| r.image == row.name);
        let spec = ImageSpec {
            reference: row.reference,
            description: row.description,
            offers: offers.map(|o| Offer { service: o.service.clone(), port: Some(o.port) }).collect(),
            requires: requires.map(|r| r.service.clone()).collect(),
        };
        Image { name: row.name, spec }
    };
    Ok(rows.into_iter().map(image).collect())
}

/// Makes an image of the library, or changes it
#[utoipa::path(put, path = "/api/v1/network/images/{image}", tag = "network", request_body = ImageSpec,
    responses((status = 200, body = Image)))]
async fn put_image(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Body(spec): Body<ImageSpec>,
) -> Result<Json<Image>> {
    it.save_image(&caller.actor, &spec.clone().named(name.clone())).await?;
    Ok(Json(Image { name, spec }))
}

/// Removes an image; the processes that run it only by `cascade`
#[utoipa::path(delete, path = "/api/v1/network/images/{image}", tag = "network", params(Cascade),
    responses((status = 204), (status = 409, body = Problem)))]
async fn remove_image(
    State(it): State<Networks>,
    caller: Caller,
    Path(name): Path<String>,
    Query(how): Query<Cascade>,
) -> Result<StatusCode> {
    removed(&it, &caller, &What::Image(name), &how).await
}

/// Lists a network's service links
#[utoipa::path(get, path = "/api/v1/network/networks/{network}/service-links", tag = "network",
    responses((status = 200, body = Vec<ServiceLink>)))]
pub async fn service_links(
    State(it): State<Networks>,
    caller: Caller,
    Path(network): Path<String>,
) -> Result<Json<Vec<ServiceLink>>> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(&it, &mut conn, &caller, &network).await?;
    Ok(Json(service_links_of(&mut conn, &on.id).await?))
}

/// The service links of a network, by its id.
pub async fn service_links_of(conn: &mut Conn, network: &str) -> Result<Vec<ServiceLink>> {
    let rows: Vec<ServiceLinkRow> = store::by(conn, "network_id", network).await?;
    rows.into_iter().map(ServiceLink::try_from).collect()
}

/// Makes a service link, or changes it
#[utoipa::path(put, path = "/api/v1/network/networks/{network}/service-links/{name}", tag = "network",
    request_body = ServiceLinkSpec, responses((status = 204)))]
async fn put_service_link(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, name)): Path<(String, String)>,
    Body(spec): Body<ServiceLinkSpec>,
) -> Result<StatusCode> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    it.save_service_link(&caller.actor, &network, &spec.named(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a service link; the parts that endpoints have in it only by `cascade`
#[utoipa::path(delete, path = "/api/v1/network/networks/{network}/service-links/{name}", tag = "network",
    params(Cascade), responses((status = 204), (status = 409, body = Problem)))]
async fn remove_service_link(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, name)): Path<(String, String)>,
    Query(how): Query<Cascade>,
) -> Result<StatusCode> {
    removed(&it, &caller, &What::ServiceLink(network, name), &how).await
}

/// Lists a network's endpoints
#[utoipa::path(get, path = "/api/v1/network/networks/{network}/endpoints", tag = "network",
    responses((status = 200, body = Vec<Endpoint>)))]
pub async fn endpoints(
    State(it): State<Networks>,
    caller: Caller,
    Path(network): Path<String>,
) -> Result<Json<Vec<Endpoint>>> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(&it, &mut conn, &caller, &network).await?;
    Ok(Json(endpoints_of(&mut conn, &on.id).await?))
}

/// The endpoints of a network, by its id.
pub async fn endpoints_of(conn: &mut Conn, network: &str) -> Result<Vec<Endpoint>> {
    let rows: Vec<EndpointRow> = store::by(conn, "network_id", network).await?;
    let ids: Vec<_> = rows.iter().map(|r| r.id.clone()).collect();
    let attached: Vec<AttachmentRow> = store::rows(conn, Of::Each("endpoint_id", &ids)).await?;
    let links: Vec<ServiceLinkRow> = store::by(conn, "network_id", network).await?;
    let members: Vec<MemberRow> = store::by(conn, "network_id", network).await?;
    let links: BTreeMap<_, _> = links.into_iter().map(|l| (l.id, l.name)).collect();
    let members: BTreeMap<_, _> = members.into_iter().map(|m| (m.id, m.name)).collect();
    let mut views = Vec::new();
    for row in rows {
        let own = attached.iter().filter(|a| a.endpoint_id == row.id);
        let attachment = |a: &AttachmentRow| {
            let service_link = links.get(&a.service_link_id).cloned().unwrap_or_default();
            Ok(Attachment { service_link, port: (a.port != 0).then_some(a.port), part: Some(word(&a.part)?) })
        };
        let spec = EndpointSpec {
            kind: word(&row.kind)?,
            attachments: own.map(attachment).collect::<Result<_>>()?,
            class: row.class.unwrap_or_default(),
            site: row.member_id.and_then(|id| members.get(&id).cloned()).unwrap_or_default(),
            image: row.image.unwrap_or_default(),
            tag: row.tag,
            arguments: serde_json::from_str(&row.arguments).map_err(crate::error::Error::internal)?,
            host: row.host,
        };
        views.push(Endpoint { name: row.name, spec });
    }
    Ok(views)
}

/// Makes an endpoint, or changes it: each site it is allocated to gets it
#[utoipa::path(put, path = "/api/v1/network/networks/{network}/endpoints/{name}", tag = "network",
    request_body = EndpointSpec, responses((status = 204)))]
async fn put_endpoint(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, name)): Path<(String, String)>,
    Body(spec): Body<EndpointSpec>,
) -> Result<StatusCode> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    it.save_endpoint(&caller.actor, &network, &spec.named(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes an endpoint: it is withdrawn everywhere
#[utoipa::path(delete, path = "/api/v1/network/networks/{network}/endpoints/{name}", tag = "network",
    responses((status = 204)))]
async fn remove_endpoint(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, name)): Path<(String, String)>,
) -> Result<StatusCode> {
    removed(&it, &caller, &What::Endpoint(network, name), &Cascade::default()).await
}

/// Lists what is allocated to a site
#[utoipa::path(get, path = "/api/v1/network/networks/{network}/members/{member}/endpoints", tag = "network",
    responses((status = 200, body = Vec<Allocation>)))]
pub async fn allocations(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, member)): Path<(String, String)>,
) -> Result<Json<Vec<Allocation>>> {
    let mut conn = it.fleet.db.read().await?;
    let on = owned(&it, &mut conn, &caller, &network).await?;
    let member = it.member(&mut conn, &on, &member).await?;
    Ok(Json(it.allocated(&mut conn, &member).await?.into_iter().map(Allocation::from).collect()))
}

/// Accepts or declines an endpoint at a site, in the place of the site's participants
#[utoipa::path(put, path = "/api/v1/network/networks/{network}/members/{member}/endpoints/{name}/decision",
    tag = "network", request_body = Decide, responses((status = 204)))]
async fn decide(
    State(it): State<Networks>,
    caller: Caller,
    Path((network, member, endpoint)): Path<(String, String, String)>,
    Body(Decide { generation, accept, host, port }): Body<Decide>,
) -> Result<StatusCode> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &network).await?;
    let said = Word { endpoint, generation, accept, host, port };
    it.decide(&caller.actor, &network, &member, &said).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<plan::Allocated> for Allocation {
    fn from(it: plan::Allocated) -> Self {
        let part = |(service_link, address, part, host, port)| {
            let port = Some(port).filter(|port| *port != 0);
            AllocatedPart { service_link, address, part, host, port }
        };
        let runs = it.program.map(|p| if p.tag.is_empty() { p.image } else { format!("{}:{}", p.image, p.tag) });
        Self {
            name: it.name,
            kind: it.kind,
            choice: it.choice,
            generation: it.generation,
            runs: runs.unwrap_or_default(),
            parts: it.parts.into_iter().map(part).collect(),
        }
    }
}

impl ServiceSpec {
    /// The service of this name, as it is kept.
    pub fn row(self, name: String) -> ServiceRow {
        let Self { protocol, default_port, description } = self;
        ServiceRow { name, protocol: service::spell(&protocol), default_port, description, version: 1 }
    }
}

impl ImageSpec {
    /// The image of this name.
    pub fn named(self, name: String) -> service::Image {
        let Self { reference, description, offers, requires } = self;
        let offers = offers.into_iter().map(|o| (o.service, o.port)).collect();
        service::Image { name, reference, description, offers, requires }
    }
}

impl ServiceLinkSpec {
    /// The service link of this name.
    pub fn named(self, name: &str) -> NewServiceLink {
        let Self { service, address, scope, distribution } = self;
        NewServiceLink { name: name.into(), service, address, scope, distribution }
    }
}

impl EndpointSpec {
    /// The endpoint of this name.
    pub fn named(self, name: &str) -> NewEndpoint {
        let Self { kind, class, site, image, tag, arguments, host, attachments } = self;
        let attachments = attachments.into_iter().map(|a| (a.service_link, a.port)).collect();
        NewEndpoint { name: name.into(), kind, class, site, image, tag, arguments, host, attachments }
    }
}

impl TryFrom<ServiceRow> for Service {
    type Error = crate::error::Error;

    fn try_from(row: ServiceRow) -> Result<Self> {
        let (protocol, default_port) = (word(&row.protocol)?, row.default_port);
        Ok(Self { name: row.name, spec: ServiceSpec { protocol, default_port, description: row.description } })
    }
}

impl TryFrom<ServiceLinkRow> for ServiceLink {
    type Error = crate::error::Error;

    fn try_from(row: ServiceLinkRow) -> Result<Self> {
        let (scope, distribution) = (word(&row.scope)?, word(&row.distribution)?);
        let spec = ServiceLinkSpec { service: row.service, address: row.address, scope, distribution };
        Ok(Self { name: row.name, spec })
    }
}
