mod composition;
mod manifests;
mod model;
mod plan;
mod rotation;
mod service;
mod status;
