//! Use cases of certificates.

use std::sync::{Arc, RwLock};

use muster_pki::{
    ca::{Authority, Issued, Profile, Sign},
    key::Key,
    leaf,
    rotate::{Facts, Slot, Stage, Step, decide},
    seal::SealKey,
    tls::{TicketKey, Tickets},
};
use rustls_pki_types::CertificateDer;

use super::{
    model::{ISSUING_LIFE, Lives, ROOT_LIFE, should_renew_tickets},
    store::{self, AuthorityRow, LeafRow},
};
use crate::{
    error::{Error, Result},
    platform::{
        db::{Conn, Db, Tx},
        events::Actor,
        id, lease, setting,
    },
};

/// The line of authorities that agents and listeners are under.
const HOUSE: &str = "house";

pub(super) const PURPOSE_AUTHORITY: &str = "authority key";
const PURPOSE_TICKET: &str = "ticket key";

/// Who signs at this moment, and whom agents are to trust.
#[derive(Debug)]
pub struct House {
    /// The active issuing authority.
    pub authority: Authority,
    /// Its id.
    pub authority_id: String,
    /// Its key identifier, hexadecimal.
    pub subject_key: String,
    /// Roots that are not retired; DER.
    pub roots: Vec<CertificateDer<'static>>,
    /// SHA-256 of the active root, hexadecimal: what new invitations pin.
    pub root_sha256: [u8; 32],
    /// Key identifiers of issuing authorities whose leaves may only be renewed.
    pub former: Vec<String>,
}

/// The door to certificates; clones share it.
#[derive(Debug, Clone)]
pub struct Certificates {
    pub(super) db: Db,
    pub(super) seal: Arc<SealKey>,
    trust_domain: Arc<str>,
    lives: Lives,
    house: Arc<RwLock<Arc<House>>>,
    tickets: Arc<Tickets>,
}

// === impl Certificates ===

impl Certificates {
    /// Opens the house's authorities and makes them at the first start.
    pub async fn open(db: Db, seal: Arc<SealKey>, trust_domain: &str, lives: Lives) -> Result<Self> {
        // Two replicas may start on one empty database: the loser finds the rows of the other.
        if let Err(error) = found(&db, &seal, trust_domain).await
            && store::authorities(&mut *db.read().await?, HOUSE).await?.is_empty()
        {
            return Err(error);
        }
        let trust_domain = setting::fetch(&mut *db.read().await?, "trust_domain").await?.unwrap_or_default();
        let house = load(&mut *db.read().await?, &seal).await?;
        let opened = Self {
            db,
            seal,
            trust_domain: trust_domain.into(),
            lives,
            house: Arc::new(RwLock::new(house.into())),
            tickets: Arc::default(),
        };
        opened.refresh_tickets().await?;
        Ok(opened)
    }

    /// Who signs at this moment.
    pub fn house(&self) -> Arc<House> {
        self.house.read().expect("no holder of this lock panics").clone()
    }

    /// The keys of TLS tickets.
    pub fn tickets(&self) -> Arc<Tickets> {
        self.tickets.clone()
    }

    /// How long leaves live.
    pub fn lives(&self) -> Lives {
        self.lives
    }

