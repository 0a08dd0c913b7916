//! The API of certificates: what there is, what to trust, what is revoked, and a rotation on demand.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::{
    Certificates,
    store::{self, AuthorityRow, LeafRow},
};
use crate::{
    error::{Error, Result},
    platform::db::Db,
    web::{Caller, Page, Paging, Policy, Query, Routes},
};

/// An authority of the house.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuthorityInfo {
    /// Id.
    pub id: String,
    /// What it is called in what it signs.
    pub name: String,
    /// What it serves: `house`, `backbone/<id>` or `network/<id>`.
    pub line: String,
    /// Who signed it; none: itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// `root` or `issuing`.
    pub role: String,
    /// `prepared`, `active`, `former` or `retired`.
    pub stage: String,
    /// When it came to that stage, milliseconds since the Unix epoch.
    pub since_at: i64,
    /// Start of validity.
    pub not_before_at: i64,
    /// End of validity.
    pub not_after_at: i64,
    /// Counts the authorities of its role.
    pub generation: i64,
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
    /// Whether its key is here, and not kept offline.
    pub has_key: bool,
}

/// A certificate that the house issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeafInfo {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// `agent/<id>` or `listener/<replica>`.
    pub subject: String,
    /// The authority that issued it.
    pub authority_id: String,
    /// Start of validity, milliseconds since the Unix epoch.
    pub not_before_at: i64,
    /// End of validity.
    pub not_after_at: i64,
    /// When it was issued.
    pub issued_at: i64,
    /// When it was first used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<i64>,
    /// When a newer one of its subject was first used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_at: Option<i64>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<i64>,
}

/// What a step of rotation came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rotated {
    /// Whether something changed. The next steps follow by themselves.
    pub changed: bool,
    /// Key identifier of the authority that signs, hexadecimal.
    pub subject_key: String,
}

/// What the handlers take.
#[derive(Debug, Clone)]
pub struct Api {
    /// The database.
    pub db: Db,
    /// The house.
    pub certificates: Certificates,
    /// Name of this replica.
    pub replica: String,
}

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "cursor and limit are read by Paging; they stand here so that other fields are refused")]
pub(super) struct LeafQuery {
    /// Only of this subject, `agent/<id>`, or of subjects of one kind: `agent`, `listener`, `site`, `member`.
    pub subject: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
    /// Items wanted, 1 to 500; 100 if not said.
    limit: Option<i64>,
}

/// The routes of certificates.
pub fn routes(api: Api) -> Routes {
    Routes::new()
        .add(Policy::viewer(), routes!(authorities))
        .add(Policy::viewer(), routes!(leaves))
        .add(Policy::public(), routes!(roots))
        .add(Policy::public(), routes!(crl))
        .add(Policy::admin(), routes!(rotate))
        .with_state(api)
}

/// Lists the authorities of the house
#[utoipa::path(get, path = "/api/v1/pki/authorities", tag = "pki", responses((status = 200, body = Vec<AuthorityInfo>)))]
async fn authorities(State(api): State<Api>) -> Result<Json<Vec<AuthorityInfo>>> {
    let rows = store::all_authorities(&mut *api.db.read().await?).await?;
    Ok(Json(rows.into_iter().map(AuthorityInfo::try_from).collect::<Result<_>>()?))
}

/// Lists what the house issued
#[utoipa::path(get, path = "/api/v1/pki/leaves", tag = "pki", params(LeafQuery),
    responses((status = 200, body = Page<LeafInfo>)))]
async fn leaves(
    State(api): State<Api>,
    paging: Paging,
    Query(query): Query<LeafQuery>,
) -> Result<Json<Page<LeafInfo>>> {
    let subject = query.subject.unwrap_or_default();
    let rows = store::leaf_page(&mut *api.db.read().await?, &subject, &paging.after, paging.rows()).await?;
    paging.page(rows, |row| row.serial.clone()).try_map(|row| Ok(row.into())).map(Json)
}

/// The roots to trust, as PEM
#[utoipa::path(get, path = "/api/v1/pki/roots.pem", tag = "pki",
    responses((status = 200, body = String, content_type = "application/x-pem-file")))]
async fn roots(State(api): State<Api>) -> Response {
    let text: String = api.certificates.house().roots.iter().map(|root| pem("CERTIFICATE", root)).collect();
    ([(header::CONTENT_TYPE, "application/x-pem-file")], text).into_response()
}

/// What is revoked, as a list (RFC 5280, DER)
#[utoipa::path(get, path = "/api/v1/pki/crl", tag = "pki",
    responses((status = 200, body = Vec<u8>, content_type = "application/pkix-crl")))]
async fn crl(State(api): State<Api>) -> Result<Response> {
    let list = api.certificates.revocation_list().await?;
    Ok(([(header::CONTENT_TYPE, "application/pkix-crl")], list).into_response())
}

/// Begins to replace the issuing authority
#[utoipa::path(post, path = "/api/v1/pki/rotate", tag = "pki", responses((status = 202, body = Rotated)))]
async fn rotate(State(api): State<Api>, caller: Caller) -> Result<(StatusCode, Json<Rotated>)> {
    let changed = api.certificates.rotate(&api.replica, true).await?;
    let house = api.certificates.house();
    let subject = format!("authority/{}", house.authority_id);
    let change = &caller.actor.change("certificate.rotation_requested", subject);
    let note = api.db.write(|mut tx| async move {
        tx.record(change.clone()).await?;
        tx.done(())
    });
    note.await?;
    Ok((StatusCode::ACCEPTED, Json(Rotated { changed, subject_key: house.subject_key.clone() })))
}

/// A certificate as PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl TryFrom<AuthorityRow> for AuthorityInfo {
    type Error = Error;

    fn try_from(row: AuthorityRow) -> Result<Self> {
        Ok(Self {
            name: muster_pki::leaf::read(&row.der)?.common_name,
            fingerprint: muster_pki::hex(&muster_pki::sha256(&row.der)),
            id: row.id,
            line: row.line,
            parent_id: row.parent_id,
            role: row.role,
            stage: row.stage,
            since_at: row.since,
            not_before_at: row.not_before,
            not_after_at: row.not_after,
            generation: row.generation,
            has_key: row.sealed_key.is_some(),
        })
    }
}

impl From<LeafRow> for LeafInfo {
    fn from(row: LeafRow) -> Self {
        Self {
            serial: row.serial,
            subject: row.subject,
            authority_id: row.authority_id,
            not_before_at: row.not_before,
            not_after_at: row.not_after,
            issued_at: row.issued_at,
            used_at: row.used_at,
            superseded_at: row.superseded_at,
            revoked_at: row.revoked_at,
        }
    }
}
