//! Every table of the domain for administrators, with a filter, as JSON or CSV.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::header;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::super::{
    service::Networks,
    store::{TABLES, read_table},
};
use crate::{
    error::Result,
    web::{Policy, Query, Routes},
};

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Table {
    /// Names of its columns; none while it is empty.
    pub columns: Vec<String>,
    /// Its rows, each with as many cells.
    pub rows: Vec<Vec<String>>,
}

/// What is wanted of a table.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TableQuery {
    /// Only rows in which some cell holds this text.
    #[serde(default)]
    pub filter: String,
    /// `json`, or `csv` (RFC 4180).
    #[serde(default)]
    pub format: String,
}

/// Adds these routes.
pub fn add(routes: Routes<Networks>) -> Routes<Networks> {
    routes.add(Policy::admin(), routes!(tables)).add(Policy::admin(), routes!(table))
}

/// Lists the tables there are
#[utoipa::path(get, path = "/api/v1/network/tables", tag = "network", responses((status = 200, body = Vec<String>)))]
async fn tables() -> Json<Vec<String>> {
    Json(TABLES.iter().map(|(name, ..)| (*name).to_owned()).collect())
}

/// Reads a table
#[utoipa::path(get, path = "/api/v1/network/tables/{table}", tag = "network", params(TableQuery),
    responses((status = 200, body = Table)))]
async fn table(
    State(it): State<Networks>,
    Path(name): Path<String>,
    Query(query): Query<TableQuery>,
) -> Result<Response> {
    let (columns, rows) = read_table(&mut *it.fleet.db.read().await?, &name, &query.filter).await?;
    if query.format != "csv" {
        return Ok(Json(Table { columns, rows }).into_response());
    }
    let disposition = format!("attachment; filename=\"{name}.csv\"");
    let head =
        [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    Ok((head, csv(std::iter::once(&columns).chain(&rows))).into_response())
}

/// Lines of comma-separated values. A cell that a spreadsheet would take for a formula is told apart by a quote before it.
fn csv<'a>(lines: impl Iterator<Item = &'a Vec<String>>) -> String {
    let cell = |cell: &String| {
        let guard = if cell.starts_with(['=', '+', '@']) { "'" } else { "" };
        if guard.is_empty() && !cell.contains([',', '"', '\n', '\r']) {
            return cell.clone();
        }
        format!("\"{guard}{}\"", cell.replace('"', "\"\""))
    };
    lines.map(|line| line.iter().map(cell).collect::<Vec<_>>().join(",") + "\r\n").collect()
}