    /// Domain of the names in certificates.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Seals something for the database.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        self.seal.seal(purpose, plain)
    }

    /// Opens something from the database.
    pub fn unseal(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        Ok(self.seal.open(purpose, sealed)?)
    }

    /// Issues an agent's leaf.
    pub async fn issue_agent(
        &self,
        tx: &mut Tx,
        request: &[u8],
        agent_id: &str,
    ) -> Result<Vec<CertificateDer<'static>>> {
        let trust_domain = self.trust_domain.to_string();
        let profile = Profile::Agent { trust_domain, agent_id: agent_id.into(), life: self.lives.agent };
        let house = self.house();
        let issued = house.authority.sign(request, &profile, tx.now())?;
        self.keep(tx, &house.authority_id, format!("agent/{agent_id}"), &issued).await?;
        // The root is not part of what an agent shows.
        let above = &house.authority.chain()[..house.authority.chain().len() - 1];
        Ok([vec![issued.der], above.to_vec()].concat())
    }

    /// Issues a leaf for a listener of this replica. Gives the chain, root included, and the key.
    pub async fn issue_listener(&self, names: &[String], replica: &str) -> Result<(Vec<CertificateDer<'static>>, Key)> {
        let key = Key::generate()?;
        let profile = Profile::Listener { names: names.to_vec(), life: super::model::LISTENER_LIFE };
        let house = self.house();
        let request = key.request()?;
        let issued = self
            .db
            .write(|mut tx| {
                let (house, request, profile) = (&house, &request, &profile);
                async move {
                    let issued = house.authority.sign(request, profile, tx.now())?;
                    self.keep(&mut tx, &house.authority_id, format!("listener/{replica}"), &issued).await?;
                    tx.done(issued)
                }
            })
            .await?;
        Ok(([vec![issued.der], house.authority.chain().to_vec()].concat(), key))
    }

    /// Notes that leaves were used for the first time: those before them are superseded.
    pub async fn note_used(&self, tx: &mut Tx, serials: &[String], now: i64) -> Result<()> {
        store::save_used(tx, serials, now).await
    }

    /// Revokes every leaf of an agent.
    pub async fn revoke_agent(&self, tx: &mut Tx, agent_id: &str) -> Result<()> {
        let now = tx.now();
        store::save_revoked(tx, &format!("agent/{agent_id}"), now).await
    }

    /// What is revoked, as a list that others can check (RFC 5280, DER).
    pub async fn revocation_list(&self) -> Result<Vec<u8>> {
        let now = self.db.clock().now();
        let revoked = store::revoked(&mut *self.db.read().await?, now).await?;
        let revoked: Vec<_> = revoked.iter().map(|(serial, at)| (muster_pki::unhex(serial), *at)).collect();
        Ok(self.house().authority.revocation_list(&revoked, now.unsigned_abs(), now)?)
    }

    /// One step of the rotation of the issuing authority, taken by the holder of the lease alone. True: something changed.
    pub async fn rotate(&self, holder: &str, requested: bool) -> Result<bool> {
        let held = lease::hold(&self.db, "certificate", holder, std::time::Duration::from_secs(120)).await?;
        let changed = match held {
            Some(_) => self.step(requested).await?,
            None => false,
        };
        let fresh = load(&mut *self.db.read().await?, &self.seal).await?;
        let differs = fresh.authority_id != self.house().authority_id || fresh.former != self.house().former;
        if differs {
            *self.house.write().expect("no holder of this lock panics") = fresh.into();
        }
        self.refresh_tickets().await?;
        Ok(changed || differs)
    }

    async fn step(&self, requested: bool) -> Result<bool> {
        let now = self.db.clock().now();
        let rows = store::authorities(&mut *self.db.read().await?, HOUSE).await?;
        let issuing: Vec<_> = rows.iter().filter(|r| r.role == "issuing").collect();
        let slots: Vec<_> = issuing.iter().filter_map(|r| slot(r)).collect();
        // Agents trust roots. An issuing authority is shown in the chain, so none needs to be told of a new one.
        let leaf_life_and_grace = self.lives.agent + self.lives.grace;
        let facts = Facts { all_told: true, pinned_by_invitations: false, leaf_life_and_grace, requested };
        let at = |stage| issuing.iter().rev().find(|r| r.stage == stage).map(|r| (*r).clone());
        let (kind, row, moves) = match (decide(now, &slots, facts), at("prepared"), at("active"), at("former")) {
            (Step::Prepare, ..) => {
                let root = rows.iter().rev().find(|r| r.role == "root" && r.stage == "active");
                let root = root.ok_or_else(|| Error::Conflict("there is no active root to sign with".into()))?;
                let generation = issuing.iter().map(|r| r.generation).max().unwrap_or(0) + 1;
                ("certificate.authority_prepared", self.prepare_issuing(root, generation, now)?, vec![])
            }
            (Step::Activate, Some(next), Some(active), _) => {
                let moves = vec![(active.id, "active", "former"), (next.id.clone(), "prepared", "active")];
                ("certificate.authority_activated", next, moves)
            }
            (Step::Retire, _, _, Some(former)) => {
                let moves = vec![(former.id.clone(), "former", "retired")];
                ("certificate.authority_retired", former, moves)
            }
            _ => return Ok(false),
        };
        self.db
            .write(|mut tx| {
                let (row, moves) = (&row, &moves);
                async move {
                    let now = tx.now();
                    if moves.is_empty() {
                        store::insert_authority(&mut tx, row).await?;
                    }
                    for (id, from, to) in moves {
                        store::save_stage(&mut tx, id, from, to, now).await?;
                    }
                    let after = serde_json::json!({"generation": row.generation, "not_after": row.not_after});
                    let change = Actor::controller().change(kind, format!("authority/{}", row.id));
                    tx.record(change.after(after)).await?;
                    tx.done(true)
                }
            })
            .await
    }

    fn prepare_issuing(&self, root: &AuthorityRow, generation: i64, now: i64) -> Result<AuthorityRow> {
        let sealed = root.sealed_key.as_ref().ok_or_else(|| {
            Error::Conflict("the root's key is kept offline; bring it back to make a new issuing authority".into())
        })?;
        let key = Key::from_der(&self.seal.open(PURPOSE_AUTHORITY, sealed)?)?;
        let root_authority = Authority::load(&key, vec![CertificateDer::from(root.der.clone())])?;
        let (issuing, key) =
            root_authority.issuing(&format!("{} issuing {generation}", self.trust_domain), ISSUING_LIFE, now)?;
        let place =
            Place { line: HOUSE, role: "issuing", parent_id: Some(root.id.clone()), stage: "prepared", generation };
        authority_row(&self.seal, (&issuing, &key), place, now)
    }

    pub(super) async fn keep(&self, tx: &mut Tx, authority_id: &str, subject: String, issued: &Issued) -> Result<()> {
        let leaf = &issued.leaf;
        let row = LeafRow {
            serial: leaf.serial.clone(),
            authority_id: authority_id.into(),
            subject,
            key_hash: leaf.key_hash.clone(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            issued_at: tx.now(),
            used_at: None,
            superseded_at: None,
            revoked_at: None,
        };
        store::insert_leaf(tx, &row, &issued.der).await
    }

    async fn refresh_tickets(&self) -> Result<()> {
        let now = self.db.clock().now();
        let newest = store::ticket_keys(&mut *self.db.read().await?).await?.first().map(|k| k.1);
        if should_renew_tickets(newest, now) {
            let sealed = self.seal.seal(PURPOSE_TICKET, &muster_pki::random::<32>());
            self.db
                .write(|mut tx| {
                    let sealed = &sealed;
                    async move {
                        let now = tx.now();
                        store::insert_ticket_key(&mut tx, &id::fresh(now), sealed, now).await?;
                        tx.done(())
                    }
                })
                .await?;
        }
        let mut keys = Vec::new();
        for (sealed, _) in store::ticket_keys(&mut *self.db.read().await?).await? {
            let plain = self.seal.open(PURPOSE_TICKET, &sealed)?;
            let bytes: [u8; 32] = plain.try_into().map_err(|_| muster_pki::Error::Sealed)?;
            keys.push(TicketKey::new(&bytes));
        }
        self.tickets.replace(keys);
        Ok(())
    }
}

