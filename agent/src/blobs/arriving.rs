//! A blob on its way here, and how it goes on where it stopped.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;

use super::{blocking, digest_of};
use crate::durable;

/// A blob on its way. Dropped before its end, what came of it stays for the next stream.
#[derive(Debug)]
pub struct Arriving {
    digest: String,
    size: u64,
    there: u64,
    path: PathBuf,
    /// Locked: what a stream that ended still writes is waited for.
    file: Arc<File>,
}

// === impl Arriving ===

impl Arriving {
    pub(super) fn open(path: PathBuf, digest: String, size: u64) -> io::Result<Option<Self>> {
        let file = loop {
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock()?;
            // Whoever held it may have brought it to its end meanwhile.
            if fs::metadata(&path).is_ok_and(|found| file.metadata().is_ok_and(|own| own.ino() == found.ino())) {
                break file;
            }
        };
        if fs::metadata(path.with_extension("")).is_ok_and(|found| found.len() == size) {
            fs::remove_file(&path)?;
            return Ok(None);
        }
        let mut there = file.metadata()?.len();
        if there > size {
            file.set_len(0)?;
            there = 0;
        }
        Ok(Some(Self { digest, size, there, path, file: Arc::new(file) }))
    }

    /// How many bytes are here, from the beginning on.
    pub fn there(&self) -> u64 {
        self.there
    }

    /// Whether all of it is here.
    pub fn is_whole(&self) -> bool {
        self.there == self.size
    }

    /// Adds the next bytes.
    pub async fn append(&mut self, data: Bytes) -> io::Result<()> {
        let (file, at, end) = (self.file.clone(), self.there, self.there + data.len() as u64);
        if end > self.size {
            return Err(io::Error::other(format!("more came than the {} bytes it has", self.size)));
        }
        blocking(move || file.write_all_at(&data, at).inspect_err(|_| drop(file.set_len(at)))).await?;
        self.there = end;
        Ok(())
    }

    /// Makes it durable, once it is whole. False if its digest is wrong: it begins anew.
    pub async fn finish(self) -> io::Result<bool> {
        blocking(move || {
            self.file.sync_all()?;
            let mut whole = File::open(&self.path)?;
            if digest_of(&mut whole)? != self.digest {
                fs::remove_file(&self.path)?;
                return Ok(false);
            }
            fs::rename(&self.path, self.path.with_extension(""))?;
            durable::sync_folder(&self.path)?;
            Ok(true)
        })
        .await
    }
}
