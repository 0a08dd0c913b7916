//! Files that are whole after a power cut: written beside, synced, renamed, folder synced.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Makes a folder that only its owner enters, with its parents.
pub fn folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file that only its owner reads. `between` runs when the new bytes are durable and the old name still
/// stands.
pub fn replace(path: &Path, bytes: &[u8], between: impl FnOnce()) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    between();
    fs::rename(&beside, path)?;
    sync_folder(path)
}

/// Makes the name of a file durable.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Removes a file for good; a missing one is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}
