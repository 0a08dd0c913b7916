//! Networks over REST: parse, call the service, render. No decisions.

mod backbone;
mod composition;
mod network;

pub use backbone::{AccessPoint, CreateLink, Link, links_of};
pub use composition::{
    EndpointSpec, ImageSpec, Service, ServiceLink, ServiceLinkSpec, ServiceSpec, endpoints_of, images_of,
};

use super::service::Networks;
use crate::web::Routes;

/// The routes of the domain.
pub fn routes(networks: Networks) -> Routes {
    composition::add(network::add(backbone::add(Routes::new()))).with_state(networks)
}
