//! What a site shows on its host, and what is decided there.

use std::{collections::BTreeMap, path::PathBuf};

use muster_proto::network::{self as proto, endpoint};

use super::rig::{self, Home, Site};
use crate::{
    driver::{Driver, Pages, Taken, Visit},
    network::{
        Settings,
        board::Board,
        observe::{Link, Router, State, Status, Up},
        wire,
    },
};

/// An edge with something of every kind allocated to it, and no router.
fn site() -> Site {
    let mut document = rig::edge("edge-a", "net1");
    document.connectors = vec![rig::connector("uplink", proto::Role::Edge, 45_671, "net1", "int-a")];
    document.profiles = vec![rig::profile("net1", &[&rig::Authority::new("network")])];
    let part = |link: &str, host: &str, port| proto::Attachment {
        service_link: link.into(),
        address: format!("{link}.address"),
        connects: false,
        host: host.into(),
        port,
    };
    let endpoint = |id: &str, kind: endpoint::Kind, choice: endpoint::Choice, part| proto::Endpoint {
        id: id.into(),
        kind: kind.into(),
        name: format!("the {id}"),
        choice: choice.into(),
        generation: 7,
        attachments: vec![part],
        ..Default::default()
    };
    document.endpoints = vec![
        endpoint("shop", endpoint::Kind::Ingress, endpoint::Choice::Open, part("orders", "127.0.0.1", 8080)),
        endpoint("stock", endpoint::Kind::Egress, endpoint::Choice::Incomplete, part("stock-db", "", 0)),
        endpoint("till", endpoint::Kind::Ingress, endpoint::Choice::Declined, part("<b>till</b>", "127.0.0.1", 0)),
    ];
    let settings = Settings { router: Some(PathBuf::from("/no/skrouterd")), ..Settings::default() };
    let authority = rig::Authority::new("network");
    Site::new(document, Home::of(&[("net1", &authority)], "edge-a"), settings)
}

fn pages(site: &Site) -> &dyn Pages {
    site.driver.pages().expect("a site is shown")
}

fn visit(home_is_there: bool) -> Visit<'static> {
    Visit { csrf: "the-secret", now_ms: rig::now_ms(), home_is_there }
}

