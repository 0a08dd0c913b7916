//! The output of one task, each line with the task's name before it.

use std::{io, sync::Mutex};

use super::tail::Tail;
use crate::{
    host::{Stream, Watch},
    ledger::Group,
};

/// A line is broken when it is longer, bytes.
const LONGEST: usize = 8 * 1024;

/// Names a task before each line, and remembers the last ones.
pub struct Lines<'a> {
    task: &'a str,
    onward: &'a Tail<'a>,
    own: Tail<'a>,
    begun: Mutex<[Vec<u8>; 2]>,
}

// === impl Lines ===

impl<'a> Lines<'a> {
    /// The output of a task, on its way to an executor's.
    pub fn new(task: &'a str, onward: &'a Tail<'a>) -> Self {
        Self { task, onward, own: onward.alone(), begun: Mutex::default() }
    }

    /// Passes on what has no end of line.
    pub fn end(&self) {
        let begun = std::mem::take(&mut *self.begun.lock().unwrap_or_else(|e| e.into_inner()));
        for (stream, rest) in [Stream::Stdout, Stream::Stderr].into_iter().zip(begun) {
            if !rest.is_empty() {
                self.pass_on(stream, [rest.as_slice(), b"\n"].concat().as_slice());
            }
        }
    }

    /// The last lines of this task.
    pub fn last_words(&self) -> String {
        self.own.last_words()
    }

    fn pass_on(&self, stream: Stream, lines: &[u8]) {
        let mut named = Vec::with_capacity(lines.len() + 32);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            named.extend_from_slice(self.task.as_bytes());
            named.extend_from_slice(b" | ");
            named.extend_from_slice(line);
        }
        self.onward.output(stream, &named);
    }
}

impl Watch for Lines<'_> {
    fn grouped(&self, group: Group) -> io::Result<()> {
        self.onward.grouped(group)
    }

    fn output(&self, stream: Stream, bytes: &[u8]) {
        self.own.output(stream, bytes);
        let mut begun = self.begun.lock().unwrap_or_else(|e| e.into_inner());
        let begun = &mut begun[usize::from(stream == Stream::Stderr)];
        begun.extend_from_slice(bytes);
        if let Some(end) = begun.iter().rposition(|byte| *byte == b'\n') {
            let lines: Vec<u8> = begun.drain(..=end).collect();
            self.pass_on(stream, &lines);
        }
        if begun.len() > LONGEST {
            begun.push(b'\n');
            let line = std::mem::take(begun);
            self.pass_on(stream, &line);
        }
    }
}
