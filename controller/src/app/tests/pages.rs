//! The console as a whole: who sees what, what a form refuses, and what never reaches a browser.

use axum::{body::Body, response::Response};
use http::{Request, StatusCode};
use tower::ServiceExt;

use super::*;
use crate::{
    fleet::model::Class,
    platform::events::{Actor, Source},
    staging::{
        Staging,
        model::{Level, Override, ProjectSpec},
        service::NewStaging,
    },
    testing::{house, settle_agent, settle_joined},
    web::{
        Authenticate, Caller,
        gate::{Client, Shown},
    },
};

const HOSTILE: &str = r#""><script>alert(1)</script>&'"#;
const SECRET: &str = "hunter2-hunter2";
const PASSWORD: &str = "correct horse battery";

/// A house with an agent, a project, a staging and a user of each role, and a way to look at it.
struct Console {
    router: Router,
    access: Access,
    table: Vec<web::routes::Entry>,
    invitation: String,
    /// A link of the backbone `bb`, and an invitation to the network `net`.
    made: [String; 2],
    /// An executor of the experiment of a hostile name.
    executor: String,
}

/// A person at a browser.
struct Person {
    cookie: String,
    caller: Caller,
}

fn client() -> Client {
    Client { address: "192.0.2.1".into(), user_agent: HOSTILE.into() }
}