fn form(endpoint: &str, generation: &str, say: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let fields = [("site", "edge-a"), ("endpoint", endpoint), ("generation", generation), ("say", say)];
    fields.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn submit(site: &Site, form: BTreeMap<String, String>) -> Taken {
    pages(site).submit("/endpoints", &form, &visit(true)).await.expect("decisions are taken there")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_shows_its_links_leaves_and_allocations_and_nothing_else_of_the_house() {
    let site = site();
    assert!(pages(&site).show("/site", &visit(true)).unwrap().contains("No site was seen yet"));
    site.settled().await;
    let show = |path: &str| pages(&site).show(path, &visit(true)).unwrap();
    let overview = show("/site");
    for part in ["edge-a", "edge site", "uplink", "int-a", "127.0.0.1:45671", "no router on this host", "unknown"] {
        assert!(overview.contains(part), "{part} in {overview}");
    }
    let certificates = show("/certificates");
    let held = site.facts().profiles["net1"].leaf.clone().unwrap();
    assert!(certificates.contains(&held.serial) && certificates.contains("in 4 days"), "{certificates}");
    let endpoints = show("/endpoints");
    for part in ["the shop", "ingress", "open: carried out", "incomplete", "declined", "orders.address"] {
        assert!(endpoints.contains(part), "{part} in {endpoints}");
    }
    assert!(!endpoints.contains("<b>till</b>") && endpoints.contains("till&#60;/b"), "texts of others are escaped");
    assert_eq!(endpoints.matches("value=\"the-secret\"").count(), 3, "each form proves where it comes from");
    assert_eq!(endpoints.matches("name=\"host\"").count(), 1, "the host of one is open");
    assert_eq!(endpoints.matches("name=\"port\"").count(), 2, "the ports of two are open");
    assert!(endpoints.find("the stock") < endpoints.find("the shop"), "what waits for somebody comes first");
    assert!(show("/events").contains("There is no router on this host"));
    assert!(pages(&site).show("/other", &visit(true)).is_none());
    let (name, data) = pages(&site).data();
    let one = &data["sites"][0];
    assert_eq!(
        (name, one["name"].as_str(), one["endpoints"][0]["id"].as_str()),
        ("site", Some("edge-a"), Some("stock"))
    );
    assert_eq!(one["certificates"][0]["not_after"].as_i64(), Some(held.not_after_ms));
    assert!(!data.to_string().contains("key") && !endpoints.contains(".pem"), "{data}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_at_a_site_is_asked_of_home_as_it_was_seen() {
    let site = site();
    site.settled().await;
    let Taken::Done(said) = submit(&site, form("shop", "7", "decline", &[("host", "x"), ("port", "9")])).await else {
        panic!("home takes it")
    };
    assert!(said.contains("the shop is declined"), "{said}");
    let Taken::Done(_) = submit(&site, form("stock", "7", "accept", &[("host", " db.local "), ("port", "5432")])).await
    else {
        panic!("home takes it")
    };
    let decided = site.home.decided.lock().unwrap().clone();
    let told = |d: &proto::Decide| (d.endpoint.clone(), d.generation, d.accept, d.host.clone(), d.port);
    assert_eq!(told(&decided[0]), ("shop".into(), 7, false, String::new(), 0), "what is not open is not said");
    assert_eq!(told(&decided[1]), ("stock".into(), 7, true, "db.local".into(), 5432));
    assert!(pages(&site).show("/events", &visit(true)).unwrap().contains("the stock was accepted here"));
    *site.home.refuses.lock().unwrap() = Some("the network has ended".into());
    let refused = submit(&site, form("shop", "7", "accept", &[])).await;
    assert!(matches!(&refused, Taken::Refused(why) if why.contains("the network has ended")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_on_what_has_changed_since_or_lacks_a_field_reaches_nobody() {
    let site = site();
    site.settled().await;
    let refusals = [
        (form("shop", "6", "accept", &[]), "has changed since you saw it"),
        (form("gone", "7", "accept", &[]), "not allocated to the site any more"),
        (form("stock", "7", "accept", &[("port", "5432")]), "Host: "),
        (form("stock", "7", "accept", &[("host", "db"), ("port", "70000")]), "Port \"70000\""),
        (form("stock", "7", "accept", &[("host", "db"), ("port", "0")]), "Port \"0\""),
        (form("shop", "7", "perhaps", &[]), "accept or decline"),
    ];
    for (form, words) in refusals {
        let refused = submit(&site, form).await;
        assert!(matches!(&refused, Taken::Refused(why) if why.contains(words)), "{words}: {refused:?}");
    }
    let elsewhere = pages(&site).submit("/site", &form("shop", "7", "accept", &[]), &visit(true)).await;
    assert_eq!((elsewhere, site.home.decided.lock().unwrap().len()), (None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_home_is_away_a_site_is_shown_and_decides_nothing() {
    let site = site();
    site.settled().await;
    site.home.is_away.store(true, std::sync::atomic::Ordering::Relaxed);
    let form = form("shop", "7", "decline", &[]);
    let said = pages(&site).submit("/endpoints", &form, &visit(false)).await;
    assert!(matches!(&said, Some(Taken::Unreachable(why)) if why.contains("nothing was changed")), "{said:?}");
    assert!(pages(&site).show("/endpoints", &visit(false)).unwrap().contains("the shop"));
    site.home.is_away.store(false, std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(site.home.decided.lock().unwrap().len(), 0, "it is not done later behind somebody's back");
}

#[test]
fn what_changes_at_a_site_is_told_once_and_only_so_much_is_kept() {
    let document = proto::Site {
        connectors: vec![rig::connector("uplink", proto::Role::Edge, 1, "net1", "int-a")],
        profiles: vec![rig::profile("net1", &[])],
        ..rig::edge("edge-a", "net1")
    };
    let read = |document: &proto::Site| wire::site(&prost::Message::encode_to_vec(document)).unwrap();
    let (site, key, board) = (read(&document), crate::ledger::Key::new("network.site", "s"), Board::default());
    let status = |up: bool| Status {
        router: Router { state: State::Running, pid: 12, ..Router::default() },
        links: vec![Link { name: "uplink".into(), up, message: "it is frozen".into(), ..Link::default() }],
        ports: vec![Up { name: "web".into(), up: true, opened: 5, ..Up::default() }],
        problems: if up { vec![] } else { vec!["bad".into()] },
        ..Status::default()
    };
    let texts = || board.all()[0].1.events.iter().map(|e| e.text.clone()).collect::<Vec<_>>();
    board.post(&key, &site, status(true), 1);
    assert_eq!(texts(), ["web is up", "Link to int-a is up", "The router runs as process 12"]);
    let mut counted = status(true);
    counted.ports[0].opened = 99;
    board.post(&key, &site, counted, 2);
    assert_eq!(texts().len(), 3, "counters are no news");
    board.post(&key, &site, status(false), 3);
    assert_eq!(texts()[..2], ["bad", "Link to int-a is down: it is frozen"]);
    document_changes(&board, &key, &document);
    for n in 0..300 {
        board.post(&key, &site, status(n % 2 == 0), n);
    }
    assert_eq!(texts().len(), 200);
    board.remove(&key);
    assert!(board.all().is_empty());
}

fn document_changes(board: &Board, key: &crate::ledger::Key, document: &proto::Site) {
    let mut document = document.clone();
    let mut choose = |choice: endpoint::Choice| {
        document.endpoints = vec![proto::Endpoint {
            id: "e".into(),
            name: "shop".into(),
            kind: endpoint::Kind::Egress.into(),
            choice: choice.into(),
            ..Default::default()
        }];
        let site = wire::site(&prost::Message::encode_to_vec(&document)).unwrap();
        board.post(key, &site, board.all()[0].1.status.clone(), 4);
        board.all()[0].1.events[0].text.clone()
    };
    assert_eq!(choose(endpoint::Choice::Incomplete), "shop was allocated to this site");
    assert_eq!(choose(endpoint::Choice::Accepted), "shop is accepted");
    assert_eq!(choose(endpoint::Choice::Declined), "shop is declined");
}
