//! Whether a proven identity is welcome.
//!
//! TLS proves chain and possession. Whether the identity may act is judged here, from the certificate's times and what
//! the database knows, after every handshake and again on each call: on a resumed session no verifier runs at all.

/// What the database knows of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// A person took it away.
    pub revoked: bool,
    /// The certificate shown has been replaced by one that was used.
    pub superseded: bool,
    /// The issuer is retired: its certificates may only be renewed.
    pub former_issuer: bool,
}

/// The judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Welcome.
    Ok,
    /// Its time is over; it may renew.
    Expired,
    /// Its time is over for longer than the grace window.
    ExpiredBeyondGrace,
    /// Its time has not begun.
    NotYetValid,
    /// A person took it away.
    Revoked,
    /// A newer certificate of the same identity has been used.
    Superseded,
    /// The database does not know it.
    Unknown,
}

/// Judges an identity at `now`. `grace` is how long after its end a certificate may still be renewed, milliseconds.
///
/// What a person decided comes before what a clock says, so that a revoked agent is told so even when its certificate
/// has expired as well.
pub fn judge(known: Option<Known>, not_before: i64, not_after: i64, now: i64, grace: i64) -> Standing {
    let Some(known) = known else { return Standing::Unknown };
    if known.revoked {
        Standing::Revoked
    } else if known.superseded {
        Standing::Superseded
    } else if now < not_before {
        Standing::NotYetValid
    } else if now >= not_after.saturating_add(grace) {
        Standing::ExpiredBeyondGrace
    } else if now >= not_after || known.former_issuer {
        Standing::Expired
    } else {
        Standing::Ok
    }
}

impl Standing {
    /// Whether the identity may trade its certificate for a newer one.
    pub fn may_renew(self) -> bool {
        matches!(self, Self::Ok | Self::Expired)
    }
}
