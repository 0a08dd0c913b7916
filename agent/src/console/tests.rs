use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
};

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{
    driver::{Act, Capability, Driver, Pages, Settled, Standing, Taken, Turn, Visit},
    host::{Host, Machine},
    ledger::{Assignment, Generation, Key, Ledger, Record, Refused},
    spool::Spool,
};

/// Shows a page with a form, and keeps what was sent.
#[derive(Default)]
struct Shown(Mutex<Vec<BTreeMap<String, String>>>);

impl Driver for Shown {
    fn capability(&self) -> Capability {
        Capability { kind: "t.shown", versions: (1, 1), offers: vec![] }
    }
    fn admit(&self, _: &[u8]) -> Result<(), Refused> {
        Ok(())
    }
    fn act(&self) -> Act<'_> {
        Act::Standing(self)
    }
    fn pages(&self) -> Option<&dyn Pages> {
        Some(self)
    }
}

impl Standing for Shown {
    fn turn<'a>(&'a self, _: &'a Assignment) -> BoxFuture<'a, Turn> {
        Box::pin(async { Turn::Settled(Settled::default()) })
    }
    fn undo<'a>(&'a self, _: &'a Assignment) -> BoxFuture<'a, Turn> {
        Box::pin(async { Turn::Settled(Settled::default()) })
    }
}

impl Pages for Shown {
    fn menu(&self) -> &'static [(&'static str, &'static str)] {
        &[("/one", "One")]
    }
    fn show(&self, path: &str, visit: &Visit<'_>) -> Option<String> {
        let form = format!("<form method=post><input name=csrf value=\"{}\"></form>", visit.csrf);
        (path == "/one").then_some(form)
    }
    fn data(&self) -> (&'static str, serde_json::Value) {
        ("shown", serde_json::json!({"things": [1, 2]}))
    }
    fn submit<'a>(
        &'a self,
        path: &'a str,
        form: &'a BTreeMap<String, String>,
        visit: &'a Visit<'a>,
    ) -> BoxFuture<'a, Option<Taken>> {
        Box::pin(async move {
            self.0.lock().unwrap().push(form.clone());
            let there = visit.home_is_there;
            (path == "/one")
                .then(|| if there { Taken::Done("done <so>".into()) } else { Taken::Unreachable("away".into()) })
        })
    }
}

