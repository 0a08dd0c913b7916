use sqlx::Row;

use super::{
    composition::{endpoint, shop},
    service::{ada, document, rows},
};
use crate::{
    error::{Error, Result, Standing},
    fleet::model::AgentId,
    network::{
        Networks,
        model::EndpointKind,
        service::What,
        store::{
            AccessPointRow, AttachmentRow, BackboneRow, EdgeLinkRow, EndpointRow, ImageRow, LinkRow, MemberRow,
            NetworkRow, OfferedRow, PortRow, ProfileRow, ServiceLinkRow, ServiceRow, SiteRow, UplinkRow,
        },
    },
    platform::db::query,
    testing::engines,
};

fn refusal(result: Result<()>) -> Standing {
    match result {
        Err(Error::Standing(standing)) => *standing,
        other => panic!("not refused for what stands on it: {other:?}"),
    }
}

/// How many rows each table has.
async fn counts(it: &Networks) -> Vec<usize> {
    vec![
        rows::<BackboneRow>(it).await.len(),
        rows::<SiteRow>(it).await.len(),
        rows::<AccessPointRow>(it).await.len(),
        rows::<LinkRow>(it).await.len(),
        rows::<NetworkRow>(it).await.len(),
        rows::<MemberRow>(it).await.len(),
        rows::<PortRow>(it).await.len(),
        rows::<UplinkRow>(it).await.len(),
        rows::<EdgeLinkRow>(it).await.len(),
        rows::<ServiceRow>(it).await.len(),
        rows::<ImageRow>(it).await.len(),
        rows::<OfferedRow>(it).await.len(),
        rows::<ServiceLinkRow>(it).await.len(),
        rows::<EndpointRow>(it).await.len(),
        rows::<AttachmentRow>(it).await.len(),
    ]
}

/// The network `shop` with one site, a process, and an ingress.
async fn whole(url: &str) -> (Networks, AgentId) {
    let (it, mut agents) = shop(url, 1).await;
    it.save_endpoint(&ada(), "shop", &endpoint("server", EndpointKind::Process)).await.expect("a process");
    it.save_endpoint(&ada(), "shop", &endpoint("door", EndpointKind::Ingress)).await.expect("an ingress");
    (it, agents.remove(0))
}

#[tokio::test]
async fn what_others_stand_on_stays_and_the_refusal_names_all_of_them() {
    for url in engines() {
        let (it, _) = whole(&url).await;
        let before = counts(&it).await;
        let backbone = What::Backbone("bb".into());
        let refused = refusal(it.remove(&ada(), &backbone, None).await);
        assert_eq!(refused.what, "the backbone bb");
        let named: Vec<_> = refused.standing.iter().map(|s| s.split(" of cost").next().unwrap_or_default()).collect();
        let expected = [
            "network shop with all that is under it",
            "site berlin",
            "site paris",
            "access point paris/edge",
            "access point paris/peer",
            "link berlin → paris",
            "the place of network shop at paris/edge, for site host-till-0, one invitation",
        ];
        assert_eq!(named, expected);
        for (what, on_it) in [
            (What::Site("bb".into(), "paris".into()), "access point paris/edge"),
            (What::AccessPoint("bb".into(), "paris".into(), "edge".into()), "the place of network shop"),
            (What::Service("web".into()), "that image server offers web"),
            (What::Image("server".into()), "process shop/server"),
            (What::ServiceLink("shop".into(), "web".into()), "the part of ingress shop/door in service link web"),
        ] {
            let refused = it.remove(&ada(), &what, None).await.expect_err("refused").to_string();
            assert!(refused.contains(on_it), "{refused}");
        }
        // An answer to another question, or to none, removes nothing.
        for seen in ["", "0123456789abcdef"] {
            assert_eq!(refusal(it.remove(&ada(), &backbone, Some(seen)).await), refused);
        }
        assert_eq!(counts(&it).await, before);
    }
}

#[tokio::test]
async fn what_was_seen_goes_with_it_and_nothing_that_came_later() {
    for url in engines() {
        let (it, agent) = whole(&url).await;
        let backbone = What::Backbone("bb".into());
        let seen = refusal(it.remove(&ada(), &backbone, None).await).cascade;
        it.create_site(&ada(), "bb", "rome").await.expect("a site that came meanwhile");
        let now = refusal(it.remove(&ada(), &backbone, Some(&seen)).await);
        assert!(now.standing.contains(&"site rome".to_owned()));
        it.remove(&ada(), &backbone, Some(&now.cascade)).await.expect("removed with all that stood on it");
        assert_eq!(counts(&it).await, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0], "the library stays");
        assert_eq!(rows::<ProfileRow>(&it).await.len(), 0);
        assert_eq!(document(&it, &agent).await, None, "its site is nothing any more");
        let value = |text: String| {
            let it = &it;
            async move {
                let mut conn = it.fleet.db.read().await.expect("a connection");
                query(text).fetch_one(&mut *conn).await.expect("a row")
            }
        };
        let row = value(format!("select standing from fleet_agent where id = '{agent}'")).await;
        assert_eq!(row.get::<String, _>(0), "revoked");
        let row =
            value("select count(*) from certificate_authority where line like '%/%' and stage <> 'retired'".to_owned());
        assert_eq!(row.await.get::<i64, _>(0), 0, "nobody is trusted for what is not there");
    }
}

#[tokio::test]
async fn an_access_point_goes_with_what_networks_have_of_it_and_leaves_the_networks() {
    for url in engines() {
        let (it, agent) = whole(&url).await;
        let point = What::AccessPoint("bb".into(), "paris".into(), "edge".into());
        let seen = it.standing_on(&mut it.fleet.db.read().await.expect("a connection"), &point).await.expect("seen");
        it.remove(&ada(), &point, Some(&seen.cascade)).await.expect("removed");
        let site = document(&it, &agent).await.expect("the site stays");
        assert!(site.connectors.is_empty() && !site.endpoints.is_empty(), "it has lost its way, and nothing else");
        assert_eq!(rows::<PortRow>(&it).await.len(), 0);
        assert_eq!(rows::<MemberRow>(&it).await.len(), 1);
    }
}

#[tokio::test]
async fn parts_of_endpoints_go_with_a_service_link_and_processes_with_their_image() {
    for url in engines() {
        let (it, agent) = whole(&url).await;
        for what in [
            What::ServiceLink("shop".into(), "web".into()),
            What::Image("server".into()),
            What::Service("web".into()),
            What::Endpoint("shop".into(), "door".into()),
        ] {
            let seen = it.standing_on(&mut it.fleet.db.read().await.expect("a connection"), &what).await;
            let seen = seen.expect("it is there");
            it.remove(&ada(), &what, Some(&seen.cascade)).await.expect("removed");
            let gone = it.remove(&ada(), &what, None).await;
            assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
            let site = document(&it, &agent).await.expect("the site stays");
            assert!(site.tcp_listeners.is_empty() && site.tcp_connectors.is_empty(), "{what:?}");
        }
        assert_eq!(counts(&it).await[9..], [0, 0, 0, 0, 0, 0]);
        assert!(document(&it, &agent).await.expect("the site stays").endpoints.is_empty());
    }
}
