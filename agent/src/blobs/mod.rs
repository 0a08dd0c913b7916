//! Blobs on this host: those that home has and work here needs, and those that were made here and home is to have.
//!
//! Whoever needs one waits until it is here, whole and by its digest; what came of it survives whatever breaks, and several
//! who wait share it. What is brought is durable when that is said, and stays until home has it or wants it never. The
//! stream carries both when it is up; this knows no stream.

mod arriving;
mod outgoing;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use tokio::sync::{Notify, watch};

use crate::{durable, ledger::Key};
pub use arriving::Arriving;
pub use outgoing::{Outgoing, Reading};

/// How long a blob is kept after somebody last needed it.
const KEEP: Duration = Duration::from_secs(86_400);

/// A blob that was needed so lately is not dropped to make room: whoever needed it may not have read it yet.
const FRESH: Duration = Duration::from_secs(3600);

/// The blobs of one agent.
#[derive(Debug)]
pub struct Blobs {
    folder: PathBuf,
    /// All that is kept, bytes.
    limit: u64,
    inner: Mutex<Inner>,
    wanted: Notify,
    brought: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    here: BTreeMap<String, Here>,
    wants: BTreeMap<String, Want>,
    /// What a former run or a waiter that left began: digest → bytes.
    begun: BTreeMap<String, u64>,
    outgoing: BTreeMap<u64, Arc<Outgoing>>,
    /// Bytes that are being written for those to come.
    writing: u64,
    next: u64,
}

/// A blob that is here.
#[derive(Debug)]
struct Here {
    size: u64,
    needed: SystemTime,
}

/// A blob that somebody waits for.
#[derive(Debug)]
struct Want {
    size: u64,
    said: watch::Sender<Option<Result<(), String>>>,
}

// === impl Blobs ===

impl Blobs {
    /// The blobs of a state folder, of which no more than `limit` bytes are kept.
    pub fn open(state_dir: &Path, limit: u64) -> io::Result<Self> {
        let folder = state_dir.join("blobs");
        let mut inner = Inner::default();
        for entry in list(&folder.join("in"))? {
            let (name, found) = (entry.file_name(), entry.metadata()?);
            let name = name.to_str().unwrap_or_default();
            match name.strip_suffix(".part") {
                Some(digest) if is_digest(digest) => {
                    inner.begun.insert(digest.to_owned(), found.len());
                }
                None if is_digest(name) => {
                    let here = Here { size: found.len(), needed: found.modified()? };
                    inner.here.insert(name.to_owned(), here);
                }
                _ => fs::remove_file(entry.path())?,
            }
        }
        for entry in list(&folder.join("out"))? {
            match Outgoing::find(&entry.path()) {
                Some(found) => drop(inner.outgoing.insert(found.number, found.into())),
                // It was being written when the agent ended, and nobody was told that it is kept.
                None => fs::remove_file(entry.path())?,
            }
        }
        inner.next = inner.outgoing.keys().next_back().map_or(0, |last| last + 1);
        Ok(Self { folder, limit, inner: Mutex::new(inner), wanted: Notify::new(), brought: Notify::new() })
    }

    /// Waits until a blob is here and gives its file, which is only to be read. It stays for a day, at least for an hour.
    ///
    /// # Errors
    /// A sentence: home refuses it, there is no room for it, or it cannot be kept.
    pub async fn need(&self, digest: &str, size: u64) -> Result<PathBuf, String> {
        if !is_digest(digest) {
            return Err(format!("{digest:?} is no SHA-256 in lower-case hexadecimal"));
        }
        let path = self.folder.join("in").join(digest);
        let mut said = {
            let mut inner = self.lock();
            if let Some(here) = inner.here.get_mut(digest) {
                here.needed = SystemTime::now();
                let touched = fs::File::open(&path).and_then(|file| file.set_modified(here.needed));
                match touched {
                    Ok(()) if here.size == size => return Ok(path),
                    Ok(()) => return Err(format!("the blob {digest} has {} bytes, not {size}", here.size)),
                    // Somebody removed it; it is fetched again.
                    Err(_) => drop(inner.here.remove(digest)),
                }
            }
            match inner.wants.get(digest) {
                Some(want) if want.size != size => {
                    return Err(format!("the blob {digest} is waited for with {} bytes, not {size}", want.size));
                }
                Some(want) => want.said.subscribe(),
                None => {
                    inner.begun.remove(digest);
                    self.make_room(&mut inner, size)?;
                    let (said, hear) = watch::channel(None);
                    inner.wants.insert(digest.to_owned(), Want { size, said });
                    hear
                }
            }
        };
        self.wanted.notify_one();
        let outcome = said.wait_for(Option::is_some).await.map(|said| said.clone());
        outcome.ok().flatten().unwrap_or_else(|| Err("the agent is stopping".into())).map(|()| path)
    }

