use serde_json::{Value, json};

use crate::{
    error::Result,
    fleet::model::Class,
    network::{
        Networks,
        manifests::{
            self,
            backbone::{BackboneSpec, Held, Step, complete, steps},
        },
        service::NewInvitation,
        store::{self, AccessPointRow, LinkRow, Of},
    },
    platform::{
        events::{self, Actor, Source},
        reconcile::Reconciler,
    },
    testing::{engines, fresh, house, settle_joined},
    web::{
        Caller, Manifest, Outcome, Role,
        gate::Via,
        manifest::{Apply, Difference},
    },
};

const EXAMPLE: &str = include_str!("../../../../deploy/examples/network/shop.yaml");

fn caller(name: &str, role: Role) -> Caller {
    Caller {
        user_id: name.into(),
        name: name.into(),
        role,
        actor: Actor { name: format!("user/{name}"), source: Source::Api },
        via: Via::Token { id: "t".into() },
        must_change: false,
    }
}

fn admin() -> Caller {
    caller("ada", Role::Admin)
}

async fn empty(url: &str) -> Networks {
    Networks { fleet: house(&fresh(url).await, "r1").await }
}

fn example() -> Vec<Manifest> {
    serde_saphyr::from_multiple(EXAMPLE).expect("the example is made of manifests")
}

/// The spec of the example of this kind.
fn spec(kind: &str) -> Value {
    example().into_iter().find(|m| m.kind == kind).expect("the example has it").spec
}

async fn apply_as(
    it: &Networks,
    caller: Caller,
    manifest: Manifest,
    dry_run: bool,
) -> Result<(Outcome, Vec<Difference>)> {
    let kind = manifests::kinds(it).into_iter().find(|k| k.kind == manifest.kind).expect("a kind");
    (kind.apply)(Apply { caller, name: manifest.name, spec: manifest.spec, dry_run }).await
}

async fn apply(it: &Networks, kind: &str, name: &str, spec: Value) -> Result<(Outcome, Vec<Difference>)> {
    let manifest = Manifest { version: "muster/v1".into(), kind: kind.into(), name: name.into(), spec };
    apply_as(it, admin(), manifest, false).await
}

/// Applies all of these. Gives what each came to.
async fn apply_all(it: &Networks, all: &[Manifest]) -> Vec<Outcome> {
    let mut came = Vec::new();
    for manifest in all {
        let done = apply_as(it, admin(), manifest.clone(), false).await;
        came.push(done.unwrap_or_else(|e| panic!("{} {}: {e}", manifest.kind, manifest.name)).0);
    }
    came
}

async fn export_as(it: &Networks, caller: Caller) -> Vec<Manifest> {
    let mut all = Vec::new();
    for kind in manifests::kinds(it) {
        for (name, spec) in (kind.export)(caller.clone()).await.expect("exported") {
            all.push(Manifest { version: "muster/v1".into(), kind: kind.kind.into(), name, spec });
        }
    }
    all
}

async fn head(it: &Networks) -> i64 {
    events::head(&mut it.fleet.db.read().await.expect("a connection")).await.expect("read")
}

async fn rows<T: store::Table>(it: &Networks) -> Vec<T> {
    store::rows(&mut it.fleet.db.read().await.expect("a connection"), Of::All).await.expect("read")
}

fn fields(diff: &[Difference]) -> Vec<&str> {
    diff.iter().map(|d| d.field.as_str()).collect()
}

#[tokio::test]
async fn what_is_declared_twice_is_made_once() {
    for url in engines() {
        let it = empty(&url).await;
        assert_eq!(apply_all(&it, &example()).await, [Outcome::Created; 4]);
        let before = head(&it).await;
        assert_eq!(apply_all(&it, &example()).await, [Outcome::Unchanged; 4]);
        assert_eq!(head(&it).await, before, "what is so already leaves no event");
    }
}

#[tokio::test]
async fn what_is_exported_makes_the_same_house_again() {
    for url in engines() {
        let (it, other) = (empty(&url).await, empty(&url).await);
        apply_all(&it, &example()).await;
        let all = export_as(&it, admin()).await;
        assert_eq!(all.len(), 4);
        assert_eq!(apply_all(&it, &all).await, [Outcome::Unchanged; 4]);
        assert_eq!(apply_all(&other, &all).await, [Outcome::Created; 4]);
        assert_eq!(export_as(&other, admin()).await, all);
    }
}

#[tokio::test]
async fn a_try_changes_nothing_and_says_what_would_be() {
    for url in engines() {
        let it = empty(&url).await;
        let mut all = example();
        let network = all.pop().expect("the network comes last");
        apply_all(&it, &all).await;
        let before = head(&it).await;
        let (came, diff) = apply_as(&it, admin(), network.clone(), true).await.expect("tried");
        assert_eq!((came, head(&it).await), (Outcome::Created, before));
        assert_eq!(diff[0].after.as_ref().expect("what would be")["endpoints"]["door"]["class"], "front");
        assert!(export_as(&it, admin()).await.iter().all(|m| m.kind != "network.network"));
    }
}

