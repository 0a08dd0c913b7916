//! Bytes that are too many for a message, and where they lie.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::model::Content;
use crate::{durable, ledger::Key};

/// Blobs, here and at home.
pub trait Blobs: Send + Sync {
    /// The file of a blob, once it is here.
    fn need<'a>(&'a self, digest: &'a str, size: u64) -> BoxFuture<'a, Result<PathBuf, String>>;
    /// Keeps bytes to be carried home under an assignment; gives their digest.
    fn bring(&self, key: &Key, bytes: &[u8]) -> std::io::Result<String>;
}

/// A host without blobs: what does not lie in the message itself is refused.
pub struct NoBlobs;

// === impl NoBlobs ===

impl Blobs for NoBlobs {
    fn need<'a>(&'a self, digest: &'a str, size: u64) -> BoxFuture<'a, Result<PathBuf, String>> {
        let why = format!("this agent fetches no blobs: {digest} of {size} bytes would have to lie in the document");
        Box::pin(async { Err(why) })
    }

    fn bring(&self, _: &Key, bytes: &[u8]) -> std::io::Result<String> {
        Err(std::io::Error::other(format!("this agent stores no blobs, and {} bytes are too many", bytes.len())))
    }
}

/// Puts content into a file, durably.
pub async fn place(blobs: &dyn Blobs, content: &Content, file: &Path) -> Result<(), String> {
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

/// Content of bytes: inline up to `inline`, a blob beyond it.
pub async fn keep(blobs: &Arc<dyn Blobs>, key: &Key, bytes: Bytes, inline: usize) -> Result<Content, String> {
    let size = bytes.len();
    if size <= inline {
        return Ok(Content::Inline(bytes));
    }
    let (blobs, key) = (blobs.clone(), key.clone());
    let kept = tokio::task::spawn_blocking(move || blobs.bring(&key, &bytes)).await;
    let kept = kept.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    kept.map(|digest| Content::Blob { digest, size: size as u64 })
        .map_err(|e| format!("{size} bytes cannot be kept: {e}"))
}