    /// Takes bytes that an assignment made, to be carried home under it. They are durable when this returns; the digest
    /// names them.
    pub fn bring(&self, key: &Key, bytes: &[u8]) -> io::Result<String> {
        let digest = muster_pki::hex(&muster_pki::sha256(bytes));
        self.take(key, &digest, bytes.len() as u64, &mut &*bytes)?;
        Ok(digest)
    }

    /// The same of a file, of which a copy is made.
    pub async fn bring_file(self: &Arc<Self>, key: &Key, from: &Path) -> io::Result<String> {
        let (blobs, key, from) = (self.clone(), key.clone(), from.to_owned());
        blocking(move || {
            let mut file = fs::File::open(from)?;
            let digest = digest_of(&mut file)?;
            blobs.take(&key, &digest, file.metadata()?.len(), &mut file)?;
            Ok(digest)
        })
        .await
    }

    fn take(&self, key: &Key, digest: &str, size: u64, bytes: &mut dyn io::Read) -> io::Result<()> {
        let number = {
            let mut inner = self.lock();
            if inner.outgoing.values().any(|out| out.key == *key && out.digest == digest) {
                return Ok(());
            }
            self.make_room(&mut inner, size).map_err(|why| io::Error::new(io::ErrorKind::StorageFull, why))?;
            inner.writing += size;
            inner.next += 1;
            inner.next - 1
        };
        let written = Outgoing::write(&self.folder.join("out"), number, key, digest, size, bytes);
        let mut inner = self.lock();
        inner.writing -= size;
        inner.outgoing.insert(number, written?.into());
        drop(inner);
        self.brought.notify_one();
        Ok(())
    }

    /// Drops what nobody has needed for a day.
    pub fn forget(&self, now: SystemTime) {
        let is_old = |needed: SystemTime| now.duration_since(needed).is_ok_and(|past| past > KEEP);
        let mut inner = self.lock();
        let old: Vec<_> = inner.here.iter().filter(|(_, h)| is_old(h.needed)).map(|(d, _)| d.clone()).collect();
        old.iter().for_each(|digest| self.drop_here(&mut inner, digest));
        let begun: Vec<_> = inner.begun.keys().cloned().collect();
        for digest in begun {
            let modified = fs::metadata(self.part(&digest)).and_then(|found| found.modified());
            if modified.map_or(true, is_old) {
                self.drop_begun(&mut inner, &digest);
            }
        }
    }

    /// Drops what need not be here until so many bytes more fit.
    fn make_room(&self, inner: &mut Inner, size: u64) -> Result<(), String> {
        let fits = |inner: &Inner| inner.bytes().saturating_add(size) <= self.limit;
        while !fits(inner)
            && let Some(digest) = inner.begun.keys().next().cloned()
        {
            self.drop_begun(inner, &digest);
        }
        let now = SystemTime::now();
        let may_go = |here: &Here| now.duration_since(here.needed).is_ok_and(|past| past > FRESH);
        while !fits(inner)
            && let Some(digest) =
                inner.here.iter().filter(|(_, h)| may_go(h)).min_by_key(|(_, h)| h.needed).map(|(d, _)| d.clone())
        {
            self.drop_here(inner, &digest);
        }
        if fits(inner) {
            return Ok(());
        }
        let (kept, limit) = (inner.bytes(), self.limit);
        Err(format!("a blob of {size} bytes does not fit beside {kept} that are kept; blobs_bytes allows {limit}"))
    }

