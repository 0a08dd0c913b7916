//! Keys, leaves and trust: which are held, when others are needed, and the files the router reads.
//!
//! A key is made here and never leaves the host. Files carry in their names what they hold and are never overwritten, so
//! that whatever a router was told stays true until it is told something else.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use muster_pki::{
    ca::{Authority, Profile as LeafFor, Sign},
    key::Key,
    leaf, rotate,
    tls::{Identity, Trust},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsConnector;

use super::{
    management::ROUTER_NAME,
    model::{Material, OWN, Profile},
};
use crate::durable;

/// How long the agent's own authority and its leaves live, milliseconds: as long as a host.
const OWN_LIFE: i64 = 20 * 365 * 24 * 3_600_000;

/// What the agent remembers of a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What the router numbers the leaf in use; 0 before the first.
    pub ordinal: u32,
    /// Connections with an older one are closed.
    pub oldest: u32,
    /// The round of connections before which they were closed.
    pub cuts: u32,
    /// How often connections were made anew.
    #[serde(default)]
    pub rounds: u32,
    /// The ordinal with which the last round began.
    #[serde(default)]
    pub begun: u32,
    /// The leaf in use.
    pub leaf: Option<Leaf>,
    /// The key for which a leaf is asked for.
    pub next: Option<Next>,
}

/// A leaf in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// Of which edition.
    pub edition: u32,
    /// File of the leaf and what is above it.
    pub file: String,
    /// File of its key.
    pub key: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// When it was received, milliseconds since the Unix epoch.
    pub received_ms: i64,
    /// End of its validity, milliseconds since the Unix epoch.
    pub not_after_ms: i64,
}

/// A key without a leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// The edition it is for.
    pub edition: u32,
    /// Its file.
    pub key: String,
}

/// The folder of one profile.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// The agent's own authority: what its router shows it, and it shows its router.
pub struct Own {
    /// For the router.
    pub material: Material,
    /// For the agent.
    pub tls: TlsConnector,
}

// === impl Held ===

impl Held {
    /// Whether a leaf other than the one in use is needed, and of which edition.
    pub fn needs(&self, profile: &Profile, now_ms: i64) -> Option<u32> {
        let fits = |leaf: &&Leaf| leaf.edition == profile.edition && now_ms < leaf.renew_at();
        if self.leaf.as_ref().is_some_and(|leaf| fits(&leaf)) { None } else { Some(profile.edition) }
    }

    /// Takes a leaf into use: connections are made anew with it, and those that are there stay.
    pub fn take(&mut self, leaf: Leaf) {
        self.ordinal += 1;
        self.next = None;
        self.leaf = Some(leaf);
    }

    /// Follows home's counts: connections are made anew beside those that are there, and those from before the round
    /// `cuts` are closed. Where both are raised at once, whoever is connected has to come again.
    pub fn follow(&mut self, rounds: u32, cuts: u32) {
        if rounds > self.rounds && self.ordinal > 0 {
            self.ordinal += 1;
            self.begun = self.ordinal;
        }
        if cuts > self.cuts {
            self.oldest = self.begun;
        }
        (self.rounds, self.cuts) = (self.rounds.max(rounds), self.cuts.max(cuts));
    }
}

// === impl Leaf ===

impl Leaf {
    /// When to ask for the next: at two thirds of its life, later by a share that lies in its key.
    fn renew_at(&self) -> i64 {
        let digest = muster_pki::sha256(self.key.as_bytes());
        rotate::renew_at(self.received_ms, self.not_after_ms, 0, f64::from(digest[0]) / 256.0)
    }
}

// === impl Folder ===

impl Folder {
    /// The folder of a profile below the site's own.
    pub fn new(site: &Path, profile: &str) -> io::Result<Self> {
        let folder = site.join("profiles").join(slug(profile));
        durable::folder(&folder)?;
        Ok(Self(folder))
    }

    /// A new key, in a file.
    pub fn make_key(&self) -> Result<String, String> {
        let key = Key::generate().map_err(|e| e.to_string())?;
        let request = key.request().map_err(|e| e.to_string())?;
        let hash = muster_pki::ca::request_key_hash(&request).map_err(|e| e.to_string())?;
        let file = format!("key-{}.pem", &hash[..16]);
        self.write(&file, key.to_pem().as_bytes())?;
        Ok(file)
    }

    /// A request for a leaf for the key in a file.
    pub fn request(&self, key: &str) -> Result<Vec<u8>, String> {
        let text = fs::read_to_string(self.0.join(key)).map_err(|e| format!("the key {key} cannot be read: {e}"))?;
        Key::from_pem(&text).and_then(|key| key.request()).map_err(|e| e.to_string())
    }

    /// Puts a chain, leaf first and root last, into a file, if its leaf is for the key in a file.
    pub fn keep(&self, chain: &[Vec<u8>], next: &Next, now_ms: i64) -> Result<Leaf, String> {
        let first = chain.first().ok_or("home signed nothing")?;
        let read = leaf::read(first).map_err(|e| e.to_string())?;
        let asked = muster_pki::ca::request_key_hash(&self.request(&next.key)?).map_err(|e| e.to_string())?;
        if read.key_hash != asked {
            return Err("home signed another key".into());
        }
        if read.not_after <= now_ms {
            return Err("home signed a leaf that is over by the host's clock".into());
        }
        let shown = if chain.len() > 1 { &chain[..chain.len() - 1] } else { chain };
        let file = format!("leaf-{}-{}.pem", next.edition, read.serial);
        self.write(&file, pem(shown).as_bytes())?;
        Ok(Leaf {
            edition: next.edition,
            file,
            key: next.key.clone(),
            serial: read.serial,
            received_ms: now_ms,
            not_after_ms: read.not_after,
        })
    }

