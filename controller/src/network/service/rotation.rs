//! Rotations of the authorities of backbones and networks: a row each, moved on step by step.

use std::collections::BTreeSet;

use super::{
    super::{
        model::{BackboneId, Membership, NetworkId, Phase, backbone_line, network_line},
        plan::{Concern, PEER_PROFILE, UPLINK_PROFILE, member_profile},
        rotation::{DRAIN, Seat, Standing, Step, levels},
        status::{Health, RouterState},
        store::{
            self, AccessPointRow, BackboneRow, LinkRow, MemberRow, NetworkRow, Of, PortRow, ProfileRow, RotationRow,
            SiteRow,
        },
    },
    Networks, Standings, fresh, spell, standings, word,
};
use crate::{
    certificate::model::LINE_LIFE,
    error::{Error, Result},
    platform::{
        crash::CrashPoint,
        db::{Conn, Tx},
        events::Actor,
    },
};

/// Whose authority is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A backbone's.
    Backbone(BackboneRow),
    /// An application network's.
    Network(NetworkRow),
}

/// All that decides a rotation's next step.
#[derive(Debug, Clone)]
pub struct Facts {
    row: RotationRow,
    step: Step,
    seats: Vec<Seat>,
    trust: BTreeSet<String>,
    now: i64,
}

// === impl Line ===

impl Line {
    /// Its name as a line of authorities.
    pub fn name(&self) -> String {
        match self {
            Self::Backbone(row) => backbone_line(&BackboneId(row.id.clone())),
            Self::Network(row) => network_line(&NetworkId(row.id.clone())),
        }
    }

    fn title(&self) -> String {
        match self {
            Self::Backbone(row) => format!("backbone {}", row.name),
            Self::Network(row) => format!("network {}", row.name),
        }
    }

    fn backbone(&self) -> &str {
        match self {
            Self::Backbone(row) => &row.id,
            Self::Network(row) => &row.backbone_id,
        }
    }

    /// What a line of this name belongs to, if it is there.
    async fn find(conn: &mut Conn, name: &str) -> Result<Option<Self>> {
        Ok(match name.split_once('/') {
            Some(("backbone", id)) => store::one(conn, "id", id).await?.map(Self::Backbone),
            Some(("network", id)) => store::one(conn, "id", id).await?.map(Self::Network),
            _ => None,
        })
    }
}

// === impl Facts ===

impl Facts {
    /// The rotation as it stands.
    pub fn standing(&self) -> Standing<'_> {
        let age = self.now - self.row.since;
        Standing {
            step: self.step,
            level: self.row.level,
            age,
            drain: self.row.drain,
            seats: &self.seats,
            trust: &self.trust,
        }
    }

    /// Its row.
    pub fn row(&self) -> &RotationRow {
        &self.row
    }

    /// The number of levels.
    pub fn levels(&self) -> i64 {
        self.seats.iter().map(|s| s.level + 1).max().unwrap_or(1)
    }
}

// === impl Networks: rotation ===

impl Networks {
    /// Begins to replace the authority of a line. Transfers under way have `drain` milliseconds to come to their ends.
    pub async fn rotate(&self, actor: &Actor, line: &Line, drain: i64) -> Result<()> {
        if !(0..=30 * 86_400_000).contains(&drain) {
            return Err(Error::invalid(
                "drain_seconds",
                "transfers get between none and 30 days to come to their ends",
            ));
        }
        self.fleet
            .db
            .write(|mut tx| async move {
                store::lock_backbone(&mut tx, line.backbone()).await?;
                if store::open_rotation(&mut tx, &line.name()).await?.is_some() {
                    return Err(Error::Conflict("its authority is being replaced already".into()));
                }
                self.fleet.certificates.prepare_line(&mut tx, actor, &line.name(), &line.title()).await?;
                let now = tx.now();
                let row = RotationRow {
                    id: fresh(now),
                    line: line.name(),
                    step: spell(&Step::TrustBoth),
                    level: 0,
                    since: now,
                    paused: 0,
                    drain,
                    left_behind: "[]".into(),
                    started_at: now,
                    finished_at: None,
                };
                store::insert_rotation(&mut tx, &row).await?;
                let seq = tx.record(actor.change("rotation.begun", format!("network/rotation/{}", row.line))).await?;
                let concern = everybody(&mut tx, line).await?;
                self.push(&mut tx, seq, &concern).await?;
                tx.wake("network");
                tx.done(())
            })
            .await
    }

