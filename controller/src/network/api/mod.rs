//! Networks over REST: parse, call the service, render. No decisions.

mod backbone;
mod composition;
mod network;
mod rotation;
mod status;

pub(in crate::network) use {
    backbone::{Backbone, Site, backbones, site, sites},
    composition::{Endpoint, Image, Service, ServiceLink, endpoints, images, service_links, services},
    network::{
        Invitation, Member, Network, SiteClass, classes, invitations, members, members_of, network, networks, owned,
    },
    rotation::{Rotation, rotation_of},
    status::{LinkState, NetworkStatus, SiteStatus, Topology, member_status, network_status, site_status, topology_of},
};

use super::service::Networks;
use crate::web::Routes;

/// The routes of the domain.
pub fn routes(networks: Networks) -> Routes {
    rotation::add(status::add(composition::add(network::add(backbone::add(Routes::new()))))).with_state(networks)
}
