//! Answers of a moment ago: executors ask often, and the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::error::Result;

/// What is known of who asks is believed for this long: executors ask often, and nothing is decided by it for good.
const BELIEVED: Duration = Duration::from_secs(1);

/// Answers remembered at most.
const MAX_KNOWN: usize = 10_000;

/// Answers of a moment ago, by question.
#[derive(Debug)]
pub struct Recent<T>(Arc<Mutex<HashMap<String, (Instant, T)>>>);

// === impl Recent ===

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Recent<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone> Recent<T> {
    /// The answer to a question, asked anew where the last one is too old.
    pub async fn get(&self, question: &str, ask: impl Future<Output = Result<T>>) -> Result<T> {
        let now = Instant::now();
        if let Some((at, answer)) = self.lock().get(question)
            && now - *at < BELIEVED
        {
            return Ok(answer.clone());
        }
        let answer = ask.await?;
        let mut known = self.lock();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, (at, _)| now.saturating_duration_since(*at) < BELIEVED);
        }
        if known.len() < MAX_KNOWN {
            known.insert(question.to_owned(), (now, answer.clone()));
        }
        Ok(answer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, T)>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