    /// Holds a rotation where it stands, or lets it go on.
    pub async fn pause_rotation(&self, actor: &Actor, line: &Line, paused: bool) -> Result<()> {
        self.fleet
            .db
            .write(|mut tx| async move {
                store::lock_backbone(&mut tx, line.backbone()).await?;
                let Some(mut row) = store::open_rotation(&mut tx, &line.name()).await? else {
                    return Err(Error::Conflict("its authority is not being replaced".into()));
                };
                row.paused = i64::from(paused);
                store::save_rotation(&mut tx, &row).await?;
                let kind = if paused { "rotation.paused" } else { "rotation.resumed" };
                tx.record(actor.change(kind, format!("network/rotation/{}", row.line))).await?;
                tx.wake("network");
                tx.done(())
            })
            .await
    }

    /// Begins to replace each authority of which less than a third of its life is left. Gives how many.
    pub async fn begin_due_rotations(&self) -> Result<usize> {
        let mut conn = self.fleet.db.read().await?;
        let before = self.fleet.db.clock().now() + LINE_LIFE / 3;
        let due = self.fleet.certificates.lines_that_end(&mut conn, before).await?;
        let mut begun = 0;
        for name in due {
            if store::open_rotation(&mut conn, &name).await?.is_some() {
                continue;
            }
            if let Some(line) = Line::find(&mut conn, &name).await? {
                self.rotate(&Actor::controller(), &line, DRAIN).await?;
                begun += 1;
            }
        }
        Ok(begun)
    }

    /// Moves on each rotation that waits for nobody. Gives how many steps were taken.
    pub async fn advance_rotations(&self) -> Result<usize> {
        let rows = store::open_rotations(&mut *self.fleet.db.read().await?).await?;
        let mut steps = 0;
        for row in rows.iter().filter(|r| r.paused == 0) {
            steps += usize::from(self.advance_rotation(&row.line).await?);
        }
        Ok(steps)
    }

    async fn advance_rotation(&self, name: &str) -> Result<bool> {
        let mut conn = self.fleet.db.read().await?;
        let Some(line) = Line::find(&mut conn, name).await? else { return Ok(false) };
        let facts = self.rotation(&mut conn, &line).await?;
        if facts.is_none_or(|facts| facts.standing().next().is_none()) {
            return Ok(false);
        }
        drop(conn);
        let line = &line;
        self.fleet
            .db
            .write(|mut tx| async move {
                store::lock_backbone(&mut tx, line.backbone()).await?;
                // Read anew: what is decided here is decided on what is written here.
                let Some(facts) = self.rotation(&mut tx, line).await? else { return tx.done(false) };
                let standing = facts.standing();
                let Some((step, level)) = standing.next().filter(|_| facts.row.paused == 0) else {
                    return tx.done(false);
                };
                let mut behind: BTreeSet<String> =
                    serde_json::from_str(&facts.row.left_behind).map_err(Error::internal)?;
                behind.extend(standing.left_behind());
                let now = tx.now();
                let row = RotationRow {
                    step: spell(&step),
                    level,
                    since: now,
                    left_behind: serde_json::to_string(&behind).map_err(Error::internal)?,
                    finished_at: (step == Step::Done).then_some(now),
                    ..facts.row.clone()
                };
                store::save_rotation(&mut tx, &row).await?;
                let at = format!("network/rotation/{}", row.line);
                let after = serde_json::json!({"step": step, "level": level, "left_behind": behind});
                let seq = tx.record(Actor::controller().change("rotation.moved_on", at).after(after)).await?;
                let concern = self.enter(&mut tx, line, (step, level), &facts.seats).await?;
                self.push(&mut tx, seq, &concern).await?;
                tx.wake("network");
                tx.crash_points(CrashPoint::BeforePlanCommit, CrashPoint::AfterPlanCommit);
                tx.done(true)
            })
            .await
    }