#[tokio::test]
async fn differences_are_named_and_carried_out_and_what_is_not_named_goes() {
    for url in engines() {
        let it = empty(&url).await;
        apply_all(&it, &example()).await;
        let mut backbone = spec("network.backbone");
        backbone["links"][0]["cost"] = 5.into();
        backbone["sites"]["rome"] = json!({});
        let (came, diff) = apply(&it, "network.backbone", "europe", backbone.clone()).await.expect("applied");
        assert_eq!(came, Outcome::Changed);
        assert_eq!(fields(&diff), ["spec.links.berlin->paris/peers", "spec.sites.rome"]);
        assert_eq!(rows::<LinkRow>(&it).await.iter().map(|l| l.cost).collect::<Vec<_>>(), [5]);
        backbone["sites"].as_object_mut().expect("sites").remove("rome");
        apply(&it, "network.backbone", "europe", backbone).await.expect("applied");
        assert_eq!(rows::<store::SiteRow>(&it).await.len(), 2);

        let mut network = spec("network.network");
        network["endpoints"]["door"]["attachments"][0]["port"] = 8081.into();
        network["endpoints"].as_object_mut().expect("endpoints").remove("shelf");
        network["classes"].as_object_mut().expect("classes").remove("back");
        network["ends_at"] = "2126-12-01T08:00:00Z".into();
        let (_, diff) = apply(&it, "network.network", "shop", network.clone()).await.expect("applied");
        assert_eq!(fields(&diff), ["spec.endpoints.door.attachments", "spec.endpoints.shelf", "spec.ends_at"]);
        let export = export_as(&it, admin()).await.pop().expect("the network").spec;
        assert_eq!(export["endpoints"]["door"]["attachments"][0]["port"], 8081);
        assert_eq!(export["ends_at"], "2126-12-01T08:00:00Z");
        assert!(export["endpoints"].get("shelf").is_none());
        assert_eq!(export["classes"]["back"], "Where the goods are", "classes stay");
        network["service_links"] = json!({});
        network["endpoints"] = json!({});
        apply(&it, "network.network", "shop", network).await.expect("applied");
        assert!(rows::<store::ServiceLinkRow>(&it).await.is_empty());
    }
}

#[tokio::test]
async fn an_access_point_that_changes_is_made_anew_with_its_links_unless_sites_hang_on_it() {
    for url in engines() {
        let it = empty(&url).await;
        apply_all(&it, &example()).await;
        let mut backbone = spec("network.backbone");
        backbone["sites"]["paris"]["access_points"]["peers"]["host"] = "paris.example.net".into();
        let (_, diff) = apply(&it, "network.backbone", "europe", backbone.clone()).await.expect("applied");
        assert_eq!(fields(&diff), ["spec.sites.paris.access_points.peers.host"]);
        let there = rows::<AccessPointRow>(&it).await;
        let peers = there.iter().find(|p| p.name == "peers").expect("there");
        assert_eq!(peers.host, "paris.example.net");
        assert_eq!(rows::<LinkRow>(&it).await[0].access_point_id, peers.id);

        let now = it.fleet.db.clock().now();
        let invitation = NewInvitation {
            name: "tills".into(),
            class: "front".into(),
            deadline: now + 3_600_000,
            limit: 1,
            approval: false,
            edge_links: vec![("paris".into(), "members".into(), 1)],
        };
        it.invite(&admin().actor, "shop", &invitation).await.expect("invited");
        let (links, before) = (rows::<LinkRow>(&it).await, head(&it).await);
        backbone["sites"]["paris"]["access_points"]["members"]["port"] = 40_000.into();
        backbone["sites"]["paris"]["access_points"]["peers"]["port"] = 40_100.into();
        let refused = apply(&it, "network.backbone", "europe", backbone).await.expect_err("a network is there");
        assert!(refused.to_string().contains("network shop"), "{refused}");
        assert_eq!((rows::<LinkRow>(&it).await, head(&it).await), (links, before), "nothing was lost for it");
    }
}

