//! Leaves for the profiles of a site: asked for at home, taken into use, and cleared away when nobody uses them.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{
    memory::Ground,
    model::{Material, Profile, Site},
    observe::{ProfileStatus, Seen},
    profile::{Folder, Held, Next, slug},
    wire,
};
use crate::{
    ledger::Key,
    spool::{Answer, Spool},
};

/// How long a turn waits for a leaf before it goes on without.
const ASK: Duration = Duration::from_secs(2);

/// How long a refused question rests, milliseconds.
const ASK_AGAIN_MS: i64 = 30_000;

/// Gets leaves and looks after them.
pub struct Leaves {
    ground: Arc<Ground>,
    spool: Arc<Spool>,
    key: Key,
    questions: BTreeMap<String, AbortOnDropHandle<Answer>>,
    rests_until_ms: BTreeMap<String, i64>,
}

// === impl Leaves ===

impl Leaves {
    /// Asks on behalf of an assignment.
    pub fn new(ground: Arc<Ground>, spool: Arc<Spool>, key: Key) -> Self {
        Self { ground, spool, key, questions: BTreeMap::new(), rests_until_ms: BTreeMap::new() }
    }

    /// Brings profiles to what is wanted as far as home helps, and gives those that can be used.
    pub async fn materials(
        &mut self,
        site: &Site,
        problems: &mut Vec<String>,
    ) -> Result<BTreeMap<String, Material>, String> {
        let mut materials = BTreeMap::new();
        for profile in &site.profiles {
            let folder = Folder::new(&self.ground.folder, &profile.name)
                .map_err(|e| format!("the folder of profile {} cannot be made: {e}", profile.name))?;
            let mut held =
                self.ground.memory.read(|facts| facts.profiles.get(&profile.name).cloned()).unwrap_or_default();
            problems.extend(self.renew(profile, &folder, &mut held).await?);
            held.follow(profile.rounds, profile.cuts);
            self.remember(&profile.name, &held)?;
            if let Some(material) = folder.material(profile, &held)? {
                materials.insert(profile.name.clone(), material);
            }
        }
        Ok(materials)
    }

    /// Asks for a leaf where one is needed. The one in use stays in use until another is there.
    async fn renew(&mut self, profile: &Profile, folder: &Folder, held: &mut Held) -> Result<Option<String>, String> {
        let now_ms = self.ground.host.now_ms();
        let Some(edition) = held.needs(profile, now_ms) else {
            self.questions.remove(&profile.name);
            return Ok(None);
        };
        let next = match held.next.clone().filter(|next| next.edition == edition) {
            Some(next) => next,
            None => {
                let next = Next { edition, key: folder.make_key()? };
                held.next = Some(next.clone());
                // The key is remembered before it is asked for: home gives the same leaf to the same key.
                self.remember(&profile.name, held)?;
                self.questions.remove(&profile.name);
                next
            }
        };
        let answer = self.ask(profile, folder, &next).await?;
        let kept = answer.map(|chain| chain.and_then(|chain| folder.keep(&chain, &next, now_ms)));
        let why = match kept {
            Some(Ok(leaf)) => {
                held.take(leaf);
                return Ok(None);
            }
            Some(Err(why)) => {
                self.rests_until_ms.insert(profile.name.clone(), now_ms + ASK_AGAIN_MS);
                format!(" ({why})")
            }
            None => String::new(),
        };
        let meanwhile = if held.leaf.is_some() { "the one in use stays" } else { "what needs it waits" };
        Ok(Some(format!("profile {} waits for home to sign a leaf{why}; {meanwhile}", profile.name)))
    }

    /// Puts the question, or looks whether it was answered.
    async fn ask(
        &mut self,
        profile: &Profile,
        folder: &Folder,
        next: &Next,
    ) -> Result<Option<Result<Vec<Vec<u8>>, String>>, String> {
        if self.rests_until_ms.get(&profile.name).is_some_and(|until| self.ground.host.now_ms() < *until) {
            return Ok(None);
        }
        if !self.questions.contains_key(&profile.name) {
            let body = wire::sign(&profile.name, next.edition, folder.request(&next.key)?);
            let (spool, key) = (self.spool.clone(), self.key.clone());
            let asking = tokio::spawn(async move { spool.ask(key, 1, body).await });
            self.questions.insert(profile.name.clone(), AbortOnDropHandle::new(asking));
        }
        let Some(question) = self.questions.get_mut(&profile.name) else { return Ok(None) };
        let Ok(answer) = timeout(ASK, question).await else { return Ok(None) };
        self.questions.remove(&profile.name);
        Ok(Some(match answer {
            Ok(Answer::Ok(reply)) => wire::signed(&reply),
            Ok(Answer::Denied(why) | Answer::Unknown(why) | Answer::Unavailable(why)) => Err(why),
            Err(e) => Err(e.to_string()),
        }))
    }

    fn remember(&self, profile: &str, held: &Held) -> Result<(), String> {
        let written = self.ground.memory.change(|facts| drop(facts.profiles.insert(profile.to_owned(), held.clone())));
        written.map_err(|e| format!("the state folder cannot be written: {e}"))
    }

    /// Removes files of leaves and keys that the router was told to use no more.
    pub fn tidy(&self, site: &Site) {
        let held = self.ground.memory.read(|facts| facts.profiles.clone());
        for profile in &site.profiles {
            if let (Ok(folder), Some(held)) = (Folder::new(&self.ground.folder, &profile.name), held.get(&profile.name))
            {
                folder.tidy(profile, held);
            }
        }
        let gone: Vec<_> = held.keys().filter(|name| site.profiles.iter().all(|p| p.name != **name)).collect();
        for name in gone {
            let removed = fs::remove_dir_all(self.ground.folder.join("profiles").join(slug(name)));
            let forgotten = self.ground.memory.change(|facts| drop(facts.profiles.remove(name)));
            if let Err(e) = removed.and(forgotten) {
                tracing::warn!(profile = name.as_str(), error = %e, "what was held for a profile cannot be removed");
            }
        }
    }

    /// What is said of the profiles.
    pub fn status(&self, site: &Site, seen: &Seen) -> Vec<ProfileStatus> {
        let held = self.ground.memory.read(|facts| facts.profiles.clone());
        site.profiles.iter().map(|p| profile_status(site, p, held.get(&p.name), seen)).collect()
    }
}

fn profile_status(site: &Site, profile: &Profile, held: Option<&Held>, seen: &Seen) -> ProfileStatus {
    let held = held.cloned().unwrap_or_default();
    let (connections, older_connections) = seen.connections_of(site, &profile.name, &held);
    let leaf = held.leaf.as_ref();
    ProfileStatus {
        name: profile.name.clone(),
        edition: leaf.map_or(0, |leaf| leaf.edition),
        cuts: held.cuts,
        rounds: held.rounds,
        trust: profile.trust.iter().map(|der| muster_pki::sha256(der)).collect(),
        serial: leaf.map(|leaf| leaf.serial.clone()).unwrap_or_default(),
        not_after_ms: leaf.map_or(0, |leaf| leaf.not_after_ms),
        ordinal: held.ordinal,
        older_connections,
        connections,
    }
}
