//! The tries of tasks as a report holds them: the newest, as many as there is room for. Pure.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    model::{Run, RunState},
    wire,
};

/// What the tries of a report may take, bytes.
const ROOM: usize = 200 * 1024;

/// The longest file that lies in a report, bytes.
const INLINE: usize = 16 * 1024;

/// What all files in a report may take, bytes.
const INLINE_ALL: usize = 128 * 1024;

/// The tries of one executor.
#[derive(Debug, Default)]
pub struct Runs {
    listed: Vec<(u64, Run, usize)>,
    next: u64,
    bytes: usize,
    /// Tries that are not listed any more.
    pub left_out: u64,
}

/// How much room for files is left in an executor's report.
#[derive(Debug)]
pub struct Inline(AtomicUsize);

// === impl Runs ===

impl Runs {
    /// A try begins; gives its number.
    pub fn add(&mut self, run: Run) -> u64 {
        self.next += 1;
        let size = wire::size_of(&run);
        self.bytes += size;
        self.listed.push((self.next, run, size));
        self.leave_out();
        self.next
    }

    /// A try ended.
    pub fn end(&mut self, number: u64, run: Run) {
        if let Some((_, listed, bytes)) = self.listed.iter_mut().find(|(found, ..)| *found == number) {
            let size = wire::size_of(&run);
            self.bytes = self.bytes + size - *bytes;
            (*listed, *bytes) = (run, size);
        }
        self.leave_out();
    }

    /// The tries that are told, oldest first.
    pub fn list(&self) -> impl Iterator<Item = &Run> {
        self.listed.iter().map(|(_, run, _)| run)
    }

    /// Leaves out the oldest that ended, until the rest fits.
    fn leave_out(&mut self) {
        while self.bytes > ROOM
            && let Some(oldest) = self.listed.iter().position(|(_, run, _)| run.state != RunState::Running)
        {
            let (_, _, size) = self.listed.remove(oldest);
            self.bytes -= size;
            self.left_out += 1;
        }
    }
}

// === impl Inline ===

impl Inline {
    /// How many bytes a file may have to lie in the report; it takes its room.
    pub fn take(&self, size: usize) -> usize {
        let fits = |left: usize| (size <= INLINE).then_some(left)?.checked_sub(size);
        if self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok() { INLINE } else { 0 }
    }
}

impl Default for Inline {
    fn default() -> Self {
        Self(AtomicUsize::new(INLINE_ALL))
    }
}
