//! The pages of experiments: the list, the nodes, one experiment as a live grid, an executor, two runs beside each other.

pub mod compare;
pub mod grid;
pub mod timeline;

use std::{collections::BTreeSet, sync::Arc};

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::Method;
use muster_proto::KIND_EXPERIMENT_EXECUTOR;
use serde::Deserialize;
use serde_json::Value;

use self::{compare::Comparison, grid::Grid, timeline::Timeline};
use super::{
    api::{
        self, Api, DeploymentView, ExperimentDetail, ExperimentQuery, ExperimentView, NodeView, Of, Postprocessing,
        left, show,
    },
    connector::{
        api::{ConnectorView, connector_views},
        model::Health,
    },
    environment,
    model::{ExecutorId, Outcome, Stage, Status},
    run::{TaskRun, TaskState},
    service::key,
    store,
};
use crate::{
    error::{Error, Result},
    fleet::logs::{self, Tail},
    web::{
        Caller, Fields, Layout, Page, Paging, Policy, Query, Role, Routes, encoded,
        home::{Card, Figure, First, Glance},
        page::{redirect, redirect_refused, render},
        screen::Confirm,
        view::{Chip, Tone, duration},
    },
};

const LIST: &str = "/experiments";

/// Experiments in a choice.
const CHOICE: i64 = 100;

/// Bytes of output on a page.
const TAIL: i64 = 64 << 10;

#[derive(Template)]
#[template(path = "experiment/templates/list.html")]
struct ListPage {
    layout: Layout,
    page: Page<ExperimentView>,
    query: ExperimentQuery,
}

#[derive(Template)]
#[template(path = "experiment/templates/nodes.html")]
struct NodesPage {
    layout: Layout,
    nodes: Vec<NodeView>,
    connectors: Vec<ConnectorView>,
}

#[derive(Template)]
#[template(path = "experiment/templates/experiment.html")]
struct ExperimentPage {
    layout: Layout,
    experiment: ExperimentView,
    grid: Grid,
    timeline: Option<Timeline>,
    postprocessing: Option<Postprocessing>,
    flags: Vec<api::Flag>,
    /// Another of the owner's to compare it with: the one before.
    before: Option<ExperimentView>,
    may_change: bool,
}

#[derive(Template)]
#[template(path = "experiment/templates/executor.html")]
struct ExecutorPage {
    layout: Layout,
    experiment: ExperimentView,
    node: DeploymentView,
    output: Tail,
    deployment: Tail,
}

#[derive(Template)]
#[template(path = "experiment/templates/compare.html")]
struct ComparePage {
    layout: Layout,
    /// The owner's newest, to choose from.
    choice: Vec<ExperimentView>,
    query: CompareQuery,
    compared: Option<(ExperimentView, ExperimentView, Comparison)>,
}

/// Which two runs.
#[derive(Debug, Deserialize)]
struct CompareQuery {
    #[serde(default)]
    a: String,
    #[serde(default)]
    b: String,
    #[serde(default)]
    owner: String,
}

/// The pages of the domain.
pub fn routes(api: Api) -> Routes {
    let (known, run) = (Policy::logged_in(), Policy::operator());
    let (get, post) = (Method::GET, Method::POST);
    Routes::new()
        .page(get.clone(), LIST, known, list)
        .page(get.clone(), "/experiments/nodes", known, nodes)
        .page(get.clone(), "/experiments/compare", known, compare)
        .page(get.clone(), "/experiments/executors/{executor}", known, executor)
        .page(get.clone(), "/experiments/of/{owner}/{name}", known, experiment)
        .page(post.clone(), "/experiments/of/{owner}/{name}", run, start)
        .page(get.clone(), "/experiments/of/{owner}/{name}/cancel", run, ask::<false>)
        .page(post.clone(), "/experiments/of/{owner}/{name}/cancel", run, end::<false>)
        .page(get, "/experiments/of/{owner}/{name}/delete", run, ask::<true>)
        .page(post, "/experiments/of/{owner}/{name}/delete", run, end::<true>)
        .with_state(api)
}

/// What experiments say on the first page.
pub fn card(api: Api) -> Card {
    let look = move || {
        let api = api.clone();
        Box::pin(async move {
            let mut conn = api.experiments.fleet.db.read().await?;
            Ok(glance(&store::counts_by_status(&mut conn).await?))
        }) as _
    };
    Card { title: "Experiments", href: LIST, look: Arc::new(look) }
}

