//! The loop that keeps authorities and ticket keys fresh and forgets leaves that are long over.

use std::time::Duration;

use super::{service::Certificates, store};
use crate::{
    error::Result,
    platform::{db::Db, reconcile::Reconciler},
};

/// How long after its end a leaf is remembered beyond the grace, milliseconds.
const REMEMBER: i64 = 90 * 86_400_000;

/// Rotates the issuing authority and the ticket keys when their time comes.
#[derive(Debug)]
pub struct Rotation {
    /// What is rotated.
    pub certificates: Certificates,
    /// Where leaves are forgotten.
    pub db: Db,
    /// Name of this replica.
    pub holder: String,
}

impl Reconciler for Rotation {
    type Status = Result<bool, String>;
    const PERIOD: Duration = Duration::from_secs(60);

    async fn reconcile(&mut self) -> Self::Status {
        let changed = self.certificates.rotate(&self.holder, false).await.map_err(|e| e.to_string())?;
        let before = self.db.clock().now() - self.certificates.lives().grace - REMEMBER;
        let forgotten = self.db.write(|mut tx| async move {
            store::delete_ended(&mut tx, before).await?;
            tx.done(())
        });
        forgotten.await.map_err(|e| e.to_string())?;
        Ok(changed)
    }
}
