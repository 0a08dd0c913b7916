//! The folder of large blobs: below a digest's name lies all of it or nothing.
//!
//! What is being written lies in `incoming` until its digest was right and it is durable. Who finds a blob there already
//! and relies on it marks it as young, and only old files are dropped; a lock on the folder keeps the two apart, for
//! every process that shares it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use muster_pki::{Sha256, hex};

use super::{Damaged, PIECE};

/// Large blobs as files.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

/// A file that is read from its beginning, whatever is given of it: its last piece only when its digest was right.
pub(super) struct Reading {
    file: File,
    digest: String,
    size: u64,
    at: u64,
    /// Nothing before this is given.
    from: u64,
    sum: Sha256,
}

// === impl Folder ===

impl Folder {
    pub fn open(root: &Path) -> io::Result<Self> {
        let folder = Self { root: root.to_owned() };
        make(&folder.incoming())?;
        Ok(folder)
    }

    /// Where a blob lies.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.root.join(digest.get(..2).unwrap_or_default()).join(digest)
    }

    /// Where something lies that is not whole yet.
    pub fn part(&self, name: &str) -> PathBuf {
        self.incoming().join(format!("{name}.part"))
    }

    /// Makes bytes durable under their digest.
    pub fn write(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        if self.freshen(digest, bytes.len() as u64)? {
            return Ok(());
        }
        let part = self.part(&hex(&muster_pki::random::<16>()));
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.and_then(|()| self.settle(&part, digest)).inspect_err(|_| drop(fs::remove_file(&part)))
    }

    /// Gives a part, whole and synced, its name for good.
    pub fn settle(&self, part: &Path, digest: &str) -> io::Result<()> {
        let path = self.path(digest);
        let gate = self.gate()?;
        gate.lock_shared()?;
        let folder = path.parent().unwrap_or(&self.root);
        if !folder.is_dir() {
            make(folder)?;
            File::open(&self.root)?.sync_all()?;
        }
        fs::rename(part, &path)?;
        File::open(folder)?.sync_all()
    }

    /// Whether a blob is there; if so, it is young again.
    pub fn freshen(&self, digest: &str, size: u64) -> io::Result<bool> {
        let gate = self.gate()?;
        gate.lock_shared()?;
        let file = match OpenOptions::new().write(true).open(self.path(digest)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        if file.metadata()?.len() != size {
            return Ok(false);
        }
        file.set_modified(SystemTime::now())?;
        Ok(true)
    }

    /// Removes a blob's file unless it is younger than `before`.
    pub fn discard(&self, digest: &str, before: SystemTime) -> io::Result<()> {
        let path = self.path(digest);
        let gate = self.gate()?;
        gate.lock()?;
        match fs::metadata(&path).and_then(|m| m.modified()) {
            Ok(modified) if modified < before => fs::remove_file(&path),
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Blobs whose files are older than `before`. Parts that are so old are removed on the way.
    pub fn old(&self, before: SystemTime) -> io::Result<Vec<String>> {
        let is_old = |entry: &fs::DirEntry| entry.metadata().and_then(|m| m.modified()).is_ok_and(|m| m < before);
        for entry in fs::read_dir(self.incoming())? {
            let entry = entry?;
            // Whoever writes it has made it younger meanwhile.
            if is_old(&entry) {
                fs::remove_file(entry.path())?;
            }
        }
        let mut found = Vec::new();
        for folder in fs::read_dir(&self.root)? {
            let folder = folder?;
            if folder.file_name().len() != 2 {
                continue;
            }
            let old = fs::read_dir(folder.path())?.flatten().filter(is_old);
            found.extend(old.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_digest(name)));
        }
        Ok(found)
    }

    /// Begins to read a blob, to be given from an offset on.
    pub fn read(&self, digest: &str, size: u64, from: u64) -> Result<Reading, Damaged> {
        let file = File::open(self.path(digest)).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Damaged::new(digest, "its file is missing"),
            _ => Damaged::new(digest, format!("its file cannot be opened: {e}")),
        })?;
        Ok(Reading { file, digest: digest.to_owned(), size, at: 0, from, sum: Sha256::default() })
    }

    fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Locked for as long as it is open: by all who rely on files, or by the one who drops one.
    fn gate(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.root.join("lock"))
    }
}

// === impl Reading ===

impl Reading {
    /// The next piece; none at the end.
    pub fn next(&mut self) -> Result<Option<Bytes>, Damaged> {
        let damaged = |why: String| Damaged::new(&self.digest, why);
        while self.at < self.size {
            let until = if self.at < self.from { self.from.min(self.size) } else { self.size };
            let mut piece = vec![0; (until - self.at).min(PIECE as u64) as usize];
            self.file.read_exact(&mut piece).map_err(|e| damaged(format!("its file cannot be read: {e}")))?;
            self.sum.update(&piece);
            self.at += piece.len() as u64;
            if self.at == self.size && hex(&self.sum.clone().finish()) != self.digest {
                return Err(damaged("its file holds other bytes".into()));
            }
            if self.at > self.from {
                return Ok(Some(piece.into()));
            }
        }
        Ok(None)
    }
}

/// SHA-256 of all that a file holds, hexadecimal.
pub(super) fn digest_of(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let (mut sum, mut piece) = (Sha256::default(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex(&sum.finish())),
            n => sum.update(&piece[..n]),
        }
    }
}

/// Whether a text is a digest: what is none never becomes part of a path.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