/// Makes the first root and issuing authority, unless there are some.
async fn found(db: &Db, seal: &SealKey, trust_domain: &str) -> Result<()> {
    if !store::authorities(&mut *db.read().await?, HOUSE).await?.is_empty() {
        return Ok(());
    }
    let now = db.clock().now();
    let (root, root_key) = Authority::root(&format!("{trust_domain} root 1"), ROOT_LIFE, now)?;
    let (issuing, issuing_key) = root.issuing(&format!("{trust_domain} issuing 1"), ISSUING_LIFE, now)?;
    let place = |role, parent_id| Place { line: HOUSE, role, parent_id, stage: "active", generation: 1 };
    let root = authority_row(seal, (&root, &root_key), place("root", None), now)?;
    let issuing = authority_row(seal, (&issuing, &issuing_key), place("issuing", Some(root.id.clone())), now)?;
    db.write(|mut tx| {
        let (root, issuing) = (&root, &issuing);
        async move {
            store::insert_authority(&mut tx, root).await?;
            store::insert_authority(&mut tx, issuing).await?;
            setting::save(&mut tx, "trust_domain", trust_domain).await?;
            let change = Actor::controller().change("certificate.house_founded", format!("authority/{}", root.id));
            tx.record(change.after(serde_json::json!({"trust_domain": trust_domain}))).await?;
            tx.done(())
        }
    })
    .await
}