fn glance(counts: &[(String, i64)]) -> Glance {
    let of = |wanted: fn(Status) -> bool| {
        counts.iter().filter(|(word, _)| Status::from_word(word).is_some_and(wanted)).map(|(_, n)| n).sum()
    };
    let figures = vec![
        Figure { count: of(|s| s == Status::Running), label: "running", tone: Tone::Good },
        Figure {
            count: of(|s| matches!(s, Status::Preparing | Status::Cancelling)),
            label: "on their way",
            tone: Tone::Busy,
        },
        Figure { count: of(|s| s == Status::Failed), label: "failed", tone: Tone::Bad },
        Figure { count: of(|s| matches!(s, Status::Finished | Status::Cancelled)), label: "over", tone: Tone::Quiet },
    ];
    let first = counts.is_empty().then_some(First {
        text: "Run a pipeline of tasks on some nodes, from a file or by netunicorn's client.",
        action: "See how",
        href: LIST,
        role: Role::Viewer,
    });
    Glance { figures, first }
}

// === what things look like ===

impl Status {
    /// Every status.
    const SHOWN: [Self; 7] =
        [Self::Preparing, Self::Ready, Self::Running, Self::Cancelling, Self::Finished, Self::Cancelled, Self::Failed];

    /// As a chip.
    pub fn chip(self) -> Chip {
        let tone = match self {
            Self::Preparing | Self::Running | Self::Cancelling => Tone::Busy,
            Self::Ready | Self::Finished => Tone::Good,
            Self::Cancelled => Tone::Quiet,
            Self::Failed => Tone::Bad,
        };
        Chip { word: self.word(), tone }
    }
}

impl ExperimentView {
    /// Its page.
    pub fn href(&self) -> String {
        format!("/experiments/of/{}/{}", encoded(&self.owner), encoded(&self.name))
    }

    /// Where it stands, as a chip. One that finished and failed on a node is worth a look.
    fn chip(&self) -> Chip {
        let chip = self.status.chip();
        if self.status == Status::Finished && self.failed > 0 { Chip { tone: Tone::Warn, ..chip } } else { chip }
    }

    /// How its deployments fare, in words.
    fn tally(&self) -> String {
        let parts = [(self.succeeded, "succeeded"), (self.failed, "failed")];
        let parts: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        let all = format!("{} node{}", self.deployments, if self.deployments == 1 { "" } else { "s" });
        if parts.is_empty() { all } else { format!("{all}: {}", parts.join(", ")) }
    }

    /// How long it ran, or has been running.
    fn took(&self, now: &i64) -> String {
        let Some(from) = self.started_at else { return String::new() };
        duration((self.ended_at.unwrap_or(*now) - from).max(0))
    }

    fn is_open(&self) -> bool {
        !self.status.is_over()
    }

    fn may_be_cancelled(&self) -> bool {
        matches!(self.status, Status::Preparing | Status::Ready | Status::Running)
    }

    fn may_be_deleted(&self) -> bool {
        self.status.is_over() || self.status == Status::Ready
    }
}

impl ConnectorView {
    /// How it fares, as a chip.
    fn chip(&self) -> Chip {
        match self.health {
            _ if !self.enabled => Chip { word: "off", tone: Tone::Quiet },
            Health::New => Chip { word: "new", tone: Tone::Busy },
            Health::Well => Chip { word: "well", tone: Tone::Good },
            Health::Failing => Chip { word: "failing", tone: Tone::Bad },
        }
    }
}

impl Postprocessing {
    fn chip(&self) -> Chip {
        match (self.told_at, self.again_at, self.tries) {
            (Some(_), ..) => Chip { word: "done", tone: Tone::Good },
            (None, Some(_), 0) => Chip { word: "waiting", tone: Tone::Busy },
            (None, Some(_), _) => Chip { word: "trying again", tone: Tone::Warn },
            (None, None, _) => Chip { word: "failed", tone: Tone::Bad },
        }
    }
}

impl NodeView {
    /// How many nodes a template stands for, in words.
    fn stands_for(&self) -> String {
        match self.limit {
            Some(limit) => format!("1 to {limit}"),
            None => "1, 2, 3, …".into(),
        }
    }

