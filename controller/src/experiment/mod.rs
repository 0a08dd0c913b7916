//! Experiments: pipelines of tasks on pools of nodes, for netunicorn's own clients and natively.
//!
//! Words: a *node* is an agent of class `experiment-node`; an *experiment* has *deployments*, one executor on one node each;
//! an *environment* is what an executor runs in, named by the digest of what defines it; a *flag* is a value that nodes
//! share. Invariants: a node is taken by one user at a time, from prepare to the end; nothing runs twice; cancel wins over
//! prepare and start; an experiment ends when its last executor's end is stored. Graphs and results are opaque bytes:
//! nothing here ever opens a pickle.

pub mod api;
mod environment;
pub mod model;
mod moving;
mod netunicorn;
pub mod node;
mod order;
mod pages;
mod pickle;
mod plan;
mod reconcile;
pub mod run;
mod service;
pub mod spec;
mod store;
mod wire;

pub use reconcile::Reconcile;
pub use service::{Experiments, User};

use crate::{
    domain::{Context, Domain, Entry, Loop},
    platform::wake::AGENTS,
    web::{NavItem, Role},
};

/// The domain's line in `app`.
pub const ENTRY: Entry = Entry { name: "experiment", asks: service::asks, open };

fn open(context: &Context) -> Domain {
    let experiments = Experiments { fleet: context.fleet.clone(), blobs: context.blobs.clone() };
    let here_since = context.db.clock().now();
    let keep_environments = (context.environment_days > 0).then(|| i64::from(context.environment_days) * 86_400_000);
    let reconcile = Reconcile { experiments: experiments.clone(), here_since, keep_environments };
    let api = api::Api { experiments, access: context.access.clone() };
    Domain {
        routes: netunicorn::routes(api.clone()).merge(api::routes(api.clone())),
        pages: pages::routes(api.clone()),
        nav: vec![NavItem { label: "Experiments", href: "/experiments", role: Role::Viewer }],
        cards: vec![pages::card(api)],
        loops: vec![Loop::new("experiment", reconcile, context.db.wake().listen(&["experiment", AGENTS]))],
        ..Domain::default()
    }
}

#[cfg(test)]
mod tests;
