//! The page of certificates: every authority in its signing tree, and every leaf.

use std::collections::BTreeMap;

use askama::Template;
use axum::{extract::State, response::Response};
use http::Method;

use super::{
    Certificates,
    api::{AuthorityInfo, LeafQuery},
    store::{self, LeafRow},
};
use crate::{
    error::Result,
    web::{
        Layout, Page, Paging, Policy, Query, Routes,
        page::render,
        view::{Chip, Tone},
    },
};

#[derive(Template)]
#[template(path = "certificate/templates/certificates.html")]
struct CertificatesPage {
    layout: Layout,
    /// Authorities by line, each root followed by what it signed.
    lines: Vec<(String, Vec<AuthorityInfo>)>,
    leaves: Page<LeafRow>,
    subject: String,
}

/// The pages of certificates.
pub fn routes(certificates: Certificates) -> Routes {
    Routes::new().page(Method::GET, "/certificates", Policy::operator(), certificates_page).with_state(certificates)
}

async fn certificates_page(
    State(it): State<Certificates>,
    layout: Layout,
    paging: Paging,
    Query(query): Query<LeafQuery>,
) -> Result<Response> {
    let mut conn = it.db.read().await?;
    let subject = query.subject.unwrap_or_default();
    let rows = store::leaf_page(&mut conn, &subject, &paging.after, paging.rows()).await?;
    let leaves = paging.page(rows, |row| row.serial.clone());
    let mut lines = BTreeMap::<String, Vec<AuthorityInfo>>::new();
    for row in store::all_authorities(&mut conn).await? {
        lines.entry(row.line.clone()).or_default().push(row.try_into()?);
    }
    for authorities in lines.values_mut() {
        // A root, then what it signed; retired ones last.
        authorities.sort_by_key(|a| {
            (a.stage == "retired", a.parent_id.clone().unwrap_or_else(|| a.id.clone()), a.parent_id.is_some())
        });
    }
    render(&CertificatesPage {
        layout: layout.title("Certificates"),
        lines: lines.into_iter().collect(),
        leaves,
        subject,
    })
}

// === what things look like ===

impl AuthorityInfo {
    fn chip(&self) -> Chip {
        match self.stage.as_str() {
            "prepared" => Chip { word: "prepared", tone: Tone::Busy },
            "active" => Chip { word: "active", tone: Tone::Good },
            "former" => Chip { word: "former", tone: Tone::Warn },
            _ => Chip { word: "retired", tone: Tone::Quiet },
        }
    }
}

impl LeafRow {
    /// Where it stands at a moment.
    pub fn chip(&self, now: &i64) -> Chip {
        match self {
            Self { revoked_at: Some(_), .. } => Chip { word: "revoked", tone: Tone::Bad },
            Self { superseded_at: Some(_), .. } => Chip { word: "superseded", tone: Tone::Quiet },
            leaf if *now >= leaf.not_after => Chip { word: "expired", tone: Tone::Warn },
            Self { used_at: None, .. } => Chip { word: "not used yet", tone: Tone::Busy },
            _ => Chip { word: "in use", tone: Tone::Good },
        }
    }

    /// The page of the agent it was issued to, if it was one.
    fn agent(&self) -> Option<&str> {
        self.subject.strip_prefix("agent/")
    }
}
