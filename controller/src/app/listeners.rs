//! The certificates of the two ports: issued at the start, renewed while the ports stay open.

use std::{path::Path, sync::Arc, time::Duration};

use muster_pki::tls::{self, Presented};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::watch;

use crate::{
    certificate::{Certificates, model::should_renew_listener},
    config::{Config, HttpTls},
    error::{Error, Result},
    platform::{clock::Clock, reconcile::Reconciler},
};

/// The loop that keeps the listeners' certificates fresh.
pub(super) struct Listeners {
    certificates: Certificates,
    clock: Clock,
    replica: String,
    names: Vec<String>,
    /// Configuration of the agents' port.
    pub agents: watch::Sender<Arc<ServerConfig>>,
    /// Configuration of the API's port; none when it is plain.
    pub http: Option<watch::Sender<Arc<ServerConfig>>>,
    from_house: bool,
    issued: (i64, String),
}

/// What a round of issuing gave.
struct IssuedPair {
    agents: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    /// When it ends, and who signed it.
    issued: (i64, String),
}

impl Listeners {
    /// Issues the first certificates.
    pub async fn open(
        certificates: &Certificates,
        config: &Config,
        (replica, host): (&str, &str),
        clock: Clock,
    ) -> Result<Self> {
        let mut names: Vec<_> = [muster_pki::HOME_NAME, host, "localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        names.extend(config.hosts.iter().cloned());
        let homes = config.homes.iter().filter_map(|home| home.rsplit_once(':'));
        names.extend(homes.map(|(name, _)| name.trim_matches(['[', ']']).to_owned()));
        names.sort();
        names.dedup();
        let pair = issue(certificates, &names, replica).await?;
        let http = match &config.http_tls {
            HttpTls::Off => None,
            HttpTls::House => Some(watch::Sender::new(pair.http)),
            HttpTls::Files { cert, key } => Some(watch::Sender::new(from_files(cert, key)?)),
        };
        Ok(Self {
            certificates: certificates.clone(),
            clock,
            replica: replica.to_owned(),
            names,
            agents: watch::Sender::new(pair.agents),
            http,
            from_house: config.http_tls == HttpTls::House,
            issued: pair.issued,
        })
    }
}

impl Reconciler for Listeners {
    type Status = Result<(), String>;
    const PERIOD: Duration = Duration::from_secs(60);

    async fn reconcile(&mut self) -> Self::Status {
        let (not_after, signer) = &self.issued;
        let by_active = *signer == self.certificates.house().authority_id;
        if !should_renew_listener(*not_after, by_active, self.clock.now()) {
            return Ok(());
        }
        let pair = issue(&self.certificates, &self.names, &self.replica).await.map_err(|e| e.to_string())?;
        self.agents.send_replace(pair.agents);
        if let Some(http) = self.http.as_ref().filter(|_| self.from_house) {
            http.send_replace(pair.http);
        }
        self.issued = pair.issued;
        Ok(())
    }
}

async fn issue(certificates: &Certificates, names: &[String], replica: &str) -> Result<IssuedPair> {
    let (chain, key) = certificates.issue_listener(names, replica).await?;
    let house = certificates.house();
    let not_after = muster_pki::leaf::read(&chain[0])?.not_after;
    let http = tls::server_without_clients(chain.clone(), key.to_rustls(), &[b"h2", b"http/1.1"])?;
    let agents = tls::server(Presented { chain, key: &key }, &house.roots, certificates.tickets())?;
    Ok(IssuedPair { agents: agents.into(), http: http.into(), issued: (not_after, house.authority_id.clone()) })
}

fn from_files(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let wrong = |field: &'static str, path: &Path, e: rustls_pki_types::pem::Error| {
        Error::invalid(field, format!("{} cannot be used: {e}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| wrong("http_cert", cert, e))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong("http_key", key, e))?;
    Ok(tls::server_without_clients(chain, key, &[b"h2", b"http/1.1"])?.into())
}
