//! The agent: one program on a host that nobody can dial into. It calls home, receives what the host should be, and
//! reports what it is.
//!
//! - [`link`] is the one stream to home, over [`dial`], as the [`identity`] that home gave.
//! - [`ledger`] is what must not be forgotten; [`spool`] is what is to be said; [`blobs`] are bytes too large for either.
//! - [`driver`] judges what arrives and runs any driver by one loop; [`settings`], [`network`] and [`staging`] are drivers.
//! - [`experiment`] is one more: executors of experiments.
//! - [`host`] is the only door to the machine, [`crash`] the list of places at which tests cut the power.
//! - [`app`] puts one agent together; [`config`] is its owner's word, [`status`], [`doctor`] and [`console`] are for people,
//!   [`flag`] for tasks.
//!
//! Imports point one way: `host`, `ledger` ← `spool`, `blobs` ← `driver` ← domains ← `app`. Generated types of the wire appear
//! in `link`, `identity`, `settings` and each domain's `wire` alone.

pub mod app;
pub mod blobs;
pub mod config;
pub mod console;
pub mod crash;
pub mod dial;
pub mod doctor;
pub mod driver;
mod durable;
pub mod experiment;
pub mod flag;
pub mod host;
pub mod identity;
pub mod ledger;
pub mod link;
pub mod network;
pub mod settings;
pub mod spool;
pub mod staging;
pub mod status;
