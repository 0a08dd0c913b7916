//! The ground everything stands on. Knows no domain.
//!
//! [`db`] one writer and many readers over either engine · [`clock`] · [`id`] · [`events`] the append-only history ·
//! [`wake`] hints that something changed · [`reconcile`] the one loop · [`jobs`] the durable queue · [`lease`] one holder
//! among replicas · [`batch`] many small writes as one · [`blobs`] large bytes by digest · [`program`] what an
//! administrator installed to be run · [`setting`] single values · [`crash`] where tests pull the plug.

pub mod batch;
pub mod blobs;
pub mod clock;
pub mod crash;
pub mod db;
pub mod events;
pub mod id;
pub mod jobs;
pub mod lease;
pub mod program;
pub mod reconcile;
pub mod setting;
pub mod wake;

#[cfg(test)]
mod tests;
