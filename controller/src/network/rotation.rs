//! The replacement of the authority of a backbone or a network, across all sites concerned, while traffic flows. Pure.
//!
//! The order is the one in which a running 3.5.1 loses nothing: every site trusts both authorities; leaves are made anew;
//! every site trusts the new authority alone; connections are made anew beside those that are there, at the listening end
//! of each link before the connecting one, and those from before may drain; what is left of them is cut, at the connecting
//! end first. A router numbers connections at both ends by the round it is in itself: one made anew at the connecting end
//! first would count as old at the listening end, and be cut with the others. A connection that outlives the cut was made
//! when nobody believed the old authority any more.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::status::Profile;

/// How long a site that is away is waited for at each step, milliseconds. It is brought up to date when it comes back.
pub const PATIENCE: i64 = 3_600_000;

/// How long older connections may go on unless somebody says otherwise, milliseconds. Routers keep those connections
/// beside the new ones, so this is the time that transfers under way have to come to their ends.
pub const DRAIN: i64 = 3_600_000;

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Every site comes to trust the new authority beside the old one.
    TrustBoth,
    /// The sites of one level get leaves of the new authority.
    Leaves,
    /// The sites of one level make their connections anew, and transfers over those from before may come to their ends.
    Drain,
    /// Every site ceases to trust the old authority.
    TrustNew,
    /// The sites of one level cut what is left of old connections.
    Cut,
    /// It is over.
    Done,
}

/// A profile at one site that is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seat {
    /// The site's or the member's id.
    pub owner: String,
    /// What people call it.
    pub site: String,
    /// Whether the site is an interior one.
    pub is_interior: bool,
    /// The profile.
    pub profile: String,
    /// 0 where others connect to it and it connects to none; a site that makes links stands above those they lead to.
    pub level: i64,
    /// How often its connections are to be made anew.
    pub rounds: u32,
    /// The round of them before which they are to be cut.
    pub cuts: u32,
    /// Its router carries traffic, or its agent could make it do so. Without an agent, or without a router on its host,
    /// there is nothing to wait for.
    pub is_there: bool,
    /// Home does not hear from its host.
    pub is_away: bool,
    /// The profile as in use; none before its agent said anything of it.
    pub told: Option<Profile>,
    /// The leaf in use was issued by the new authority.
    pub is_new: bool,
}

/// A rotation as it stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// What is under way.
    pub step: Step,
    /// Of which level, where the step goes by levels.
    pub level: i64,
    /// For how long, milliseconds.
    pub age: i64,
    /// How long older connections may go on, milliseconds.
    pub drain: i64,
    /// All that are concerned.
    pub seats: &'a [Seat],
    /// SHA-256 of each authority that is to be trusted now, hexadecimal.
    pub trust: &'a BTreeSet<String>,
}

// === impl Standing ===

impl<'a> Standing<'a> {
    /// Who is waited for, and why.
    pub fn waits_for(&self) -> Vec<(&'a Seat, &'static str)> {
        self.lacking().into_iter().filter(|(seat, _)| self.is_awaited(seat)).collect()
    }

    /// Who is not waited for though the step was not carried out there: it will be, when its agent comes back.
    pub fn left_behind(&self) -> BTreeSet<String> {
        let behind = self.lacking().into_iter().filter(|(seat, _)| !self.is_awaited(seat));
        behind.map(|(seat, _)| seat.site.clone()).collect()
    }

    /// What comes next, with its level, once nobody is waited for.
    pub fn next(&self) -> Option<(Step, i64)> {
        if !self.waits_for().is_empty() {
            return None;
        }
        let levels: BTreeSet<_> = self.seats.iter().map(|s| s.level).collect();
        Some(match self.step {
            Step::TrustBoth => (Step::Leaves, levels.first().copied().unwrap_or(0)),
            Step::Leaves => {
                // By who lacks a leaf, not by counting: links may have been made or removed meanwhile.
                let lack = self.seats.iter().filter(|s| !s.is_new && self.is_awaited(s));
                lack.map(|s| s.level).min().map_or((Step::TrustNew, 0), |level| (Step::Leaves, level))
            }
            Step::TrustNew => (Step::Drain, levels.first().copied().unwrap_or(0)),
            Step::Drain => {
                let above = levels.range(self.level + 1..).next();
                let highest = levels.last().copied().unwrap_or(0);
                above.map_or((Step::Cut, highest), |level| (Step::Drain, *level))
            }
            Step::Cut => {
                let below = levels.range(..self.level).next_back();
                below.map_or((Step::Done, 0), |level| (Step::Cut, *level))
            }
            Step::Done => return None,
        })
    }

    fn lacking(&self) -> Vec<(&'a Seat, &'static str)> {
        self.seats.iter().filter_map(|seat| Some((seat, self.lacks(seat)?))).collect()
    }

    fn lacks(&self, seat: &Seat) -> Option<&'static str> {
        let told = seat.told.as_ref();
        let unless = |holds: bool, lack| (!holds).then_some(lack);
        match self.step {
            Step::TrustBoth => unless(told.is_some_and(|p| p.trust == *self.trust), "does not trust both yet"),
            Step::TrustNew => unless(told.is_some_and(|p| p.trust == *self.trust), "still trusts the old authority"),
            Step::Leaves => unless(seat.level != self.level || seat.is_new, "has no leaf of the new authority yet"),
            Step::Drain if seat.level == self.level && told.is_none_or(|p| p.rounds < seat.rounds) => {
                Some("has not made its connections anew yet")
            }
            Step::Drain => self.drains(seat),
            Step::Cut => unless(
                seat.level != self.level || told.is_some_and(|p| p.cuts >= seat.cuts),
                "has not cut its old connections yet",
            ),
            Step::Done => None,
        }
    }

    /// Once all have made their connections anew: whether older ones may go on at a seat, or have to because there are no
    /// others yet.
    fn drains(&self, seat: &Seat) -> Option<&'static str> {
        let told = seat.told.as_ref().filter(|p| p.older_connections > 0)?;
        if self.seats.iter().any(|s| s.level > self.level) {
            None
        } else if self.age < self.drain {
            Some("has older connections, for transfers under way")
        } else if seat.level > 0 && told.connections == 0 && self.age < PATIENCE {
            Some("has older connections alone")
        } else {
            None
        }
    }

    fn is_awaited(&self, seat: &Seat) -> bool {
        seat.is_there && !(self.age >= PATIENCE && (seat.is_away || seat.told.is_none()))
    }
}

/// The level of each site: one above the highest of those it connects to. `links` lead from the site that connects to the
/// other; in a circle, the link that would close it does not count.
pub fn levels<'a>(sites: &[&'a str], links: &[(&'a str, &'a str)]) -> BTreeMap<&'a str, i64> {
    let mut found = BTreeMap::new();
    for site in sites {
        level(site, links, &mut Vec::new(), &mut found);
    }
    found
}

fn level<'a>(
    site: &'a str,
    links: &[(&'a str, &'a str)],
    above: &mut Vec<&'a str>,
    found: &mut BTreeMap<&'a str, i64>,
) -> i64 {
    if let Some(level) = found.get(site) {
        return *level;
    }
    above.push(site);
    let mut highest = -1;
    for (_, to) in links.iter().filter(|(from, to)| *from == site && !above.contains(to)).copied().collect::<Vec<_>>() {
        highest = highest.max(level(to, links, above, found));
    }
    above.pop();
    found.insert(site, highest + 1);
    highest + 1
}
