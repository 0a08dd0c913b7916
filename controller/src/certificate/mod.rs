//! Every authority and leaf of the house as rows: issue, renew, revoke, rotate. The database side of the PKI.
//!
//! Words: a *line* is the house, a backbone or an application network, each with authorities of its own; an *authority* is a root or an issuing CA and goes prepared → active → former → retired; a *leaf* is what it
//! issued. Invariants: an authority's key is sealed before it is stored; a leaf's names come from its caller; one issuing
//! authority is active at a time. It does not judge who may connect: `fleet` does, with what is read here.

pub mod api;
mod line;
pub mod model;
pub mod pages;
mod reconcile;
mod service;
mod store;

pub use line::RouterLeaf;
pub use reconcile::Rotation;
pub use service::{Certificates, House};
pub use store::{LeafRow, ends, leaves};

#[cfg(test)]
mod tests;
