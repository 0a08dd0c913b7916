//! When to come back to home. Pure: chance and times are arguments.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

const FIRST: Duration = Duration::from_secs(1);

/// The longest wait, unless the host's owner says less.
pub const MOST: Duration = Duration::from_secs(300);

/// A stream that lived this long was healthy: the next failure is the first.
const HEALTHY: Duration = Duration::from_secs(60);

/// An identity that home does not want comes back this seldom: a person has to act first.
const RARELY: Duration = Duration::from_secs(300);

/// A herd that was told to come back at one time spreads over this much of it.
const SPREAD: f64 = 0.5;

/// Why a stream ended, as far as coming back is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The connection failed or broke.
    Lost,
    /// Home said when to come back.
    Told(Duration),
    /// Home does not want this identity.
    Unwanted,
    /// There is something new to connect with.
    AtOnce,
}

/// Counts failures in a row.
#[derive(Debug)]
pub struct Schedule {
    failures: usize,
    most: Duration,
}

// === impl Schedule ===

impl Schedule {
    /// A schedule of which no wait after a lost stream is longer than `most`.
    pub fn new(most: Duration) -> Self {
        Self { failures: 0, most }
    }

    /// How long to wait after a stream that lived for `lived`. `chance` lies in 0..1.
    pub fn wait(&mut self, ended: Ended, lived: Duration, chance: f64) -> Duration {
        if lived >= HEALTHY {
            self.failures = 0;
        }
        match ended {
            Ended::AtOnce => Duration::ZERO,
            Ended::Told(hint) => hint + hint.min(MOST).max(FIRST).mul_f64(SPREAD * chance),
            Ended::Unwanted => RARELY + RARELY.mul_f64(chance),
            // Full jitter: anywhere from nothing to the envelope, which alone spreads a herd evenly.
            Ended::Lost => {
                let envelope =
                    ExponentialBuilder::new().with_min_delay(FIRST).with_max_delay(self.most).without_max_times();
                let limit = envelope.build().nth(self.failures.min(16)).unwrap_or(self.most);
                self.failures += 1;
                limit.mul_f64(chance)
            }
        }
    }
}
