mod composition;
mod manifests;
mod model;
mod picture;
mod plan;
mod rotation;
mod service;
mod status;
