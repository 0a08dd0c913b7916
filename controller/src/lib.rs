//! The controller: database, PKI, planners, API and console of one house.

pub mod access;
pub mod app;
pub mod certificate;
pub mod cli;
pub mod config;
pub mod domain;
pub mod error;
pub mod fleet;
pub mod ops;
pub mod platform;
pub mod staging;
#[cfg(test)]
mod testing;
pub mod web;
