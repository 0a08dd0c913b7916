//! The pages of a site on its host, and what its participants decide there.

use std::{collections::BTreeMap, time::Duration};

use askama::Template;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::time::timeout;

use super::{
    apply::Sites,
    board::Posted,
    model::Endpoint,
    view::{EndpointView, SiteView},
    wire::{self, Decision},
};
use crate::{
    driver::{Pages, Taken, Visit},
    ledger::Key,
    spool::Answer,
};

const OVERVIEW: &str = "/site";
const ENDPOINTS: &str = "/endpoints";
const CERTIFICATES: &str = "/certificates";
const COUNTERS: &str = "/counters";
const EVENTS: &str = "/events";

/// How long a person waits for home's word.
const ASK: Duration = Duration::from_secs(10);

#[derive(Template)]
#[template(path = "network/templates/overview.html")]
struct Overview {
    sites: Vec<SiteView>,
}

#[derive(Template)]
#[template(path = "network/templates/endpoints.html")]
struct Endpoints<'a> {
    sites: Vec<SiteView>,
    csrf: &'a str,
}

#[derive(Template)]
#[template(path = "network/templates/certificates.html")]
struct Certificates {
    sites: Vec<SiteView>,
}

#[derive(Template)]
#[template(path = "network/templates/counters.html")]
struct Counters {
    sites: Vec<SiteView>,
}

#[derive(Template)]
#[template(path = "network/templates/events.html")]
struct Events {
    sites: Vec<SiteView>,
}

impl Pages for Sites {
    fn menu(&self) -> &'static [(&'static str, &'static str)] {
        &[
            (OVERVIEW, "Overview"),
            (ENDPOINTS, "Endpoints"),
            (CERTIFICATES, "Certificates"),
            (COUNTERS, "Counters"),
            (EVENTS, "Events"),
        ]
    }

    fn show(&self, path: &str, visit: &Visit<'_>) -> Option<String> {
        let sites = self.views(visit.now_ms);
        let page = match path {
            OVERVIEW => Overview { sites }.render(),
            ENDPOINTS => Endpoints { sites, csrf: visit.csrf }.render(),
            CERTIFICATES => Certificates { sites }.render(),
            COUNTERS => Counters { sites }.render(),
            EVENTS => Events { sites }.render(),
            _ => return None,
        };
        page.inspect_err(|e| tracing::error!(path, error = %e, "a page cannot be made")).ok()
    }

    fn data(&self) -> (&'static str, serde_json::Value) {
        ("site", json!({"sites": self.views(self.host.now_ms())}))
    }

    fn submit<'a>(
        &'a self,
        path: &'a str,
        form: &'a BTreeMap<String, String>,
        visit: &'a Visit<'a>,
    ) -> BoxFuture<'a, Option<Taken>> {
        Box::pin(async move {
            if path != ENDPOINTS {
                return None;
            }
            Some(match decision(&self.board.all(), form) {
                Ok(decided) => self.decide(decided, visit).await,
                Err(why) => Taken::Refused(why),
            })
        })
    }
}

/// What a form decides, for which site, about what people call how.
#[derive(Debug, PartialEq, Eq)]
struct Decided {
    key: Key,
    name: String,
    decision: Decision,
}

// === impl Sites ===

impl Sites {
    fn views(&self, now_ms: i64) -> Vec<SiteView> {
        self.board.all().iter().map(|(key, posted)| SiteView::new(key, posted, now_ms)).collect()
    }

    async fn decide(&self, decided: Decided, visit: &Visit<'_>) -> Taken {
        let Decided { key, name, decision } = decided;
        if !visit.home_is_there {
            return Taken::Unreachable(format!(
                "Home cannot be reached, so nothing was changed about {name}. Try again."
            ));
        }
        let question = self.spool.ask(key.clone(), 1, wire::decide(&decision));
        let answer = match timeout(ASK, question).await {
            Ok(Answer::Ok(reply)) => wire::decided(&reply),
            Ok(Answer::Denied(why) | Answer::Unknown(why)) => Err(why),
            Ok(Answer::Unavailable(why)) => {
                return Taken::Unreachable(format!("Home could not take it now, and nothing was changed: {why}"));
            }
            Err(_) => {
                return Taken::Unreachable(format!(
                    "Home did not answer in time. Whether it knows what you said of {name} shows here once it is back."
                ));
            }
        };
        let word = if decision.accept { "accepted" } else { "declined" };
        match answer {
            Ok(()) => {
                self.board.note(&key, format!("{name} was {word} here"), visit.now_ms);
                Taken::Done(format!("{name} is {word} at home; this site follows in a moment."))
            }
            Err(why) => Taken::Refused(format!("Home refused, and nothing was changed about {name}: {why}")),
        }
    }
}

/// Reads a form against what is known of the sites. Pure.
fn decision(sites: &[(Key, Posted)], form: &BTreeMap<String, String>) -> Result<Decided, String> {
    let field = |name: &str| form.get(name).map_or("", |text| text.trim());
    let (key, posted) = sites
        .iter()
        .find(|(key, _)| key.id == field("site"))
        .ok_or("This site is not here any more; nothing was changed.")?;
    let endpoint: &Endpoint = posted
        .site
        .endpoints
        .iter()
        .find(|e| e.id == field("endpoint"))
        .ok_or("This endpoint is not allocated to the site any more; nothing was changed.")?;
    if field("generation") != endpoint.generation.to_string() {
        return Err(format!(
            "{} has changed since you saw it, and nothing was decided; look at it again below.",
            endpoint.name
        ));
    }
    let accept = match field("say") {
        "accept" => true,
        "decline" => false,
        other => return Err(format!("say {other:?}: accept or decline")),
    };
    let view = EndpointView::from(endpoint);
    let (mut host, mut port) = (String::new(), 0);
    if accept && view.host_is_open {
        host = field("host").to_owned();
        if host.is_empty() {
            return Err("Host: say where it is, as a name or an address; nothing was changed.".into());
        }
    }
    if accept && view.port_is_open {
        let wrong = || format!("Port {:?}: a number from 1 to 65535; nothing was changed.", field("port"));
        port = field("port").parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    }
    let generation = endpoint.generation;
    let decision = Decision { endpoint: endpoint.id.clone(), generation, accept, host, port };
    Ok(Decided { key: key.clone(), name: endpoint.name.clone(), decision })
}