impl Console {
    async fn new() -> Self {
        let db = fresh("sqlite:").await;
        let fleet = house(&db, "r1").await;
        let access = Access::cheap(db.clone());
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            let made = access.create_user(&Actor::controller(), role.word(), role, Some(PASSWORD)).await;
            made.expect("a user");
        }
        let invitation = furnish(&fleet).await;
        let surface = || {
            let context = Context {
                db: db.clone(),
                fleet: fleet.clone(),
                blobs: fleet.blobs.clone(),
                access: access.clone(),
                processors: Default::default(),
                environment_days: 0,
            };
            let Domain { routes, pages, cards, manifests, .. } = merge(DOMAINS.iter().map(|e| (e.open)(&context)));
            let ops = Ops { fleet: fleet.clone(), loops: Arc::new(OnceLock::new()), stop: CancellationToken::new() };
            Surface { access: access.clone(), ops, routes: routes.merge(pages), cards, manifests }
        };
        let table = surface().all(Arc::default()).0.table();
        let gate = Gate {
            db: db.clone(),
            seal: SealKey::new(&SealKey::generate()).into(),
            authenticate: Arc::new(access.clone()),
            hosts: vec![],
            secure: true,
            behind_proxy: false,
            nav: navigation(vec![]),
            stop: CancellationToken::new(),
        };
        let router = surface().router(gate).0;
        let mut console = Self {
            router,
            access,
            table,
            invitation,
            made: Default::default(),
            executor: furnish_experiment(&fleet).await,
        };
        console.made = console.furnish_network(&fleet).await;
        console
    }

    /// A backbone `bb` with the site `paris`, and on it the admin's network `net` with the member `till`, made by mouse.
    async fn furnish_network(&self, fleet: &Fleet) -> [String; 2] {
        let admin = self.person(Role::Admin).await;
        let paris = "/networks/backbones/bb/sites/paris";
        let net = "/networks/net/net";
        let hostile = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E%26'";
        for (path, form) in [
            ("/networks/new-backbone", "name=bb"),
            ("/networks/backbones/bb", "do=site&name=paris"),
            ("/networks/backbones/bb", "do=site&name=berlin"),
            (paris, "do=access_point&name=peers&kind=peer&host=paris.test&port=5671&ports=1"),
            (paris, "do=access_point&name=members&kind=member&host=paris.test&port=6000&ports=4"),
            ("/networks/backbones/bb", "do=link&from=berlin&to=paris&cost=1"),
            ("/networks/new", "name=net&backbone=bb&ends_in_days=30&delete_days=7"),
            (net, &format!("do=class&name=gold&description={hostile}")),
            ("/networks/library/service", &format!("name=web&protocol=http&default_port=8080&description={hostile}")),
            ("/networks/library/image", "name=server&reference=server&offers=web"),
            ("/networks/net/net/service-link", "name=web&service=web&scope=van&distribution=balanced"),
            (
                "/networks/net/net/endpoint",
                "name=server&kind=process&place=class:gold&image=server&attachments=web&port=9090",
            ),
        ] {
            let (status, _, body) = self.post(&admin, path, form).await;
            assert_eq!(status, StatusCode::SEE_OTHER, "{path} {form}: {body}");
        }
        let invite = format!("name={hostile}&class=gold&limit=1&hours=24&at=paris/members");
        let (status, _, body) = self.post(&admin, "/networks/net/net/invite", &invite).await;
        assert!(status == StatusCode::OK && body.contains("id=\"secret\""), "the token is shown: {body}");
        let first = |path: &'static str| {
            let admin = &admin;
            async move {
                let (_, listed) = self.get(admin, path).await;
                let listed: serde_json::Value = serde_json::from_str(&listed).expect("a list");
                listed[0]["id"].as_str().expect("an id").to_owned()
            }
        };
        let invitation = first("/api/v1/network/networks/net/invitations").await;
        settle_joined(fleet, "till", Class::MemberSite, &invitation).await;
        let admitted = crate::network::Networks { fleet: fleet.clone() }.admit_members().await;
        assert_eq!(admitted.expect("a round"), 1);
        [first("/api/v1/network/backbones/bb/links").await, invitation]
    }

    async fn person(&self, role: Role) -> Person {
        let entrance = self.access.enter(role.word(), PASSWORD, &client()).await.expect("enters");
        let secret = self.access.open_session(&entrance, &client(), None).await.expect("a session");
        let caller = self.access.who(Shown::Session(&secret), Source::Console).await.expect("an answer");
        Person { cookie: format!("__Host-muster={secret}"), caller: caller.expect("is known") }
    }

    async fn ask(&self, request: Request<Body>) -> (StatusCode, http::HeaderMap, String) {
        let answer: Response = self.router.clone().oneshot(request).await.expect("a router does not fail");
        let (parts, body) = answer.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
        (parts.status, parts.headers, String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn get(&self, who: &Person, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).header("host", "localhost").header("cookie", &who.cookie).body(Body::empty());
        let (status, _, body) = self.ask(request.expect("a request")).await;
        (status, body)
    }

    /// Sends a form as it would come from its page.
    async fn post(&self, who: &Person, path: &str, form: &str) -> (StatusCode, String, String) {
        let form = format!("csrf={}&{form}", who.caller.csrf());
        let (status, headers, body) = self.ask(bare_post(Some(who), path, form)).await;
        let to = headers.get("location").map(|l| l.to_str().expect("text").to_owned());
        (status, to.unwrap_or_default(), body)
    }

    /// Paths of the pages, with something there in place of their parameters.
    fn pages(&self, method: &str) -> Vec<(String, String)> {
        let pages = self.table.iter().filter(|e| e.method == method && e.remarks.contains("page"));
        let fill = |path: &str| {
            let id = match path {
                p if p.starts_with("/fleet") => "a",
                p if p.starts_with("/invitations") => self.invitation.as_str(),
                _ => "none",
            };
            let name = if path.starts_with("/users") { "viewer" } else { "web" };
            let path = path.replace("{backbone}", "bb").replace("{site}", "paris").replace("{network}", "net");
            let path = path.replace("{member}", "host-till").replace("{table}", "members");
            if path.starts_with("/experiments") {
                let hostile = "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E%26%27";
                let path = path.replace("{executor}", &self.executor).replace("{owner}", "admin");
                return path.replace("{name}", hostile);
            }
            let path = path.replace("{access_point}", "members").replace("{link}", &self.made[0]);
            let path = path.replace("{invitation}", &self.made[1]).replace("{service_link}", "web");
            let path = path.replace("{service}", "web").replace("{image}", "server").replace("{endpoint}", "server");
            path.replace("{id}", id).replace("{project}", "shop").replace("{name}", name)
        };
        pages.map(|e| (fill(&e.path), e.who.clone())).collect()
    }
}

fn bare_post(who: Option<&Person>, path: &str, form: String) -> Request<Body> {
    let request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("cookie", who.map_or("", |p| p.cookie.as_str()));
    request.body(Body::from(form)).expect("a request")
}

