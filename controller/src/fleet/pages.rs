//! The pages of the fleet: agents, and one agent.

pub(super) mod chart;
mod invitation;

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::Method;
use serde::Deserialize;

use self::chart::{Chart, charts};
use super::{
    Fleet,
    api::{Agent, AgentDetail, Holding, Summary},
    model::{AgentId, Class, Liveness, Phase, State as Stands, parse_labels},
    service::Removal,
    store::AgentFilter,
};
use crate::{
    certificate::{self, LeafRow},
    error::{Error, Result},
    platform::events::{self, Event, Filter},
    web::{
        Caller, Fields, Layout, Page, Paging, Policy, Query, Role, Routes,
        home::{Card, Figure, First, Glance},
        page::{redirect, render, render_refused},
        screen::Confirm,
        view::{Chip, Tone, bytes},
    },
};

/// Events on an agent's page.
const EVENTS: i64 = 20;

/// Certificates on an agent's page.
const LEAVES: i64 = 5;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct AgentQuery {
    class: String,
    liveness: String,
    label: String,
    search: String,
    cursor: String,
}

/// A class, and how many of its agents are in each liveness.
#[derive(Debug, PartialEq, Eq)]
struct ClassRow {
    class: Class,
    online: i64,
    stale: i64,
    offline: i64,
    never: i64,
}

#[derive(Template)]
#[template(path = "fleet/templates/fleet.html")]
struct FleetPage {
    layout: Layout,
    rows: Vec<ClassRow>,
    summary: Summary,
    agents: Page<Agent>,
    query: AgentQuery,
}

#[derive(Template)]
#[template(path = "fleet/templates/agent.html")]
struct AgentPage {
    layout: Layout,
    agent: Agent,
    detail: AgentDetail,
    charts: Vec<Chart>,
    leaves: Vec<LeafRow>,
    events: Vec<Event>,
    fields: Fields,
}

/// The pages of the fleet.
pub fn routes(fleet: Fleet) -> Routes {
    let (get, post) = (Method::GET, Method::POST);
    Routes::new()
        .page(get.clone(), "/fleet", Policy::viewer(), fleet_page)
        .page(get.clone(), "/fleet/agents/{id}", Policy::viewer(), agent)
        .page(post.clone(), "/fleet/agents/{id}", Policy::operator(), change_agent)
        .page(get.clone(), "/fleet/agents/{id}/revoke", Policy::admin(), ask_revoke)
        .page(post.clone(), "/fleet/agents/{id}/revoke", Policy::admin(), revoke_agent)
        .page(get.clone(), "/fleet/agents/{id}/remove", Policy::admin(), ask_remove)
        .page(post.clone(), "/fleet/agents/{id}/remove", Policy::admin(), remove_agent)
        .page(get.clone(), "/invitations", Policy::viewer(), invitation::invitations)
        .page(post.clone(), "/invitations", Policy::operator(), invitation::invite)
        .page(get, "/invitations/{id}/revoke", Policy::operator(), invitation::ask_revoke)
        .page(post, "/invitations/{id}/revoke", Policy::operator(), invitation::revoke)
        .with_state(fleet)
}

/// What the fleet says on the first page.
pub fn card(fleet: Fleet) -> Card {
    let look = move || {
        let fleet = fleet.clone();
        Box::pin(async move { fleet.summary().await.map(|summary| glance(&summary)) }) as _
    };
    Card { title: "Fleet", href: "/fleet", look: Arc::new(look) }
}

fn glance(summary: &Summary) -> Glance {
    let of = |wanted: &[Liveness]| {
        summary.counts.iter().filter(|c| wanted.contains(&c.liveness)).map(|c| c.count).sum::<i64>()
    };
    let figures = vec![
        Figure { count: summary.online, label: "online", tone: Tone::Good },
        Figure { count: of(&[Liveness::Stale]), label: "stale", tone: Tone::Warn },
        Figure { count: of(&[Liveness::Offline]), label: "offline", tone: Tone::Bad },
        Figure { count: of(&[Liveness::Never]), label: "never seen", tone: Tone::Quiet },
    ];
    let first = First {
        text: "Invite a host: make an invitation, and paste its command on the host that is to join.",
        action: "Make an invitation",
        href: "/invitations",
        role: Role::Operator,
    };
    Glance { figures, first: (summary.agents == 0).then_some(first) }
}

