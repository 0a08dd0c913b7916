//! A client of few instructions, so that what is measured is the server: requests of one kind on open connections.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::Value;

/// Connections that ask at the same time.
const CONNECTIONS: usize = 8;

/// How long a server is asked.
const FOR: Duration = Duration::from_secs(3);

/// What it says of its answers.
pub struct Load {
    /// Requests that were answered well.
    pub answered: u64,
    /// The median time of one.
    pub median: Duration,
}

/// A client of one API, with a token.
pub struct Client {
    http: ureq::Agent,
    url: String,
    token: String,
}

// === impl Client ===

impl Client {
    /// Clients of a home: its administrator, and an operator whose password it makes.
    pub fn log_in(address: &str, password: &str) -> anyhow::Result<(Self, Self)> {
        let http = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut client = Self { http, url: format!("http://{address}"), token: String::new() };
        let log_in = |name: &str, password: &str| serde_json::json!({"name": name, "password": password});
        let of = |told: Value| Ok::<_, anyhow::Error>(told["token"].as_str().context("a token")?.to_owned());
        client.token = of(client.ask("POST", "/api/v1/login", Some(&log_in("admin", password)))?)?;
        let ada = "correct horse battery";
        let user = serde_json::json!({"name": "ada", "role": "operator", "password": ada});
        client.ask("POST", "/api/v1/users", Some(&user))?;
        let token = of(client.ask("POST", "/api/v1/login", Some(&log_in("ada", ada)))?)?;
        let operator = Self { http: client.http.clone(), url: client.url.clone(), token };
        Ok((client, operator))
    }

    /// Asks, and reads a yes.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let text = self.bytes(method, path, body)?;
        Ok(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// The same without a look at the answer.
    pub fn bytes(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Vec<u8>> {
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        let request = request.header("authorization", self.bearer()).header("content-type", "application/json");
        let mut answer = self.http.run(request.body(body.map(Value::to_string).unwrap_or_default())?)?;
        let text = answer.body_mut().with_config().limit(256 << 20).read_to_vec()?;
        let status = answer.status();
        anyhow::ensure!(status.is_success(), "{method} {path}: {status} {}", String::from_utf8_lossy(&text));
        Ok(text)
    }

    /// Asks again until the answer is as wanted.
    pub fn until(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let begun = Instant::now();
        loop {
            let told = self.ask("GET", path, None)?;
            if is_so(&told) {
                return Ok(told);
            }
            anyhow::ensure!(begun.elapsed() < Duration::from_secs(120), "{path} does not come to its end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// Puts load on a path.
    pub fn load(&self, method: &str, path: &str) -> anyhow::Result<Load> {
        load(&self.url, method, path, &format!("Authorization: {}\r\n", self.bearer()), "")
    }
}

/// Puts load on a server.
pub fn load(url: &str, method: &str, path: &str, headers: &str, body: &str) -> anyhow::Result<Load> {
    let (address, prefix) = url.trim_start_matches("http://").split_once('/').unwrap_or((&url[7..], ""));
    let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
    let request = format!(
        "{method} {prefix}{path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (request, until) = (&request, Instant::now() + FOR);
    let one = || -> anyhow::Result<Vec<Duration>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let (mut times, mut buffer) = (Vec::new(), Vec::new());
        while Instant::now() < until {
            let begun = Instant::now();
            stream.write_all(request.as_bytes())?;
            read_answer(&mut stream, &mut buffer)?;
            times.push(begun.elapsed());
        }
        Ok(times)
    };
    let times: anyhow::Result<Vec<_>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let mut times = times?.concat();
    times.sort_unstable();
    Ok(Load { answered: times.len() as u64, median: times[times.len() / 2] })
}

/// Reads one answer, which must be 200.
fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    buffer.clear();
    let mut piece = [0; 4096];
    loop {
        let n = stream.read(&mut piece)?;
        anyhow::ensure!(n > 0, "the server hangs up: {}", String::from_utf8_lossy(buffer));
        buffer.extend_from_slice(&piece[..n]);
        let Some(head) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        anyhow::ensure!(text.starts_with("http/1.1 200"), "{}", String::from_utf8_lossy(buffer));
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if buffer.len() >= head + 4 + length.context("an answer of known length")? {
            return Ok(());
        }
    }
}
