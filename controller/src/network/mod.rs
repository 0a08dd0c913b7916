//! Backbones of routers, and the application networks on them.
//!
//! Words: a *backbone* is a set of *interior sites*, each with a router, joined by *links* that lead to *access points*; an
//! *application network* belongs to a user and lives for a time; *member sites* join it by *invitation* and hang on access
//! points; a *service link* is a name under which *endpoints* (processes, ingresses, egresses) find one another. A
//! *profile* is a key with its leaf at one site.
//!
//! Invariants: what a site is to be follows from the rows alone, by one pure plan; a change is planned for the sites it
//! concerns and put before their agents in its own transaction; an edge's leaf is believed by its own network's listeners
//! alone. It does not know how a router is told: its agents do.

mod api;
mod manifests;
pub mod model;
mod pages;
mod picture;
pub mod plan;
mod reconcile;
mod rotation;
mod service;
mod status;
mod store;
mod wire;

pub use reconcile::Reconcile;
pub use service::Networks;

use crate::{
    domain::{Context, Domain, Entry, Loop},
    platform::wake::AGENTS,
};

/// The domain's line in `app`.
pub const ENTRY: Entry = Entry { name: "network", asks: service::asks, open };

fn open(context: &Context) -> Domain {
    let networks = Networks { fleet: context.fleet.clone() };
    let reconcile = Reconcile { networks: networks.clone(), planned: None };
    Domain {
        manifests: manifests::kinds(&networks),
        routes: api::routes(networks.clone()),
        pages: pages::routes(networks.clone()),
        nav: vec![pages::NAV],
        cards: vec![pages::card(networks)],
        loops: vec![Loop::new("network", reconcile, context.db.wake().listen(&["network", AGENTS]))],
        ..Domain::default()
    }
}

#[cfg(test)]
mod tests;
