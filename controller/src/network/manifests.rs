//! Backbones, application networks, services and images as manifests.
//!
//! A manifest says all of a thing: what it does not name is taken away, and refused where others stand on that. Each step
//! of carrying one out is a change of its own, as by hand; one that is refused leaves those before it, and applying the
//! manifest again goes on from there.

pub mod backbone;
mod network;

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;

use super::{
    api::{ImageSpec, Service, ServiceSpec, images_of},
    model::{check_name, check_port},
    service::Networks,
    store::{self, ServiceRow},
};
use crate::{
    error::{Error, Result},
    web::{
        Caller, ManifestKind, Outcome, Role,
        body::from_value,
        manifest::{Apply, Difference, outcome, schema_of},
    },
};

type Came = Result<(Outcome, Vec<Difference>)>;
type Applies = fn(Networks, Apply) -> BoxFuture<'static, Came>;
type Exports = fn(Networks, Caller) -> BoxFuture<'static, Result<Vec<(String, Value)>>>;

/// What the domain lets people declare, each kind after those it needs.
pub fn kinds(networks: &Networks) -> Vec<ManifestKind> {
    let one = |kind, schema, role, apply: Applies, export: Exports| {
        let (applying, exporting) = (networks.clone(), networks.clone());
        ManifestKind {
            kind,
            schema,
            role,
            apply: Arc::new(move |it| apply(applying.clone(), it)),
            export: Arc::new(move |caller| export(exporting.clone(), caller)),
        }
    };
    let service: (Applies, Exports) =
        (|it, apply| Box::pin(apply_service(it, apply)), |it, _| Box::pin(export_services(it)));
    let image: (Applies, Exports) = (|it, apply| Box::pin(apply_image(it, apply)), |it, _| Box::pin(export_images(it)));
    let backbone: (Applies, Exports) =
        (|it, apply| Box::pin(backbone::apply(it, apply)), |it, _| Box::pin(backbone::export(it)));
    let network: (Applies, Exports) =
        (|it, apply| Box::pin(network::apply(it, apply)), |it, caller| Box::pin(network::export(it, caller)));
    vec![
        one("network.service", schema_of::<ServiceSpec>(), Role::Operator, service.0, service.1),
        one("network.image", schema_of::<ImageSpec>(), Role::Operator, image.0, image.1),
        one("network.backbone", schema_of::<backbone::BackboneSpec>(), Role::Admin, backbone.0, backbone.1),
        // Who makes a network owns it; whose it is, is looked at when it is there.
        one("network.network", schema_of::<network::NetworkSpec>(), Role::Viewer, network.0, network.1),
    ]
}

// === the library ===

async fn apply_service(it: Networks, apply: Apply) -> Came {
    let spec: ServiceSpec = from_value("spec", apply.spec)?;
    check_name("name", &apply.name)?;
    check_port("spec.default_port", spec.default_port)?;
    let found: Option<ServiceRow> = store::one(&mut *it.fleet.db.read().await?, "name", &apply.name).await?;
    let before = found.map(Service::try_from).transpose()?.map(|service| service.spec);
    let came = outcome(before.as_ref().map(json).transpose()?.as_ref(), &json(&spec)?);
    if !apply.dry_run && came.0 != Outcome::Unchanged {
        it.save_service(&apply.caller.actor, &spec.row(apply.name)).await.map_err(|e| within("spec", e))?;
    }
    Ok(came)
}

async fn export_services(it: Networks) -> Result<Vec<(String, Value)>> {
    let rows: Vec<ServiceRow> = store::rows(&mut *it.fleet.db.read().await?, store::Of::All).await?;
    let services = rows.into_iter().map(Service::try_from);
    services.map(|service| service.and_then(|it| Ok((it.name, json(&it.spec)?)))).collect()
}

async fn apply_image(it: Networks, apply: Apply) -> Came {
    let mut spec: ImageSpec = from_value("spec", apply.spec)?;
    check_name("name", &apply.name)?;
    let mut conn = it.fleet.db.read().await?;
    let services: Vec<ServiceRow> = store::rows(&mut conn, store::Of::All).await?;
    let before =
        images_of(&mut conn).await?.into_iter().find(|image| image.name == apply.name).map(|i| ordered(i.spec));
    drop(conn);
    let known = |name: &str| {
        services.iter().find(|row| row.name == name).ok_or_else(|| Error::not_found("service of the library", name))
    };
    for offer in &mut spec.offers {
        offer.port.get_or_insert(known(&offer.service)?.default_port);
    }
    spec.requires.iter().try_for_each(|name| known(name).map(drop))?;
    let spec = ordered(spec);
    let came = outcome(before.as_ref().map(json).transpose()?.as_ref(), &json(&spec)?);
    if !apply.dry_run && came.0 != Outcome::Unchanged {
        it.save_image(&apply.caller.actor, &spec.named(apply.name)).await.map_err(|e| within("spec", e))?;
    }
    Ok(came)
}

async fn export_images(it: Networks) -> Result<Vec<(String, Value)>> {
    let images = images_of(&mut *it.fleet.db.read().await?).await?;
    images.into_iter().map(|image| Ok((image.name, json(&image.spec)?))).collect()
}

/// How services are listed makes no difference.
fn ordered(mut spec: ImageSpec) -> ImageSpec {
    spec.offers.sort_by(|a, b| a.service.cmp(&b.service));
    spec.requires.sort();
    spec
}

// === help ===

/// A mistake in a field, named as the manifest names it.
fn within(path: &str, error: Error) -> Error {
    match error {
        Error::Invalid { field, message } if field == "name" => Error::Invalid { field: path.into(), message },
        Error::Invalid { field, message } => Error::Invalid { field: format!("{path}.{field}"), message },
        other => other,
    }
}

fn json(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(Error::internal)
}
