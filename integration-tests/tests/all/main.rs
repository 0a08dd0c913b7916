//! Every story of the house: one binary, one file a subject.

mod enrolment;
mod session;
mod staging;
