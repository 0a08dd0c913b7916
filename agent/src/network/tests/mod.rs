mod contract;
mod pages;
mod peer;
mod plans;
mod processes;
mod rig;
mod rotation;
mod stories;
