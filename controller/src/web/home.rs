//! The first page: what to do first, how things stand, and what happened of late. What there is to say comes from the
//! domains as cards.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Response};
use futures::future::BoxFuture;
use http::Method;

use super::{Caller, Layout, Policy, Role, Routes, gate::At, page, view::Tone};
use crate::{
    error::Result,
    platform::events::{self, Event, Filter},
};

/// Events shown.
const EVENTS: i64 = 8;

/// What a part of the house says on the first page.
#[derive(Clone)]
pub struct Card {
    /// Title.
    pub title: &'static str,
    /// Where it leads.
    pub href: &'static str,
    /// Looks how things stand.
    pub look: Arc<dyn Fn() -> BoxFuture<'static, Result<Glance>> + Send + Sync>,
}

/// How things stand.
#[derive(Debug, Clone, Default)]
pub struct Glance {
    /// In numbers.
    pub figures: Vec<Figure>,
    /// What to do while there is nothing yet.
    pub first: Option<First>,
}

/// A number.
#[derive(Debug, Clone)]
pub struct Figure {
    /// How many.
    pub count: i64,
    /// Of what.
    pub label: &'static str,
    /// How that is meant.
    pub tone: Tone,
}

/// What to do first.
#[derive(Debug, Clone)]
pub struct First {
    /// In words.
    pub text: &'static str,
    /// What the button says.
    pub action: &'static str,
    /// Where it leads.
    pub href: &'static str,
    /// Who may.
    pub role: Role,
}

#[derive(Template)]
#[template(path = "web/templates/home.html")]
struct HomePage {
    layout: Layout,
    cards: Vec<(Card, Glance)>,
    events: Vec<Event>,
}

impl HomePage {
    /// What is to be done first, in order.
    fn firsts(&self) -> Vec<&First> {
        self.cards.iter().filter_map(|(_, glance)| glance.first.as_ref()).collect()
    }
}

impl Figure {
    /// Its colour; nothing is neither good nor bad.
    fn class(&self) -> &'static str {
        if self.count == 0 { Tone::Quiet.word() } else { self.tone.word() }
    }
}

impl std::fmt::Debug for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Card").field("title", &self.title).finish_non_exhaustive()
    }
}

/// The first page.
pub fn routes(cards: Vec<Card>) -> Routes {
    Routes::new().page(Method::GET, "/", Policy::viewer(), home).with_state(Arc::new(cards))
}

async fn home(State(cards): State<Arc<Vec<Card>>>, At(gate): At, _: Caller, layout: Layout) -> Result<Response> {
    let mut seen = Vec::new();
    for card in cards.iter() {
        seen.push((card.clone(), (card.look)().await?));
    }
    let events = events::list(&mut *gate.db.read().await?, &Filter::default(), EVENTS).await?;
    page::render(&HomePage { layout: layout.title("Home"), cards: seen, events })
}