#[tokio::test]
async fn a_site_that_has_an_agent_does_not_go_because_a_file_does_not_know_of_it() {
    for url in engines() {
        let it = empty(&url).await;
        apply_all(&it, &example()).await;
        it.invite_site(&admin().actor, "europe", "berlin").await.expect("invited");
        let berlin = rows::<store::SiteRow>(&it).await.into_iter().find(|s| s.name == "berlin").expect("there");
        let invitation = berlin.invitation_id.expect("invited");
        settle_joined(&it.fleet, "berlin", Class::InteriorSite, &invitation).await;
        it.seat_interiors().await.expect("seated");
        let mut backbone = spec("network.backbone");
        backbone["sites"].as_object_mut().expect("sites").remove("berlin");
        backbone["links"] = json!([]);
        let refused = apply(&it, "network.backbone", "europe", backbone).await.expect_err("berlin has an agent");
        assert!(refused.to_string().starts_with("the site berlin has an agent"), "{refused}");
        assert_eq!(rows::<LinkRow>(&it).await.len(), 1, "nothing was lost for it");
    }
}

#[tokio::test]
async fn an_endpoint_of_one_site_is_declared_once_that_site_has_joined() {
    for url in engines() {
        let it = empty(&url).await;
        apply_all(&it, &example()).await;
        let mut network = spec("network.network");
        network["endpoints"]["till"] = json!({
            "kind": "egress", "site": "host-till", "attachments": [{"service_link": "web"}],
        });
        let refused = apply(&it, "network.network", "shop", network.clone()).await.expect_err("nobody has joined");
        assert!(refused.to_string().starts_with("spec.endpoints.till.site: no site \"host-till\""), "{refused}");
        let invitation = NewInvitation {
            name: "tills".into(),
            class: "front".into(),
            deadline: it.fleet.db.clock().now() + 3_600_000,
            limit: 1,
            approval: false,
            edge_links: vec![("paris".into(), "members".into(), 1)],
        };
        let (invited, _) = it.invite(&admin().actor, "shop", &invitation).await.expect("invited");
        settle_joined(&it.fleet, "till", Class::MemberSite, &invited).await;
        let mut round = crate::network::Reconcile { networks: it.clone(), planned: None };
        round.reconcile().await.expect("a round");
        assert_eq!(apply(&it, "network.network", "shop", network.clone()).await.expect("applied").0, Outcome::Changed);
        assert_eq!(apply(&it, "network.network", "shop", network).await.expect("applied").0, Outcome::Unchanged);
    }
}

#[tokio::test]
async fn a_network_is_its_owners_also_as_a_file() {
    for url in engines() {
        let it = empty(&url).await;
        let mut all = example();
        let network = all.pop().expect("the network comes last");
        apply_all(&it, &all).await;
        let (bob, eve) = (caller("bob", Role::Viewer), caller("eve", Role::Viewer));
        apply_as(&it, bob.clone(), network.clone(), false).await.expect("anybody may make one");
        let refused = apply_as(&it, eve.clone(), network.clone(), true).await.expect_err("it is another's");
        assert_eq!(refused.to_string(), "application network \"shop\" exists already");
        let sees = |all: Vec<Manifest>| all.iter().any(|m| m.kind == "network.network");
        assert!(sees(export_as(&it, bob).await) && !sees(export_as(&it, eve).await));
        assert!(sees(export_as(&it, caller("operator", Role::Operator)).await));
    }
}

#[tokio::test]
async fn a_network_that_has_ended_is_not_brought_back_by_an_old_file() {
    for url in engines() {
        let it = empty(&url).await;
        apply_all(&it, &example()).await;
        it.end_network(&admin().actor, "shop").await.expect("ended");
        let mut network = spec("network.network");
        let refused = apply(&it, "network.network", "shop", network.clone()).await.expect_err("it has ended");
        assert!(refused.to_string().starts_with("spec.ends_at: the network has ended"), "{refused}");
        network["ends_at"] = "2126-12-01T08:00:00Z".into();
        apply(&it, "network.network", "shop", network).await.expect("said with an end to come");
    }
}

