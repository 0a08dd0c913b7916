pub(super) mod dev;
