//! rustls for both ends of the wire. TLS 1.3 alone, X25519MLKEM768 offered first.

mod client;
mod server;
mod ticket;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use client::{Identity, Trust, client};
pub use server::{Presented, server, server_without_clients};
pub use ticket::{TicketKey, Tickets};

/// What gRPC negotiates.
pub const ALPN_H2: &[u8] = b"h2";

/// The cryptography of the house.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
