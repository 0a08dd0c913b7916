//! How a [`Refusal`] travels: encoded in the details of a gRPC status.

use prost::Message;
use tonic::{Code, Status};

use crate::fleet::{Refusal, refusal::Reason};

/// The status that carries a refusal.
pub fn into_status(refusal: &Refusal) -> Status {
    let code = match refusal.reason() {
        Reason::Busy | Reason::Leaving => Code::Unavailable,
        Reason::Protocol => Code::FailedPrecondition,
        Reason::Clone => Code::AlreadyExists,
        Reason::Invitation => Code::PermissionDenied,
        _ => Code::Unauthenticated,
    };
    Status::with_details(code, refusal.message.clone(), refusal.encode_to_vec().into())
}

/// The refusal in a status, if home put one there.
pub fn from_status(status: &Status) -> Option<Refusal> {
    let refusal = Refusal::decode(status.details()).ok()?;
    (refusal.reason() != Reason::Unspecified).then_some(refusal)
}
