mod model;
mod order;
mod plan;
mod replay;
mod rig;
mod service;
