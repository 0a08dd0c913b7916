mod manifests;
mod model;
mod plan;
mod service;
