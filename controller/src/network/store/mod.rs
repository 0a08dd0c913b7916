//! All SQL of networks: rows as they are, one statement a function.

use std::collections::BTreeMap;

use sqlx::{FromRow, Row, any::AnyRow};

use crate::{
    error::Result,
    platform::db::{Conn, Engine, ROWS, Tx, query},
};

/// A backbone as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct BackboneRow {
    pub id: String,
    pub name: String,
    pub created_at: i64,
    pub version: i64,
}

/// An interior site as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SiteRow {
    pub id: String,
    pub backbone_id: String,
    pub name: String,
    pub router: String,
    pub invitation_id: Option<String>,
    pub agent_id: Option<String>,
    pub created_at: i64,
    pub version: i64,
}

/// An access point as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct AccessPointRow {
    pub id: String,
    pub site_id: String,
    pub name: String,
    pub kind: String,
    pub host: String,
    pub bind: String,
    pub port: i64,
    pub ports: i64,
    pub created_at: i64,
    pub version: i64,
}

/// A link between interior sites as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct LinkRow {
    pub id: String,
    pub access_point_id: String,
    pub site_id: String,
    pub cost: i64,
    pub created_at: i64,
    pub version: i64,
}

/// An application network as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct NetworkRow {
    pub id: String,
    pub backbone_id: String,
    pub name: String,
    pub owner: String,
    pub tenant: String,
    pub starts_at: i64,
    pub ends_at: Option<i64>,
    pub delete_delay: i64,
    pub phase: String,
    pub created_at: i64,
    pub version: i64,
}

/// A network's home as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct HomeRow {
    pub network_id: String,
    pub agent_id: Option<String>,
}

/// A member site as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct MemberRow {
    pub id: String,
    pub network_id: String,
    pub invitation_id: String,
    pub agent_id: Option<String>,
    pub name: String,
    pub router: String,
    pub class: String,
    pub membership: String,
    pub joined_at: i64,
    pub evicted_at: Option<i64>,
    pub version: i64,
}

/// A member's place on the backbone as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct UplinkRow {
    pub member_id: String,
    pub access_point_id: String,
    pub priority: i64,
}

/// A network's port at an access point as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct PortRow {
    pub access_point_id: String,
    pub network_id: String,
    pub port: i64,
}

/// A service link as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ServiceLinkRow {
    pub id: String,
    pub network_id: String,
    pub name: String,
    pub service: String,
    pub address: String,
    pub scope: String,
    pub distribution: String,
    pub version: i64,
}

/// An endpoint as stored, with its image's reference.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct EndpointRow {
    pub id: String,
    pub network_id: String,
    pub name: String,
    pub kind: String,
    pub class: Option<String>,
    pub member_id: Option<String>,
    pub image: Option<String>,
    pub reference: Option<String>,
    pub tag: String,
    pub arguments: String,
    pub host: String,
    pub generation: i64,
    pub version: i64,
}

/// An attachment as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct AttachmentRow {
    pub endpoint_id: String,
    pub service_link_id: String,
    pub part: String,
    pub port: i64,
}

/// A decision as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct DecisionRow {
    pub member_id: String,
    pub endpoint_id: String,
    pub generation: i64,
    pub accepted: i64,
    pub host: String,
    pub port: i64,
    pub at: i64,
}

/// Where a profile stands, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ProfileRow {
    pub owner: String,
    pub name: String,
    pub edition: i64,
    pub rounds: i64,
    pub cuts: i64,
}

/// Which rows of a table: all, or those where a column has one of these values.
#[derive(Debug, Clone, Copy)]
pub enum Of<'a> {
    /// All.
    All,
    /// Those of a column.
    Each(&'a str, &'a [String]),
}

/// A table that is read whole or by one of its columns.
pub trait Table: Sized + Send + Unpin + for<'r> FromRow<'r, AnyRow> {
    /// What is selected, up to where a condition may follow, and the order of the rows.
    const SELECT: (&'static str, &'static str);
}

/// Rows of a table.
pub async fn rows<T: Table>(conn: &mut Conn, of: Of<'_>) -> Result<Vec<T>> {
    // Fetched as they are, so that the machinery of a query is built once and not for every table.
    let rows = fetch(conn, T::SELECT, of).await?;
    Ok(rows.iter().map(T::from_row).collect::<sqlx::Result<_>>()?)
}

async fn fetch(conn: &mut Conn, (select, order): (&str, &str), of: Of<'_>) -> Result<Vec<AnyRow>> {
    match of {
        Of::All => Ok(query(format!("{select} order by {order}")).fetch_all(conn).await?),
        Of::Each(column, values) => {
            let mut found = Vec::new();
            for piece in values.chunks(ROWS) {
                let each = Engine::of(conn).each(piece.len());
                let text = format!("{select} where {column} in ({each}) order by {order}");
                let select = piece.iter().fold(query(text), |q, value| q.bind(value.clone()));
                found.extend(select.fetch_all(&mut *conn).await?);
            }
            Ok(found)
        }
    }
}

