//! Session tickets under keys that outlive the process.
//!
//! The keys come from the database, shared by every replica: a restarted controller resumes the sessions of the one
//! before it. A ticket proves an earlier handshake and nothing else; standing is judged anew after each resumption.

use std::sync::{Arc, RwLock};

use rustls::server::ProducesTickets;

use crate::seal::SealKey;

const PURPOSE: &str = "tls ticket";

/// How long a client may keep a ticket, seconds.
const LIFETIME_SECS: u32 = 12 * 3600;

/// One key for tickets.
#[derive(Debug, Clone)]
pub struct TicketKey(Arc<SealKey>);

impl TicketKey {
    /// A key from its 32 bytes.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(Arc::new(SealKey::new(bytes)))
    }
}

/// The keys in use: the first writes tickets, all read them.
#[derive(Debug, Default)]
pub struct Tickets(RwLock<Vec<TicketKey>>);

// === impl Tickets ===

impl Tickets {
    /// Puts newer keys in place, newest first.
    pub fn replace(&self, keys: Vec<TicketKey>) {
        *self.0.write().expect("no holder of this lock panics") = keys;
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.0.read().expect("no holder of this lock panics").is_empty()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.0.read().expect("no holder of this lock panics");
        Some(keys.first()?.0.seal(PURPOSE, plain))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let keys = self.0.read().expect("no holder of this lock panics");
        keys.iter().find_map(|key| key.0.open(PURPOSE, cipher).ok())
    }
}
