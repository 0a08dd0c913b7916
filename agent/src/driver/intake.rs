//! What arrives from home: judged, made durable, answered.

use super::Kernel;
use crate::ledger::{Assignment, Reason, Record, Refused, Report, Stage, State, Verdict};

/// Takes assignments in one durable step. On an error none is held and none is answered; home offers them again to the
/// next stream.
pub fn take(kernel: &Kernel, arrived: Vec<Assignment>) -> std::io::Result<()> {
    let mut accepted = Vec::new();
    for new in arrived {
        match judge(kernel, &new) {
            Verdict::Refuse(refused) => kernel.spool.refuse(new.key, new.generation, refused),
            Verdict::Same => kernel.spool.accept(new.key, new.generation),
            Verdict::Ended => say_again(kernel, new)?,
            Verdict::Accept => accepted.push(new),
        }
    }
    // Two generations of one assignment may have arrived together: the ledger judges each where it is taken.
    let mut taken = Vec::new();
    let written = kernel.ledger.write(|state| {
        let mut ahead = Ahead { state, taken: &mut taken };
        accepted.into_iter().for_each(|new| ahead.take(new));
        taken.iter().cloned().map(Record::Accepted).collect()
    });
    kernel.observe_write(&written);
    written?;
    taken.into_iter().for_each(|new| kernel.spool.accept(new.key, new.generation));
    kernel.wake.notify_one();
    Ok(())
}

struct Ahead<'a> {
    state: &'a State,
    taken: &'a mut Vec<Assignment>,
}

impl Ahead<'_> {
    fn take(&mut self, new: Assignment) {
        let fits = self.state.admit(&new) == Verdict::Accept;
        match self.taken.iter_mut().find(|held| held.key == new.key) {
            // A withdrawn once document is still needed by work that reads it, so both steps are kept.
            Some(held) if fits && !new.once && held.generation < new.generation => *held = new,
            Some(held) if fits && held.generation < new.generation => self.taken.push(new),
            None if fits => self.taken.push(new),
            _ => {}
        }
    }
}

fn judge(kernel: &Kernel, new: &Assignment) -> Verdict {
    let verdict = kernel.ledger.read(|state| state.admit(new));
    if verdict != Verdict::Accept || new.withdrawn {
        return verdict;
    }
    match admit(kernel, new) {
        Ok(()) => Verdict::Accept,
        Err(refused) => Verdict::Refuse(refused),
    }
}

fn admit(kernel: &Kernel, new: &Assignment) -> Result<(), Refused> {
    let kind = &new.key.kind;
    let Some(driver) = kernel.drivers.get(kind.as_str()) else {
        return Err(Refused::new(Reason::UnknownKind, format!("this agent has no driver for {kind}")));
    };
    if !kernel.accepts(kind) {
        let message = format!("the host's owner does not accept {kind}; it would have to stand in accept.kinds");
        return Err(Refused::new(Reason::NotAllowed, message));
    }
    let (oldest, newest) = driver.capability().versions;
    if !(oldest..=newest).contains(&new.version) {
        let message = format!("{kind} is understood in versions {oldest} to {newest}, not {}", new.version);
        return Err(Refused::new(Reason::UnknownVersion, message));
    }
    if new.once
        && let Some(why) = kernel.degraded()
    {
        return Err(Refused::new(Reason::Full, format!("no new work is taken: {why}")));
    }
    driver.admit(&new.document)
}

/// The work is over; its outcome is the answer, under the generation that was asked about.
fn say_again(kernel: &Kernel, new: Assignment) -> std::io::Result<()> {
    let kept = kernel.ledger.read(|state| match state.entries.get(&new.key).map(|e| &e.stage) {
        Some(Stage::Done { outcome, .. } | Stage::Finished(outcome)) => Some(outcome.clone()),
        _ => None,
    });
    if let Some(outcome) = kept {
        let (epoch, generation) = (new.generation.epoch, new.generation.number);
        let outcome = Report { seq: kernel.ledger.number()?, epoch, generation, ..outcome };
        kernel.ledger.write(|_| vec![Record::Accepted(new.clone()), Record::Finished(outcome.clone())])?;
        kernel.spool.accept(new.key, new.generation);
        kernel.spool.report(outcome);
    }
    Ok(())
}
