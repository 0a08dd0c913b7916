//! The library and composition: rows as they are, one statement a function.

use sqlx::FromRow;

use super::{AttachmentRow, DecisionRow, EndpointRow, ServiceLinkRow, Table, delete};
use crate::{
    error::Result,
    platform::db::{Conn, query},
};

// === library ===

/// A service of the library as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ServiceRow {
    pub name: String,
    pub protocol: String,
    pub default_port: i64,
    pub description: String,
    pub version: i64,
}

/// An image of the library as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ImageRow {
    pub name: String,
    pub reference: String,
    pub description: String,
    pub version: i64,
}

/// A service that an image offers, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct OfferedRow {
    pub image: String,
    pub service: String,
    pub port: i64,
}

/// A service that an image requires, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RequiredRow {
    pub image: String,
    pub service: String,
}

tables! {
    ServiceRow: "select name, protocol, default_port, description, version from network_service", "name";
    ImageRow: "select name, reference, description, version from network_image", "name";
    OfferedRow: "select image, service, port from network_offered_service", "image, service";
    RequiredRow: "select image, service from network_required_service", "image, service";
}

/// Makes a service, or changes it.
pub async fn save_service(conn: &mut Conn, row: &ServiceRow) -> Result<()> {
    let text = "insert into network_service (name, protocol, default_port, description, version) \
                values ($1, $2, $3, $4, 1) on conflict (name) do update set protocol = excluded.protocol, \
                default_port = excluded.default_port, description = excluded.description, \
                version = network_service.version + 1";
    query(text.into())
        .bind(row.name.clone())
        .bind(row.protocol.clone())
        .bind(row.default_port)
        .bind(row.description.clone())
        .execute(conn)
        .await?;
    Ok(())
}

/// Makes an image, or changes it, with what it offers and requires.
pub async fn save_image(
    conn: &mut Conn,
    row: &ImageRow,
    offered: &[OfferedRow],
    required: &[RequiredRow],
) -> Result<()> {
    let text = "insert into network_image (name, reference, description, version) values ($1, $2, $3, 1) \
                on conflict (name) do update set reference = excluded.reference, \
                description = excluded.description, version = network_image.version + 1";
    query(text.into())
        .bind(row.name.clone())
        .bind(row.reference.clone())
        .bind(row.description.clone())
        .execute(&mut *conn)
        .await?;
    for table in ["network_offered_service", "network_required_service"] {
        delete(conn, table, &[("image", &row.name)]).await?;
    }
    for it in offered {
        query("insert into network_offered_service (image, service, port) values ($1, $2, $3)".into())
            .bind(it.image.clone())
            .bind(it.service.clone())
            .bind(it.port)
            .execute(&mut *conn)
            .await?;
    }
    for it in required {
        query("insert into network_required_service (image, service) values ($1, $2)".into())
            .bind(it.image.clone())
            .bind(it.service.clone())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

// === composition ===

/// Makes a service link, or changes it.
pub async fn save_service_link(conn: &mut Conn, row: &ServiceLinkRow) -> sqlx::Result<()> {
    let text = "insert into network_service_link (id, network_id, name, service, address, scope, distribution, version) \
                values ($1, $2, $3, $4, $5, $6, $7, 1) on conflict (id) do update set service = excluded.service, \
                address = excluded.address, scope = excluded.scope, distribution = excluded.distribution, \
                version = network_service_link.version + 1";
    query(text.into())
        .bind(row.id.clone())
        .bind(row.network_id.clone())
        .bind(row.name.clone())
        .bind(row.service.clone())
        .bind(row.address.clone())
        .bind(row.scope.clone())
        .bind(row.distribution.clone())
        .execute(conn)
        .await?;
    Ok(())
}

/// Makes an endpoint, or changes it, with its attachments.
pub async fn save_endpoint(conn: &mut Conn, row: &EndpointRow, attachments: &[AttachmentRow]) -> sqlx::Result<()> {
    let text = "insert into network_endpoint (id, network_id, name, kind, class, member_id, image, tag, arguments, host, \
                generation, version) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 1) \
                on conflict (id) do update set kind = excluded.kind, class = excluded.class, \
                member_id = excluded.member_id, image = excluded.image, tag = excluded.tag, \
                arguments = excluded.arguments, host = excluded.host, generation = excluded.generation, \
                version = network_endpoint.version + 1";
    query(text.into())
        .bind(row.id.clone())
        .bind(row.network_id.clone())
        .bind(row.name.clone())
        .bind(row.kind.clone())
        .bind(row.class.clone())
        .bind(row.member_id.clone())
        .bind(row.image.clone())
        .bind(row.tag.clone())
        .bind(row.arguments.clone())
        .bind(row.host.clone())
        .bind(row.generation)
        .execute(&mut *conn)
        .await?;
    let gone = query("delete from network_attachment where endpoint_id = $1".into()).bind(row.id.clone());
    gone.execute(&mut *conn).await?;
    for it in attachments {
        let text = "insert into network_attachment (endpoint_id, service_link_id, part, port) values ($1, $2, $3, $4)";
        query(text.into())
            .bind(it.endpoint_id.clone())
            .bind(it.service_link_id.clone())
            .bind(it.part.clone())
            .bind(it.port)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Keeps what a site's participants made of an endpoint.
pub async fn save_decision(conn: &mut Conn, row: &DecisionRow) -> Result<()> {
    let text = "insert into network_decision (member_id, endpoint_id, generation, accepted, host, port, at) \
                values ($1, $2, $3, $4, $5, $6, $7) on conflict (member_id, endpoint_id) do update set \
                generation = excluded.generation, accepted = excluded.accepted, host = excluded.host, \
                port = excluded.port, at = excluded.at";
    query(text.into())
        .bind(row.member_id.clone())
        .bind(row.endpoint_id.clone())
        .bind(row.generation)
        .bind(row.accepted)
        .bind(row.host.clone())
        .bind(row.port)
        .bind(row.at)
        .execute(conn)
        .await?;
    Ok(())
}
