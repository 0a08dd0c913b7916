//! Agents without a host, for tests of those above the fleet.

use super::{
    Fleet,
    desired::{self, NewReport, Report},
    model::{AgentId, Class, Labels},
    store::{self, AgentRow},
};
use crate::platform::db::{Conn, Db};

/// Puts an agent into the house that enrolled and has never been home.
pub async fn settle_agent(fleet: &Fleet, id: &str, class: Class, labels: &[(&str, &str)]) -> AgentId {
    settle(fleet, id, class, labels, None).await
}

/// The same, of an agent that joined by an invitation.
pub async fn settle_joined(fleet: &Fleet, id: &str, class: Class, invitation: &str) -> AgentId {
    settle(fleet, id, class, &[], Some(invitation)).await
}

async fn settle(fleet: &Fleet, id: &str, class: Class, labels: &[(&str, &str)], invitation: Option<&str>) -> AgentId {
    let labels: Labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let row = AgentRow {
        id: id.into(),
        name: format!("host-{id}"),
        class: class.name().into(),
        labels: serde_json::to_string(&labels).expect("labels are plain data"),
        invitation_id: invitation.map(str::to_owned),
        enrolled_at: 1,
        standing: "ok".into(),
        revoked_at: None,
        revoke_reason: String::new(),
        agent_version: String::new(),
        facts: "{}".into(),
        capabilities: "[]".into(),
        capability_digest: String::new(),
        ledger_id: String::new(),
        liveness: "never".into(),
        liveness_at: 1,
        version: 1,
    };
    let (row, labels) = (&row, &labels);
    fleet
        .db
        .write(|mut tx| async move {
            store::insert_agent(&mut tx, row, labels).await?;
            tx.done(())
        })
        .await
        .expect("the agent is stored");
    id.into()
}

/// Stores what an agent would say, as the report of this number in its ledger.
pub async fn tell(db: &Db, report: Report, seq: i64) {
    let new = &[NewReport { report, ledger: "l1".into(), seq, epoch: 1 }];
    db.write(|mut tx| async move {
        desired::save_reports(&mut tx, new).await?;
        tx.done(())
    })
    .await
    .expect("stored");
}

/// Whether an agent may fetch a blob.
pub async fn is_granted(conn: &mut Conn, agent: &AgentId, blob: &str) -> bool {
    desired::is_granted(conn, agent, blob).await.expect("read")
}
