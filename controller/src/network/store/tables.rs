//! Tables as they are, for administrators.

use sqlx::{Column, Row, TypeInfo, ValueRef};

use crate::{
    error::{Error, Result},
    platform::db::{Conn, query},
};

/// The tables of the domain, by the names that administrators read them under, with the order of their rows.
pub const TABLES: &[(&str, &str, &str)] = &[
    ("backbones", "network_backbone", "name"),
    ("sites", "network_site", "backbone_id, name"),
    ("access-points", "network_access_point", "site_id, name"),
    ("links", "network_link", "id"),
    ("networks", "network_network", "name"),
    ("homes", "network_home", "network_id"),
    ("classes", "network_class", "network_id, name"),
    ("invitations", "network_invitation", "id"),
    ("edge-links", "network_edge_link", "invitation_id, access_point_id"),
    ("ports", "network_port", "access_point_id, port"),
    ("members", "network_member", "network_id, name, id"),
    ("uplinks", "network_uplink", "member_id, access_point_id"),
    ("services", "network_service", "name"),
    ("images", "network_image", "name"),
    ("offered-services", "network_offered_service", "image, service"),
    ("required-services", "network_required_service", "image, service"),
    ("service-links", "network_service_link", "network_id, name"),
    ("endpoints", "network_endpoint", "network_id, name"),
    ("attachments", "network_attachment", "endpoint_id, service_link_id"),
    ("decisions", "network_decision", "member_id, endpoint_id"),
    ("profiles", "network_profile", "owner, name"),
    ("rotations", "network_rotation", "started_at, id"),
];

/// A table as read: names of its columns, and rows of as many cells.
pub type Read = (Vec<String>, Vec<Vec<String>>);

/// The rows of a table in which some cell holds the text `filter`, whatever the case.
pub async fn read_table(conn: &mut Conn, name: &str, filter: &str) -> Result<Read> {
    let found = TABLES.iter().find(|(known, ..)| *known == name);
    let (_, table, order) = found.ok_or_else(|| Error::not_found("table", name))?;
    let rows = query(format!("select * from {table} order by {order}")).fetch_all(conn).await?;
    let columns = rows.first().map(|row| row.columns().iter().map(|c| c.name().to_owned()).collect());
    let filter = filter.to_lowercase();
    let mut found = Vec::new();
    for row in &rows {
        let cells = (0..row.columns().len()).map(|n| cell(row, n)).collect::<Result<Vec<_>>>()?;
        if cells.iter().any(|cell| cell.to_lowercase().contains(&filter)) {
            found.push(cells);
        }
    }
    Ok((columns.unwrap_or_default(), found))
}

fn cell(row: &sqlx::any::AnyRow, n: usize) -> Result<String> {
    let value = row.try_get_raw(n)?;
    if value.is_null() {
        return Ok(String::new());
    }
    match value.type_info().name() {
        "BIGINT" | "INTEGER" | "SMALLINT" => Ok(row.try_get::<i64, _>(n)?.to_string()),
        _ => Ok(row.try_get::<String, _>(n)?),
    }
}
