//! Removals: what would go is shown before it is asked for.

use std::collections::BTreeMap;

use axum::{
    extract::{Path, State},
    response::Response,
};

use super::super::{
    api::owned,
    service::{Networks, What},
};
use crate::{
    error::{Error, Result, Standing},
    web::{Caller, Fields, Layout, page::redirect, screen::Confirm},
};

/// The screen that asks; where it leads back to; what is removed.
async fn screen(
    it: &Networks,
    caller: &Caller,
    layout: Layout,
    names: &BTreeMap<String, String>,
) -> Result<(Confirm, What)> {
    let what = What::of(names).ok_or_else(|| Error::not_found("page", &layout.path))?;
    let mut conn = it.fleet.db.read().await?;
    if let Some(network) = what.network() {
        owned(it, &mut conn, caller, network).await?;
    }
    let Standing { what: title, standing, cascade } = it.standing_on(&mut conn, &what).await?;
    let loss = match &what {
        What::Backbone(_) => " Its certificate authorities go with it.",
        What::Site(..) => " Its router is stopped by its agent.",
        What::Endpoint(..) => " It is withdrawn at every site that has it.",
        _ => "",
    };
    let question = match standing.is_empty() {
        true => format!("Nothing stands on {title}.{loss}"),
        false => format!("With {title} these go, which stand on it.{loss}"),
    };
    let button = if standing.is_empty() { "Remove it" } else { "Remove all of these" };
    let asked = Confirm::new(layout.title(format!("Remove {title}?")), question, button, what.page());
    Ok((asked.losses(standing, cascade), what))
}

pub(super) async fn ask(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(names): Path<BTreeMap<String, String>>,
) -> Result<Response> {
    screen(&it, &caller, layout, &names).await?.0.render()
}

pub(super) async fn remove(
    State(it): State<Networks>,
    caller: Caller,
    layout: Layout,
    Path(names): Path<BTreeMap<String, String>>,
    fields: Fields,
) -> Result<Response> {
    let (asked, what) = screen(&it, &caller, layout, &names).await?;
    match it.remove(&caller.actor, &what, Some(fields.text("cascade"))).await {
        Ok(()) => Ok(redirect(&what.page_after(), "It is removed.")),
        // Something came to stand on it while the question was open: the list is shown as it is now.
        Err(Error::Standing(_)) => {
            let changed = "What stands on it has changed since you looked. This is what would go now.";
            asked.refused(fields, Error::Conflict(changed.into()))
        }
        Err(error) => asked.refused(fields, error),
    }
}

// === impl What ===

impl What {
    /// The page that shows it.
    fn page(&self) -> String {
        match self {
            Self::Backbone(name) | Self::Link(name, _) => format!("/networks/backbones/{name}"),
            Self::Site(backbone, name) | Self::AccessPoint(backbone, name, _) => {
                format!("/networks/backbones/{backbone}/sites/{name}")
            }
            Self::ServiceLink(network, _) | Self::Endpoint(network, _) => format!("/networks/net/{network}"),
            Self::Service(_) | Self::Image(_) => "/networks/library".into(),
        }
    }

    /// The page to go on with once it is gone.
    fn page_after(&self) -> String {
        match self {
            Self::Backbone(_) => "/networks".into(),
            Self::Site(backbone, _) => format!("/networks/backbones/{backbone}"),
            _ => self.page(),
        }
    }
}
