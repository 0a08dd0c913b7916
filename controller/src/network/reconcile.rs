//! The loop of networks: agents that joined become sites, times are kept, and now and then everything is planned anew.

use std::time::{Duration, Instant};

use super::{plan::Concern, service::Networks};
use crate::{
    error::Result,
    fleet::REPLICA_LIFE,
    platform::{events::Actor, lease, reconcile::Reconciler},
};

/// A replica that died lets another take over after this time.
const LEASE: Duration = Duration::from_millis(REPLICA_LIFE.unsigned_abs());

/// How often everything is planned anew: what was put when it changed is found equal, and anything missed is mended.
const FULL: Duration = Duration::from_secs(300);

/// Looks after networks, on the one replica that holds the lease.
#[derive(Debug)]
pub struct Reconcile {
    /// The networks.
    pub networks: Networks,
    /// When everything was planned last.
    pub planned: Option<Instant>,
}

/// What one round did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// Interior sites that got their agents.
    pub seated: usize,
    /// Member sites that joined.
    pub admitted: usize,
    /// Networks that started, ended or went.
    pub changed: usize,
    /// Steps of rotations.
    pub rotated: usize,
}

// === impl Reconcile ===

impl Reconciler for Reconcile {
    type Status = Result<Round, String>;
    const PERIOD: Duration = Duration::from_secs(5);

    async fn reconcile(&mut self) -> Self::Status {
        self.round().await.map_err(|error| {
            tracing::error!(%error, "networks could not be looked after; the next round tries again");
            error.to_string()
        })
    }
}

impl Reconcile {
    async fn round(&mut self) -> Result<Round> {
        let fleet = &self.networks.fleet;
        if lease::hold(&fleet.db, "plan/network", &fleet.replica, LEASE).await?.is_none() {
            self.planned = None;
            return Ok(Round::default());
        }
        let round = Round {
            seated: self.networks.seat_interiors().await?,
            admitted: self.networks.admit_members().await?,
            changed: self.networks.keep_time().await?,
            rotated: self.networks.advance_rotations().await?,
        };
        if self.planned.is_none_or(|at| at.elapsed() >= FULL) {
            self.plan_all().await?;
            self.networks.begin_due_rotations().await?;
            self.planned = Some(Instant::now());
        }
        Ok(round)
    }

    /// The safety net: plans every site, and writes only where one is not what it should be.
    async fn plan_all(&self) -> Result<()> {
        let networks = &self.networks;
        let mut conn = networks.fleet.db.read().await?;
        let all = Concern::all(&mut conn).await?;
        if !networks.differs(&mut conn, &all).await? {
            return Ok(());
        }
        drop(conn);
        networks
            .fleet
            .db
            .write(|mut tx| async move {
                // Read anew: what was missing may have been put meanwhile.
                let all = Concern::all(&mut tx).await?;
                let seq = tx.record(Actor::controller().change("network.replanned", "network")).await?;
                networks.push(&mut tx, seq, &all).await?;
                tx.done(())
            })
            .await
    }
}