/// An agent, a project and a staging that do not mean well. Gives the id of an invitation.
async fn furnish(fleet: &Fleet) -> String {
    let ada = Actor { name: "user/ada".into(), source: Source::Cli };
    let agent = settle_agent(fleet, "a", Class::StagingHost, &[]).await;
    fleet.relabel(&ada, &agent, HOSTILE, &Default::default(), None).await.expect("is renamed");
    let new = fleet::service::NewInvitation {
        name: HOSTILE.into(),
        class: Class::StagingHost,
        labels: Default::default(),
        max_uses: 1,
        life: 3_600_000,
        for_agent: None,
    };
    let (invitation, _) = fleet.invite(&ada, &new).await.expect("an invitation");
    let staging = Staging { fleet: fleet.clone() };
    let spec = serde_json::json!({"base_domain": "shop.test", "namespace": "shop", "wrappers": "process"});
    let spec: ProjectSpec = serde_json::from_value(spec).expect("a project");
    staging.create_project(&ada, "shop", &spec).await.expect("a project");
    let open = Override { level: Level::Staging, key: HOSTILE.into(), value: HOSTILE.into(), secret: false };
    let secret = Override { level: Level::App, key: "TOKEN".into(), value: SECRET.into(), secret: true };
    let overrides = vec![open, secret];
    let new = NewStaging { project: "shop".into(), name: "web".into(), tag: "v1<b>".into(), overrides };
    staging.create(&ada, &new).await.expect("a staging");
    invitation.id
}

/// A node, and an experiment on it whose name does not mean well. Gives its executor.
async fn furnish_experiment(fleet: &Fleet) -> String {
    use crate::{experiment, platform::db::query};
    settle_agent(fleet, "node", Class::ExperimentNode, &[]).await;
    let able = serde_json::json!([{
        "kind": "experiment.deployment", "oldest_version": 1, "newest_version": 1, "offers": ["shell"],
    }]);
    let able = &able.to_string();
    let made_able = fleet.db.write(|mut tx| async move {
        let text = "update fleet_agent set capabilities = $1, liveness = 'online' where id = 'node'";
        query(text.into()).bind(able.clone()).execute(&mut *tx).await?;
        tx.done(())
    });
    made_able.await.expect("the node is able");
    let experiments = experiment::Experiments {
        fleet: fleet.clone(),
        blobs: fleet.blobs.clone(),
        asking: Default::default(),
        processors: Default::default(),
    };
    let spec = serde_json::json!({"deployments": [{
        "nodes": {"take": 1}, "tasks": [{"name": "t", "script": "true", "variables": {"TOKEN": SECRET}}],
    }]});
    let spec = serde_json::from_value(spec).expect("a file");
    let actor = Actor { name: "user/admin".into(), source: Source::Cli };
    let admin = experiment::User {
        name: "admin".into(),
        tags: Default::default(),
        is_admin: true,
        context: serde_json::Value::Null,
        actor,
    };
    experiments.run(&admin, HOSTILE, &spec, true).await.expect("it is prepared");
    let shown = experiment::api::show(&experiments, "admin", HOSTILE).await.expect("is there");
    shown.nodes[0].executor.clone()
}

const WEB: &str = "/staging/projects/shop/stagings/web";

#[tokio::test]
async fn what_is_not_there_is_a_page_for_people_and_a_problem_for_programs() {
    let console = Console::new().await;
    let admin = console.person(Role::Admin).await;
    for (path, accept, kind) in [
        ("/nowhere", "text/html,*/*", "text/html; charset=utf-8"),
        ("/nowhere", "*/*", "application/problem+json"),
        ("/api/v1/nowhere", "text/html,*/*", "application/problem+json"),
    ] {
        let request = Request::get(path).header("host", "localhost").header("accept", accept);
        let request = request.header("cookie", &admin.cookie).body(Body::empty()).expect("a request");
        let (status, headers, body) = console.ask(request).await;
        assert_eq!((status, headers["content-type"].to_str().expect("text")), (StatusCode::NOT_FOUND, kind), "{body}");
        assert_eq!(body.contains("Log out"), kind.starts_with("text/html"), "people find their way on");
    }
}

#[tokio::test]
async fn every_page_shows_and_what_it_shows_is_escaped() {
    let console = Console::new().await;
    let admin = console.person(Role::Admin).await;
    let mut seen = 0;
    for (path, _) in console.pages("GET") {
        let (status, body) = console.get(&admin, &path).await;
        let wanted = if path.ends_with("/none") { StatusCode::NOT_FOUND } else { StatusCode::OK };
        assert_eq!(status, wanted, "{path}: {body}");
        assert!(!body.contains("<script>alert"), "{path} does not escape");
        assert!(!body.contains(SECRET), "{path} tells a secret");
        assert!(!body.contains(" style=") && !body.contains(" onclick="), "{path} needs what its own policy forbids");
        seen += usize::from(body.contains("&#60;script&#62;alert"));
    }
    assert!(seen >= 5, "the hostile texts stand on the pages, escaped: {seen}");
}

