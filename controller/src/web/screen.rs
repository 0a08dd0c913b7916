//! Screens that several domains need: a question before a loss, and a secret that is shown once.

use askama::Template;
use axum::response::Response;

use super::{Fields, Layout, page};
use crate::error::{Error, Result};

/// Asks before something is lost. Its form is sent to the page's own path.
#[derive(Debug, Template)]
#[template(path = "web/templates/confirm.html")]
pub struct Confirm {
    /// What every page shows; its title is the question in short.
    pub layout: Layout,
    /// What will be lost.
    pub question: String,
    /// What the button says.
    pub action: &'static str,
    /// Where it leads to leave things as they are.
    pub back: String,
    /// What the way back says.
    pub keep: &'static str,
    /// What goes along, and the word that says these were seen.
    pub losses: Vec<String>,
    /// See `losses`; sent as `cascade`.
    pub cascade: String,
    /// A text to be given: name and label.
    pub reason: Option<(&'static str, &'static str)>,
    /// A box that may be ticked: name and label.
    pub tick: Option<(&'static str, &'static str)>,
    /// What was typed.
    pub fields: Fields,
}

/// Shows a secret, this once: the answer to the form that made it, since no cookie and no address should hold one.
#[derive(Debug, Template)]
#[template(path = "web/templates/secret.html")]
pub struct Secret {
    /// What every page shows.
    pub layout: Layout,
    /// What it is.
    pub label: &'static str,
    /// The secret.
    pub secret: String,
    /// What to do with it.
    pub text: String,
    /// Commands to paste, by name of the machine they are for.
    pub commands: Vec<(&'static str, String)>,
    /// Where to go on.
    pub back: &'static str,
}

// === impl Confirm ===

impl Confirm {
    /// A question.
    pub fn new(layout: Layout, question: impl Into<String>, action: &'static str, back: impl Into<String>) -> Self {
        let (question, back) = (question.into(), back.into());
        Self {
            layout,
            question,
            action,
            back,
            keep: "Keep it",
            losses: Vec::new(),
            cascade: String::new(),
            reason: None,
            tick: None,
            fields: Fields::default(),
        }
    }

    /// With what goes along, and the word that says these were seen.
    #[must_use]
    pub fn losses(mut self, losses: Vec<String>, cascade: String) -> Self {
        (self.losses, self.cascade) = (losses, cascade);
        self
    }

    /// With other words for the way back.
    #[must_use]
    pub fn keep(mut self, keep: &'static str) -> Self {
        self.keep = keep;
        self
    }

    /// Asks.
    pub fn render(self) -> Result<Response> {
        page::render(&self)
    }

    /// Asks again, with what was wrong.
    pub fn refused(mut self, mut fields: Fields, error: Error) -> Result<Response> {
        fields.refuse(error)?;
        self.fields = fields;
        page::render_refused(&self)
    }
}
