//! Output of once work until home has it: files of a bounded size in all, by offset.
//!
//! A stream is kept as segments, each a file named by where it begins. What does not fit loses its middle: the first
//! segment says how the work began, the last ones how it ended, and the gap between is marked when it is sent.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use muster_proto::{MAX_LOG, MAX_LOG_PIECE};

use crate::{host::Stream, ledger::Key};

/// One segment, bytes: what is lost at a time when room runs out.
const SEGMENT: u64 = 1024 * 1024;

/// One output of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogKey {
    /// The once assignment.
    pub key: Key,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Which output.
    pub stream: Stream,
}

/// A run of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whose output.
    pub log: LogKey,
    /// Where it begins, over everything the stream produced.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
    /// Bytes before the offset that were dropped.
    pub gap: u64,
}

/// All outputs that home does not have.
#[derive(Debug)]
pub(super) struct Logs {
    folder: PathBuf,
    limit: u64,
    kept: u64,
    streams: BTreeMap<LogKey, Output>,
    /// A file could not be written: what came then is a gap.
    pub failing: bool,
}

#[derive(Debug, Default)]
struct Output {
    produced: u64,
    acknowledged: u64,
    sent: u64,
    /// Start → length.
    segments: BTreeMap<u64, u64>,
}

// === impl Logs ===

