//! The library, and the forms of service links and endpoints.

use askama::Template;
use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use serde::de::DeserializeOwned;

use super::super::{
    api::{self, Image, Member, Service, ServiceLink, SiteClass, owned},
    service::{self, Networks, NewEndpoint, NewServiceLink},
    store::ServiceRow,
};
use crate::{
    error::{Error, Result},
    web::{
        Caller, Fields, Layout,
        page::{redirect, render, render_refused},
    },
};

#[derive(Template)]
#[template(path = "network/templates/library.html")]
struct LibraryPage {
    layout: Layout,
    services: Vec<Service>,
    images: Vec<Image>,
}

#[derive(Template)]
#[template(path = "network/templates/service.html")]
struct ServicePage {
    layout: Layout,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "network/templates/image.html")]
struct ImagePage {
    layout: Layout,
    services: Vec<Service>,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "network/templates/service_link.html")]
struct LinkPage {
    layout: Layout,
    network: String,
    services: Vec<Service>,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "network/templates/endpoint.html")]
struct EndpointPage {
    layout: Layout,
    network: String,
    classes: Vec<SiteClass>,
    members: Vec<Member>,
    images: Vec<Image>,
    service_links: Vec<ServiceLink>,
    fields: Fields,
}

/// A word of the model as a form spells it.
fn word<T: DeserializeOwned>(fields: &Fields, name: &str) -> Result<T> {
    let text = fields.text(name);
    service::word(text).map_err(|_| Error::invalid(name, format!("{text:?} is none of what there is to choose from")))
}

pub(super) async fn library(State(it): State<Networks>, layout: Layout) -> Result<Response> {
    let Json(services) = api::services(State(it.clone())).await?;
    let Json(images) = api::images(State(it)).await?;
    render(&LibraryPage { layout: layout.title("Library"), services, images })
}

pub(super) async fn ask_service(layout: Layout) -> Result<Response> {
    render(&ServicePage { layout: layout.title("Service"), fields: Fields::default() })
}

pub(super) async fn service(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    mut fields: Fields,
) -> Result<Response> {
    let saved = async {
        let row = ServiceRow {
            name: fields.text("name").into(),
            protocol: fields.text("protocol").into(),
            default_port: fields.number("default_port")?,
            description: fields.text("description").into(),
            version: 1,
        };
        it.save_service(&caller.actor, &row).await
    };
    match saved.await {
        Ok(()) => Ok(redirect("/networks/library", "The service is saved.")),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&ServicePage { layout: layout.title("Service"), fields })
        }
    }
}

pub(super) async fn ask_image(State(it): State<Networks>, layout: Layout) -> Result<Response> {
    let Json(services) = api::services(State(it)).await?;
    render(&ImagePage { layout: layout.title("Image"), services, fields: Fields::default() })
}

pub(super) async fn image(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    mut fields: Fields,
) -> Result<Response> {
    let saved = async {
        let port = fields.number_if_any("port")?;
        let image = service::Image {
            name: fields.text("name").into(),
            reference: fields.text("reference").into(),
            description: fields.text("description").into(),
            offers: fields.all("offers").into_iter().map(|s| (s.to_owned(), port)).collect(),
            requires: fields.all("requires").into_iter().map(str::to_owned).collect(),
        };
        it.save_image(&caller.actor, &image).await
    };
    match saved.await {
        Ok(()) => Ok(redirect("/networks/library", "The image is saved.")),
        Err(error) => {
            fields.refuse(error)?;
            let Json(services) = api::services(State(it)).await?;
            render_refused(&ImagePage { layout: layout.title("Image"), services, fields })
        }
    }
}

async fn link_page(it: Networks, layout: Layout, network: String, fields: Fields) -> Result<LinkPage> {
    let Json(services) = api::services(State(it)).await?;
    Ok(LinkPage { layout: layout.title("Service link"), network, services, fields })
}

pub(super) async fn ask_link(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
) -> Result<Response> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    render(&link_page(it, layout, name, Fields::default()).await?)
}

pub(super) async fn link(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    mut fields: Fields,
) -> Result<Response> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    let saved = async {
        let new = NewServiceLink {
            name: fields.text("name").into(),
            service: fields.text("service").into(),
            address: fields.text("address").into(),
            scope: word(&fields, "scope")?,
            distribution: word(&fields, "distribution")?,
        };
        it.save_service_link(&caller.actor, &name, &new).await
    };
    match saved.await {
        Ok(()) => Ok(redirect(&format!("/networks/net/{name}"), "The service link is saved.")),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&link_page(it, layout, name, fields).await?)
        }
    }
}

async fn endpoint_page(
    it: &Networks,
    caller: Caller,
    layout: Layout,
    network: String,
    fields: Fields,
) -> Result<EndpointPage> {
    let (state, path) = (|| State(it.clone()), || Path(network.clone()));
    let Json(classes) = api::classes(state(), caller.clone(), path()).await?;
    let Json(members) = api::members(state(), caller.clone(), path()).await?;
    let Json(service_links) = api::service_links(state(), caller, path()).await?;
    let Json(images) = api::images(state()).await?;
    let members = members.into_iter().filter(|m| m.evicted_at.is_none()).collect();
    Ok(EndpointPage { layout: layout.title("Endpoint"), network, classes, members, images, service_links, fields })
}

pub(super) async fn ask_endpoint(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
) -> Result<Response> {
    render(&endpoint_page(&it, caller, layout, name, Fields::default()).await?)
}

pub(super) async fn endpoint(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    mut fields: Fields,
) -> Result<Response> {
    owned(&it, &mut *it.fleet.db.read().await?, &caller, &name).await?;
    let saved = async {
        let port = fields.number_if_any("port")?;
        let place = fields.text("place").split_once(':').unwrap_or_default();
        let of = |kind: &str| if place.0 == kind { place.1.to_owned() } else { String::new() };
        let new = NewEndpoint {
            name: fields.text("name").into(),
            kind: word(&fields, "kind")?,
            class: of("class"),
            site: of("site"),
            image: fields.text("image").into(),
            tag: fields.text("tag").into(),
            arguments: fields.text("arguments").split_whitespace().map(str::to_owned).collect(),
            host: fields.text("host").into(),
            attachments: fields.all("attachments").into_iter().map(|link| (link.to_owned(), port)).collect(),
        };
        it.save_endpoint(&caller.actor, &name, &new).await
    };
    match saved.await {
        Ok(()) => Ok(redirect(&format!("/networks/net/{name}"), "The endpoint is saved; its sites get it now.")),
        Err(error) => {
            fields.refuse(error.renamed(&[("class", "place"), ("site", "place")]))?;
            render_refused(&endpoint_page(&it, caller, layout, name, fields).await?)
        }
    }
}
