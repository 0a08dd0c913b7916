mod composition;
mod model;
mod plan;
mod rotation;
mod service;
mod status;
