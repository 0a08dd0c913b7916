//! The kit that every surface for people and programs is built with. Knows no domain.
//!
//! A route is added to [`Routes`] together with its [`Policy`]; there is no other way to add one, and the policy is
//! enforced in one place ([`gate`]). Handlers take [`Caller`], [`Body`], [`Query`], [`Paging`], [`Layout`] or [`Fields`]
//! and answer `Result<…, Error>`; whatever goes wrong becomes a problem answer (RFC 9457), or a page for a page.

pub mod assets;
pub mod body;
pub mod etag;
pub mod exposition;
pub mod form;
pub mod gate;
pub mod history;
pub mod home;
pub mod idempotency;
pub mod live;
pub mod manifest;
pub mod outside;
pub mod page;
pub mod paging;
pub mod policy;
pub mod problem;
pub mod routes;
pub mod screen;
pub mod serve;
pub mod url;
pub mod view;

pub use body::{Body, Query};
pub use form::Fields;
pub use gate::{Authenticate, Caller, Gate};
pub use manifest::{Applied, Manifest, ManifestKind, Outcome};
pub use page::{Layout, NavItem};
pub use paging::{Page, Paging};
pub use policy::{Access, Policy, Role};
pub use routes::Routes;
pub use url::encoded;

#[cfg(test)]
mod tests;