// === what things look like ===

impl Liveness {
    /// As a chip.
    pub(crate) fn chip(self) -> Chip {
        let tone = match self {
            Self::Online => Tone::Good,
            Self::Stale => Tone::Warn,
            Self::Offline => Tone::Bad,
            Self::Never => Tone::Quiet,
        };
        Chip { word: self.word(), tone }
    }
}

impl Agent {
    /// Where it stands.
    fn chip(&self) -> Chip {
        if self.is_revoked { Chip { word: "revoked", tone: Tone::Bad } } else { self.liveness.chip() }
    }

    /// Its labels as people type them.
    fn labels_text(&self) -> String {
        let pairs: Vec<_> = self.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(", ")
    }
}

impl Holding {
    /// Where it stands between home and the agent.
    fn chip(&self) -> Chip {
        let tone = match self.state {
            _ if self.refusal.is_some() => return Chip { word: "refused", tone: Tone::Bad },
            Stands::Accepted => Tone::Good,
            Stands::Finished => Tone::Quiet,
            Stands::Queued | Stands::Offered | Stands::Running => Tone::Busy,
        };
        Chip { word: self.state.word(), tone }
    }

    /// What the agent said last.
    fn phase(&self) -> Option<Chip> {
        let phase = self.report.as_ref()?.phase;
        let tone = match phase {
            Phase::Applied | Phase::Succeeded => Tone::Good,
            Phase::Waiting | Phase::Working => Tone::Busy,
            Phase::Failed | Phase::Lost => Tone::Bad,
            Phase::Interrupted | Phase::Late => Tone::Warn,
            Phase::Gone | Phase::Cancelled => Tone::Quiet,
        };
        Some(Chip { word: phase.word(), tone })
    }
}

impl AgentQuery {
    fn is_narrow(&self) -> bool {
        [&self.class, &self.liveness, &self.label, &self.search].iter().any(|text| !text.is_empty())
    }
}

impl AgentDetail {
    fn memory(&self) -> String {
        bytes(self.facts.memory_bytes)
    }
}

/// Counts by class, in the order of the classes.
fn class_rows(summary: &Summary) -> Vec<ClassRow> {
    let of = |class: Class, liveness: Liveness| {
        summary.counts.iter().filter(|c| c.class == class && c.liveness == liveness).map(|c| c.count).sum()
    };
    let row = |class: Class| ClassRow {
        class,
        online: of(class, Liveness::Online),
        stale: of(class, Liveness::Stale),
        offline: of(class, Liveness::Offline),
        never: of(class, Liveness::Never),
    };
    Class::ALL.map(row).into_iter().filter(|r| r.online + r.stale + r.offline + r.never > 0).collect()
}

// === agents ===

async fn fleet_page(
    State(fleet): State<Fleet>,
    layout: Layout,
    paging: Paging,
    Query(query): Query<AgentQuery>,
) -> Result<Response> {
    let filter = AgentFilter {
        class: query.class.clone(),
        liveness: query.liveness.clone(),
        labels: parse_labels("label", &query.label)?,
        search: query.search.trim().to_owned(),
        after: paging.after.clone(),
    };
    let found = fleet.list_agents(&filter, paging.rows()).await?;
    let summary = fleet.summary().await?;
    let (rows, agents) = (class_rows(&summary), paging.page(found, |a| a.id.clone()));
    render(&FleetPage { layout: layout.title("Fleet"), rows, summary, agents, query })
}

async fn agent(State(fleet): State<Fleet>, layout: Layout, Path(id): Path<String>) -> Result<Response> {
    render(&agent_page(&fleet, layout, &AgentId(id), None).await?)
}

