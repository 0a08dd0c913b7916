//! Lines beside the house's: each backbone and each application network has authorities of its own, self-signed, so that
//! what one signed is believed nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use muster_pki::{
    ca::{Authority, Profile, Sign, request_key_hash},
    key::Key,
};
use rustls_pki_types::CertificateDer;

use super::{
    model::{LINE_LIFE, ROUTER_LIFE},
    service::{Certificates, PURPOSE_AUTHORITY, Place, authority_row},
    store::{self, AuthorityRow},
};
use crate::{
    error::{Error, Result},
    platform::{
        db::{Conn, Tx},
        events::Actor,
    },
};

/// A leaf to be issued for a router.
#[derive(Debug, Clone, Copy)]
pub struct RouterLeaf<'a> {
    /// The line that signs.
    pub line: &'a str,
    /// Whose it is, for the inventory: `site/<id>/<profile>` or `member/<id>/<profile>`.
    pub subject: &'a str,
    /// Who it is to those that admit by name.
    pub common_name: &'a str,
    /// What others dial.
    pub names: &'a [String],
}

// === impl Certificates: lines ===

impl Certificates {
    /// Makes the first authority of a line, or the next one beside it, which signs nothing yet. `name` is for people.
    pub async fn prepare_line(&self, tx: &mut Tx, actor: &Actor, line: &str, name: &str) -> Result<()> {
        let rows = store::authorities(tx, line).await?;
        if rows.iter().any(|r| r.stage == "prepared") {
            return Err(Error::Conflict("its next authority is prepared already".into()));
        }
        let now = tx.now();
        let generation = rows.iter().map(|r| r.generation).max().unwrap_or(0) + 1;
        let (authority, key) = Authority::root(&format!("{name} {generation}"), LINE_LIFE, now)?;
        let stage = if rows.is_empty() { "active" } else { "prepared" };
        let place = Place { line, role: "root", parent_id: None, stage, generation };
        let row = authority_row(&self.seal, (&authority, &key), place, now)?;
        store::insert_authority(tx, &row).await?;
        let change = actor.change("certificate.authority_prepared", format!("authority/{}", row.id));
        let after = serde_json::json!({"line": line, "generation": generation, "not_after": row.not_after});
        tx.record(change.after(after)).await?;
        Ok(())
    }

    /// Lets the prepared authority of a line sign in place of the active one, if there is one.
    pub async fn activate_prepared(&self, tx: &mut Tx, line: &str) -> Result<()> {
        let rows = store::authorities(tx, line).await?;
        let Some(prepared) = rows.iter().find(|r| r.stage == "prepared") else { return Ok(()) };
        for active in rows.iter().filter(|r| r.stage == "active") {
            self.move_on(tx, active, "former").await?;
        }
        self.move_on(tx, prepared, "active").await
    }

    /// Trusts no authority of a line any more but the active one; none at all when `wholly`.
    pub async fn retire_line(&self, tx: &mut Tx, line: &str, wholly: bool) -> Result<()> {
        for row in store::authorities(tx, line).await? {
            if row.stage == "former" || wholly && row.stage != "retired" {
                self.move_on(tx, &row, "retired").await?;
            }
        }
        Ok(())
    }

    async fn move_on(&self, tx: &mut Tx, row: &AuthorityRow, to: &str) -> Result<()> {
        let now = tx.now();
        store::save_stage(tx, &row.id, &row.stage, to, now).await?;
        let kind = match to {
            "active" => "certificate.authority_activated",
            "former" => "certificate.authority_superseded",
            _ => "certificate.authority_retired",
        };
        let change = Actor::controller().change(kind, format!("authority/{}", row.id));
        tx.record(change.after(serde_json::json!({"line": row.line, "generation": row.generation}))).await?;
        Ok(())
    }

    /// Whom these lines trust, DER, oldest first.
    pub async fn trusted(&self, conn: &mut Conn, lines: &[String]) -> Result<BTreeMap<String, Vec<Vec<u8>>>> {
        let mut trusted = BTreeMap::<String, Vec<Vec<u8>>>::new();
        for (line, der) in store::trusted(conn, lines).await? {
            trusted.entry(line).or_default().push(der);
        }
        Ok(trusted)
    }

    /// The lines beside the house's whose active authority ends before a time.
    pub async fn lines_that_end(&self, conn: &mut Conn, before: i64) -> Result<Vec<String>> {
        store::lines_that_end(conn, before).await
    }

    /// Which of these serial numbers the newest authority of a line issued, which may not sign yet.
    pub async fn issued_by_newest(&self, conn: &mut Conn, line: &str, serials: &[String]) -> Result<BTreeSet<String>> {
        store::issued_by_newest(conn, line, serials).await
    }

    /// Issues a router's leaf and gives it with its authority, DER. The same key gets the same leaf again, so that a lost
    /// answer can be asked for once more.
    pub async fn issue_router(&self, tx: &mut Tx, request: &[u8], it: RouterLeaf<'_>) -> Result<Vec<Vec<u8>>> {
        let now = tx.now();
        let rows = store::authorities(tx, it.line).await?;
        let active = rows.iter().find(|r| r.stage == "active");
        let active = active.ok_or_else(|| Error::Conflict(format!("{} has no authority that signs", it.line)))?;
        let key_hash = request_key_hash(request)?;
        if let Some((authority, der)) = store::leaf_of_key(tx, it.subject, &key_hash, now).await?
            && authority == active.id
        {
            return Ok(vec![der, active.der.clone()]);
        }
        let sealed = active.sealed_key.as_ref().ok_or(muster_pki::Error::Sealed)?;
        let key = Key::from_der(&self.seal.open(PURPOSE_AUTHORITY, sealed)?)?;
        let authority = Authority::load(&key, vec![CertificateDer::from(active.der.clone())])?;
        let profile =
            Profile::Router { common_name: it.common_name.into(), names: it.names.to_vec(), life: ROUTER_LIFE };
        let issued = authority.sign(request, &profile, now)?;
        self.keep(tx, &active.id, it.subject.into(), &issued).await?;
        // No stream shows which leaf a router uses: the newest is taken for it.
        store::save_used(tx, std::slice::from_ref(&issued.leaf.serial), now).await?;
        Ok(vec![issued.der.to_vec(), active.der.clone()])
    }

    /// Revokes every leaf of a subject.
    pub async fn revoke_subject(&self, tx: &mut Tx, subject: &str) -> Result<()> {
        let now = tx.now();
        store::save_revoked(tx, subject, now).await
    }
}
