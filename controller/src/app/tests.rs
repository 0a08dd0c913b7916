mod pages;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use muster_pki::tls;

use super::*;
use crate::testing::{engines, fresh, fresh_url};

/// Compares a text with a file beside Cargo.toml. `MUSTER_BLESS=1` writes the file.
fn golden(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("MUSTER_BLESS").is_some() {
        std::fs::write(&path, text).expect("the file is written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{file} is not what the code says; look at it, then run this test with MUSTER_BLESS=1");
}

/// Every route of the controller.
async fn routes() -> Routes {
    let db = fresh("sqlite:").await;
    let seal = Arc::new(SealKey::new(&SealKey::generate()));
    let certificates = Certificates::open(db.clone(), seal, "muster.test", Default::default()).await.expect("opens");
    let around = Surroundings { replica: "r".into(), homes: vec![], url: String::new(), sample_seconds: 0 };
    let access = Access::new(db.clone());
    let blobs = crate::testing::blobs();
    let fleet = Fleet::new(db.clone(), certificates, blobs.clone(), around, BTreeMap::new());
    let context = Context {
        db: db.clone(),
        fleet: fleet.clone(),
        blobs,
        access: access.clone(),
        processors: Default::default(),
        environment_days: 0,
    };
    let Domain { routes, pages, cards, manifests, .. } = merge(DOMAINS.iter().map(|entry| (entry.open)(&context)));
    let ops = Ops { fleet, loops: Arc::new(OnceLock::new()), stop: CancellationToken::new() };
    let surface = Surface { access, ops, routes: routes.merge(pages), cards, manifests };
    surface.all(Arc::default()).0
}

#[tokio::test]
async fn every_route_stands_in_the_policy_table() {
    let routes = routes().await;
    let table = routes.table();
    let text: String = table.iter().map(|entry| format!("{}\n", entry.to_string().trim_end())).collect();
    golden("policy.txt", &text);
    let (_, api) = routes.split();
    for (path, item) in &api.paths.paths {
        let methods = [
            ("GET", &item.get),
            ("PUT", &item.put),
            ("POST", &item.post),
            ("DELETE", &item.delete),
            ("PATCH", &item.patch),
        ];
        for (method, _) in methods.iter().filter(|(_, operation)| operation.is_some()) {
            assert!(
                table.iter().any(|e| e.path == *path && e.method == *method),
                "{method} {path} is not in the table"
            );
        }
    }
    let changes = table.iter().filter(|e| e.method != "GET" && e.who == "public");
    let open: Vec<_> = changes.map(|e| e.path.as_str()).filter(|p| !p.starts_with("/grpc.")).collect();
    let (by_secret, open): (Vec<_>, Vec<_>) =
        open.into_iter().partition(|p| p.starts_with("/netunicorn/gateway/{secret}/api/v1/"));
    assert_eq!(
        open,
        ["/api/v1/login", "/login", "/netunicorn/api/v1/token", "/theme"],
        "what anybody may change is named here one by one"
    );
    assert_eq!(by_secret.len(), 5, "what anybody may change who knows a connector's secret: {by_secret:?}");
}

#[tokio::test]
async fn the_description_of_the_api_is_the_one_checked_in() {
    let (_, api) = routes().await.split();
    golden("openapi.json", &text_of(&complete(api)));
}

fn config(folder: &Path, database: &str) -> Config {
    let mut config = Config::in_folder(folder).expect("defaults are right");
    config.database = database.to_owned();
    config.agents_listen = ([127, 0, 0, 1], 0).into();
    config.http_listen = ([127, 0, 0, 1], 0).into();
    config
}

/// A folder that is removed when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("muster-app-{}", id::fresh(Clock::default().now()))))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Asks over the network. Gives status and body.
async fn ask(running: &Running, request: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(running.http_addr).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answers");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

async fn get(running: &Running, path: &str) -> (u16, String) {
    ask(running, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn a_controller_comes_up_and_goes_down_and_up_again() {
    for engine in engines() {
        let folder = Folder::new();
        let url = fresh_url(&engine).await;
        let first = start(config(&folder.0, &url), Clock::default()).await.expect("starts");
        let password = first.first_admin.clone().expect("the first start makes an admin");
        let (status, body) = get(&first, "/readyz?verbose").await;
        assert_eq!(status, 200, "{body}");
        for name in ["database", "loop pulse", "loop dispatch", "loop certificates", "loop listeners", "loop jobs"] {
            assert!(body.contains(&format!("[+] {name} ok")), "{body}");
        }
        assert_eq!(get(&first, "/livez").await.0, 200);
        let log_in = format!(r#"{{"name": "admin", "password": "{password}"}}"#);
        let request = format!(
            "POST /api/v1/login HTTP/1.1\r\nHost: localhost\r\nUser-Agent: muster/0\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{log_in}",
            log_in.len()
        );
        let (status, body) = ask(&first, &request).await;
        assert_eq!(status, 200, "{body}");
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let token = body["token"].as_str().expect("a token").to_owned();
        first.stop().await;
        let second = start(config(&folder.0, &url), Clock::default()).await.expect("starts again");
        assert_eq!(second.first_admin, None);
        let me = format!(
            "GET /api/v1/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        let (status, body) = ask(&second, &me).await;
        assert!(status == 200 && body.contains("\"name\":\"admin\""), "{status} {body}");
        second.stop().await;
    }
}

#[tokio::test]
async fn metrics_tell_what_there_is_and_name_no_agent() {
    let folder = Folder::new();
    let url = fresh_url("sqlite:").await;
    let running = start(config(&folder.0, &url), Clock::default()).await.expect("starts");
    let (status, text) = get(&running, "/metrics").await;
    assert_eq!(status, 200);
    for name in [
        "muster_build_info{version=",
        "# TYPE muster_agents gauge",
        "muster_streams 0",
        "muster_reports_total 0",
        "muster_assignments_sent_total 0",
        "muster_jobs{state=\"waiting\"}",
        "muster_event_seq ",
        "muster_certificate_expiry_seconds{kind=\"listener\"}",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
    assert!(!text.contains("agent_id"));
    running.stop().await;
}

#[tokio::test]
async fn health_and_reflection_are_on_the_port_of_the_api_alone() {
    let folder = Folder::new();
    let url = fresh_url("sqlite:").await;
    let running = start(config(&folder.0, &url), Clock::default()).await.expect("starts");
    let endpoint = tonic::transport::Endpoint::from_shared(running.api_url.clone()).expect("a URL");
    let mut health = tonic_health::pb::health_client::HealthClient::new(endpoint.connect().await.expect("connects"));
    let answer = health.check(tonic_health::pb::HealthCheckRequest { service: String::new() }).await.expect("answers");
    assert_eq!(answer.into_inner().status, 1, "serving");
    drop(health);
    running.stop().await;
}

#[tokio::test]
async fn the_console_can_be_served_by_a_certificate_of_the_house() {
    let folder = Folder::new();
    let url = fresh_url("sqlite:").await;
    let mut config = config(&folder.0, &url);
    config.http_tls = HttpTls::House;
    let running = start(config, Clock::default()).await.expect("starts");
    let mut roots = rustls::RootCertStore::empty();
    for root in &running.fleet.certificates.house().roots {
        roots.add(root.clone()).expect("a root");
    }
    let client = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let tcp = tokio::net::TcpStream::connect(running.http_addr).await.expect("connects");
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, tcp).await.expect("the certificate is right");
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("asks");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    running.stop().await;
}

#[tokio::test]
async fn plain_http_open_to_others_refuses_to_start() {
    let folder = Folder::new();
    let mut config = config(&folder.0, "sqlite:/nowhere/at/all.db");
    config.http_listen = ([0, 0, 0, 0], 0).into();
    let refused = start(config, Clock::default()).await.expect_err("refused");
    assert!(matches!(&refused, Error::Invalid { field, .. } if field == "http_listen"), "{refused}");
}

#[test]
fn a_seal_key_is_bytes_or_hexadecimal() {
    assert_eq!(parse_seal_key(&[7; 32]), Some([7; 32]));
    assert_eq!(parse_seal_key(format!("{}\n", "07".repeat(32)).as_bytes()), Some([7; 32]));
    assert_eq!(parse_seal_key(&[7; 31]), None);
    assert_eq!(parse_seal_key("zz".repeat(32).as_bytes()), None);
}

#[test]
fn a_private_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    make_private_folder(&folder.0).expect("made");
    let file = folder.0.join("key");
    write_private(&file, b"x").expect("written");
    let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!((mode(&folder.0), mode(&file)), (0o700, 0o600));
}