/// The rows whose column has one value.
pub async fn by<T: Table>(conn: &mut Conn, column: &str, value: &str) -> Result<Vec<T>> {
    rows(conn, Of::Each(column, &[value.to_owned()])).await
}

/// The first row whose column has one value.
pub async fn one<T: Table>(conn: &mut Conn, column: &str, value: &str) -> Result<Option<T>> {
    Ok(by(conn, column, value).await?.into_iter().next())
}

macro_rules! tables {
    ($($row:ty: $select:literal, $order:literal;)+) => {$(
        impl Table for $row {
            const SELECT: (&'static str, &'static str) = ($select, $order);
        }
    )+};
}

tables! {
    BackboneRow: "select id, name, created_at, version from network_backbone", "name";
    SiteRow: "select id, backbone_id, name, router, invitation_id, agent_id, created_at, version from network_site",
        "backbone_id, name";
    AccessPointRow: "select id, site_id, name, kind, host, bind, port, ports, created_at, version \
        from network_access_point", "site_id, name";
    LinkRow: "select id, access_point_id, site_id, cost, created_at, version from network_link", "id";
    NetworkRow: "select id, backbone_id, name, owner, tenant, starts_at, ends_at, delete_delay, phase, created_at, \
        version from network_network", "name";
    HomeRow: "select network_id, agent_id from network_home", "network_id";
    MemberRow: "select id, network_id, invitation_id, agent_id, name, router, class, membership, joined_at, \
        evicted_at, version from network_member", "network_id, name";
    UplinkRow: "select member_id, access_point_id, priority from network_uplink", "member_id, priority, access_point_id";
    PortRow: "select access_point_id, network_id, port from network_port", "access_point_id, port";
    ServiceLinkRow: "select id, network_id, name, service, address, scope, distribution, version \
        from network_service_link", "network_id, name";
    EndpointRow: "select network_endpoint.id, network_id, network_endpoint.name, kind, class, member_id, image, \
        reference, tag, arguments, host, generation, network_endpoint.version from network_endpoint \
        left join network_image on network_image.name = image", "network_id, network_endpoint.name";
    AttachmentRow: "select endpoint_id, service_link_id, part, port from network_attachment",
        "endpoint_id, service_link_id";
    DecisionRow: "select member_id, endpoint_id, generation, accepted, host, port, at from network_decision",
        "member_id, endpoint_id";
    ProfileRow: "select owner, name, edition, rounds, cuts from network_profile", "owner, name";
}

mod composition;
mod rotation;
mod tables;

pub use composition::*;
pub use rotation::*;
pub use tables::*;

// === backbones, sites, access points, links ===

/// Locks a backbone: whoever changes something on it does so one after the other. False: there is none.
pub async fn lock_backbone(tx: &mut Tx, id: &str) -> Result<bool> {
    let locked = query("update network_backbone set version = version where id = $1".into()).bind(id.to_owned());
    Ok(locked.execute(&mut **tx).await?.rows_affected() == 1)
}

