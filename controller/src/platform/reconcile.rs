//! The one loop. Every background activity of the controller is a [`Reconciler`] run by [`spawn`].

use std::{future::Future, time::Duration};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::wake::Activator;

/// Keeps the world equal to a goal. Takes no input and never fails: what went wrong is in its status.
pub trait Reconciler: Send + 'static {
    /// What one round found and did.
    type Status: Send + Sync + 'static;
    /// The longest time between two rounds.
    const PERIOD: Duration;
    /// How long a round may take beyond what the watchdog grants to any.
    const LONG: Duration = Duration::ZERO;
    /// One round.
    fn reconcile(&mut self) -> impl Future<Output = Self::Status> + Send;
}

/// Runs a reconciler until `stop`. A round begins when it is woken and at the latest after its period; both take the same
/// path.
pub fn spawn<R: Reconciler>(
    mut it: R,
    wake: Activator,
    stop: CancellationToken,
) -> (JoinHandle<()>, watch::Receiver<Option<R::Status>>) {
    let (status, seen) = watch::channel(None);
    let task = tokio::spawn(async move {
        while !stop.is_cancelled() {
            status.send_replace(Some(it.reconcile().await));
            tokio::select! {
                () = wake.woken() => {}
                () = tokio::time::sleep(R::PERIOD) => {}
                () = stop.cancelled() => {}
            }
        }
    });
    (task, seen)
}
