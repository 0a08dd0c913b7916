mod model;
mod order;
mod pickle;
mod plan;
mod replay;
mod rig;
mod service;
mod spec;
