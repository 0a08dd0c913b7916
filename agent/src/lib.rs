//! The agent.
pub mod crash;
mod durable;
pub mod ledger;
pub mod host;
