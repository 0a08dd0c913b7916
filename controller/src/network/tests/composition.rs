use muster_proto::network as proto;
use prost::Message;

use super::service::{ada, ask, document, from_now, home, invitation, network, round, rows, seat};
use crate::{
    error::{Error, Result},
    fleet::model::{AgentId, Class},
    network::{
        Networks,
        model::{Choice, Distribution, EndpointKind, Scope, Word},
        service::{Image, NewEndpoint, NewServiceLink, What},
        store::{EndpointRow, MemberRow, ServiceRow},
    },
    testing::{engines, settle_joined},
};

fn service(name: &str, port: i64) -> ServiceRow {
    ServiceRow {
        name: name.into(),
        protocol: "http".into(),
        default_port: port,
        description: String::new(),
        version: 1,
    }
}

fn link(name: &str) -> NewServiceLink {
    NewServiceLink {
        name: name.into(),
        service: "web".into(),
        address: String::new(),
        scope: Scope::Van,
        distribution: Distribution::Balanced,
    }
}

pub(super) fn endpoint(name: &str, kind: EndpointKind) -> NewEndpoint {
    NewEndpoint {
        name: name.into(),
        kind,
        class: "gold".into(),
        site: String::new(),
        image: if kind == EndpointKind::Process { "server".into() } else { String::new() },
        tag: String::new(),
        arguments: Vec::new(),
        host: if kind == EndpointKind::Ingress { "127.0.0.1".into() } else { String::new() },
        attachments: vec![("web".into(), None)],
    }
}

/// The network `shop` with the service link `web`, an image that offers it, and `count` sites of the class `gold`.
pub(super) async fn shop(url: &str, count: usize) -> (Networks, Vec<AgentId>) {
    let it = home(url).await;
    for site in ["paris", "berlin"] {
        seat(&it, site).await;
    }
    network(&it, "shop", from_now(&it)).await.expect("a network");
    it.save_service(&ada(), &service("web", 8080)).await.expect("a service");
    let server = Image {
        name: "server".into(),
        reference: "server".into(),
        description: String::new(),
        offers: vec![("web".into(), Some(9090))],
        requires: Vec::new(),
    };
    it.save_image(&ada(), &server).await.expect("an image");
    it.save_service_link(&ada(), "shop", &link("web")).await.expect("a service link");
    let mut agents = Vec::new();
    for n in 0..count {
        agents.push(join(&it, n).await);
    }
    round(&it).await;
    (it, agents)
}

async fn join(it: &Networks, n: usize) -> AgentId {
    let (invited, _) = it.invite(&ada(), "shop", &invitation(it, false)).await.expect("invited");
    settle_joined(&it.fleet, &format!("till-{n}"), Class::MemberSite, &invited).await
}

