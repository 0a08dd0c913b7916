//! People, and what they may: users, web sessions, API tokens, roles.
//!
//! Words: a *session* is a browser's log-in, a *token* a program's; both are rows, hold only a hash of their secret, and end
//! at once when their user is disabled. Invariants: there is always an admin who can log in; a token may no more than its
//! owner; a wrong name costs as much time as a wrong password; no password is ever in an event or a log.

mod api;
pub mod model;
pub mod pages;
mod password;
mod service;
mod store;

pub use api::{
    CreatedToken, LogIn, LoggedIn, Me, NewPassword, NewToken, NewUser, OwnPassword, SessionInfo, TokenInfo, User,
    UserCreated, Want, routes,
};
pub use model::UserChange;
pub use service::{Access, Entrance};

#[cfg(test)]
mod tests;