    fn drop_here(&self, inner: &mut Inner, digest: &str) {
        inner.here.remove(digest);
        remove(&self.folder.join("in").join(digest));
    }

    fn drop_begun(&self, inner: &mut Inner, digest: &str) {
        inner.begun.remove(digest);
        remove(&self.part(digest));
    }

    fn part(&self, digest: &str) -> PathBuf {
        self.folder.join("in").join(format!("{digest}.part"))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

// === impl Blobs: for the stream ===

impl Blobs {
    /// Waits until there may be something to fetch. One waiter at a time.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits until there may be something to carry home. One waiter at a time.
    pub async fn brought(&self) {
        self.brought.notified().await;
    }

    /// What somebody waits for: digest and size. What nobody waits for any more is given up.
    pub fn to_fetch(&self) -> Vec<(String, u64)> {
        let mut inner = self.lock();
        let left: Vec<_> =
            inner.wants.iter().filter(|(_, want)| want.said.receiver_count() == 0).map(|(d, _)| d.clone()).collect();
        for digest in left {
            inner.wants.remove(&digest);
            self.drop_begun(&mut inner, &digest);
        }
        inner.wants.iter().map(|(digest, want)| (digest.clone(), want.size)).collect()
    }

    /// Goes on with a blob where it stopped; none if it is here.
    pub async fn arriving(&self, digest: &str, size: u64) -> io::Result<Option<Arriving>> {
        let (part, digest) = (self.part(digest), digest.to_owned());
        blocking(move || {
            durable::folder(part.parent().unwrap_or(Path::new(".")))?;
            Arriving::open(part, digest, size)
        })
        .await
    }

    /// Tells who waits for a blob that it is here, or why it will not be.
    pub fn conclude(&self, digest: &str, outcome: Result<(), String>) {
        let mut inner = self.lock();
        let Some(want) = inner.wants.remove(digest) else { return };
        match &outcome {
            Ok(()) => {
                let here = Here { size: want.size, needed: SystemTime::now() };
                inner.here.insert(digest.to_owned(), here);
            }
            Err(_) => self.drop_begun(&mut inner, digest),
        }
        want.said.send_replace(Some(outcome));
    }

    /// What is to be carried home, oldest first.
    pub fn to_bring(&self) -> Vec<Arc<Outgoing>> {
        self.lock().outgoing.values().cloned().collect()
    }

    /// Home has a blob, or will never have it.
    pub fn is_home(&self, out: &Outgoing) {
        self.lock().outgoing.remove(&out.number);
        remove(&out.path);
    }
}

impl Inner {
    fn bytes(&self) -> u64 {
        let here = self.here.values().map(|here| here.size);
        let wanted = self.wants.values().map(|want| want.size);
        let outgoing = self.outgoing.values().map(|out| out.size);
        here.chain(wanted).chain(outgoing).chain(self.begun.values().copied()).sum::<u64>() + self.writing
    }
}

/// Runs what waits for a disk beside the runtime.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(act).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// SHA-256 of all that a file holds, hexadecimal; it is read from its beginning next.
fn digest_of(file: &mut fs::File) -> io::Result<String> {
    use io::{Read, Seek};
    file.rewind()?;
    let (mut sum, mut piece) = (muster_pki::Sha256::default(), vec![0; muster_proto::BLOB_PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            n => sum.update(&piece[..n]),
        }
    }
    file.rewind()?;
    Ok(muster_pki::hex(&sum.finish()))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// What is in a folder; nothing where there is none yet.
fn list(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Removes a file that nobody misses if it is there again after a power cut.
fn remove(path: &Path) {
    if let Err(e) = fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), error = %e, "a blob cannot be removed");
    }
}

#[cfg(test)]
mod tests;
