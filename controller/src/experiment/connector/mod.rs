//! Connectors: servers that bring nodes which are no agents, spoken to in netunicorn's own words.
//!
//! A connector is asked by one replica at a time, one question an experiment at a time; each fares by itself, so that one
//! that fails takes no other along. Its executors speak to the gateway, under a secret that only the connector was told.

pub mod api;
mod client;
pub mod gateway;
pub mod model;
pub mod reconcile;
pub(super) mod service;
pub(super) mod store;