#[tokio::test]
async fn what_cannot_be_declared_says_where_and_what_would_be_right() {
    let it = empty("sqlite:").await;
    apply_all(&it, &example()).await;
    let before = head(&it).await;
    let cases = [
        ("network.service", "/default_port", json!(0), "spec.default_port: a port lies"),
        ("network.service", "/colour", json!(1), "spec.colour: unknown field"),
        ("network.image", "/offers/0/colour", json!(1), "spec.offers[0].colour: unknown field"),
        ("network.image", "/requires", json!(["mail"]), "no service of the library named \"mail\""),
        ("network.backbone", "/sites/paris/colour", json!(1), "spec.sites.paris.colour: unknown field"),
        ("network.backbone", "/sites/Paris", json!({}), "spec.sites.Paris: a name is made of"),
        (
            "network.backbone",
            "/sites/paris/access_points/peers/host",
            json!("a b"),
            "spec.sites.paris.access_points.peers.host:",
        ),
        (
            "network.backbone",
            "/sites/paris/access_points/peers/ports",
            json!(2),
            "spec.sites.paris.access_points.peers.ports:",
        ),
        (
            "network.backbone",
            "/sites/paris/access_points/peers/port",
            json!(45_680),
            "spec.sites.paris.access_points.peers.port: ports 45671",
        ),
        (
            "network.backbone",
            "/sites/paris/access_points/peers/bind",
            json!("paris"),
            "spec.sites.paris.access_points.peers.bind:",
        ),
        ("network.backbone", "/links/0/to", json!("rome"), "spec.links[0].to: the backbone has no site \"rome\""),
        ("network.backbone", "/links/0/to", json!("berlin"), "spec.links[0].to:"),
        ("network.backbone", "/links/0/access_point", json!("members"), "spec.links[0].access_point:"),
        ("network.backbone", "/links/0/cost", json!(0), "spec.links[0].cost: a link costs"),
        ("network.network", "/backbone", json!("asia"), "no backbone named \"asia\""),
        ("network.network", "/ends_at", json!("tomorrow"), "spec.ends_at: \"tomorrow\" is no time"),
        ("network.network", "/ends_at", json!("2001-01-01T00:00:00Z"), "spec.ends_at:"),
        ("network.network", "/delete_delay_seconds", json!(-1), "spec.delete_delay_seconds: a delay"),
        ("network.network", "/service_links/web/service", json!("mail"), "no service of the library named \"mail\""),
        ("network.network", "/service_links/web/address", json!("a/b"), "spec.service_links.web.address:"),
        (
            "network.network",
            "/service_links/more",
            json!({"service": "web", "address": "web"}),
            "spec.service_links.web.address: the address is",
        ),
        (
            "network.network",
            "/endpoints/door/class",
            json!("side"),
            "spec.endpoints.door.class: the network has no class",
        ),
        ("network.network", "/endpoints/door/site", json!("x"), "spec.endpoints.door.site: no site \"x\""),
        (
            "network.network",
            "/endpoints/door/attachments/0/part",
            json!("accepts"),
            "spec.endpoints.door.attachments[0].part:",
        ),
        (
            "network.network",
            "/endpoints/door/attachments/0/service_link",
            json!("mail"),
            "spec.endpoints.door.attachments[0].service_link:",
        ),
        ("network.network", "/endpoints/shelf/image", json!("cellar"), "no image of the library named \"cellar\""),
        ("network.network", "/endpoints/door/host", json!("outside"), "spec.endpoints.door.host: what an ingress"),
        ("network.network", "/endpoints/door/image", json!("shelf"), "spec.endpoints.door.image: only a process"),
        ("network.network", "/endpoints/shelf/host", json!("10.0.0.1"), "spec.endpoints.shelf.host: a process"),
        ("network.network", "/endpoints/shelf/image", json!(""), "spec.endpoints.shelf.image:"),
        (
            "network.network",
            "/endpoints/door/attachments/0/port",
            json!(70_000),
            "spec.endpoints.door.attachments[0].port: a port",
        ),
    ];
    for (kind, at, value, says) in cases {
        let (parent, field) = at.rsplit_once('/').expect("a pointer");
        let mut wrong = spec(kind);
        let parent = wrong.pointer_mut(parent).expect("its parent is there");
        parent[field] = value;
        let name = example().into_iter().find(|m| m.kind == kind).expect("there").name;
        let manifest = Manifest { version: "muster/v1".into(), kind: kind.into(), name, spec: wrong };
        let refused = apply_as(&it, admin(), manifest, true).await.expect_err(at);
        assert!(refused.to_string().starts_with(says), "{kind}{at}: {refused}");
    }
    assert_eq!(head(&it).await, before);
}

#[test]
fn steps_lead_from_what_is_to_what_is_declared_and_end_there() {
    let europe: BackboneSpec = serde_json::from_value(spec("network.backbone")).expect("it reads");
    let europe = complete(europe).expect("it is right");
    let held = Held { spec: europe.clone(), links: vec!["l1".into()], ..Held::default() };
    assert_eq!(steps(&held, &europe), []);
    let s = |text: &str| text.to_owned();
    let all = [
        Step::MakeSite(s("berlin")),
        Step::MakeSite(s("paris")),
        Step::MakePoint(s("paris"), s("members")),
        Step::MakePoint(s("paris"), s("peers")),
        Step::MakeLink(0),
    ];
    assert_eq!(steps(&Held::default(), &europe), all);
    let none = [
        Step::RemovePoint(s("paris"), s("members")),
        Step::RemoveLink(s("l1")),
        Step::RemovePoint(s("paris"), s("peers")),
        Step::RemoveSite(s("berlin")),
        Step::RemoveSite(s("paris")),
    ];
    assert_eq!(steps(&held, &BackboneSpec::default()), none);
}
