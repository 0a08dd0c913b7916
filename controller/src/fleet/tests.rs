mod blobs;
mod desired;
mod enroll;
mod history;
mod line;
mod logs;
mod model;
mod pages;
