//! Flags: values that the nodes of an experiment and its owner share.

use std::{collections::BTreeMap, time::Duration};

use muster_proto::{
    KIND_EXPERIMENT_EXECUTOR,
    fleet::{Answer, Ask, answer},
};
use tokio::time::{Instant, timeout_at};

use super::{Experiments, Refusable, Refusal, User};
use crate::{
    domain::{Ground, ask_handler},
    error::{Error, Result},
    experiment::{
        model::{ExecutorId, FlagChange, FlagValues, Until, check_name},
        store::{self, FlagChangeRow},
        wire::{self, FlagWhat},
    },
    fleet::{AskHandler, model::AgentId},
    platform::{
        db::{Db, clean},
        id,
    },
};

/// A waiting question is answered at the latest after this time; whoever still waits asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(25);

/// Where somebody who waits is woken.
const TOPIC: &str = "experiment-flag";

/// What a change made of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its values after it.
    pub values: FlagValues,
    /// The same request was applied before; nothing was changed now.
    pub again: bool,
}

impl Experiments {
    /// A flag of a user's experiment; waits for it to be as awaited, so long as `wait` says and not for ever.
    pub async fn flag(
        &self,
        owner: &str,
        name: &str,
        flag: &str,
        until: &Until,
        wait: Duration,
    ) -> Refusable<FlagValues> {
        let mut conn = self.fleet.db.read().await?;
        let experiment = self.find(&mut conn, owner, name).await?;
        let found = if wait.is_zero() {
            store::fetch_flag(&mut conn, &experiment.id, flag).await?
        } else {
            drop(conn);
            await_flag(&self.fleet.db, &experiment.id, flag, until, wait).await?
        };
        found.ok_or_else(|| Refusal::NoFlag(flag.into(), name.into()))
    }

    /// Changes a flag of a user's experiment.
    pub async fn change_flag(&self, user: &User, name: &str, flag: &str, change: &FlagChange) -> Refusable<Applied> {
        check_name("flag", flag)?;
        let experiment = self.find(&mut *self.fleet.db.read().await?, &user.name, name).await?;
        let request = id::fresh(self.fleet.db.clock().now());
        Ok(change_flag(&self.fleet.db, &experiment.id, flag, change, &request, &user.actor.name).await?)
    }
}

/// Changes a flag once for a request, however often it arrives.
pub async fn change_flag(
    db: &Db,
    experiment: &str,
    flag: &str,
    change: &FlagChange,
    request: &str,
    by: &str,
) -> Result<Applied> {
    db.write(|mut tx| async move {
        // The experiment's row orders changes of its flags.
        let locked = store::lock_by_id(&mut tx, &experiment.into()).await?;
        locked.ok_or_else(|| Error::not_found("experiment", experiment))?;
        if let Some(before) = store::fetch_flag_change(&mut tx, experiment, request).await? {
            let values = FlagValues { text_value: before.text_value, int_value: before.int_value };
            return tx.done(Applied { values, again: true });
        }
        let values = change.apply(store::fetch_flag(&mut tx, experiment, flag).await?.as_ref())?;
        store::save_flag(&mut tx, experiment, flag, &values).await?;
        let row = FlagChangeRow {
            request_id: request.into(),
            name: flag.into(),
            text_value: values.text_value.clone(),
            int_value: values.int_value,
            changed_by: by.into(),
            at: tx.now(),
        };
        store::insert_flag_change(&mut tx, experiment, &row).await?;
        tx.wake(TOPIC);
        tx.done(Applied { values, again: false })
    })
    .await
}

/// A flag's values once they are as awaited, or when waiting is over.
pub async fn await_flag(
    db: &Db,
    experiment: &str,
    flag: &str,
    until: &Until,
    wait: Duration,
) -> Result<Option<FlagValues>> {
    let deadline = Instant::now() + wait.min(LONGEST_WAIT);
    let mut news = db.wake().follow(TOPIC);
    loop {
        news.mark_unchanged();
        let found = store::fetch_flag(&mut *db.read().await?, experiment, flag).await?;
        if until.is_met(found.as_ref()) || !matches!(timeout_at(deadline, news.changed()).await, Ok(Ok(()))) {
            return Ok(found);
        }
    }
}

/// Answers executors that ask about a flag of their experiment.
pub fn asks(ground: &Ground) -> BTreeMap<&'static str, AskHandler> {
    let db = ground.db.clone();
    let handler = ask_handler(move |agent: AgentId, ask: Ask| {
        let db = db.clone();
        async move {
            let (outcome, body, message) = match answer_flag(&db, &agent, &ask).await {
                Ok(body) => (answer::Outcome::Ok, body, String::new()),
                Err(Error::Internal(_)) => {
                    (answer::Outcome::Unavailable, Vec::new(), "home could not find out".to_owned())
                }
                Err(refused) => (answer::Outcome::Denied, Vec::new(), refused.to_string()),
            };
            Answer { outcome: outcome.into(), body: body.into(), message, ..Answer::default() }
        }
    });
    BTreeMap::from([(KIND_EXPERIMENT_EXECUTOR, handler)])
}

async fn answer_flag(db: &Db, agent: &AgentId, ask: &Ask) -> Result<Vec<u8>> {
    let executor = ExecutorId(clean(&ask.id));
    let row = store::fetch_deployment(&mut *db.read().await?, &executor).await?;
    let row = row.filter(|row| row.agent_id.as_ref() == Some(&agent.0));
    let row = row.ok_or_else(|| Error::not_found("executor", &executor.0))?;
    let question = wire::flag_question(&ask.body);
    let question = question.ok_or_else(|| Error::invalid("body", "it is no question about a flag"))?;
    let flag = question.name;
    check_name("name", &flag)?;
    let change = match question.what {
        FlagWhat::Get(until, wait_ms) => {
            let wait = Duration::from_millis(wait_ms.into());
            let found = await_flag(db, &row.experiment_id, &flag, &until, wait).await?;
            return Ok(wire::flag_answer(found.as_ref()));
        }
        FlagWhat::Change(change) => change,
    };
    if question.request_id.is_empty() || question.request_id.len() > 100 {
        return Err(Error::invalid("request_id", "a change is named by 1 to 100 bytes, so that it is made once"));
    }
    let by = format!("executor/{}", row.id);
    let applied = change_flag(db, &row.experiment_id, &flag, &change, &question.request_id, &by).await?;
    Ok(wire::flag_answer(Some(&applied.values)))
}
