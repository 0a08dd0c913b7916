//! Many small writes as one: callers wait together for one transaction.
//!
//! While one batch is being written the next one gathers. A batch that follows one of several callers also waits for a
//! moment, since a herd is on its way: commits cost more than what is in them. A lone caller waits for nobody.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

/// How long a batch gathers while a herd is on its way.
const GATHER: Duration = Duration::from_millis(50);

/// Hands items to a function in batches and gives each caller the answer to its own.
#[derive(Debug)]
pub struct Batcher<T, R>(mpsc::Sender<(T, oneshot::Sender<R>)>);

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// Starts a batcher of at most `most` items a batch. `run` answers as many items as it was given, in their order.
    pub fn spawn<F, Fut>(most: usize, run: F) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<R>> + Send,
    {
        let (sender, mut receiver) = mpsc::channel::<(T, oneshot::Sender<R>)>(most);
        let run = Arc::new(run);
        tokio::spawn(async move {
            let mut gathered = Vec::with_capacity(most);
            let mut is_herd = false;
            while receiver.recv_many(&mut gathered, most).await > 0 {
                if is_herd && gathered.len() < most {
                    tokio::time::sleep(GATHER).await;
                    let room = most - gathered.len();
                    gathered.extend(std::iter::from_fn(|| receiver.try_recv().ok()).take(room));
                }
                is_herd = gathered.len() > 1;
                let (items, waiting): (Vec<_>, Vec<_>) = gathered.drain(..).unzip();
                for (answer, caller) in run(items).await.into_iter().zip(waiting) {
                    // A caller that has gone away wants no answer.
                    let _ = caller.send(answer);
                }
            }
        });
        Self(sender)
    }

    /// Adds an item and waits for its answer. None when the batcher is gone.
    pub async fn submit(&self, item: T) -> Option<R> {
        let (answer, wait) = oneshot::channel();
        self.0.send((item, answer)).await.ok()?;
        wait.await.ok()
    }
}