struct World {
    dir: tempfile::TempDir,
    shown: Arc<Shown>,
    kernel: Arc<Kernel>,
    link: watch::Sender<link::Report>,
    told: watch::Receiver<Report>,
    _serving: AbortOnDropHandle<()>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl World {
    fn new(enabled: Option<bool>, port: Option<u16>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(Machine::new(None));
        let ledger = Ledger::open(dir.path(), host.now_ms()).unwrap().ledger;
        let spool = Arc::new(Spool::open(dir.path(), 1 << 20, &[], []).unwrap());
        let shown = Arc::new(Shown::default());
        let drivers: Vec<Arc<dyn Driver>> = vec![shown.clone()];
        let blobs = Arc::new(crate::blobs::Blobs::open(dir.path(), 1 << 20).unwrap());
        let kernel = Arc::new(Kernel::new(ledger, spool, blobs, host, drivers, vec!["*".into()], dir.path().into()));
        let (link, seen) = watch::channel(link::Report { connected: true, ..link::Report::default() });
        let (report, told) = watch::channel(Report::default());
        let console = Console::new(kernel.clone(), "agent-1".into(), seen, Settings { enabled, port }, report);
        let serving = AbortOnDropHandle::new(tokio::spawn(console.run()));
        Self { dir, shown, kernel, link, told, _serving: serving }
    }

    fn hold(&self, withdrawn: bool, number: u64) {
        let key = Key::new("t.shown", "1");
        let assignment =
            Assignment { key, generation: Generation { epoch: 1, number }, withdrawn, ..Assignment::default() };
        self.kernel.ledger.write(|_| vec![Record::Accepted(assignment)]).unwrap();
    }

    async fn told(&self, mut enough: impl FnMut(&Report) -> bool) -> Report {
        let mut told = self.told.clone();
        let told = timeout(Duration::from_secs(20), told.wait_for(|report| enough(report))).await;
        told.expect("it is told in time").unwrap().clone()
    }

    async fn served(&self) -> SocketAddr {
        self.told(|report| report.address.is_some()).await.address.unwrap()
    }

    fn token(&self) -> String {
        Token::make(self.dir.path()).unwrap().expose().to_owned()
    }

    async fn ask(&self, request: &str, headers: &str, body: &str) -> Answer {
        let at = self.served().await;
        let host = if headers.contains("Host: ") { String::new() } else { format!("Host: {at}\r\n") };
        let text = format!("{request} HTTP/1.1\r\n{host}{headers}Content-Length: {}\r\n\r\n{body}", body.len());
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer { status: head[9..12].parse().unwrap(), head: head.to_lowercase(), body: body.into() }
    }

    /// A session's cookie as a header, and its secret for forms.
    async fn enter(&self) -> (String, String) {
        let entered = self.ask(&format!("GET /enter?token={}", self.token()), "", "").await;
        assert_eq!(entered.status, 303, "{}", entered.head);
        let line = entered.head.lines().find(|line| line.starts_with("set-cookie: ")).unwrap();
        let cookie = format!("Cookie: {}\r\n", line["set-cookie: ".len()..].split(';').next().unwrap());
        let page = self.ask("GET /", &cookie, "").await.body;
        let csrf = page.split("value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        (cookie, csrf)
    }
}

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

#[tokio::test]
async fn nobody_is_let_in_without_the_token_of_the_state_folder() {
    let world = World::new(Some(true), Some(0));
    world.hold(false, 1);
    for (path, headers) in [
        ("/", ""),
        ("/one", ""),
        ("/nothing", ""),
        ("/one", "Cookie: muster-console-0=1.2\r\n"),
        ("/api/shown", ""),
        ("/api/shown", "Authorization: Bearer 0\r\n"),
    ] {
        let answer = world.ask(&format!("GET {path}"), headers, "").await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(!answer.body.contains("form") && !answer.body.contains("things"), "{path}: {}", answer.body);
    }
    assert_eq!(world.ask("POST /one", FORM, "csrf=").await.status, 401);
    for wrong in ["/enter", "/enter?token=", &format!("/enter?token={}", "0".repeat(64))] {
        let answer = world.ask(&format!("GET {wrong}"), "", "").await;
        assert_eq!((answer.status, answer.head.contains("set-cookie")), (403, false), "{wrong}");
    }
    assert_eq!(world.shown.0.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn the_token_opens_a_session_that_ends_with_it() {
    let world = World::new(Some(true), Some(0));
    let at = world.served().await;
    let file = world.dir.path().join("console-token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let url = url(world.dir.path(), &world.told.borrow().clone()).await.unwrap();
    assert_eq!(url, format!("http://{at}/enter?token={}", world.token()));
    let entered = world.ask(&format!("GET /enter?token={}", world.token()), "", "").await;
    assert!(entered.head.contains("httponly; samesite=strict"), "{}", entered.head);
    assert!(!entered.head.contains(&world.token()), "the token itself stays out of the browser's cookies");
    let (cookie, _) = world.enter().await;
    let page = world.ask("GET /", &cookie, "").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("agent-1") && page.body.contains("home is there"), "{}", page.body);
    assert!(page.body.contains("href=\"/api/shown\""), "{}", page.body);
    let by_token = format!("Authorization: Bearer {}\r\n", world.token());
    let data: serde_json::Value = serde_json::from_str(&world.ask("GET /api/shown", &by_token, "").await.body).unwrap();
    assert_eq!((&data["things"][1], &data["home"]["connected"]), (&2.into(), &true.into()));
    assert_eq!(world.ask("GET /one", &by_token, "").await.status, 401, "pages are for browsers");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(world.ask("GET /", &cookie, "").await.status, 401);
    assert_ne!(Token::make(world.dir.path()).unwrap().expose(), &by_token["Authorization: Bearer ".len()..][..64]);
    assert_eq!(world.ask("GET /", &cookie, "").await.status, 401, "another token is another door");
}

#[test]
fn a_session_ends_and_cannot_be_drawn_out() {
    let dir = tempfile::tempdir().unwrap();
    let token = Token::make(dir.path()).unwrap();
    assert_eq!(format!("{token:?}"), "Token(...)");
    let session = token.session(1_000);
    let (until, proof) = session.cookie.split_once('.').unwrap();
    let end: i64 = until.parse().unwrap();
    assert_eq!(token.known(&session.cookie, end - 1), Some(session.clone()));
    assert_eq!(token.known(&session.cookie, end), None);
    for forged in [format!("{}.{proof}", end + 1), format!("{until}."), until.into(), "x.y".into(), String::new()] {
        assert_eq!(token.known(&forged, 1_000), None, "{forged}");
    }
}

#[tokio::test]
async fn a_name_of_somebody_else_leads_nowhere() {
    let world = World::new(Some(true), Some(0));
    let (cookie, _) = world.enter().await;
    for foreign in ["evil.example", "evil.example:7480", "localhost.evil.example", "10.0.0.1:80", "127.0.0.1:x", ""] {
        let answer = world.ask("GET /", &format!("Host: {foreign}\r\n{cookie}"), "").await;
        assert_eq!(answer.status, if foreign.is_empty() { answer.status.max(400) } else { 421 }, "{foreign}");
        assert!(!answer.body.contains("agent-1"));
    }
    for own in ["localhost:9000", "127.0.0.1", "localhost"] {
        assert_eq!(world.ask("GET /", &format!("Host: {own}\r\n{cookie}"), "").await.status, 200, "{own}");
    }
}

#[tokio::test]
async fn only_forms_of_the_same_session_change_something() {
    let world = World::new(Some(true), Some(0));
    let at = world.served().await;
    let (cookie, csrf) = world.enter().await;
    let (with, good) = (format!("{cookie}{FORM}"), format!("csrf={csrf}&say=yes"));
    for (headers, body) in [
        (with.clone(), "say=yes".to_owned()),
        (with.clone(), "csrf=&say=yes".to_owned()),
        (with.clone(), format!("csrf={}", "0".repeat(64))),
        (format!("{with}Origin: http://127.0.0.1:1\r\n"), good.clone()),
        (format!("{with}Origin: null\r\n"), good.clone()),
    ] {
        let answer = world.ask("POST /one", &headers, &body).await;
        assert_eq!(answer.status, 403, "{headers}{body}");
    }
    assert_eq!(world.ask("POST /one", &with, &"x".repeat(20_000)).await.status, 413);
    assert_eq!(world.ask("PUT /one", &with, &good).await.status, 405);
    assert_eq!(world.shown.0.lock().unwrap().len(), 0, "none of them reached anybody");
    let done = world.ask("POST /one", &format!("{with}Origin: http://{at}\r\n"), &good).await;
    assert_eq!(done.status, 200);
    assert!(done.body.contains("done &#60;so&#62;"), "{}", done.body);
    assert_eq!(world.shown.0.lock().unwrap()[0]["say"], "yes");
    world.link.send_modify(|link| link.connected = false);
    let away = world.ask("POST /one", &with, &good).await;
    assert_eq!(away.status, 503);
    assert!(away.body.contains("home is away") && away.body.contains("Home cannot be reached"), "{}", away.body);
}

#[tokio::test]
async fn no_answer_is_kept_framed_or_lets_something_of_elsewhere_in() {
    let world = World::new(Some(true), Some(0));
    let (cookie, _) = world.enter().await;
    for (path, headers) in [("/", cookie.as_str()), ("/style.css", ""), ("/", ""), ("/api/shown", cookie.as_str())] {
        let head = world.ask(&format!("GET {path}"), headers, "").await.head;
        for wanted in [
            "cache-control: no-store",
            "default-src 'none'",
            "frame-ancestors 'none'",
            "referrer-policy: same-origin",
            "nosniff",
        ] {
            assert!(head.contains(wanted), "{wanted} in {head}");
        }
    }
    let page = world.ask("GET /", &cookie, "").await.body;
    assert!(!page.contains("<script") && !page.contains("style=\""), "{page}");
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http"), "{page}");
}

#[tokio::test]
async fn it_is_served_while_there_is_something_to_show_unless_the_owner_says_otherwise() {
    let world = World::new(None, Some(0));
    assert!(world.told(|report| !report.message.is_empty()).await.message.contains("holds nothing"));
    let refused = url(world.dir.path(), &world.told.borrow().clone()).await.unwrap_err().to_string();
    assert!(refused.contains("holds nothing"), "{refused}");
    world.hold(false, 1);
    let at = world.served().await;
    world.hold(true, 2);
    world.told(|report| report.address.is_none()).await;
    assert!(TcpStream::connect(at).await.is_err(), "nobody listens any more");
    let world = World::new(Some(false), Some(0));
    world.hold(false, 1);
    assert!(world.told(|report| !report.message.is_empty()).await.message.contains("console.enabled is false"));
}

#[tokio::test]
async fn a_port_that_another_program_has_is_told_and_one_that_nobody_chose_is_replaced() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = other.local_addr().unwrap().port();
    let world = World::new(Some(true), Some(port));
    let told = world.told(|report| !report.message.is_empty()).await;
    assert!(told.message.contains(&format!("port {port} cannot be bound")), "{}", told.message);
    let (one, two) = (World::new(Some(true), None), World::new(Some(true), None));
    assert_ne!(one.served().await.port(), two.served().await.port());
}
