//! The controller's settings: flag, else environment, else file, else default; checked once.
//!
//! One table, [`KEYS`], names every setting. A key in the file that is not in it is refused, with the nearest one named.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use crate::{
    error::{Error, Result},
    platform::program::Programs,
};

/// A setting's name, default and meaning. An empty default is worked out from the others.
pub struct Key {
    /// Name in the file; `MUSTER_<NAME>` in the environment.
    pub name: &'static str,
    /// The same as a flag, without the two hyphens.
    pub flag: &'static str,
    default: &'static str,
    /// What it means.
    pub help: &'static str,
}

const fn key(name: &'static str, flag: &'static str, default: &'static str, help: &'static str) -> Key {
    Key { name, flag, default, help }
}

/// Every setting.
pub const KEYS: [Key; 25] = [
    key("data_dir", "data-dir", "", "Folder of the database, the seal key and the first admin's password"),
    key("database", "database", "", "sqlite:<path> or postgres://…; by default a SQLite file in the data folder"),
    key("blobs", "blobs", "", "Folder of large blobs, which replicas share; by default one in the data folder"),
    key("seal_key", "seal-key", "", "File with the key that seals secrets: 32 bytes, or 64 hexadecimal characters"),
    key(
        "trust_domain",
        "trust-domain",
        "muster.internal",
        "Domain of the names in certificates; fixed at the first start",
    ),
    key("agents_listen", "agents-listen", "0.0.0.0:7443", "Address of the agents' port"),
    key(
        "homes",
        "homes",
        "",
        "Where agents reach home, host:port, comma-separated; by default this host's name and port",
    ),
    key("http_listen", "http-listen", "127.0.0.1:8080", "Address of the API and the console"),
    key("http_tls", "http-tls", "off", "off, house (a certificate of the own CA) or files (http_cert and http_key)"),
    key("http_cert", "http-cert", "", "Certificate chain in PEM, for http_tls = files"),
    key("http_key", "http-key", "", "Private key in PEM, for http_tls = files"),
    key("behind_proxy", "behind-proxy", "false", "A proxy with TLS stands in front; its X-Forwarded-For is believed"),
    key("url", "url", "", "Where people reach the console; worked out from http_listen by default"),
    key("hosts", "hosts", "", "Host names people use for this controller, comma-separated"),
    key("sample_seconds", "sample-seconds", "60", "Seconds between an agent's samples; 0: none"),
    key("accept_per_second", "accept-per-second", "500", "Agents' connections accepted in a second"),
    key("accept_burst", "accept-burst", "1000", "Agents' connections accepted at once after a quiet time"),
    key("event_retention_days", "event-retention-days", "0", "Days the history is kept; 0: for good"),
    key(
        "environment_days",
        "environment-days",
        "30",
        "Days an environment of experiments is kept that nobody uses, here and on agents; 0: for good",
    ),
    key("agent_certificate_seconds", "agent-certificate-seconds", "86400", "Life of an agent's certificate"),
    key(
        "agent_renewal_grace_days",
        "agent-renewal-grace-days",
        "30",
        "How long after its end an agent's certificate may still be renewed",
    ),
    key(
        "experiment_preprocessors",
        "experiment-preprocessors",
        "",
        "Folder of executables that look at each experiment before it is prepared; none by default",
    ),
    key(
        "experiment_postprocessors",
        "experiment-postprocessors",
        "",
        "Folder of executables that are told of each experiment that has ended; none by default",
    ),
    key("experiment_processor_seconds", "experiment-processor-seconds", "30", "How long each of them may take"),
    key("log", "log", "text", "text or json"),
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The environment.
    Env(String),
    /// The file.
    File(PathBuf),
    /// Nobody said.
    Default,
}

