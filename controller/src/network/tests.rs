mod composition;
mod model;
mod plan;
mod service;
mod status;
