mod history;
mod model;
mod plan;
