//! One connector's server, asked in the words of netunicorn's REST connector.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::oneshot;
use ureq::Agent;

use super::model::{Fault, Verb, header};
use crate::web::{outside::tls, url::encoded};

/// Longest answer, bytes.
const MAX_ANSWER: u64 = 64 << 20;

/// As netunicorn's own client of connectors waits.
const WORK: Duration = Duration::from_secs(300);
const BEGIN: Duration = Duration::from_secs(60);

/// A look at a connector.
const LOOK: Duration = Duration::from_secs(20);

/// A user waits for this.
const NODES: Duration = Duration::from_secs(15);

/// Names of the headers that carry a user's own context; servers read one or the other.
const AUTHENTICATION: [&str; 2] = ["netunicorn-authentication-context", "netunicorn-auth-context"];

/// A connector's server.
#[derive(Debug, Clone)]
pub struct Server {
    agent: Agent,
    url: Arc<str>,
    key: Arc<str>,
}

/// What a connector said of each executor: what it says of it, or why it was not done.
pub type Results = BTreeMap<String, Result<String, String>>;

#[derive(Deserialize)]
struct RawResult {
    result_type: String,
    #[serde(default)]
    result: Option<Value>,
}

struct Answer {
    status: u16,
    body: String,
}

impl Server {
    /// The server at a URL. `ca_pem` names the authorities its certificate may come from; empty: those of this host.
    pub fn new(url: &str, key: &str, ca_pem: &str) -> Result<Self, String> {
        let ca_pem = (!ca_pem.is_empty()).then_some(ca_pem);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .max_idle_connections(0)
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")));
        if url.starts_with("https://") {
            config = config.tls_config(tls(ca_pem)?);
        }
        let url = url.trim_end_matches('/').into();
        Ok(Self { agent: config.build().new_agent(), url, key: key.into() })
    }

    /// Tells it what it needs to begin.
    pub async fn initialize(&self, parameters: &Value) -> Result<(), Fault> {
        self.ask("/initialize", &[], Some(parameters.to_string()), BEGIN).await.map(drop)
    }

    /// Its own words on how it fares; a fault when it says that it is not well.
    pub async fn health(&self) -> Result<String, Fault> {
        let body = self.ask("/health", &[], None, LOOK).await?;
        let said: Option<Value> = serde_json::from_str(&body).ok();
        let words = said.as_ref().and_then(|said| said.get("status")).and_then(Value::as_str);
        Ok(brief(words.unwrap_or(&body)))
    }

    /// The nodes it has for a user, as it writes them.
    pub async fn nodes(&self, user: &str, authentication: &Value) -> Result<String, Fault> {
        let headers = AUTHENTICATION.map(|name| (name, header(authentication)));
        self.ask(&format!("/nodes/{}", encoded(user)), &headers, None, NODES).await
    }

    /// Asks for something to be done to executors.
    pub async fn work(
        &self,
        verb: Verb,
        user: &str,
        experiment: &str,
        body: String,
        authentication: &Value,
        context: &Value,
    ) -> Result<Results, Fault> {
        let (user, experiment) = (encoded(user), encoded(experiment));
        let (path, name) = match verb {
            Verb::Deploy => (format!("/deploy/{user}/{experiment}"), "netunicorn-deployment-context"),
            Verb::Execute => (format!("/execute/{user}/{experiment}"), "netunicorn-execution-context"),
            Verb::Stop => (format!("/stop_executors/{user}"), "netunicorn-cancellation-context"),
            Verb::Cleanup => {
                self.ask(&format!("/cleanup/{experiment}"), &[], Some(body), WORK).await?;
                return Ok(Results::new());
            }
        };
        let mut headers = AUTHENTICATION.map(|name| (name, header(authentication))).to_vec();
        headers.push((name, header(context)));
        let answer = self.ask(&path, &headers, Some(body), WORK).await?;
        results(&answer).map_err(Fault::Unsure)
    }