#[tokio::test]
async fn who_is_not_known_is_led_to_the_log_in() {
    let console = Console::new().await;
    for (path, who) in console.pages("GET") {
        let request = Request::get(&path).header("host", "localhost").body(Body::empty()).expect("a request");
        let (status, headers, _) = console.ask(request).await;
        if who == "public" {
            assert_eq!(status, StatusCode::OK, "{path}");
        } else {
            assert_eq!((status, &headers["location"].as_bytes()[..12]), (StatusCode::SEE_OTHER, &b"/login?next="[..]));
        }
    }
    for (path, who) in console.pages("POST") {
        if who != "public" {
            let (status, ..) = console.ask(bare_post(None, &path, String::new())).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        }
    }
}

#[tokio::test]
async fn a_form_without_its_token_is_refused() {
    let console = Console::new().await;
    let admin = console.person(Role::Admin).await;
    let pages = console.pages("POST");
    assert!(pages.len() > 15, "{pages:?}");
    for (path, _) in pages {
        let (status, _, body) = console.ask(bare_post(Some(&admin), &path, "verb=archive&csrf=x".into())).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        assert!(body.contains("out of date"), "{path}: {body}");
    }
}

#[tokio::test]
async fn each_role_sees_the_buttons_it_may_press() {
    let console = Console::new().await;
    let acts = [
        (WEB, "id=\"act\"", Role::Operator),
        (WEB, "id=\"forget\"", Role::Admin),
        ("/staging", "href=\"/staging/new\"", Role::Operator),
        ("/staging/projects", "/staging/new-project", Role::Admin),
        ("/staging/projects/shop", "id=\"change-project\"", Role::Admin),
        ("/fleet/agents/a", "id=\"change-agent\"", Role::Operator),
        ("/fleet/agents/a", "/fleet/agents/a/revoke", Role::Admin),
        ("/invitations", "id=\"create-invitation\"", Role::Operator),
        ("/invitations", "/revoke", Role::Operator),
    ];
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        let person = console.person(role).await;
        for (path, what, least) in acts {
            let (status, body) = console.get(&person, path).await;
            assert_eq!(status, StatusCode::OK, "{path}");
            assert_eq!(body.contains(what), role >= least, "{what} on {path} for {}", role.word());
        }
    }
}

