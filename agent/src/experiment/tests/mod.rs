mod environments;
mod executors;
mod images;
mod pipelines;
mod plans;
mod relay;
mod rig;
