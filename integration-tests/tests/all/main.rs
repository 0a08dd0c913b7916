//! Every story of the house: one binary, one file a subject.

mod ask;
mod blobs;
mod connector;
mod console;
mod crash;
mod database;
mod enrolment;
mod experiment;
mod malformed;
mod network;
mod replicas;
mod restored;
mod session;
mod staging;
mod tidy;
mod watchdog;