fn field(result: Result<()>) -> String {
    match result {
        Err(Error::Invalid { field, .. }) => field,
        Err(Error::Conflict(text)) => format!("conflict: {text}"),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_allocated_to_a_class_reaches_each_of_its_sites_and_those_that_join_later() {
    for url in engines() {
        let (it, agents) = shop(&url, 1).await;
        it.save_endpoint(&ada(), "shop", &endpoint("server", EndpointKind::Process)).await.expect("a process");
        it.save_endpoint(&ada(), "shop", &endpoint("door", EndpointKind::Ingress)).await.expect("an ingress");
        let late = join(&it, 7).await;
        round(&it).await;
        for agent in [&agents[0], &late] {
            let site = document(&it, agent).await.expect("told");
            let inward: Vec<_> = site.tcp_listeners.iter().map(|t| (&*t.address, t.port)).collect();
            let outward: Vec<_> = site.tcp_connectors.iter().map(|t| (&*t.address, t.port)).collect();
            assert_eq!((inward, outward), (vec![("web", 8080)], vec![("web", 9090)]));
            assert_eq!(site.endpoints.len(), 2);
        }
        let before = document(&it, &late).await.expect("told").encode_to_vec();
        it.remove(&ada(), &What::Endpoint("shop".into(), "door".into()), None).await.expect("removed");
        let after = document(&it, &late).await.expect("told");
        assert!(after.tcp_listeners.is_empty() && after.encode_to_vec() != before, "it is withdrawn everywhere");
        it.save_class(&ada(), "shop", "tin", "").await.expect("a class");
        let member = rows::<MemberRow>(&it).await.remove(0);
        it.amend(&ada(), "shop", &member.name, None, Some("tin")).await.expect("another class");
        let agent = member.agent_id.expect("joined").as_str().into();
        assert!(document(&it, &agent).await.expect("told").endpoints.is_empty(), "its share went with its class");
    }
}

#[tokio::test]
async fn a_site_completes_or_declines_what_it_saw_and_nothing_newer() {
    for url in engines() {
        let (it, agents) = shop(&url, 2).await;
        it.save_endpoint(&ada(), "shop", &endpoint("far", EndpointKind::Egress)).await.expect("an egress");
        let choice = |site: &proto::Site| site.endpoints[0].choice();
        let (one, other) = (&agents[0], &agents[1]);
        let site = document(&it, one).await.expect("told");
        assert_eq!(choice(&site), proto::endpoint::Choice::Incomplete);
        assert!(site.tcp_connectors.is_empty(), "a server that nobody named is not connected to");
        let member = |agent: &AgentId| {
            let agent = agent.0.clone();
            let it = &it;
            async move {
                let all = rows::<MemberRow>(it).await;
                all.into_iter().find(|m| m.agent_id.as_ref() == Some(&agent)).expect("in").id
            }
        };
        let say = |generation: u64, accept: bool, host: &str, port: u32| {
            let endpoint = site.endpoints[0].id.clone();
            let host = host.to_owned();
            proto::question::Question::Decide(proto::Decide { endpoint, generation, accept, host, port })
        };
        let seen = site.endpoints[0].generation;
        let stale = ask(&it, one, &member(one).await, say(seen - 1, true, "db.test", 5432)).await;
        assert!(stale.message.contains("changed since you saw it"), "{}", stale.message);
        let foreign = ask(&it, other, &member(one).await, say(seen, true, "db.test", 5432)).await;
        assert!(foreign.message.contains("no such site"), "{}", foreign.message);
        let wrong = ask(&it, one, &member(one).await, say(seen, true, "no host", 5432)).await;
        assert!(wrong.message.contains("host"), "{}", wrong.message);
        ask(&it, one, &member(one).await, say(seen, true, "db.test", 5432)).await;
        ask(&it, other, &member(other).await, say(seen, false, "", 0)).await;
        let accepted = document(&it, one).await.expect("told");
        assert_eq!(choice(&accepted), proto::endpoint::Choice::Accepted);
        let way_out = &accepted.tcp_connectors[0];
        assert_eq!((way_out.host.as_str(), way_out.port), ("db.test", 5432));
        assert_eq!(choice(&document(&it, other).await.expect("told")), proto::endpoint::Choice::Declined);
    }
}

#[tokio::test]
async fn an_owner_decides_in_the_place_of_participants_about_what_was_seen() {
    for url in engines() {
        let (it, agents) = shop(&url, 1).await;
        it.save_endpoint(&ada(), "shop", &endpoint("far", EndpointKind::Egress)).await.expect("an egress");
        let member = rows::<MemberRow>(&it).await.remove(0);
        let allocated = || async {
            let mut conn = it.fleet.db.read().await.expect("a connection");
            it.allocated(&mut conn, &member).await.expect("allocated").remove(0)
        };
        let seen = allocated().await;
        assert_eq!((seen.choice, seen.name.as_str()), (Choice::Incomplete, "far"));
        let say = |generation: i64, host: &str| {
            let said = Word { endpoint: "far".into(), generation, accept: true, host: host.into(), port: 5432 };
            let (it, member) = (&it, &member.name);
            async move { it.decide(&ada(), "shop", member, &said).await }
        };
        assert!(field(say(seen.generation - 1, "db.test").await).contains("changed since you saw it"));
        assert_eq!(field(say(seen.generation, "no host").await), "host");
        say(seen.generation, "db.test").await.expect("decided");
        assert_eq!(allocated().await.choice, Choice::Accepted);
        let site = document(&it, &agents[0]).await.expect("told");
        assert_eq!(site.tcp_connectors[0].host, "db.test");
        it.save_class(&ada(), "shop", "tin", "").await.expect("a class");
        it.amend(&ada(), "shop", &member.name, None, Some("tin")).await.expect("another class");
        let elsewhere = say(seen.generation, "db.test").await;
        assert!(matches!(elsewhere, Err(Error::NotFound { .. })), "{elsewhere:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_composed_is_refused_by_name_and_changes_nothing() {
    for url in engines() {
        let (it, agents) = shop(&url, 1).await;
        let good = endpoint("server", EndpointKind::Process);
        it.save_endpoint(&ada(), "shop", &good).await.expect("a process");
        let before = document(&it, &agents[0]).await;
        let refused = |new: NewEndpoint| {
            let it = &it;
            async move { field(it.save_endpoint(&ada(), "shop", &new).await) }
        };
        let same_port = NewEndpoint { name: "second".into(), ..good.clone() };
        assert_eq!(refused(same_port).await, "attachments", "two processes on one port at one site");
        let nowhere = NewEndpoint { class: String::new(), ..good.clone() };
        assert_eq!(refused(nowhere).await, "class");
        assert_eq!(refused(NewEndpoint { site: "host-till-0".into(), ..good.clone() }).await, "site");
        assert_eq!(refused(NewEndpoint { class: "tin".into(), ..good.clone() }).await, "class");
        assert_eq!(refused(NewEndpoint { image: "none".into(), ..good.clone() }).await, "image");
        let twice = vec![("web".to_owned(), None), ("web".to_owned(), Some(81))];
        let twice = NewEndpoint { attachments: twice, ..good.clone() };
        assert_eq!(refused(twice).await, "attachments[1].service_link");
        let other_link = vec![("mail".to_owned(), None)];
        assert_eq!(refused(NewEndpoint { attachments: other_link, ..good }).await, "attachments[0].service_link");
        let unknown = NewServiceLink { service: "mail".into(), ..link("post") };
        assert_eq!(field(it.save_service_link(&ada(), "shop", &unknown).await), "service");
        let twice = NewServiceLink { address: "web".into(), scope: Scope::Site, ..link("again") };
        assert_eq!(field(it.save_service_link(&ada(), "shop", &twice).await), "address", "one address, two scopes");
        assert_eq!(document(&it, &agents[0]).await, before);
        assert_eq!(rows::<EndpointRow>(&it).await.len(), 1);
    }
}
