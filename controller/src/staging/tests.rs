mod form;
mod history;
mod model;
mod plan;
mod service;
