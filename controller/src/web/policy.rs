//! Who may use a route, and how much it takes in. Pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a body may hold unless its route says more, bytes.
pub const BODY_LIMIT: usize = 1024 * 1024;

/// What a person may do. Each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Runs things.
    Operator,
    /// Also decides who may.
    Admin,
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Anybody who is known.
    LoggedIn,
    /// Who has at least this role.
    Role(Role),
    /// Whoever the thing belongs to, and who has at least this role. The gate lets everybody in who is known; the handler
    /// asks [`Caller::must_own`](super::Caller::must_own) once it knows whose the thing is.
    Owner(Role),
}

/// What the gate asks before a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Who may.
    pub access: Access,
    /// The largest body, bytes.
    pub body_limit: usize,
    /// Whether an `Idempotency-Key` is honoured: the same key and body get the first answer again.
    pub idempotent: bool,
    /// Open also to those who must change their password first.
    pub before_change: bool,
}

// === impl Role ===

impl Role {
    /// The word in the database and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|r| r.word() == word)
    }
}

// === impl Policy ===

impl Policy {
    /// A policy with the usual body limit.
    pub const fn new(access: Access) -> Self {
        Self { access, body_limit: BODY_LIMIT, idempotent: false, before_change: false }
    }

    /// Anybody.
    pub const fn public() -> Self {
        Self::new(Access::Public)
    }

    /// Anybody who is known.
    pub const fn logged_in() -> Self {
        Self::new(Access::LoggedIn)
    }

    /// Viewers and up.
    pub const fn viewer() -> Self {
        Self::new(Access::Role(Role::Viewer))
    }

    /// Operators and up.
    pub const fn operator() -> Self {
        Self::new(Access::Role(Role::Operator))
    }

    /// Admins.
    pub const fn admin() -> Self {
        Self::new(Access::Role(Role::Admin))
    }

    /// Whoever the thing belongs to, and `role` and up.
    pub const fn owner_or(role: Role) -> Self {
        Self::new(Access::Owner(role))
    }

    /// With another body limit, bytes.
    pub const fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// With `Idempotency-Key` honoured: for creates.
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Open also to those who must change their password first.
    pub const fn before_change(mut self) -> Self {
        self.before_change = true;
        self
    }
}

// === impl Access ===

impl Access {
    /// Whether somebody of this role, or nobody in particular, is let in.
    pub fn admits(self, role: Option<Role>) -> bool {
        match (self, role) {
            (Self::Public, _) | (Self::LoggedIn | Self::Owner(_), Some(_)) => true,
            (Self::Role(least), Some(role)) => role >= least,
            (_, None) => false,
        }
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::LoggedIn => f.write_str("logged-in"),
            Self::Role(role) => f.write_str(role.word()),
            Self::Owner(role) => write!(f, "owner|{}", role.word()),
        }
    }
}
