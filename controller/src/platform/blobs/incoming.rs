//! A blob that arrives piece by piece, and goes on where it stopped.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use muster_pki::{hex, sha256};

use super::{Blobs, Held, SMALL, blocking, folder};
use crate::error::{Error, Result};

/// A blob on its way in. Dropped before its end, what came of a large one stays for the next try.
#[derive(Debug)]
pub struct Incoming {
    blobs: Blobs,
    digest: String,
    size: u64,
    there: u64,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// Small enough to be sent again from the beginning.
    Memory(Vec<u8>),
    /// Locked: a part has one writer.
    File { file: Arc<File>, path: PathBuf },
}

// === impl Incoming ===

impl Incoming {
    pub(super) async fn open(blobs: Blobs, sender: &str, digest: &str, size: i64) -> Result<Self> {
        let size = size.unsigned_abs();
        let (digest, there, kept) = (digest.to_owned(), 0, Kept::Memory(Vec::new()));
        if size <= SMALL as u64 {
            return Ok(Self { blobs, digest, size, there, kept });
        }
        // What one sender wrote is never part of what another one sends.
        let path = blobs.folder.part(&hex(&sha256(format!("{sender}\0{digest}").as_bytes())));
        let opened = blocking(move || Ok(open_part(&path, size).map(|(file, there)| (file, there, path)))).await?;
        let (file, there, path) = opened?;
        Ok(Self { blobs, digest, size, there, kept: Kept::File { file: Arc::new(file), path } })
    }

    /// How many bytes are there, from the beginning on.
    pub fn there(&self) -> i64 {
        i64::try_from(self.there).unwrap_or(i64::MAX)
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.there == self.size
    }

    /// Adds the next bytes. When they cannot be written nothing stays of it.
    pub async fn append(&mut self, data: Bytes) -> Result<()> {
        let n = data.len() as u64;
        if n > self.size - self.there {
            return Err(Error::invalid("data", format!("the blob has {} bytes and no more", self.size)));
        }
        match &mut self.kept {
            Kept::Memory(bytes) => bytes.extend_from_slice(&data),
            Kept::File { file, path } => {
                let (file, path) = (file.clone(), path.clone());
                let write = move || (&*file).write_all(&data).inspect_err(|_| drop(fs::remove_file(&path)));
                blocking(write).await?;
            }
        }
        self.there += n;
        Ok(())
    }

    /// Makes it durable, once it is whole. None if its digest is wrong: nothing stays of it.
    pub async fn finish(self) -> Result<Option<Held>> {
        let (blobs, digest) = (self.blobs, self.digest);
        let size = i64::try_from(self.size).unwrap_or(i64::MAX);
        let (file, path) = match self.kept {
            Kept::Memory(bytes) => {
                let held = blobs.hold(bytes.into()).await?;
                return Ok((held.digest == digest).then_some(held));
            }
            Kept::File { file, path } => (file, path),
        };
        let settled = blocking(move || {
            // A second handle would have an offset of its own; the lock stays with the first.
            let mut reader = File::open(&path)?;
            file.sync_all()?;
            if folder::digest_of(&mut reader)? != digest {
                fs::remove_file(&path)?;
                return Ok(None);
            }
            blobs.folder.settle(&path, &digest)?;
            Ok(Some(Held { digest, size, bytes: None }))
        });
        settled.await
    }
}

/// A part, locked, and how long it is.
fn open_part(path: &PathBuf, size: u64) -> Result<(File, u64)> {
    let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let mut file = open().map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = "this blob is being stored by another call".into();
            return Err(Error::Busy { message, retry_after_secs: 1 });
        }
        Err(TryLockError::Error(e)) => return Err(failed(e)),
    }
    let there = file.metadata().map_err(failed)?.len();
    if there > size {
        file.set_len(0).map_err(failed)?;
    }
    let there = file.seek(SeekFrom::End(0)).map_err(failed)?;
    Ok((file, there))
}

fn failed(e: io::Error) -> Error {
    Error::internal(anyhow::Error::from(e).context("a blob cannot be stored"))
}
