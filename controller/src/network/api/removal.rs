//! How removals are asked for.

use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    super::service::{Networks, What},
    network::owned,
};
use crate::{error::Result, web::Caller};

/// Whether what stands on a thing goes with it.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Cascade {
    /// Removes what stands on it too: the `cascade` that the refusal gave beside the list of it. Anything else is refused
    /// with that list, and nothing is removed: so `?cascade=` is a way to look.
    pub cascade: Option<String>,
}

/// Removes something, if it is the caller's to remove.
pub async fn removed(it: &Networks, caller: &Caller, what: &What, how: &Cascade) -> Result<StatusCode> {
    if let Some(network) = what.network() {
        owned(it, &mut *it.fleet.db.read().await?, caller, network).await?;
    }
    it.remove(&caller.actor, what, how.cascade.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}