impl Logs {
    /// Finds what a former run left; files of work that nobody knows are removed.
    pub fn open(folder: &Path, limit: u64, known: &[Key]) -> Self {
        let mut logs = Self { folder: folder.to_owned(), limit, kept: 0, streams: BTreeMap::new(), failing: false };
        let names: BTreeMap<String, &Key> = known.iter().map(|key| (stem(key), key)).collect();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let parsed = entry.file_name().to_str().and_then(parse).and_then(|(stem, attempt, stream, start)| {
                Some((LogKey { key: (*names.get(stem)?).clone(), attempt, stream }, start))
            });
            match (parsed, entry.metadata()) {
                (Some((log, start)), Ok(found)) => {
                    let output = logs.streams.entry(log).or_default();
                    output.segments.insert(start, found.len());
                    output.produced = output.produced.max(start + found.len());
                    logs.kept += found.len();
                }
                _ => drop(fs::remove_file(entry.path())),
            }
        }
        logs
    }

    /// Takes output. What cannot be kept is counted and becomes a gap.
    pub fn append(&mut self, log: &LogKey, bytes: &[u8]) {
        let n = bytes.len() as u64;
        let output = self.streams.entry(log.clone()).or_default();
        let start = output.produced;
        output.produced += n;
        if output.produced <= output.acknowledged || n > self.limit {
            return;
        }
        let last = output.segments.last_key_value().filter(|(s, len)| *s + *len == start && **len < SEGMENT);
        let segment = last.map_or(start, |(s, _)| *s);
        let path = file(&self.folder, log, segment);
        let written = OpenOptions::new().append(true).create(true).mode(0o600).open(path).and_then(|mut file| {
            let before = file.metadata()?.len();
            // A piece that was written in part is taken back, so that a file holds exactly what its name says.
            file.write_all(bytes).inspect_err(|_| drop(file.set_len(before)))
        });
        self.failing = written.is_err();
        if written.is_ok() {
            *output.segments.entry(segment).or_default() += n;
            self.kept += n;
        }
        while self.stream_is_full(log) && self.drop_middle(log) {}
        while self.kept > self.limit && self.drop_any() {}
    }

    /// The next piece that was not sent on this stream.
    pub fn next(&mut self) -> Option<Piece> {
        for (log, output) in &mut self.streams {
            let sent = output.sent;
            let Some((start, len)) = output.segments.iter().map(|(s, l)| (*s, *l)).find(|(s, l)| s + l > sent) else {
                continue;
            };
            let offset = sent.max(start);
            let want = (start + len - offset).min(MAX_LOG_PIECE as u64);
            let data = read(&file(&self.folder, log, start), offset - start, want);
            // A segment that cannot be read is passed over, and so becomes a gap.
            let Some(data) = data else {
                output.sent = start + len;
                output.segments.remove(&start);
                self.kept -= len;
                return self.next();
            };
            output.sent = offset + data.len() as u64;
            return Some(Piece { log: log.clone(), offset, data, gap: offset - sent });
        }
        None
    }

    /// A new stream begins: what home does not have is sent again.
    pub fn rewind(&mut self) {
        self.streams.values_mut().for_each(|output| output.sent = output.acknowledged);
    }

    /// Home has, or wants no more of, what lies before `up_to`.
    pub fn acknowledge(&mut self, log: &LogKey, up_to: u64) {
        let Some(output) = self.streams.get_mut(log) else { return };
        output.acknowledged = output.acknowledged.max(up_to);
        output.sent = output.sent.max(up_to);
        let over: Vec<u64> = output.segments.iter().filter(|(s, l)| *s + *l <= up_to).map(|(s, _)| *s).collect();
        over.into_iter().for_each(|start| self.remove(log, start));
    }

    /// Drops everything of a once assignment.
    pub fn forget(&mut self, key: &Key) {
        let of_it: Vec<LogKey> = self.streams.keys().filter(|log| log.key == *key).cloned().collect();
        for log in of_it {
            let starts: Vec<u64> = self.streams[&log].segments.keys().copied().collect();
            starts.into_iter().for_each(|start| self.remove(&log, start));
            self.streams.remove(&log);
        }
    }

    /// Whether nothing of a once assignment waits to be sent.
    pub fn is_drained(&self, key: &Key) -> bool {
        self.streams.iter().filter(|(log, _)| log.key == *key).all(|(_, output)| output.segments.is_empty())
    }

    fn stream_is_full(&self, log: &LogKey) -> bool {
        self.streams.get(log).is_some_and(|output| output.segments.values().sum::<u64>() > MAX_LOG)
    }

    /// Drops the oldest segment but the first and the last.
    fn drop_middle(&mut self, log: &LogKey) -> bool {
        let Some(output) = self.streams.get(log) else { return false };
        let Some(start) = output.segments.keys().rev().skip(1).rev().nth(1).copied() else { return false };
        self.remove(log, start);
        true
    }

    fn drop_any(&mut self) -> bool {
        let size = |output: &Output| output.segments.values().sum::<u64>();
        let Some(largest) = self.streams.iter().max_by_key(|(_, o)| size(o)).map(|(log, _)| log.clone()) else {
            return false;
        };
        if self.drop_middle(&largest) {
            return true;
        }
        let first = self.streams[&largest].segments.keys().next().copied();
        first.map(|start| self.remove(&largest, start)).is_some()
    }

    fn remove(&mut self, log: &LogKey, start: u64) {
        let _ = fs::remove_file(file(&self.folder, log, start));
        let len = self.streams.get_mut(log).and_then(|output| output.segments.remove(&start));
        self.kept -= len.unwrap_or(0);
    }
}

fn read(path: &Path, skip: u64, want: u64) -> Option<Bytes> {
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(skip)).ok()?;
    let mut data = Vec::new();
    file.take(want).read_to_end(&mut data).ok()?;
    (!data.is_empty()).then(|| data.into())
}

fn stem(key: &Key) -> String {
    muster_pki::hex(&muster_pki::sha256(format!("{}\0{}", key.kind, key.id).as_bytes())[..12])
}

fn file(folder: &Path, log: &LogKey, start: u64) -> PathBuf {
    let stream = if log.stream == Stream::Stdout { "out" } else { "err" };
    folder.join(format!("{}-{}-{stream}-{start}", stem(&log.key), log.attempt))
}

fn parse(name: &str) -> Option<(&str, u32, Stream, u64)> {
    let mut parts = name.split('-');
    let (stem, attempt) = (parts.next()?, parts.next()?.parse().ok()?);
    let stream = match parts.next()? {
        "out" => Stream::Stdout,
        "err" => Stream::Stderr,
        _ => return None,
    };
    Some((stem, attempt, stream, parts.next()?.parse().ok()?))
}