/// Every setting in text, with its origin.
#[derive(Debug, Clone)]
pub struct Settings(BTreeMap<&'static str, (String, Origin)>);

/// How people's port is secured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpTls {
    /// Not at all: loopback, or a proxy in front.
    Off,
    /// By a certificate of the house.
    House,
    /// By these files.
    Files {
        /// Chain in PEM.
        cert: PathBuf,
        /// Key in PEM.
        key: PathBuf,
    },
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The settings, checked.
#[derive(Clone)]
pub struct Config {
    /// Folder of everything that is kept.
    pub data_dir: PathBuf,
    /// URL of the database; may hold a password.
    pub database: String,
    /// Folder of large blobs; replicas share it.
    pub blobs: PathBuf,
    /// File with the key that seals.
    pub seal_key: PathBuf,
    /// Domain of the names in certificates.
    pub trust_domain: String,
    /// The agents' port.
    pub agents_listen: SocketAddr,
    /// Where agents reach home; empty: this host and port.
    pub homes: Vec<String>,
    /// The API and the console.
    pub http_listen: SocketAddr,
    /// How that is secured.
    pub http_tls: HttpTls,
    /// A proxy with TLS stands in front.
    pub behind_proxy: bool,
    /// Where people reach the console; empty: worked out from the port.
    pub url: String,
    /// Host names people use, in lower case.
    pub hosts: Vec<String>,
    /// Seconds between samples.
    pub sample_seconds: u32,
    /// Connections accepted in a second.
    pub accept_per_second: u32,
    /// Connections accepted at once.
    pub accept_burst: u32,
    /// Days the history is kept; 0: for good.
    pub event_retention_days: u32,
    /// Days environments of experiments are kept that nobody uses; 0: for good.
    pub environment_days: u32,
    /// Lives of agents' certificates.
    pub lives: crate::certificate::model::Lives,
    /// What looks at each experiment before it is prepared.
    pub preprocessors: Programs,
    /// What is told of each experiment that has ended.
    pub postprocessors: Programs,
    /// How the log is written.
    pub log: LogFormat,
}

// === impl Settings ===

impl Settings {
    /// Puts the layers together. `file` is its path and text.
    pub fn resolve(
        flags: &BTreeMap<String, String>,
        env: impl Fn(&str) -> Option<String>,
        file: Option<(&Path, &str)>,
    ) -> Result<Self> {
        let in_file = file.map(|(path, text)| parse(path, text)).transpose()?.unwrap_or_default();
        let mut all = BTreeMap::new();
        for key in &KEYS {
            let variable = format!("MUSTER_{}", key.name.to_uppercase());
            let found = match (flags.get(key.name), env(&variable), in_file.get(key.name), file) {
                (Some(value), ..) => (value.clone(), Origin::Flag),
                (None, Some(value), ..) => (value, Origin::Env(variable)),
                (None, None, Some(value), Some((path, _))) => (value.clone(), Origin::File(path.into())),
                _ => (key.default.to_owned(), Origin::Default),
            };
            all.insert(key.name, found);
        }
        let mut settings = Self(all);
        settings.fill_in(env);
        Ok(settings)
    }

    /// Defaults that rest on the surroundings or on other settings.
    fn fill_in(&mut self, env: impl Fn(&str) -> Option<String>) {
        let home = env("HOME").unwrap_or_else(|| ".".into());
        let state = env("XDG_STATE_HOME").unwrap_or_else(|| format!("{home}/.local/state"));
        self.default("data_dir", || env("STATE_DIRECTORY").unwrap_or_else(|| format!("{state}/muster-controller")));
        let data = PathBuf::from(self.text("data_dir"));
        self.default("database", || crate::platform::db::file_url(&data.join("muster.db")));
        self.default("blobs", || data.join("blobs").display().to_string());
        let credential =
            env("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join("seal-key")).filter(|p| p.exists());
        let seal_key = credential.unwrap_or_else(|| data.join("seal-key"));
        self.default("seal_key", || seal_key.display().to_string());
    }

    fn default(&mut self, name: &'static str, value: impl FnOnce() -> String) {
        let entry = self.0.get_mut(name).expect("every key has a value");
        if entry.0.is_empty() {
            *entry = (value(), Origin::Default);
        }
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |(value, _)| value)
    }

    fn read<T: FromStr>(&self, name: &'static str, what: &str) -> Result<T> {
        let text = self.text(name);
        text.trim().parse().map_err(|_| Error::invalid(name, format!("{text:?} is not {what}")))
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
    }

    /// Lines of `name = value`, with the origin if wanted. Secrets print as `"..."`.
    pub fn show(&self, with_origin: bool) -> String {
        let line = |(name, (value, origin)): (&&str, &(String, Origin))| {
            let value = if *name == "database" { mask(value) } else { value.clone() };
            match with_origin {
                true => format!("{name} = {value:?}  # {origin}\n"),
                false => format!("{name} = {value:?}\n"),
            }
        };
        self.0.iter().map(line).collect()
    }

    /// The settings, checked.
    pub fn check(&self) -> Result<Config> {
        let number = "a whole number";
        let agent_seconds: i64 = self.read("agent_certificate_seconds", number)?;
        let grace_days: i64 = self.read("agent_renewal_grace_days", number)?;
        if !(5..=31_536_000).contains(&agent_seconds) || !(0..=3650).contains(&grace_days) {
            let text = "an agent's certificate lives for 5 seconds to a year, its grace for at most ten years";
            return Err(Error::invalid("agent_certificate_seconds", text));
        }
        let seconds: u64 = self.read("experiment_processor_seconds", number)?;
        if !(1..=3600).contains(&seconds) {
            return Err(Error::invalid("experiment_processor_seconds", "a processor has 1 second to an hour"));
        }
        let programs = |name| match self.text(name) {
            "" => Programs::default(),
            folder => Programs::new(folder.into(), Duration::from_secs(seconds)),
        };
        let config = Config {
            data_dir: self.text("data_dir").into(),
            database: self.text("database").into(),
            blobs: self.text("blobs").into(),
            seal_key: self.text("seal_key").into(),
            trust_domain: self.text("trust_domain").into(),
            agents_listen: self.read("agents_listen", "an address and port, such as 0.0.0.0:7443")?,
            homes: self.list("homes"),
            http_listen: self.read("http_listen", "an address and port, such as 127.0.0.1:8080")?,
            http_tls: self.http_tls()?,
            behind_proxy: self.read("behind_proxy", "true or false")?,
            url: self.text("url").trim_end_matches('/').into(),
            hosts: self.list("hosts").iter().map(|host| host.to_ascii_lowercase()).collect(),
            sample_seconds: self.read("sample_seconds", number)?,
            accept_per_second: self.read("accept_per_second", number)?,
            accept_burst: self.read("accept_burst", number)?,
            event_retention_days: self.read("event_retention_days", number)?,
            environment_days: self.read("environment_days", number)?,
            lives: crate::certificate::model::Lives { agent: agent_seconds * 1000, grace: grace_days * 86_400_000 },
            preprocessors: programs("experiment_preprocessors"),
            postprocessors: programs("experiment_postprocessors"),
            log: match self.text("log") {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => return Err(Error::invalid("log", format!("{other:?} is neither text nor json"))),
            },
        };
        config.check()?;
        Ok(config)
    }

    fn http_tls(&self) -> Result<HttpTls> {
        match self.text("http_tls") {
            "off" => Ok(HttpTls::Off),
            "house" => Ok(HttpTls::House),
            "files" => {
                let (cert, key) = (self.text("http_cert"), self.text("http_key"));
                if cert.is_empty() || key.is_empty() {
                    return Err(Error::invalid("http_tls", "files needs http_cert and http_key"));
                }
                Ok(HttpTls::Files { cert: cert.into(), key: key.into() })
            }
            other => Err(Error::invalid("http_tls", format!("{other:?} is none of off, house, files"))),
        }
    }
}

// === impl Config ===

impl Config {
    /// The settings there are when nobody says anything, with everything kept in `data_dir`.
    pub fn in_folder(data_dir: &Path) -> Result<Self> {
        let flags = BTreeMap::from([("data_dir".to_owned(), data_dir.display().to_string())]);
        Settings::resolve(&flags, |_| None, None)?.check()
    }

    /// Refuses what would be unsafe or could not work. [`crate::app::start`] asks too.
    pub fn check(&self) -> Result<()> {
        if self.http_tls == HttpTls::Off && !self.http_listen.ip().is_loopback() && !self.behind_proxy {
            return Err(Error::invalid(
                "http_listen",
                format!(
                    "{} is open to others, and passwords would cross the network in the clear; set http_tls to house or \
                     files, listen on 127.0.0.1, or set behind_proxy = true if a proxy with TLS stands in front",
                    self.http_listen
                ),
            ));
        }
        if self.accept_per_second == 0 || self.accept_burst == 0 {
            return Err(Error::invalid("accept_per_second", "at least one connection must be accepted"));
        }
        let right = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
        if self.trust_domain.is_empty() || !self.trust_domain.bytes().all(right) {
            return Err(Error::invalid("trust_domain", "a domain has characters of a-z, 0-9, dot and hyphen"));
        }
        let wrong = self.homes.iter().find(|home| {
            !home.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        });
        match wrong {
            Some(home) => Err(Error::invalid("homes", format!("{home:?} is not host:port"))),
            None => Ok(()),
        }
    }

    /// Whether people's connections are encrypted, here or by the proxy in front.
    pub fn is_secure(&self) -> bool {
        self.http_tls != HttpTls::Off || self.behind_proxy
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("data_dir", &self.data_dir)
            .field("database", &mask(&self.database))
            .field("agents_listen", &self.agents_listen)
            .field("http_listen", &self.http_listen)
            .field("http_tls", &self.http_tls)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The file's keys, flat; values in text.
fn parse(path: &Path, text: &str) -> Result<BTreeMap<String, String>> {
    let place = path.display().to_string();
    let table: toml::Table = text.parse().map_err(|e| Error::invalid(place.clone(), format!("not TOML: {e}")))?;
    table
        .into_iter()
        .map(|(name, value)| {
            if !KEYS.iter().any(|key| key.name == name) {
                let hint = nearest(&name).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                return Err(Error::invalid(name, format!("{place} names a setting that there is not{hint}")));
            }
            let value = plain(&value)
                .ok_or_else(|| Error::invalid(&name, "give text, a number, true or false, or a list of text"))?;
            Ok((name, value))
        })
        .collect()
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}

/// The key that is most like a name, if one is much like it.
fn nearest(name: &str) -> Option<&'static str> {
    let near = KEYS.iter().map(|key| (distance(name, key.name), key.name)).min()?;
    (near.0 <= 3).then_some(near.1)
}

/// How many characters must be added, taken away or replaced.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<_> = b.chars().collect();
    let mut row: Vec<_> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

/// A database URL without its password.
fn mask(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // A password may also stand behind the question mark.
    let rest = rest.split('?').next().unwrap_or_default();
    match rest.rsplit_once('@') {
        Some((who, place)) => format!("{scheme}://{}:...@{place}", who.split(':').next().unwrap_or_default()),
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests;
