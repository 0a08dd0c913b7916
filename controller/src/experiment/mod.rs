//! Experiments: pipelines of tasks on pools of nodes, for netunicorn's own clients and natively.
//!
//! Words: a *node* is an agent of class `experiment-node`; an *experiment* has *deployments*, one executor on one node each;
//! an *environment* is what an executor runs in, named by the digest of what defines it; a *flag* is a value that nodes
//! share. Invariants: a node is taken by one user at a time, from prepare to the end; nothing runs twice; cancel wins over
//! prepare and start; an experiment ends when its last executor's end is stored. Graphs and results are opaque bytes:
//! nothing here ever opens a pickle.

pub mod api;
pub mod connector;
mod environment;
mod forget;
pub mod model;
mod moving;
mod netunicorn;
pub mod node;
mod observe;
mod order;
mod pages;
mod pickle;
mod plan;
mod pool;
mod postprocess;
mod processor;
mod reconcile;
pub mod run;
mod service;
pub mod spec;
mod store;
mod wire;

pub use connector::reconcile::Calls;
pub use postprocess::Postprocess;
pub use reconcile::Reconcile;
pub use service::{Experiments, User};

use std::{collections::BTreeMap, sync::Arc};

use self::connector::gateway::{Beats, Gateway};
use crate::{
    domain::{Context, Domain, Entry, Loop},
    platform::wake::{AGENTS, Activator},
    web::{NavItem, Role},
};

/// The domain's line in `app`.
pub const ENTRY: Entry = Entry { name: "experiment", asks: service::asks, open };

fn open(context: &Context) -> Domain {
    let experiments = Experiments {
        fleet: context.fleet.clone(),
        blobs: context.blobs.clone(),
        asking: Arc::default(),
        processors: context.processors.clone(),
    };
    let reconcile = Reconcile {
        experiments: experiments.clone(),
        here_since: context.db.clock().now(),
        forgot: None,
        keep_environments: (context.environment_days > 0).then(|| i64::from(context.environment_days) * 86_400_000),
    };
    let postprocess = Postprocess { experiments: experiments.clone(), under_way: BTreeMap::new() };
    let calls = Calls::new(experiments.clone());
    let gateway = Gateway::new(experiments.clone());
    let beats = Beats { gateway: gateway.clone() };
    let api = api::Api { experiments, access: context.access.clone() };
    Domain {
        routes: netunicorn::routes(api.clone()).merge(gateway.routes()).merge(api::routes(api.clone())),
        pages: pages::routes(api.clone()),
        nav: vec![NavItem { label: "Experiments", href: "/experiments", role: Role::Viewer }],
        cards: vec![pages::card(api)],
        loops: vec![
            Loop::new("experiment", reconcile, context.db.wake().listen(&["experiment", AGENTS])),
            Loop::new("gateway", beats, Activator::default()),
            Loop::new("connector", calls, context.db.wake().listen(&[connector::reconcile::TOPIC])),
            Loop::new("experiment-postprocess", postprocess, context.db.wake().listen(&["experiment"])),
        ],
        ..Domain::default()
    }
}

#[cfg(test)]
mod tests;