async fn agent_page(fleet: &Fleet, layout: Layout, id: &AgentId, typed: Option<Fields>) -> Result<AgentPage> {
    let detail = fleet.agent_detail(id).await?;
    let mut conn = fleet.db.read().await?;
    let subject = format!("agent/{id}");
    let leaves = certificate::leaves(&mut conn, &subject, LEAVES).await?;
    let filter = Filter { subject: Some(subject), ..Filter::default() };
    let events = events::list(&mut conn, &filter, EVENTS).await?;
    let agent = detail.agent.clone();
    let fields =
        typed.unwrap_or_else(|| Fields::filled([("name", agent.name.clone()), ("labels", agent.labels_text())]));
    let (layout, charts) = (layout.title(&agent.name), charts(&fleet.sample_infos(id)));
    Ok(AgentPage { layout, agent, detail, charts, leaves, events, fields })
}

async fn change_agent(
    State(fleet): State<Fleet>,
    caller: Caller,
    layout: Layout,
    Path(id): Path<String>,
    mut fields: Fields,
) -> Result<Response> {
    let id = AgentId(id);
    let changed = async {
        let (labels, version) = (fields.pairs("labels")?, fields.number("version")?);
        fleet.relabel(&caller.actor, &id, fields.text("name"), &labels, Some(version)).await
    };
    match changed.await {
        Ok(_) => Ok(redirect(&format!("/fleet/agents/{id}"), "Saved.")),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&agent_page(&fleet, layout, &id, Some(fields)).await?)
        }
    }
}

async fn name_of(fleet: &Fleet, id: &AgentId) -> Result<String> {
    Ok(fleet.agent(&mut *fleet.db.read().await?, id).await?.name)
}

fn revoke_screen(layout: Layout, id: &AgentId, name: &str) -> Confirm {
    let question = format!(
        "{name} loses its identity: its stream is cut at once, its certificates are revoked and its open work ends as lost. \
         It comes back only by an invitation made for it."
    );
    let screen =
        Confirm::new(layout.title("Revoke the agent?"), question, "Revoke agent", format!("/fleet/agents/{id}"));
    Confirm { reason: Some(("reason", "Why")), ..screen }
}

async fn ask_revoke(State(fleet): State<Fleet>, layout: Layout, Path(id): Path<String>) -> Result<Response> {
    let id = AgentId(id);
    let name = name_of(&fleet, &id).await?;
    revoke_screen(layout, &id, &name).render()
}

async fn revoke_agent(
    State(fleet): State<Fleet>,
    caller: Caller,
    layout: Layout,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response> {
    let id = AgentId(id);
    let name = name_of(&fleet, &id).await?;
    let revoked = match fields.text("reason") {
        "" => Err(Error::invalid("reason", "say why, in 1 to 1000 characters")),
        reason => fleet.revoke_agent(&caller.actor, &id, reason).await,
    };
    match revoked {
        Ok(()) => Ok(redirect(&format!("/fleet/agents/{id}"), format!("{name} is revoked."))),
        Err(error) => revoke_screen(layout, &id, &name).refused(fields, error),
    }
}

fn remove_screen(layout: Layout, id: &AgentId, name: &str) -> Confirm {
    let question = format!("{name} and everything about it is removed. What it did stays in the history.");
    let screen =
        Confirm::new(layout.title("Remove the agent?"), question, "Remove agent", format!("/fleet/agents/{id}"));
    Confirm { tick: Some(("force", "Even if it still holds assignments")), ..screen }
}

async fn ask_remove(State(fleet): State<Fleet>, layout: Layout, Path(id): Path<String>) -> Result<Response> {
    let id = AgentId(id);
    let name = name_of(&fleet, &id).await?;
    remove_screen(layout, &id, &name).render()
}

async fn remove_agent(
    State(fleet): State<Fleet>,
    caller: Caller,
    layout: Layout,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response> {
    let id = AgentId(id);
    let name = name_of(&fleet, &id).await?;
    match fleet.remove_agent(&caller.actor, &Removal { agent: id.clone(), force: fields.is_on("force") }).await {
        Ok(()) => Ok(redirect("/fleet", format!("{name} is removed."))),
        Err(error) => remove_screen(layout, &id, &name).refused(fields, error),
    }
}
