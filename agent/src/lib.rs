//! The agent.
pub mod crash;
mod durable;
pub mod ledger;
pub mod driver;
pub mod host;
pub mod spool;
pub mod config;
pub mod staging;