    async fn ask(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<String>,
        limit: Duration,
    ) -> Result<String, Fault> {
        let (it, url, headers) = (self.clone(), format!("{}{path}", self.url), headers.to_vec());
        let (answer, wait) = oneshot::channel();
        // A thread of its own, which nobody waits for: a connector that takes minutes to answer does not keep the
        // controller from stopping.
        std::thread::spawn(move || drop(answer.send(it.send(&url, &headers, body, limit))));
        let gone = |_| Fault::Unsure("the question was dropped".into());
        let answer = wait.await.map_err(gone)??;
        match answer.status {
            200..300 => Ok(answer.body),
            status => {
                let why = format!("it answered {status}: {}", brief(&answer.body));
                // Others may come from somebody between, or after a part was done.
                let is_refused = matches!(status, 401 | 403 | 404 | 405 | 413 | 422);
                Err(if is_refused { Fault::NotTaken(why) } else { Fault::Unsure(why) })
            }
        }
    }

    fn send(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: Option<String>,
        limit: Duration,
    ) -> Result<Answer, Fault> {
        let bearer = format!("Bearer {}", self.key);
        let sent = match body {
            None if !url.ends_with("/initialize") => {
                let request = self.agent.get(url).header("authorization", bearer);
                let request = headers.iter().fold(request, |r, (name, value)| r.header(*name, value));
                request.config().timeout_global(Some(limit)).build().call()
            }
            body => {
                let request = self.agent.post(url).header("authorization", bearer);
                let request = request.header("content-type", "application/json");
                let request = headers.iter().fold(request, |r, (name, value)| r.header(*name, value));
                request.config().timeout_global(Some(limit)).build().send(body.unwrap_or_default())
            }
        };
        let mut answer = sent.map_err(|error| fault(&error))?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER).lossy_utf8(true).read_to_string();
        Ok(Answer { status, body: body.map_err(|e| Fault::Unsure(format!("its answer broke off: {e}")))? })
    }
}

/// What it means that a request was not answered.
fn fault(error: &ureq::Error) -> Fault {
    use ureq::{Error, Timeout};
    let why = format!("it cannot be reached: {error}");
    match error {
        Error::HostNotFound
        | Error::ConnectionFailed
        | Error::Tls(_)
        | Error::Rustls(_)
        | Error::BadUri(_)
        | Error::Timeout(Timeout::Connect | Timeout::Resolve) => Fault::NotTaken(why),
        Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Fault::NotTaken(why),
        _ => Fault::Unsure(format!("it did not answer: {error}")),
    }
}

/// What a connector said of each executor.
fn results(body: &str) -> Result<Results, String> {
    let raw: BTreeMap<String, RawResult> =
        serde_json::from_str(body).map_err(|e| format!("its answer cannot be read: {e}"))?;
    let one = |raw: RawResult| {
        let text = match raw.result {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => brief(&text),
            Some(other) => brief(&other.to_string()),
        };
        if raw.result_type.eq_ignore_ascii_case("success") { Ok(text) } else { Err(text) }
    };
    Ok(raw.into_iter().map(|(id, raw)| (id, one(raw))).collect())
}

fn brief(text: &str) -> String {
    let text = crate::platform::db::clean(text.trim());
    match text.char_indices().nth(500) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connector_says_of_executors_is_read_whatever_the_case() {
        let body = r#"{"a":{"result_type":"Success","result":null},"b":{"result_type":"failure","result":"no room"},
            "c":{"result_type":"SUCCESS","result":"sha"}}"#;
        let read = results(body).expect("it can be read");
        assert_eq!(read["a"], Ok(String::new()));
        assert_eq!(read["b"], Err("no room".into()));
        assert_eq!(read["c"], Ok("sha".into()));
        assert!(results("[]").is_err() && results(r#"{"a":1}"#).is_err());
    }
}
