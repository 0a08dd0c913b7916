//! Times of the house's certificates. Pure.

const DAY: i64 = 86_400_000;

/// Life of a root, milliseconds.
pub const ROOT_LIFE: i64 = 3650 * DAY;

/// Life of an issuing authority, milliseconds.
pub const ISSUING_LIFE: i64 = 365 * DAY;

/// Life of an authority of a backbone or an application network, milliseconds.
pub const LINE_LIFE: i64 = 730 * DAY;

/// Life of a router's leaf, milliseconds.
pub const ROUTER_LIFE: i64 = 30 * DAY;

/// Life of a listener's leaf, milliseconds.
pub const LISTENER_LIFE: i64 = 90 * DAY;

/// A key writes tickets for this long, milliseconds; the one before it is still read.
pub const TICKET_KEY_LIFE: i64 = DAY / 4;

/// How long leaves live and may be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// Life of an agent's leaf, milliseconds.
    pub agent: i64,
    /// How long after its end it may still be renewed, milliseconds.
    pub grace: i64,
}

impl Default for Lives {
    fn default() -> Self {
        Self { agent: DAY, grace: 30 * DAY }
    }
}

/// Whether a listener needs a new leaf: a third of its life is left, or its issuer is not the active one.
pub fn should_renew_listener(not_after: i64, issued_by_active: bool, now: i64) -> bool {
    !issued_by_active || now >= not_after - LISTENER_LIFE / 3
}

/// Whether a new ticket key is due, from the time the newest was made.
pub fn should_renew_tickets(newest: Option<i64>, now: i64) -> bool {
    newest.is_none_or(|at| now >= at + TICKET_KEY_LIFE)
}