#[tokio::test]
async fn nobody_sees_the_network_of_somebody_else() {
    let console = Console::new().await;
    let (viewer, operator) = (console.person(Role::Viewer).await, console.person(Role::Operator).await);
    let (status, _, body) = console.post(&viewer, "/networks/new", "name=mine&backbone=bb&delete_days=0").await;
    assert_eq!(status, StatusCode::SEE_OTHER, "anybody may own a network: {body}");
    let (_, list) = console.get(&viewer, "/networks").await;
    assert!(list.contains("/networks/net/mine") && !list.contains("/networks/net/net"), "{list}");
    let (_, all) = console.get(&operator, "/networks").await;
    assert!(all.contains("/networks/net/mine") && all.contains("/networks/net/net"));
    let mut crossed = 0;
    let of_net = |e: &&web::routes::Entry| e.path.contains("{network}");
    for entry in console.table.iter().filter(of_net) {
        let path = entry.path.replace("{network}", "net").replace("{member}", "host-till");
        let path = path.replace("{class}", "gold").replace("{name}", "web").replace("{id}", "none");
        let request = Request::builder().method(entry.method.as_str()).uri(&path).header("host", "localhost");
        let request = request.header("cookie", &viewer.cookie).header("x-csrf-token", viewer.caller.csrf());
        let is_page = entry.remarks.contains("page");
        let (kind, body) = match (is_page, path.rsplit('/').next()) {
            (true, _) => ("application/x-www-form-urlencoded", format!("csrf={}", viewer.caller.csrf())),
            (_, Some("times")) => ("application/json", r#"{"starts_at":1}"#.to_owned()),
            (_, Some("invitations")) => {
                ("application/json", r#"{"name":"n","class":"gold","deadline_at":1,"edge_links":[]}"#.into())
            }
            (_, Some("rotation")) if entry.method == "PATCH" => ("application/json", r#"{"paused":true}"#.into()),
            (_, Some("decision")) => ("application/json", r#"{"generation":1,"accept":true}"#.into()),
            _ if path.contains("service-links") => ("application/json", r#"{"service":"web"}"#.into()),
            _ if path.contains("endpoints") => ("application/json", r#"{"kind":"ingress"}"#.into()),
            _ => ("application/json", "{}".into()),
        };
        let request = request.header("content-type", kind).body(Body::from(body)).expect("a request");
        let (status, _, body) = console.ask(request).await;
        // Which host is a network's home is not its owner's to say.
        let wanted = if entry.who == "operator" { StatusCode::FORBIDDEN } else { StatusCode::NOT_FOUND };
        assert_eq!(status, wanted, "{} {path}: {body}", entry.method);
        crossed += 1;
    }
    assert!(crossed > 30, "{crossed}");
    for path in ["/networks/new-backbone", "/networks/backbones/bb/sites/paris", "/networks/library/image"] {
        assert_eq!(console.get(&viewer, path).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    let (status, body) = console.get(&viewer, "/networks/backbones/bb").await;
    assert!(status == StatusCode::OK && body.contains("paris.test:6000"), "where it may hang is seen: {body}");
}

#[tokio::test]
async fn every_table_of_networks_is_read_filtered_and_exported_by_administrators_alone() {
    let console = Console::new().await;
    let (operator, admin) = (console.person(Role::Operator).await, console.person(Role::Admin).await);
    let (_, names) = console.get(&admin, "/api/v1/network/tables").await;
    let names: Vec<String> = serde_json::from_str(&names).expect("names");
    assert_eq!(names.len(), 22);
    for name in &names {
        let path = format!("/api/v1/network/tables/{name}");
        assert_eq!(console.get(&operator, &path).await.0, StatusCode::FORBIDDEN);
        let (status, body) = console.get(&admin, &path).await;
        assert_eq!(status, StatusCode::OK, "{name}: {body}");
        let (status, page) = console.get(&admin, &format!("/networks/tables/{name}")).await;
        assert!(status == StatusCode::OK && page.contains("Export as CSV"), "{name}");
    }
    let read = |query: &'static str| {
        let (console, admin) = (&console, &admin);
        async move { console.get(admin, &format!("/api/v1/network/tables/members{query}")).await.1 }
    };
    assert!(read("").await.contains("host-till"));
    assert!(!read("?filter=nobody").await.contains("host-till"));
    let csv = read("?format=csv&filter=HOST-till").await;
    let lines: Vec<_> = csv.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("id,network_id,") && lines[1].contains(",host-till,"), "{csv}");
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_off_and_says_why() {
    let console = Console::new().await;
    let operator = console.person(Role::Operator).await;
    let (_, body) = console.get(&operator, WEB).await;
    let why = "disabled title=\"create is pending; wait for its end, or cancel it\"";
    assert_eq!(body.matches(why).count(), 4, "{body}");
    assert!(body.contains("<button name=\"verb\" value=\"cancel\" class=\"quiet\">"), "{body}");
    let (status, to, _) = console.post(&operator, WEB, "verb=archive").await;
    assert_eq!((status, to.as_str()), (StatusCode::SEE_OTHER, WEB), "asked all the same, it is refused with a message");
    let (status, to, _) = console.post(&operator, WEB, "verb=cleanup").await;
    assert_eq!((status, to), (StatusCode::SEE_OTHER, format!("{WEB}/cleanup")), "a loss is asked about first");
    let (status, _, body) = console.post(&operator, &format!("{WEB}/cleanup"), "confirm=yes").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains("create is pending"), "{body}");
}

#[tokio::test]
async fn a_refused_form_keeps_what_was_typed_but_no_secret() {
    let console = Console::new().await;
    let operator = console.person(Role::Operator).await;
    let rows = "rows=3&overrides[0].level=app&overrides[0].key=&overrides[0].value=\
                &overrides[1].level=staging&overrides[1].key=A%3DB&overrides[1].value=%3Cb%3Ekept\
                &overrides[2].level=app&overrides[2].key=K&overrides[2].value=typed-secret&overrides[2].secret=on";
    let form = format!("project=shop&name=other&tag=v1&{rows}");
    let (status, _, body) = console.post(&operator, "/staging/new", &form).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains("id=\"key-1-error\">a key has no"), "the mistake stands at its own row: {body}");
    assert!(body.contains("value=\"&#60;b&#62;kept\"") && body.contains("value=\"other\""), "{body}");
    assert!(!body.contains("typed-secret"), "a secret does not come back");
    let (status, _, body) = console.post(&operator, "/staging/new", &format!("{form}&more=1")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains("overrides[6].key") && body.contains("value=\"other\""), "more rows, and nothing is lost");
    let (status, _, body) = console.post(&operator, "/staging/new", "project=shop&name=Other&tag=v1&rows=0").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains("id=\"name-error\"") && body.contains("value=\"Other\""), "{body}");
    let (status, to, body) = console.post(&operator, "/staging/new", "project=shop&name=other&tag=v1&rows=0").await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{body}");
    assert_eq!(to, "/staging/projects/shop/stagings/other");
}

#[tokio::test]
async fn a_stale_form_changes_nothing_and_says_so() {
    let console = Console::new().await;
    let operator = console.person(Role::Operator).await;
    let form = "name=renamed&labels=pool%3Ddev&version=1";
    let (status, _, body) = console.post(&operator, "/fleet/agents/a", form).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains("it has changed since you read it") && body.contains("value=\"renamed\""), "{body}");
    let (_, _, body) = console.post(&operator, "/fleet/agents/a", "name=renamed&labels=pool&version=2").await;
    assert!(body.contains("id=\"labels-error\""), "{body}");
    let (status, ..) = console.post(&operator, "/fleet/agents/a", "name=renamed&labels=pool%3Ddev&version=2").await;
    assert_eq!(status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_log_in_says_what_was_wrong_and_leads_on() {
    let console = Console::new().await;
    let send = |form: &str| bare_post(None, "/login", form.to_owned());
    let (status, _, body) = console.ask(send("name=admin&password=wrong&next=/fleet")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains("the name or the password is wrong") && body.contains("value=\"admin\""), "{body}");
    for (next, to) in [("/fleet", "/fleet"), ("//evil.example", "/"), ("", "/")] {
        let form = format!("name=admin&password=correct%20horse%20battery&next={next}");
        let (status, headers, _) = console.ask(send(&form)).await;
        assert_eq!((status, headers["location"].to_str().expect("text")), (StatusCode::SEE_OTHER, to));
        let cookie = headers["set-cookie"].to_str().expect("text");
        assert!(cookie.starts_with("__Host-muster=") && cookie.contains("HttpOnly"), "{cookie}");
    }
}

#[tokio::test]
async fn an_invitation_shows_its_token_once() {
    let console = Console::new().await;
    let operator = console.person(Role::Operator).await;
    let form = "name=lab&class=staging-host&labels=pool%3Ddev&max_uses=2&hours=1&for_agent=";
    let (status, _, body) = console.post(&operator, "/invitations", form).await;
    assert_eq!(status, StatusCode::OK);
    let token = body.split("data-copy>").nth(1).and_then(|rest| rest.split('<').next()).expect("a token").to_owned();
    assert!(body.contains("muster-agent enroll") && token.len() > 40, "{body}");
    let (_, list) = console.get(&operator, "/invitations").await;
    assert!(list.contains("lab") && !list.contains(&token));
    let (status, _, body) =
        console.post(&operator, "/invitations", "name=x&class=staging-host&max_uses=a&hours=1").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains("id=\"max_uses-error\">a whole number is needed"), "{body}");
}

#[tokio::test]
async fn an_identity_is_taken_away_only_with_a_reason() {
    let console = Console::new().await;
    let admin = console.person(Role::Admin).await;
    let path = "/fleet/agents/a/revoke";
    let (status, _, body) = console.post(&admin, path, "confirm=yes&reason=").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains("id=\"reason-error\">say why"), "{body}");
    let (status, to, _) = console.post(&admin, path, "confirm=yes&reason=stolen").await;
    assert_eq!((status, to.as_str()), (StatusCode::SEE_OTHER, "/fleet/agents/a"));
    let (_, body) = console.get(&admin, "/fleet/agents/a").await;
    assert!(body.contains("data-status=\"revoked\"") && body.contains("stolen"), "{body}");
}
