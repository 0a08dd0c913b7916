//! When certificates are replaced: pure functions of times and counts.

const HOUR: i64 = 3_600_000;

/// When an agent asks for its next certificate: at two thirds of its life, later by up to a twelfth so that a fleet
/// enrolled in one minute does not renew in one. `jitter` lies in 0..1.
///
/// Life counts from issue, `not_before` plus the backdating, so that backdating does not eat into it.
pub fn renew_at(not_before: i64, not_after: i64, backdate: i64, jitter: f64) -> i64 {
    let issued = not_before + backdate;
    let life = (not_after - issued).max(0);
    issued + life * 2 / 3 + ((life / 12) as f64 * jitter.clamp(0.0, 1.0)) as i64
}

/// The state of one certificate authority in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Made and told to agents, signs nothing yet.
    Prepared,
    /// Signs.
    Active,
    /// Signs nothing; what it signed may be renewed.
    Former,
    /// Trusted no more.
    Retired,
}

/// One authority as the decision sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Where it stands.
    pub stage: Stage,
    /// When it came to that stage.
    pub since: i64,
    /// End of its validity.
    pub not_after: i64,
    /// Life it was made with.
    pub life: i64,
}

/// What the world must have done before a step may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Every agent that may still come home has been told of the prepared authority, or a person waived those left.
    pub all_told: bool,
    /// Valid invitations that pin the authority next to be retired.
    pub pinned_by_invitations: bool,
    /// The longest life of a leaf and the grace after it, milliseconds.
    pub leaf_life_and_grace: i64,
    /// A person asked for a rotation now.
    pub requested: bool,
}

/// One step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do.
    Keep,
    /// Make the next authority and tell it to every agent.
    Prepare,
    /// Let the prepared authority sign and the active one become former.
    Activate,
    /// Trust the former authority no more.
    Retire,
}

/// The next step for one line of authorities. An authority is prepared when a third of its life is left.
///
/// Activation without every agent told happens only when the active one is about to end: a day before, an agent that
/// was not told can still renew, one that is cut off cannot.
pub fn decide(now: i64, slots: &[Slot], facts: Facts) -> Step {
    let find = |stage| slots.iter().find(|s| s.stage == stage);
    let Some(active) = find(Stage::Active) else { return Step::Prepare };
    if let Some(former) = find(Stage::Former) {
        let over = now >= former.since + facts.leaf_life_and_grace || now >= former.not_after;
        if over && !facts.pinned_by_invitations {
            return Step::Retire;
        }
    }
    if find(Stage::Prepared).is_some() {
        let urgent = now >= active.not_after - 24 * HOUR;
        return if facts.all_told || urgent { Step::Activate } else { Step::Keep };
    }
    let due = now >= active.not_after - active.life / 3;
    if due || facts.requested { Step::Prepare } else { Step::Keep }
}
