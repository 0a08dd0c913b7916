//! The journal's file: frames of records, each with its length and two checksums.
//!
//! A frame is `length u32 ‖ crc32(length) ‖ crc32(body) ‖ body`, little-endian. What one append wrote is one frame, so
//! that it is read back whole or not at all. No descriptor stays open between writes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use prost::Message;

use super::model::{Frame, Line, Record};
use crate::{crash, crash::CrashPoint, durable};

const HEADER: usize = 12;

/// A journal that doubles, and grows by this much beyond that, is compacted.
const SLACK: u64 = 64 * 1024;

/// The file and how much of it is known to be good.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    good: u64,
    /// Size after the last compaction.
    floor: u64,
}

/// What a journal's bytes say.
#[derive(Debug, PartialEq)]
pub(super) enum Reading {
    /// Every record up to `good` bytes; what follows was cut off while being written.
    Whole { records: Vec<Record>, good: u64 },
    /// A frame in the middle is damaged.
    Corrupt,
}

// === impl Journal ===

impl Journal {
    /// Opens the file. None when it is not there.
    pub fn open(path: &Path) -> io::Result<Option<(Self, Reading)>> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => file.read_to_end(&mut bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let reading = read(&bytes);
        let good = match &reading {
            Reading::Whole { good, .. } => *good,
            Reading::Corrupt => 0,
        };
        Ok(Some((Self { path: path.to_owned(), good, floor: good / 2 }, reading)))
    }

    /// A journal of these records, in place of whatever was there.
    pub fn create(path: &Path, records: &[Record], between: impl FnOnce()) -> io::Result<Self> {
        let bytes = frame(records);
        durable::replace(path, &bytes, between)?;
        let good = bytes.len() as u64;
        Ok(Self { path: path.to_owned(), good, floor: good })
    }

    /// Makes records durable, all or none.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let bytes = frame(records);
        let mut file = OpenOptions::new().append(true).mode(0o600).open(&self.path)?;
        if file.metadata()?.len() != self.good {
            // An append that failed, or a torn tail, left bytes that must not stand before good ones.
            file.set_len(self.good)?;
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        self.good += bytes.len() as u64;
        Ok(())
    }

    /// Whether most of the file is history.
    pub fn should_compact(&self) -> bool {
        self.good > 2 * self.floor + SLACK
    }

    /// Writes the journal anew.
    pub fn compact(&mut self, records: &[Record]) -> io::Result<()> {
        *self = Self::create(&self.path, records, || crash::at(CrashPoint::BeforeCompaction))?;
        crash::at(CrashPoint::AfterCompaction);
        Ok(())
    }
}

/// Records as one frame.
pub(super) fn frame(records: &[Record]) -> Vec<u8> {
    let lines = records.iter().map(|r| Line { record: Some(r.clone()) }).collect();
    let body = Frame { lines }.encode_to_vec();
    let length = u32::try_from(body.len()).expect("a ledger's live records are far below 4 GiB").to_le_bytes();
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc32fast::hash(&length).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

/// Reads a journal's bytes. Damage counts as a torn tail only where nothing follows it.
pub(super) fn read(bytes: &[u8]) -> Reading {
    let mut records = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let torn = |records| Reading::Whole { records, good: at as u64 };
        let empty = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
        let Some((header, after)) = rest.split_at_checked(HEADER) else { return torn(records) };
        let word = |n: usize| u32::from_le_bytes([header[n], header[n + 1], header[n + 2], header[n + 3]]);
        if crc32fast::hash(&header[..4]) != word(4) {
            return if empty(after) { torn(records) } else { Reading::Corrupt };
        }
        let Some(body) = after.get(..word(0) as usize) else { return torn(records) };
        let end = at + HEADER + body.len();
        let frame = (crc32fast::hash(body) == word(8)).then(|| Frame::decode(body).ok()).flatten();
        match frame {
            Some(frame) => records.extend(frame.lines.into_iter().filter_map(|l| l.record)),
            None if empty(&bytes[end..]) => return torn(records),
            None => return Reading::Corrupt,
        }
        at = end;
    }
    Reading::Whole { records, good: at as u64 }
}