    fn tags(&self) -> String {
        let tags = self.node.properties.get("netunicorn-access-tags").and_then(|t| t.as_array());
        let tags: Vec<_> = tags.into_iter().flatten().filter_map(|t| t.as_str()).collect();
        tags.join(", ")
    }

    fn property(&self, name: &str) -> String {
        self.node.properties.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
    }

    fn runs(&self) -> String {
        let words: Vec<_> = self.environments.iter().map(|e| e.word()).collect();
        words.join(", ")
    }
}

impl DeploymentView {
    /// Where it stands, as a chip.
    pub fn chip(&self) -> Chip {
        match self.outcome {
            None => {
                let tone = if self.stage == Stage::Deployed { Tone::Good } else { Tone::Busy };
                Chip { word: self.stage.word(), tone }
            }
            Some(outcome) => {
                let tone = match outcome {
                    Outcome::Succeeded => Tone::Good,
                    Outcome::Cancelled | Outcome::Moved => Tone::Quiet,
                    Outcome::Interrupted => Tone::Warn,
                    Outcome::Failed | Outcome::NotDeployed | Outcome::TimedOut | Outcome::Lost => Tone::Bad,
                };
                Chip { word: outcome.word(), tone }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.stage == Stage::Ended
    }

    fn took(&self) -> String {
        match (self.started_at, self.ended_at) {
            (Some(from), Some(to)) => duration((to - from).max(0)),
            _ => String::new(),
        }
    }

    fn log(&self, of: &str, rest: &str) -> String {
        format!("/api/v1/experiment/executors/{}/log{rest}?of={of}", self.executor)
    }
}

impl TaskRun {
    fn chip(&self) -> Chip {
        let (word, tone) = match self.state {
            TaskState::Running => ("running", Tone::Busy),
            TaskState::Succeeded => ("succeeded", Tone::Good),
            TaskState::Failed => ("failed", Tone::Bad),
            TaskState::Skipped => ("skipped", Tone::Quiet),
            TaskState::TimedOut => ("timed_out", Tone::Bad),
            TaskState::Cancelled => ("cancelled", Tone::Quiet),
        };
        Chip { word, tone }
    }

    fn took(&self) -> String {
        if self.ended_at == 0 || self.started_at == 0 {
            String::new()
        } else {
            duration(self.ended_at - self.started_at)
        }
    }
}

impl ListPage {
    fn is_narrow(&self) -> bool {
        [&self.query.owner, &self.query.status, &self.query.search].iter().any(|text| !text.is_empty())
    }
}

// === looking ===

async fn list(
    State(api): State<Api>,
    caller: Caller,
    layout: Layout,
    Query(query): Query<ExperimentQuery>,
    paging: Paging,
) -> Result<Response> {
    let page = api::list(&api.experiments, &caller, &query, &paging).await?;
    render(&ListPage { layout: layout.title("Experiments"), page, query })
}

async fn nodes(State(api): State<Api>, of: Of, layout: Layout) -> Result<Response> {
    let nodes = api::node_views(&api.experiments, &of.user).await?;
    let connectors = connector_views(&api.experiments).await?;
    render(&NodesPage { layout: layout.title("Nodes"), nodes, connectors })
}

async fn experiment(
    State(api): State<Api>,
    caller: Caller,
    layout: Layout,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Response> {
    Of::new(&api.access, &caller, &owner).await?;
    let ExperimentDetail { experiment, nodes, postprocessing } = show(&api.experiments, &owner, &name).await?;
    let mut conn = api.experiments.fleet.db.read().await?;
    let flags = store::flags(&mut conn, &experiment.id).await?;
    let flags = flags.into_iter().map(|(name, values, at)| api::Flag { name, values, at }).collect();
    let filter = store::Filter {
        owner: Some(owner),
        before: Some((experiment.created_at, experiment.id.clone())),
        ..store::Filter::default()
    };
    let before = store::experiments(&mut conn, &filter, 1).await?;
    let before = api::views(&mut conn, before).await?.pop();
    let page = ExperimentPage {
        timeline: timeline::draw(&experiment, &nodes, layout.now),
        grid: grid::lay(&nodes, layout.now),
        layout: layout.title(&experiment.name),
        may_change: caller.role >= Role::Operator,
        experiment,
        postprocessing,
        flags,
        before,
    };
    render(&page)
}

async fn executor(
    State(api): State<Api>,
    caller: Caller,
    layout: Layout,
    Path(executor): Path<ExecutorId>,
) -> Result<Response> {
    let (row, of) = left::find(&api.experiments, &caller, &executor).await?;
    let ExperimentDetail { experiment, nodes, .. } = show(&api.experiments, &row.owner, &row.name).await?;
    let node = nodes.into_iter().find(|d| d.executor == executor.0);
    let node = node.ok_or_else(|| Error::not_found("executor", &executor.0))?;
    let mut conn = api.experiments.fleet.db.read().await?;
    let output = logs::tail(&mut conn, &key(KIND_EXPERIMENT_EXECUTOR, &executor.0), "", TAIL).await?;
    let making = environment::output(&mut conn, &of).await?;
    let deployment = logs::tail(&mut conn, &making, "", TAIL).await?;
    let layout = layout.title(format!("{} on {}", experiment.name, node.node));
    render(&ExecutorPage { layout, experiment, node, output, deployment })
}

async fn compare(
    State(api): State<Api>,
    caller: Caller,
    layout: Layout,
    Query(query): Query<CompareQuery>,
) -> Result<Response> {
    let of = Of::new(&api.access, &caller, &query.owner).await?;
    let compared = if query.a.is_empty() || query.b.is_empty() {
        None
    } else {
        let left = show(&api.experiments, &of.user.name, &query.a).await?;
        let right = show(&api.experiments, &of.user.name, &query.b).await?;
        let comparison = compare::compare(&left.nodes, &right.nodes);
        Some((left.experiment, right.experiment, comparison))
    };
    let filter = store::Filter { owner: Some(of.user.name), ..store::Filter::default() };
    let mut conn = api.experiments.fleet.db.read().await?;
    let choice = store::experiments(&mut conn, &filter, CHOICE).await?;
    let choice = api::views(&mut conn, choice).await?;
    render(&ComparePage { layout: layout.title("Two runs"), choice, query, compared })
}

// === changing ===

/// Whose experiment it is, and where its page is.
async fn meant(api: &Api, caller: &Caller, owner: &str, name: &str) -> Result<(super::service::User, String)> {
    let of = Of::new(&api.access, caller, owner).await?;
    Ok((of.user, format!("/experiments/of/{}/{}", encoded(owner), encoded(name))))
}

async fn start(
    State(api): State<Api>,
    caller: Caller,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Response> {
    let (user, page) = meant(&api, &caller, &owner, &name).await?;
    match api.experiments.start(&user, &name, &Value::Null).await {
        Ok(()) => Ok(redirect(&page, "Started.")),
        Err(refusal) => redirect_refused(&page, refusal.into()),
    }
}

/// Asks before an experiment is cancelled, or deleted.
async fn ask<const DELETE: bool>(
    State(api): State<Api>,
    caller: Caller,
    layout: Layout,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Response> {
    let (_, page) = meant(&api, &caller, &owner, &name).await?;
    if DELETE {
        let question = format!("{name} goes with its results, its output and its files.");
        Confirm::new(layout.title(format!("Delete {name}")), question, "Delete it", page).render()
    } else {
        let question = format!("{name} is ended on all its nodes. What its executors reported so far is kept.");
        let layout = layout.title(format!("Cancel {name}"));
        Confirm::new(layout, question, "Cancel it", page).keep("Let it go on").render()
    }
}

/// Cancels an experiment, or deletes it.
async fn end<const DELETE: bool>(
    State(api): State<Api>,
    caller: Caller,
    Path((owner, name)): Path<(String, String)>,
    _: Fields,
) -> Result<Response> {
    let (user, page) = meant(&api, &caller, &owner, &name).await?;
    let done = if DELETE {
        let done = api.experiments.delete(&user, &name).await;
        done.map(|()| redirect(LIST, format!("{name} was deleted.")))
    } else {
        let done = api.experiments.cancel(&user, &name, &Value::Null).await;
        done.map(|_| redirect(&page, "Its end was asked for."))
    };
    done.or_else(|refusal| redirect_refused(&page, refusal.into()))
}

/// Names of tasks in the order they first ran, over all nodes.
fn task_names(nodes: &[DeploymentView]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let runs = nodes.iter().flat_map(|node| &node.runs);
    runs.filter(|run| seen.insert(run.task.clone())).map(|run| run.task.clone()).collect()
}
