//! What a program said last, and which process groups it had.

use std::{io, sync::Mutex};

use crate::{
    host::{Host, Stream, Watch},
    ledger::Group,
};

/// So many groups are remembered before it is looked which of them are gone.
const GROUPS: usize = 16;

/// Kept of what was said, bytes.
const KEPT: usize = 8 * 1024;

/// The most of it that becomes a message, bytes.
const MESSAGE: usize = 2048;

/// Lines that become a message.
const LINES: usize = 5;

/// Passes everything on and remembers the end of it.
pub struct Tail<'a> {
    host: &'a dyn Host,
    onward: Option<&'a dyn Watch>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    text: Vec<u8>,
    groups: Vec<Group>,
}

// === impl Tail ===

impl<'a> Tail<'a> {
    /// Passes on what it sees, if there is anyone.
    pub fn new(host: &'a dyn Host, onward: Option<&'a dyn Watch>) -> Self {
        Self { host, onward, kept: Mutex::default() }
    }

    /// One that passes nothing on.
    pub fn alone(&self) -> Self {
        Self::new(self.host, None)
    }

    /// Writes a line of the agent's own into the output.
    pub fn note(&self, line: &str) {
        if let Some(onward) = self.onward {
            onward.output(Stream::Stdout, format!("{line}\n").as_bytes());
        }
    }

    /// The last lines that were said.
    pub fn last_words(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        let text = String::from_utf8_lossy(&kept.text).replace('\0', "");
        let mut lines: Vec<_> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(LINES).collect();
        lines.reverse();
        let text = lines.join("\n");
        let cut = (text.len().saturating_sub(MESSAGE)..=text.len()).find(|at| text.is_char_boundary(*at));
        text[cut.unwrap_or_default()..].to_owned()
    }

    /// All that is kept of what was said.
    pub fn text(&self) -> Vec<u8> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner()).text.clone()
    }

    /// Ends whatever the programs left running.
    pub async fn end_groups(&self) {
        let groups = std::mem::take(&mut self.kept.lock().unwrap_or_else(|e| e.into_inner()).groups);
        for group in groups {
            self.host.end_group(&group).await;
        }
    }
}

impl Watch for Tail<'_> {
    fn grouped(&self, group: Group) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        if kept.groups.len() >= GROUPS {
            kept.groups.retain(|group| self.host.is_alive(group));
        }
        kept.groups.push(group.clone());
        drop(kept);
        self.onward.map_or(Ok(()), |onward| onward.grouped(group))
    }

    fn output(&self, stream: Stream, bytes: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.text.extend_from_slice(bytes);
        let excess = kept.text.len().saturating_sub(KEPT);
        kept.text.drain(..excess);
        drop(kept);
        if let Some(onward) = self.onward {
            onward.output(stream, bytes);
        }
    }
}
