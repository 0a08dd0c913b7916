mod plans;
mod rig;
mod stories;
