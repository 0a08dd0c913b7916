//! The house in one process: a real controller, real agents, a fake host at the very edge. See [`World`].

pub mod browser;
pub mod cable;
pub mod cluster;
pub mod engine;
pub mod host;
pub mod lab;
pub mod network;
pub mod processes;
pub mod raw;
pub mod site;
pub mod world;

pub use world::World;