pub async fn insert_backbone(conn: &mut Conn, row: &BackboneRow) -> sqlx::Result<()> {
    query("insert into network_backbone (id, name, created_at, version) values ($1, $2, $3, 1)".into())
        .bind(row.id.clone())
        .bind(row.name.clone())
        .bind(row.created_at)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn insert_site(conn: &mut Conn, row: &SiteRow) -> sqlx::Result<()> {
    let text = "insert into network_site (id, backbone_id, name, router, invitation_id, agent_id, created_at, version) \
                values ($1, $2, $3, $4, $5, $6, $7, 1)";
    query(text.into())
        .bind(row.id.clone())
        .bind(row.backbone_id.clone())
        .bind(row.name.clone())
        .bind(row.router.clone())
        .bind(row.invitation_id.clone())
        .bind(row.agent_id.clone())
        .bind(row.created_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps the invitation by which a site's agent joins.
pub async fn save_site_invitation(conn: &mut Conn, site: &str, invitation: &str) -> Result<()> {
    let text = "update network_site set invitation_id = $1, version = version + 1 where id = $2";
    query(text.into()).bind(invitation.to_owned()).bind(site.to_owned()).execute(conn).await?;
    Ok(())
}

/// Gives a site its agent. False: it has one.
pub async fn save_site_agent(conn: &mut Conn, site: &str, agent: &str) -> Result<bool> {
    let text = "update network_site set agent_id = $1, version = version + 1 where id = $2 and agent_id is null";
    let saved = query(text.into()).bind(agent.to_owned()).bind(site.to_owned()).execute(conn).await?;
    Ok(saved.rows_affected() == 1)
}

pub async fn insert_access_point(conn: &mut Conn, row: &AccessPointRow) -> sqlx::Result<()> {
    let text = "insert into network_access_point (id, site_id, name, kind, host, bind, port, ports, created_at, version) \
                values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1)";
    query(text.into())
        .bind(row.id.clone())
        .bind(row.site_id.clone())
        .bind(row.name.clone())
        .bind(row.kind.clone())
        .bind(row.host.clone())
        .bind(row.bind.clone())
        .bind(row.port)
        .bind(row.ports)
        .bind(row.created_at)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn insert_link(conn: &mut Conn, row: &LinkRow) -> sqlx::Result<()> {
    let text = "insert into network_link (id, access_point_id, site_id, cost, created_at, version) \
                values ($1, $2, $3, $4, $5, 1)";
    query(text.into())
        .bind(row.id.clone())
        .bind(row.access_point_id.clone())
        .bind(row.site_id.clone())
        .bind(row.cost)
        .bind(row.created_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Removes the rows of a table that have these values in these columns.
pub async fn delete(conn: &mut Conn, table: &'static str, key: &[(&'static str, &str)]) -> Result<()> {
    let wheres: Vec<_> = key.iter().zip(1..).map(|((column, _), n)| format!("{column} = ${n}")).collect();
    let text = format!("delete from {table} where {}", wheres.join(" and "));
    key.iter().fold(query(text), |q, (_, value)| q.bind((*value).to_owned())).execute(conn).await?;
    Ok(())
}

// === application networks ===

pub async fn insert_network(conn: &mut Conn, row: &NetworkRow) -> sqlx::Result<()> {
    let text = "insert into network_network (id, backbone_id, name, owner, tenant, starts_at, ends_at, delete_delay, \
                phase, created_at, version) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1)";
    query(text.into())
        .bind(row.id.clone())
        .bind(row.backbone_id.clone())
        .bind(row.name.clone())
        .bind(row.owner.clone())
        .bind(row.tenant.clone())
        .bind(row.starts_at)
        .bind(row.ends_at)
        .bind(row.delete_delay)
        .bind(row.phase.clone())
        .bind(row.created_at)
        .execute(&mut *conn)
        .await?;
    query("insert into network_home (network_id) values ($1)".into()).bind(row.id.clone()).execute(conn).await?;
    Ok(())
}

/// Keeps whose host a network's home is; none: the controller's.
pub async fn save_home(conn: &mut Conn, network: &str, agent: Option<&str>) -> Result<()> {
    let text = "update network_home set agent_id = $1 where network_id = $2";
    query(text.into()).bind(agent.map(str::to_owned)).bind(network.to_owned()).execute(conn).await?;
    Ok(())
}

/// Keeps a network's times and how far they have been carried out.
pub async fn save_network(conn: &mut Conn, row: &NetworkRow) -> Result<()> {
    let text = "update network_network set starts_at = $1, ends_at = $2, delete_delay = $3, phase = $4, \
                version = version + 1 where id = $5";
    query(text.into())
        .bind(row.starts_at)
        .bind(row.ends_at)
        .bind(row.delete_delay)
        .bind(row.phase.clone())
        .bind(row.id.clone())
        .execute(conn)
        .await?;
    Ok(())
}

/// Gives a network a port of its own at an access point, the lowest that is free. None: there is none left.
pub async fn take_port(tx: &mut Tx, point: &AccessPointRow, network: &str) -> Result<Option<i64>> {
    let taken: Vec<PortRow> = by(tx, "access_point_id", &point.id).await?;
    if let Some(there) = taken.iter().find(|p| p.network_id == network) {
        return Ok(Some(there.port));
    }
    let Some(port) = (point.port..point.port + point.ports).find(|p| taken.iter().all(|t| t.port != *p)) else {
        return Ok(None);
    };
    query("insert into network_port (access_point_id, network_id, port) values ($1, $2, $3)".into())
        .bind(point.id.clone())
        .bind(network.to_owned())
        .bind(port)
        .execute(&mut **tx)
        .await?;
    Ok(Some(port))
}

/// How many sites belong to each of these networks.
pub async fn member_counts(conn: &mut Conn, networks: &[String]) -> Result<BTreeMap<String, i64>> {
    let mut counts = BTreeMap::new();
    for piece in networks.chunks(ROWS) {
        let text = format!(
            "select network_id, count(*) from network_member where membership = 'member' and network_id in ({}) \
             group by network_id",
            Engine::of(conn).each(piece.len())
        );
        let select = piece.iter().fold(query(text), |q, id| q.bind(id.clone()));
        for row in select.fetch_all(&mut *conn).await? {
            counts.insert(row.try_get(0)?, row.try_get(1)?);
        }
    }
    Ok(counts)
}

/// Agents that joined by networks' invitations and are no members yet: (agent, its name, the invitation).
pub async fn unadmitted(conn: &mut Conn) -> Result<Vec<(String, String, String)>> {
    let text = "select a.id, a.name, i.id from network_invitation i join fleet_agent a on a.invitation_id = i.id \
                where a.standing = 'ok' and not exists (select 1 from network_member m where m.agent_id = a.id) \
                order by a.id";
    let rows = query(text.into()).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}

pub async fn insert_member(conn: &mut Conn, row: &MemberRow) -> sqlx::Result<()> {
    let text = "insert into network_member (id, network_id, invitation_id, agent_id, name, router, class, membership, \
                joined_at, evicted_at, version) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, null, 1)";
    query(text.into())
        .bind(row.id.clone())
        .bind(row.network_id.clone())
        .bind(row.invitation_id.clone())
        .bind(row.agent_id.clone())
        .bind(row.name.clone())
        .bind(row.router.clone())
        .bind(row.class.clone())
        .bind(row.membership.clone())
        .bind(row.joined_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps what may change of a member.
pub async fn save_member(conn: &mut Conn, row: &MemberRow) -> sqlx::Result<()> {
    let text = "update network_member set name = $1, class = $2, membership = $3, evicted_at = $4, \
                version = version + 1 where id = $5";
    query(text.into())
        .bind(row.name.clone())
        .bind(row.class.clone())
        .bind(row.membership.clone())
        .bind(row.evicted_at)
        .bind(row.id.clone())
        .execute(conn)
        .await?;
    Ok(())
}

/// Hangs a member where its invitation says.
pub async fn insert_uplinks(conn: &mut Conn, member: &str, invitation: &str) -> Result<()> {
    let text = "insert into network_uplink (member_id, access_point_id, priority) \
                select $1, access_point_id, priority from network_edge_link where invitation_id = $2";
    query(text.into()).bind(member.to_owned()).bind(invitation.to_owned()).execute(conn).await?;
    Ok(())
}

/// Raises where a profile stands, by so much.
pub async fn raise_profile(conn: &mut Conn, owner: &str, name: &str, editions: i64, rounds: i64) -> Result<()> {
    let text = "insert into network_profile (owner, name, edition, rounds, cuts) values ($1, $2, 1 + $3, $4, 0) \
                on conflict (owner, name) do update set edition = network_profile.edition + $3, \
                rounds = network_profile.rounds + $4";
    query(text.into()).bind(owner.to_owned()).bind(name.to_owned()).bind(editions).bind(rounds).execute(conn).await?;
    Ok(())
}

/// Closes the connections of a profile from before their last round.
pub async fn cut_profile(conn: &mut Conn, owner: &str, name: &str) -> Result<()> {
    let text = "update network_profile set cuts = rounds where owner = $1 and name = $2";
    query(text.into()).bind(owner.to_owned()).bind(name.to_owned()).execute(conn).await?;
    Ok(())
}

// === classes, invitations ===

/// A class of sites as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ClassRow {
    pub network_id: String,
    pub name: String,
    pub description: String,
}

/// A member invitation as stored; the rest of it is the fleet's.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct InvitationRow {
    pub id: String,
    pub network_id: String,
    pub class: String,
    pub approval: i64,
}

/// Where those who join by an invitation hang on the backbone, as stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct EdgeLinkRow {
    pub invitation_id: String,
    pub access_point_id: String,
    pub priority: i64,
}

tables! {
    ClassRow: "select network_id, name, description from network_class", "network_id, name";
    InvitationRow: "select id, network_id, class, approval from network_invitation", "id";
    EdgeLinkRow: "select invitation_id, access_point_id, priority from network_edge_link",
        "invitation_id, priority, access_point_id";
}

/// Makes a class, or describes it anew.
pub async fn save_class(conn: &mut Conn, row: &ClassRow) -> Result<()> {
    let text = "insert into network_class (network_id, name, description) values ($1, $2, $3) \
                on conflict (network_id, name) do update set description = excluded.description";
    query(text.into())
        .bind(row.network_id.clone())
        .bind(row.name.clone())
        .bind(row.description.clone())
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn insert_invitation(conn: &mut Conn, row: &InvitationRow, links: &[(String, i64)]) -> Result<()> {
    query("insert into network_invitation (id, network_id, class, approval) values ($1, $2, $3, $4)".into())
        .bind(row.id.clone())
        .bind(row.network_id.clone())
        .bind(row.class.clone())
        .bind(row.approval)
        .execute(&mut *conn)
        .await?;
    for (point, priority) in links {
        let text = "insert into network_edge_link (invitation_id, access_point_id, priority) values ($1, $2, $3)";
        let insert = query(text.into()).bind(row.id.clone()).bind(point.clone()).bind(*priority);
        insert.execute(&mut *conn).await?;
    }
    Ok(())
}
