mod model;
mod plan;
mod service;