    /// Changes what a step asks for. Gives whom that concerns.
    async fn enter(&self, tx: &mut Tx, line: &Line, (step, level): (Step, i64), seats: &[Seat]) -> Result<Concern> {
        let certificates = &self.fleet.certificates;
        let of_level = || seats.iter().filter(|s| s.level == level);
        match step {
            Step::Leaves => {
                certificates.activate_prepared(tx, &line.name()).await?;
                for seat in of_level().filter(|s| !s.is_new) {
                    store::raise_profile(tx, &seat.owner, &seat.profile, 1, 0).await?;
                }
            }
            Step::TrustNew => certificates.retire_line(tx, &line.name(), false).await?,
            Step::Drain => {
                for seat in of_level() {
                    store::raise_profile(tx, &seat.owner, &seat.profile, 0, 1).await?;
                }
            }
            Step::Cut => {
                for seat in of_level() {
                    store::cut_profile(tx, &seat.owner, &seat.profile).await?;
                }
            }
            Step::TrustBoth | Step::Done => {}
        }
        match step {
            Step::Leaves | Step::Drain | Step::Cut => Ok(concern(of_level())),
            Step::TrustNew => everybody(tx, line).await,
            Step::TrustBoth | Step::Done => Ok(Concern::default()),
        }
    }

    /// The rotation of a line that is under way, with all that decides its next step.
    pub async fn rotation(&self, conn: &mut Conn, line: &Line) -> Result<Option<Facts>> {
        let Some(row) = store::open_rotation(conn, &line.name()).await? else { return Ok(None) };
        let mut seats = match line {
            Line::Backbone(it) => peers(conn, it).await?,
            Line::Network(it) => ends(conn, it).await?,
        };
        let owners: Vec<_> = seats.iter().map(|(seat, _)| seat.owner.clone()).collect();
        let turns: Vec<ProfileRow> = store::rows(conn, Of::Each("owner", &owners)).await?;
        let standings = standings(conn, seats.iter().map(|(s, agent)| (&s.owner, agent.as_ref()))).await?;
        for (seat, agent) in &mut seats {
            fill(seat, agent.as_ref(), &standings, &turns);
        }
        let mut seats: Vec<_> = seats.into_iter().map(|(seat, _)| seat).collect();
        let serials: Vec<_> = seats.iter().filter_map(|s| Some(s.told.as_ref()?.serial.clone())).collect();
        let new = self.fleet.certificates.issued_by_newest(conn, &line.name(), &serials).await?;
        for seat in &mut seats {
            seat.is_new = seat.told.as_ref().is_some_and(|p| new.contains(&p.serial));
        }
        let trusted = self.fleet.certificates.trusted(conn, &[line.name()]).await?;
        let trust = trusted.into_values().flatten().map(|der| muster_pki::hex(&muster_pki::sha256(&der))).collect();
        Ok(Some(Facts { step: word(&row.step)?, row, seats, trust, now: self.fleet.db.clock().now() }))
    }
}

/// What is said of a seat, and what is asked of it.
fn fill(seat: &mut Seat, agent: Option<&String>, standings: &Standings, turns: &[ProfileRow]) {
    let told = standings.told(&seat.owner);
    seat.is_away = standings.state(&seat.owner, agent, None).health == Health::Away;
    seat.is_there = agent.is_some() && told.is_none_or(|t| t.router.state != RouterState::Rendered);
    seat.told = told.and_then(|t| t.profiles.iter().find(|p| p.name == seat.profile).cloned());
    let turn = turns.iter().find(|t| t.owner == seat.owner && t.name == seat.profile);
    seat.rounds = turn.map_or(0, |t| u32::try_from(t.rounds).unwrap_or(u32::MAX));
    seat.cuts = turn.map_or(0, |t| u32::try_from(t.cuts).unwrap_or(u32::MAX));
}

