//! Connectors over REST: parse, call the service, render.

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::{
    model::{ConnectorSpec, Health},
    store::{self, ConnectorRow},
};
use crate::{
    error::{Error, Result},
    experiment::{api::Api, service::Experiments},
    web::{
        Body, Caller, Policy, Routes,
        etag::{ETag, IfMatch},
    },
};

/// A connector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectorView {
    /// Its name, which its nodes carry as `connector`.
    pub name: String,
    /// Where its server listens.
    pub url: String,
    /// Where its executors reach this controller; empty: where people reach the console.
    pub gateway: String,
    /// Whether it is asked at all.
    pub enabled: bool,
    /// How it fares.
    pub health: Health,
    /// Its own words while it is well, else what went wrong.
    pub why: String,
    /// Since when it fares like that, milliseconds since the Unix epoch.
    pub health_at: i64,
    /// How often it failed in a row.
    pub failures: i64,
    /// When it is looked at again, milliseconds since the Unix epoch.
    pub next_at: i64,
    /// For `If-Match`.
    pub version: i64,
}

/// The routes of connectors.
pub fn routes() -> Routes<Api> {
    Routes::new()
        .add(Policy::logged_in(), routes!(connectors))
        .add(Policy::admin(), routes!(put_connector))
        .add(Policy::admin(), routes!(remove_connector))
}

/// Lists connectors and how they fare
#[utoipa::path(get, path = "/api/v1/experiment/connectors", tag = "experiment",
    responses((status = 200, body = Vec<ConnectorView>)))]
async fn connectors(State(api): State<Api>) -> Result<Json<Vec<ConnectorView>>> {
    Ok(Json(connector_views(&api.experiments).await?))
}

/// Connectors, by name.
pub async fn connector_views(experiments: &Experiments) -> Result<Vec<ConnectorView>> {
    let rows = store::connectors(&mut *experiments.fleet.db.read().await?).await?;
    rows.into_iter().map(ConnectorView::try_from).collect()
}

/// Adds or changes a connector
#[utoipa::path(put, path = "/api/v1/experiment/connectors/{name}", tag = "experiment",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header)), request_body = ConnectorSpec,
    responses((status = 200, body = ConnectorView), (status = 201, body = ConnectorView)))]
async fn put_connector(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    IfMatch(version): IfMatch,
    Body(spec): Body<ConnectorSpec>,
) -> Result<(StatusCode, ETag, Json<ConnectorView>)> {
    let is_new = api.experiments.save_connector(&caller.actor, &name, &spec, version).await?;
    let row = store::connector(&mut *api.experiments.fleet.db.read().await?, &name).await?;
    let row = row.ok_or_else(|| Error::not_found("connector", name))?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, ETag(row.version), Json(row.try_into()?)))
}

/// Removes a connector whose executors have all ended
#[utoipa::path(delete, path = "/api/v1/experiment/connectors/{name}", tag = "experiment",
    params(("name" = String, Path)), responses((status = 204)))]
async fn remove_connector(State(api): State<Api>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode> {
    api.experiments.remove_connector(&caller.actor, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl TryFrom<ConnectorRow> for ConnectorView {
    type Error = Error;

    fn try_from(row: ConnectorRow) -> Result<Self> {
        let standing = row.standing()?;
        Ok(Self {
            name: row.name,
            url: row.url,
            gateway: row.gateway,
            enabled: row.enabled == 1,
            health: standing.health,
            why: standing.why,
            health_at: row.health_at,
            failures: standing.failures,
            next_at: standing.next_at,
            version: row.version,
        })
    }
}
