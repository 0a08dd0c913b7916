//! A blob that home is to have, as a file: a line that says for which assignment, then the bytes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use muster_proto::BLOB_PIECE;
use serde::{Deserialize, Serialize};

use super::blocking;
use crate::{durable, ledger::Key};

/// The longest first line, bytes.
const LONGEST: u64 = 8192;

/// A blob that home is to have.
#[derive(Debug)]
pub struct Outgoing {
    /// The assignment that made it.
    pub key: Key,
    /// SHA-256, hexadecimal.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// Where the bytes begin in the file.
    begins: u64,
}

/// An open one.
#[derive(Debug, Clone)]
pub struct Reading {
    file: Arc<File>,
    begins: u64,
    size: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    kind: String,
    id: String,
    digest: String,
    size: u64,
}

// === impl Outgoing ===

impl Outgoing {
    /// Reads a file's first line; none if it is not one that was written to its end.
    pub(super) fn find(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let number = name.parse().ok()?;
        let file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        let mut line = String::new();
        let begins = BufReader::new(file.take(LONGEST)).read_line(&mut line).ok()? as u64;
        let Line { kind, id, digest, size } = serde_json::from_str(&line).ok()?;
        let is_whole = begins + size == length;
        is_whole.then(|| Self { key: Key { kind, id }, digest, size, number, path: path.to_owned(), begins })
    }

    /// Writes a file, durably.
    pub(super) fn write(
        folder: &Path,
        number: u64,
        key: &Key,
        digest: &str,
        size: u64,
        bytes: &mut dyn Read,
    ) -> io::Result<Self> {
        durable::folder(folder)?;
        let path = folder.join(format!("{number:020}"));
        let beside = path.with_extension("tmp");
        let line = Line { kind: key.kind.clone(), id: key.id.clone(), digest: digest.to_owned(), size };
        let line = serde_json::to_string(&line)? + "\n";
        let mut write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(line.as_bytes())?;
            let mut sum = Summed { file: &mut file, sum: muster_pki::Sha256::default() };
            io::copy(bytes, &mut sum)?;
            if muster_pki::hex(&sum.sum.finish()) != digest {
                return Err(io::Error::other("the file changed while it was read"));
            }
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            durable::sync_folder(&path)
        };
        write().inspect_err(|_| super::remove(&beside))?;
        let key = key.clone();
        Ok(Self { key, digest: digest.to_owned(), size, number, path, begins: line.len() as u64 })
    }

    /// Opens it.
    pub fn read(&self) -> io::Result<Reading> {
        Ok(Reading { file: File::open(&self.path)?.into(), begins: self.begins, size: self.size })
    }
}

// === impl Reading ===

impl Reading {
    /// The bytes from an offset on, as many as a chunk carries; none at the end.
    pub async fn piece(&self, offset: u64) -> io::Result<Bytes> {
        let (file, at) = (self.file.clone(), self.begins + offset);
        let mut piece = vec![0; self.size.saturating_sub(offset).min(BLOB_PIECE as u64) as usize];
        blocking(move || {
            file.read_exact_at(&mut piece, at)?;
            Ok(piece.into())
        })
        .await
    }

    /// SHA-256 of all its bytes as they are on disk, hexadecimal.
    pub async fn digest(&self) -> io::Result<String> {
        let (mut sum, mut at) = (muster_pki::Sha256::default(), 0);
        while at < self.size {
            let piece = self.piece(at).await?;
            at += piece.len() as u64;
            sum.update(&piece);
        }
        Ok(muster_pki::hex(&sum.finish()))
    }
}

/// Bytes are summed up as they are written.
struct Summed<'a> {
    file: &'a mut File,
    sum: muster_pki::Sha256,
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
