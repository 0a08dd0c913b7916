//! Networks over REST: parse, call the service, render. No decisions.

mod backbone;
mod composition;
mod network;
mod removal;
mod rotation;
mod status;
mod tables;

pub use backbone::{AccessPoint, Backbone, CreateLink, Link, Site, backbones, links_of, site, sites};
pub use composition::{
    Allocation, Endpoint, EndpointSpec, Image, ImageSpec, Service, ServiceLink, ServiceLinkSpec, ServiceSpec,
    allocations, endpoints_of, images, images_of, service_links, service_links_of, services,
};
pub use network::{
    Invitation, Member, Network, SiteClass, classes, classes_of, invitations, invitations_of, members, members_of,
    network, network_of, networks, owned,
};
pub use rotation::{Rotation, rotation_of};
pub use status::{
    LinkState, NetworkStatus, SiteStatus, Topology, member_status, network_status_of, site_status, topology_of,
};
pub use tables::TableQuery;

use super::service::Networks;
use crate::web::Routes;

/// The routes of the domain.
pub fn routes(networks: Networks) -> Routes {
    let routes = composition::add(network::add(backbone::add(Routes::new())));
    tables::add(rotation::add(status::add(routes))).with_state(networks)
}
