//! Every table of the domain, for administrators.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};

use super::super::{
    api::TableQuery,
    service::Networks,
    store::{TABLES, read_table},
};
use crate::{
    error::Result,
    web::{Layout, Query, page::render},
};

#[derive(Template)]
#[template(path = "network/templates/table.html")]
struct TablePage {
    layout: Layout,
    name: String,
    filter: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

pub(super) async fn show(
    State(it): State<Networks>,
    layout: Layout,
    Path(name): Path<String>,
    Query(query): Query<TableQuery>,
) -> Result<Response> {
    let filter = query.filter;
    let (columns, rows) = read_table(&mut *it.fleet.db.read().await?, &name, &filter).await?;
    render(&TablePage { layout: layout.title("Tables"), name, filter, columns, rows })
}
