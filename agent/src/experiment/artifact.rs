//! Files that tasks leave and take: found by pattern, copied from one to another.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::driver::matches;

/// Files that one try may leave: each has a line in the report.
const MOST: usize = 256;

/// The files below a folder that patterns name, by their paths there. `*` stands for anything but `/`; what names a folder
/// names all files in it. `strictly`: what is named without `*` must be there.
pub fn find(folder: &Path, patterns: &[String], strictly: bool) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut found = BTreeMap::new();
    for pattern in patterns {
        let before = found.len();
        let parts: Vec<&str> = pattern.trim_end_matches('/').split('/').collect();
        follow(folder, "", &parts, &mut found);
        if strictly
            && found.len() == before
            && !pattern.contains('*')
            && fs::symlink_metadata(folder.join(pattern)).is_err()
        {
            return Err(format!("the output {pattern} is not there"));
        }
        if found.len() > MOST {
            return Err(format!("it leaves more than {MOST} files as {pattern}; pack them into one"));
        }
    }
    Ok(found)
}

/// Copies a file or a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    if !fs::metadata(from)?.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn follow(folder: &Path, path: &str, parts: &[&str], found: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_named = parts.first().is_none_or(|part| matches(part, &name));
        // A link may lead anywhere, and is no file of the task's own.
        let Some(kind) = entry.file_type().ok().filter(|kind| is_named && !kind.is_symlink()) else { continue };
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        if kind.is_dir() && found.len() <= MOST {
            follow(&entry.path(), &path, parts.get(1..).unwrap_or_default(), found);
        } else if kind.is_file() && parts.len() <= 1 {
            found.insert(path, entry.path());
        }
    }
}