/// The seats of a backbone's line, each with its agent: the profiles of its interior sites.
async fn peers(conn: &mut Conn, it: &BackboneRow) -> Result<Vec<(Seat, Option<String>)>> {
    let sites: Vec<SiteRow> = store::by(conn, "backbone_id", &it.id).await?;
    let ids: Vec<_> = sites.iter().map(|s| s.id.clone()).collect();
    let points: Vec<AccessPointRow> = store::rows(conn, Of::Each("site_id", &ids)).await?;
    let links: Vec<LinkRow> = store::rows(conn, Of::Each("site_id", &ids)).await?;
    let pair = |l: &'_ LinkRow| points.iter().position(|p| p.id == l.access_point_id);
    let pairs: Vec<_> =
        links.iter().filter_map(|l| Some((l.site_id.as_str(), points[pair(l)?].site_id.as_str()))).collect();
    let levels = levels(&ids.iter().map(String::as_str).collect::<Vec<_>>(), &pairs);
    let seat = |site: &SiteRow| Seat {
        level: levels.get(site.id.as_str()).copied().unwrap_or(0),
        is_interior: true,
        profile: PEER_PROFILE.into(),
        ..seat_of(&site.id, &site.name)
    };
    Ok(sites.iter().map(|site| (seat(site), site.agent_id.clone())).collect())
}

/// The seats of a network's line, each with its agent: where its members may connect, and its members.
async fn ends(conn: &mut Conn, it: &NetworkRow) -> Result<Vec<(Seat, Option<String>)>> {
    let mut seats = Vec::new();
    if word::<Phase>(&it.phase)? == Phase::Active {
        let ports: Vec<PortRow> = store::by(conn, "network_id", &it.id).await?;
        let points: Vec<_> = ports.into_iter().map(|p| p.access_point_id).collect();
        let points: Vec<AccessPointRow> = store::rows(conn, Of::Each("id", &points)).await?;
        let sites: BTreeSet<_> = points.into_iter().map(|p| p.site_id).collect();
        let sites: Vec<SiteRow> = store::rows(conn, Of::Each("id", &sites.into_iter().collect::<Vec<_>>())).await?;
        let profile = member_profile(&NetworkId(it.id.clone()));
        let seat =
            |site: &SiteRow| Seat { is_interior: true, profile: profile.clone(), ..seat_of(&site.id, &site.name) };
        seats.extend(sites.iter().map(|site| (seat(site), site.agent_id.clone())));
    }
    let members: Vec<MemberRow> = store::by(conn, "network_id", &it.id).await?;
    let member = spell(&Membership::Member);
    for row in members.into_iter().filter(|m| m.membership == member) {
        let seat = Seat { level: 1, profile: UPLINK_PROFILE.into(), ..seat_of(&row.id, &row.name) };
        seats.push((seat, row.agent_id));
    }
    Ok(seats)
}

fn seat_of(owner: &str, site: &str) -> Seat {
    Seat { owner: owner.into(), site: site.into(), ..Seat::default() }
}

fn concern<'a>(seats: impl Iterator<Item = &'a Seat>) -> Concern {
    let mut concern = Concern::default();
    for seat in seats {
        if seat.is_interior {
            concern.sites.insert(seat.owner.as_str().into());
        } else {
            concern.members.insert(seat.owner.as_str().into());
        }
    }
    concern
}

/// All that trust a line.
async fn everybody(conn: &mut Conn, line: &Line) -> Result<Concern> {
    match line {
        Line::Backbone(it) => {
            let sites: Vec<SiteRow> = store::by(conn, "backbone_id", &it.id).await?;
            Ok(Concern::sites(sites.iter().map(|s| s.id.as_str())))
        }
        Line::Network(it) => Concern::of_network(conn, &it.id).await,
    }
}
