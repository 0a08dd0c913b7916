//! The controller: database, PKI, planners, API and console of one house.
//!
//! Each module may use those before it: `error` < `platform` (database, clock, history, queue, the one loop) < `web` (the
//! kit of every surface) < `access` (people) < `certificate` < `fleet` (agents; the one door to them is `fleet::desired`) <
//! `domain` (what a domain brings) < the domains, which never use one another < `config`, `ops` < `app`, the composition
//! root, and `cli`, which talks to the API alone.
//!
//! The same file names mean the same everywhere: `model.rs` types and transitions, pure · `plan.rs` snapshot → plan, pure ·
//! `store.rs` all SQL · `service.rs` use cases: load → decide → write in one transaction · `reconcile.rs` loops ·
//! `wire.rs` model to and from the wire · `api.rs`, `pages.rs` parse, call the service, render · `templates/`, `tests/`.

pub mod access;
pub mod app;
pub mod certificate;
pub mod cli;
pub mod config;
pub mod domain;
pub mod error;
pub mod experiment;
pub mod fleet;
pub mod network;
pub mod ops;
pub mod platform;
pub mod staging;
#[cfg(test)]
mod testing;
pub mod web;