async fn load(conn: &mut Conn, seal: &SealKey) -> Result<House> {
    let rows = store::authorities(conn, HOUSE).await?;
    let active = |role| rows.iter().rev().find(|r| r.role == role && r.stage == "active");
    let (Some(root), Some(issuing)) = (active("root"), active("issuing")) else {
        return Err(Error::internal(anyhow::anyhow!(
            "the database has authorities, but no active root and issuing one"
        )));
    };
    let sealed = issuing.sealed_key.as_ref().ok_or(muster_pki::Error::Sealed)?;
    let key = seal.open(PURPOSE_AUTHORITY, sealed).map_err(|_| {
        let text = "the seal key does not open the authority's key: is it the one this database was made with?";
        Error::Conflict(text.into())
    })?;
    let parent = rows.iter().find(|r| Some(&r.id) == issuing.parent_id.as_ref()).unwrap_or(root);
    let chain = [issuing, parent].map(|r| CertificateDer::from(r.der.clone())).to_vec();
    let roots = rows.iter().filter(|r| r.role == "root" && r.stage != "retired");
    let former = rows.iter().filter(|r| r.role == "issuing" && r.stage == "former");
    Ok(House {
        authority: Authority::load(&Key::from_der(&key)?, chain)?,
        authority_id: issuing.id.clone(),
        subject_key: issuing.subject_key.clone(),
        roots: roots.map(|r| CertificateDer::from(r.der.clone())).collect(),
        root_sha256: muster_pki::sha256(&root.der),
        former: former.map(|r| r.subject_key.clone()).collect(),
    })
}

/// The place of an authority in the tree.
pub(super) struct Place<'a> {
    /// What it serves.
    pub line: &'a str,
    /// `root` or `issuing`.
    pub role: &'a str,
    /// Who signed it, if not itself.
    pub parent_id: Option<String>,
    /// Where its life stands.
    pub stage: &'a str,
    /// Counts those of its line and role.
    pub generation: i64,
}

/// An authority as a row, its key sealed.
pub(super) fn authority_row(
    seal: &SealKey,
    (authority, key): (&Authority, &Key),
    place: Place<'_>,
    now: i64,
) -> Result<AuthorityRow> {
    let der = authority.chain()[0].to_vec();
    let read = leaf::read(&der)?;
    Ok(AuthorityRow {
        id: id::fresh(now),
        line: place.line.into(),
        role: place.role.into(),
        parent_id: place.parent_id,
        stage: place.stage.into(),
        since: now,
        der,
        subject_key: read.subject_key,
        sealed_key: Some(seal.seal(PURPOSE_AUTHORITY, &key.to_der())),
        not_before: read.not_before,
        not_after: read.not_after,
        generation: place.generation,
    })
}

fn slot(row: &AuthorityRow) -> Option<Slot> {
    let stage = match row.stage.as_str() {
        "prepared" => Stage::Prepared,
        "active" => Stage::Active,
        "former" => Stage::Former,
        _ => return None,
    };
    let life = row.not_after - row.not_before - muster_pki::ca::BACKDATE_HOME;
    Some(Slot { stage, since: row.since, not_after: row.not_after, life })
}
