//! Preview deployments: created, updated, archived, restored and cleaned up through wrapper executables on a host.
//!
//! Words: a *project* says how its stagings are made; a *staging* is one preview, placed on one agent; an *operation* is one
//! run of a wrapper on its behalf and one line of the action log; the *watch* runs `check` or `archive_check` again and
//! again. Invariants: one operation at a time; a status changes by the transition table alone, on evidence; only a check
//! begun after the wrapper ended counts. It does not know what the wrappers do.

pub mod api;
mod form;
mod manifests;
pub mod model;
mod pages;
pub mod plan;
mod reconcile;
pub mod service;
mod store;
mod wire;

pub use reconcile::Reconcile;
pub use service::Staging;

use crate::{
    domain::{Context, Domain, Entry, Loop},
    platform::wake::AGENTS,
    web::{NavItem, Role},
};

/// The domain's line in `app`.
pub const ENTRY: Entry = Entry { name: "staging", asks: service::asks, open };

fn open(context: &Context) -> Domain {
    let staging = Staging { fleet: context.fleet.clone() };
    let reconcile = Reconcile { staging: staging.clone() };
    Domain {
        routes: api::routes(staging.clone()),
        pages: pages::routes(staging.clone()),
        nav: vec![NavItem { label: "Stagings", href: "/staging", role: Role::Viewer }],
        cards: vec![pages::card(staging.clone())],
        loops: vec![Loop::new("staging", reconcile, context.db.wake().listen(&["staging", AGENTS]))],
        manifests: manifests::kinds(&staging),
        ..Domain::default()
    }
}

#[cfg(test)]
mod tests;
