mod contract;
mod peer;
mod plans;
mod processes;
mod rig;
mod stories;