    /// What a router is told of a profile that has a leaf.
    pub fn material(&self, profile: &Profile, held: &Held) -> Result<Option<Material>, String> {
        let Some(leaf) = &held.leaf else { return Ok(None) };
        let path = |name: &str| self.0.join(name).to_string_lossy().into_owned();
        let trust = trust_file(profile);
        self.write(&trust, pem(&profile.trust).as_bytes())?;
        Ok(Some(Material {
            trust: path(&trust),
            leaf: path(&leaf.file),
            key: path(&leaf.key),
            ordinal: held.ordinal,
            oldest: held.oldest,
        }))
    }

    /// Removes the files that nobody needs any more.
    pub fn tidy(&self, profile: &Profile, held: &Held) {
        let leaf = held.leaf.iter().flat_map(|leaf| [leaf.file.clone(), leaf.key.clone()]);
        let next = held.next.iter().map(|next| next.key.clone());
        let needed: BTreeSet<_> = leaf.chain(next).chain([trust_file(profile)]).collect();
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if !needed.contains(&*entry.file_name().to_string_lossy()) {
                let _ = durable::remove(&entry.path());
            }
        }
    }

    /// Writes a file unless it is there: its name says what it holds.
    fn write(&self, file: &str, bytes: &[u8]) -> Result<(), String> {
        let path = self.0.join(file);
        if path.exists() {
            return Ok(());
        }
        durable::replace(&path, bytes, || ()).map_err(|e| format!("{} cannot be written: {e}", path.display()))
    }
}

// === impl Own ===

impl Own {
    /// The authority of a site's folder, made when it is not there. Its key is forgotten once it has signed two leaves.
    pub fn open(site: &Path, now_ms: i64) -> Result<Self, String> {
        let folder = site.join("authority");
        if !folder.join("agent.pem").exists() {
            Self::make(&folder, now_ms).map_err(|e| format!("the agent's own authority cannot be made: {e}"))?;
        }
        Self::read(&folder).map_err(|e| format!("the agent's own authority in {}: {e}", folder.display()))
    }

    fn make(folder: &Path, now_ms: i64) -> anyhow::Result<()> {
        durable::folder(folder)?;
        // A leaf named like its authority is taken for self-signed and believed by nobody.
        let (authority, _) = Authority::root(&format!("{OWN} authority"), OWN_LIFE, now_ms)?;
        let write = |name: &str, text: String| durable::replace(&folder.join(name), text.as_bytes(), || ());
        let leaf = |common_name: &str, names| {
            let key = Key::generate()?;
            let profile = LeafFor::Router { common_name: common_name.into(), names, life: OWN_LIFE - 1 };
            let issued = authority.sign(&key.request()?, &profile, now_ms)?;
            anyhow::Ok((key.to_pem(), pem(&[issued.der.to_vec()])))
        };
        let router = leaf(ROUTER_NAME, vec![ROUTER_NAME.into()])?;
        // A leaf without a common name shows the router nobody at all.
        let agent = leaf(OWN, Vec::new())?;
        let roots: Vec<_> = authority.chain().iter().map(|der| der.to_vec()).collect();
        write("authority.pem", pem(&roots))?;
        write("router-key.pem", router.0)?;
        write("router.pem", router.1)?;
        write("agent-key.pem", agent.0)?;
        // The last one says that all are there.
        Ok(write("agent.pem", agent.1)?)
    }

    fn read(folder: &Path) -> anyhow::Result<Self> {
        let roots = vec![CertificateDer::from_pem_file(folder.join("authority.pem"))?];
        let leaf = CertificateDer::from_pem_file(folder.join("agent.pem"))?;
        let key = Key::from_pem(&fs::read_to_string(folder.join("agent-key.pem"))?)?;
        let identity = Identity { chain: vec![leaf], key: &key };
        let mut tls = muster_pki::tls::client(&Trust::Roots(roots), Some(identity))?;
        tls.alpn_protocols.clear();
        // OpenSSL's side resumes no session in which it asked for a certificate, and ends the handshake over it.
        tls.resumption = rustls::client::Resumption::disabled();
        let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let (trust, leaf, key) = (path("authority.pem"), path("router.pem"), path("router-key.pem"));
        let material = Material { trust, leaf, key, ordinal: 0, oldest: 0 };
        Ok(Self { material, tls: TlsConnector::from(std::sync::Arc::new(tls)) })
    }
}

/// A name as a part of a path: readable, and not that of another.
pub fn slug(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let readable: String = name.chars().take(40).map(letter).collect();
    format!("{readable}-{}", &muster_pki::hex(&muster_pki::sha256(name.as_bytes()))[..8])
}

fn trust_file(profile: &Profile) -> String {
    format!("trust-{}.pem", &muster_pki::hex(&muster_pki::sha256(pem(&profile.trust).as_bytes()))[..16])
}

/// Certificates in PEM.
fn pem(certificates: &[Vec<u8>]) -> String {
    let one = |der: &Vec<u8>| {
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    certificates.iter().map(one).collect()
}
