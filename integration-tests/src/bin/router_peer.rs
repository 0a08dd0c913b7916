//! The stand-in for a router as a program: what agents start in stories where no router is installed.

#[expect(clippy::unwrap_used, reason = "it is a part of the agent's tests")]
#[path = "../../../agent/src/network/tests/peer.rs"]
mod peer;

use std::{env, path::Path, process::ExitCode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // As the router is called: `-c` and the start-up file.
    let Some(peer) = env::args().nth(2).and_then(|file| peer::Peer::start(Path::new(&file))) else {
        return ExitCode::FAILURE;
    };
    eprintln!("a stand-in for a router listens at {:?}", peer.listens());
    std::future::pending().await
}
