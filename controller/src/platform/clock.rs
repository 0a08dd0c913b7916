//! The controller's clock: the system's, moved by as much as a test asks for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// Tells the time, milliseconds since the Unix epoch. Clones tell the same.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// Now.
    pub fn now(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(self.0.load(Ordering::Relaxed))
    }

    /// Moves this clock and its clones by `ms`.
    pub fn shift(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}
