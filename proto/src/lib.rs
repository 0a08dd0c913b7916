//! The wire between agents and home, as Rust.
//!
//! The `.proto` files beside this crate are the text to read: every frame is described there. This crate adds only
//! what both sides must agree on and protobuf cannot say: the invitation token's spelling ([`token`]), how a
//! [`fleet::Refusal`] travels in a status ([`refusal`]), buffer sizes ([`codec`]) and the limits below.

pub mod codec;
pub mod refusal;
pub mod token;

/// `muster.experiment.v1`: documents, results and questions of the experiment domain.
#[expect(missing_docs, clippy::all, reason = "generated; the .proto file holds the descriptions")]
pub mod experiment {
    tonic::include_proto!("muster.experiment.v1");
}

/// `muster.fleet.v1`: enrolment, the stream, blobs.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated; the .proto file holds the descriptions"
)]
pub mod fleet {
    tonic::include_proto!("muster.fleet.v1");
}

/// `muster.network.v1`: documents, results and questions of the network domain.
#[expect(missing_docs, clippy::all, reason = "generated; the .proto file holds the descriptions")]
pub mod network {
    tonic::include_proto!("muster.network.v1");
}

/// `muster.staging.v1`: documents and results of the staging domain.
#[expect(missing_docs, clippy::all, reason = "generated; the .proto file holds the descriptions")]
pub mod staging {
    tonic::include_proto!("muster.staging.v1");
}

/// The whole wire as an encoded `FileDescriptorSet`, for reflection and for the test that pins it.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// Protocol versions this build speaks, oldest and newest, inclusive.
pub const PROTOCOL: (u32, u32) = (1, 1);

/// A document or a report, bytes; larger things travel as blobs.
pub const MAX_DOCUMENT: usize = 256 * 1024;

/// One frame, bytes: a Hello of [`MAX_HELD`] assignments fits with room.
pub const MAX_FRAME: usize = 4 * 1024 * 1024;

/// One message before an identity exists, bytes.
pub const MAX_ENROLL: usize = 64 * 1024;

/// Assignments one agent may hold.
pub const MAX_HELD: usize = 4096;

/// Bytes of a blob in one chunk …
pub const BLOB_PIECE: usize = 256 * 1024;

/// … and the whole message, with what it is wrapped in.
pub const MAX_CHUNK: usize = BLOB_PIECE + 64 * 1024;

/// Bytes under way on one stream that its reader has not taken: what a slow connection must carry before a ping.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// The most output one log frame carries, bytes.
pub const MAX_LOG_PIECE: usize = 64 * 1024;

/// Output that home keeps of one stream of one attempt, bytes; beyond it head and tail remain.
pub const MAX_LOG: u64 = 10 * 1024 * 1024;

/// Pings go out both ways this often, seconds …
pub const PING_EVERY_SECS: u64 = 30;

/// … and a peer that leaves one unanswered this long, seconds, is gone.
pub const PING_WAIT_SECS: u64 = 15;

/// Kind of the document that tells every agent about its home.
pub const KIND_SETTINGS: &str = "fleet.settings";

/// Kind of the once work that prepares an executor's environment and folder.
pub const KIND_EXPERIMENT_DEPLOYMENT: &str = "experiment.deployment";

/// Kind of the once work that runs an executor.
pub const KIND_EXPERIMENT_EXECUTOR: &str = "experiment.executor";

/// Kind of the once work that removes what an executor left.
pub const KIND_EXPERIMENT_CLEANUP: &str = "experiment.cleanup";

/// Kind of the standing document of one site of a network: its router and what it connects.
pub const KIND_NETWORK_SITE: &str = "network.site";

/// Kind of the once work that runs one wrapper.
pub const KIND_STAGING_OPERATION: &str = "staging.operation";

/// Kind of the standing check of one staging.
pub const KIND_STAGING_WATCH: &str = "staging.watch";

#[cfg(test)]
mod tests;
