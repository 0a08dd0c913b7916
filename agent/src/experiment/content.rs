//! Bytes that are too many for a message, and where they lie.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::model::Content;
use crate::{blobs::Blobs, durable, ledger::Key};

/// Puts content into a file, durably.
pub async fn place(blobs: &Blobs, content: &Content, file: &Path) -> Result<(), String> {
    let bytes = match content {
        Content::Inline(bytes) => bytes.clone(),
        Content::Blob { digest, size } => {
            let from = blobs.need(digest, *size).await?;
            let read = tokio::fs::read(&from).await;
            Bytes::from(read.map_err(|e| format!("the blob {digest} cannot be read: {e}"))?)
        }
    };
    let (to, shown) = (file.to_owned(), file.display().to_string());
    let written = tokio::task::spawn_blocking(move || durable::replace(&to, &bytes, || ())).await;
    written.map_err(|e| e.to_string())?.map_err(|e| format!("{shown} cannot be written: {e}"))
}

/// A file that holds content, to be read alone: the blob's own, or else `file`, which is written.
pub async fn file(blobs: &Blobs, content: &Content, file: PathBuf) -> Result<PathBuf, String> {
    match content {
        Content::Blob { digest, size } => blobs.need(digest, *size).await,
        Content::Inline(bytes) => {
            let write = || {
                fs::create_dir_all(file.parent().unwrap_or(&file))?;
                fs::write(&file, bytes)
            };
            write().map_err(|e: io::Error| format!("{} cannot be written: {e}", file.display()))?;
            Ok(file)
        }
    }
}

/// Content of bytes: inline up to so many, a blob beyond it.
pub async fn keep(blobs: &Arc<Blobs>, key: &Key, bytes: Bytes, inline: usize) -> Result<Content, String> {
    let size = bytes.len();
    if size <= inline {
        return Ok(Content::Inline(bytes));
    }
    let (blobs, key) = (blobs.clone(), key.clone());
    let kept = tokio::task::spawn_blocking(move || blobs.bring(&key, &bytes)).await;
    named(kept.unwrap_or_else(|e| Err(io::Error::other(e))), size as u64)
}

/// Content of a file, likewise.
pub async fn keep_file(blobs: &Arc<Blobs>, key: &Key, file: &Path, inline: usize) -> Result<Content, String> {
    let unread = |e: io::Error| format!("it cannot be read: {e}");
    let size = fs::metadata(file).map_err(unread)?.len();
    if size <= inline as u64 {
        return tokio::fs::read(file).await.map(|bytes| Content::Inline(bytes.into())).map_err(unread);
    }
    named(blobs.bring_file(key, file).await, size)
}

fn named(kept: io::Result<String>, size: u64) -> Result<Content, String> {
    kept.map(|digest| Content::Blob { digest, size }).map_err(|e| format!("{size} bytes cannot be kept: {e}"))
}
