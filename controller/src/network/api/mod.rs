//! Networks over REST: parse, call the service, render. No decisions.

mod backbone;
mod composition;
mod network;
mod status;

use super::service::Networks;
use crate::web::Routes;

/// The routes of the domain.
pub fn routes(networks: Networks) -> Routes {
    status::add(composition::add(network::add(backbone::add(Routes::new())))).with_state(networks)
}
