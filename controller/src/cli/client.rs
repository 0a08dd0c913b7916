//! The REST API from outside: one request at a time.

use std::{
    io::{BufRead, BufReader},
    time::Duration,
};

use http::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use ureq::Agent;

use super::{Failure, Result, context::Target};
use crate::{error::Problem, web::outside::tls};

/// An answer is waited for this long; streams are read for as long as they last.
const PATIENCE: Duration = Duration::from_secs(60);

/// A controller, and the token to talk to it with.
pub(crate) struct Client {
    agent: Agent,
    url: String,
    token: Option<String>,
}

/// One event of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its name; `message` when it has none.
    pub event: String,
    /// Its data.
    pub data: String,
}

// === impl Client ===

impl Client {
    /// A client of a controller.
    pub fn new(target: &Target) -> Result<Self> {
        let is_tls = target.url.starts_with("https://");
        if !is_tls && !target.url.starts_with("http://") {
            let text = format!("{:?} is no URL of a controller, such as https://muster.example.org", target.url);
            return Err(Failure::usage(text));
        }
        let mut config = Agent::config_builder();
        if is_tls {
            let wrong = |why| Failure::usage(format!("{why}; name the controller's with --ca-file"));
            config = config.tls_config(tls(target.ca_pem.as_deref()).map_err(wrong)?);
        }
        let config = config
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(PATIENCE))
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
            .build();
        let url = target.url.trim_end_matches('/').to_owned();
        Ok(Self { agent: config.new_agent(), url, token: target.token.clone() })
    }

    /// Where the controller is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Reads something.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        decode(self.send(Method::GET, path, None::<&()>, None)?)
    }

    /// Reads something that is no JSON.
    pub fn text(&self, path: &str) -> Result<String> {
        let text = std::io::read_to_string(self.open(path)?);
        text.map_err(|e| Failure::new(Failure::UNREACHABLE, format!("the answer broke off: {e}")))
    }

    /// Asks for something to be read piece by piece.
    pub fn open(&self, path: &str) -> Result<impl std::io::Read + use<>> {
        Ok(self.send(Method::GET, path, None::<&()>, None)?.into_body().into_reader())
    }

    /// Reads a list whole, page by page where it comes in pages.
    pub fn all(&self, path: &str) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        self.pages(path, |page| {
            items.extend(page);
            Ok(())
        })?;
        Ok(items)
    }

    /// Reads a list page by page.
    pub fn pages(&self, path: &str, mut take: impl FnMut(Vec<Value>) -> Result) -> Result {
        let mut cursor = String::new();
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let mut page: Value = self.get(&format!("{path}{joint}limit=500{cursor}"))?;
            if let Value::Array(whole) = page {
                return take(whole);
            }
            if let Value::Array(items) = page["items"].take() {
                take(items)?;
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(()),
            }
        }
    }

    /// Sends something and reads the answer.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        decode(self.send(Method::POST, path, Some(body), None)?)
    }

    /// Sends something, if what it is about still is the version named, and reads the answer.
    pub fn post_if<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, version: Option<i64>) -> Result<T> {
        decode(self.send(Method::POST, path, Some(body), version)?)
    }

    /// Asks for something that gives no answer, or one that is not of interest.
    pub fn act(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result {
        self.send(method, path, body, None).map(drop)
    }

    /// Changes something, if it still is the version named.
    pub fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, version: Option<i64>) -> Result<T> {
        decode(self.send(Method::PATCH, path, Some(body), version)?)
    }

    /// Puts something in the place of what is there, if that still is the version named.
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, version: Option<i64>) -> Result<T> {
        decode(self.send(Method::PUT, path, Some(body), version)?)
    }

    /// Follows a stream until `take` gives something, or the stream ends.
    pub fn follow<T>(&self, path: &str, mut take: impl FnMut(Message) -> Result<Option<T>>) -> Result<Option<T>> {
        let answer = self.send(Method::GET, path, None::<&()>, None)?;
        let mut message = Message::default();
        for line in BufReader::new(answer.into_body().into_reader()).lines() {
            let line = line.map_err(|e| Failure::new(Failure::UNREACHABLE, format!("the stream broke off: {e}")))?;
            match line.split_once(": ").unwrap_or((line.as_str(), "")) {
                ("event", name) => message.event = name.into(),
                ("data", data) => message.data.push_str(data),
                ("", _) => {
                    let whole = std::mem::take(&mut message);
                    if !whole.data.is_empty()
                        && let Some(taken) = take(whole)?
                    {
                        return Ok(Some(taken));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        version: Option<i64>,
    ) -> Result<http::Response<ureq::Body>> {
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(version) = version {
            request = request.header("if-match", format!("\"v{version}\""));
        }
        let bytes = body.map(serde_json::to_vec).transpose().map_err(|e| Failure::failed(e.to_string()))?;
        let answer = match bytes {
            Some(bytes) => {
                let request = request.header("content-type", "application/json").body(bytes);
                self.agent.run(request.map_err(|e| Failure::usage(e.to_string()))?)
            }
            None => self.agent.run(request.body(()).map_err(|e| Failure::usage(e.to_string()))?),
        };
        let answer = answer.map_err(|e| {
            let hint = match &e {
                ureq::Error::Rustls(_) | ureq::Error::Tls(_) => "; name its certificate authority with --ca-file",
                _ => "",
            };
            Failure::new(Failure::UNREACHABLE, format!("{} cannot be reached: {e}{hint}", self.url))
        })?;
        if answer.status().is_success() { Ok(answer) } else { Err(refused(answer, self.token.is_some())) }
    }
}

/// What a person typed, as a piece of a URL.
pub(crate) use crate::web::encoded;

/// The query of a URL: the pairs that have a value.
pub(crate) fn query(pairs: &[(&str, String)]) -> String {
    let set: Vec<_> = pairs.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={}", encoded(v))).collect();
    set.join("&")
}

fn decode<T: DeserializeOwned>(mut answer: http::Response<ureq::Body>) -> Result<T> {
    let text = answer.body_mut().with_config().limit(64 * 1024 * 1024).read_to_string();
    let text = text.map_err(|e| Failure::new(Failure::UNREACHABLE, format!("the answer broke off: {e}")))?;
    let text = if text.is_empty() { "null" } else { &text };
    serde_json::from_str(text).map_err(|e| {
        Failure::failed(format!("the answer cannot be read ({e}); is this program older than the controller?"))
    })
}

/// What a refusal says, with the exit code that goes with it.
fn refused(mut answer: http::Response<ureq::Body>, is_known: bool) -> Failure {
    let status = answer.status();
    let code = match status {
        StatusCode::NOT_FOUND => Failure::NOT_FOUND,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Failure::CONFLICT,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::DENIED,
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => Failure::USAGE,
        _ => Failure::FAILED,
    };
    let text = answer.body_mut().read_to_string().unwrap_or_default();
    let (message, standing) = match serde_json::from_str::<Problem>(&text) {
        Ok(Problem { detail, standing, cascade, .. }) => (detail, cascade.map(|cascade| (standing, cascade).into())),
        Err(_) => (format!("the controller answered {status}"), None),
    };
    let message = match (status, is_known) {
        (StatusCode::UNAUTHORIZED, true) => format!("{message}; log in with `muster login`"),
        _ => message,
    };
    Failure { standing, ..Failure::new(code, message) }
}
