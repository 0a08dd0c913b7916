//! The script that makes a host a site: agent, unit, class, settings and invitation.

use std::path::PathBuf;

use super::super::{Failure, Result};

const SCRIPT: &str = include_str!("install.bash");
const UNIT: &str = include_str!("../../../../deploy/systemd/muster-agent.service");
const USER: &str = include_str!("../../../../deploy/systemd/muster-agent.sysusers");
const INTERIOR: &str = include_str!("../../../../deploy/systemd/classes/interior-site.conf");
const MEMBER: &str = include_str!("../../../../deploy/systemd/classes/member-site.conf");

/// Which kind of site a host is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An interior site of a backbone.
    Interior,
    /// A site of an application network.
    Member,
}

/// How the host is
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct How {
    /// Where the host's router program is; by default the skrouterd on its PATH
    #[arg(long, value_name = "FILE")]
    pub(super) router: Option<PathBuf>,
    /// A bundle for Kubernetes in place of a script: not here yet
    #[arg(long, conflicts_with = "podman")]
    pub(super) kubernetes: bool,
    /// A bundle for podman in place of a script: not here yet
    #[arg(long)]
    pub(super) podman: bool,
}

// === impl How ===

impl How {
    /// Refuses what is not here yet, before anything is made for it.
    pub fn check(&self) -> Result {
        let what = match (self.kubernetes, self.podman) {
            (true, _) => "Kubernetes",
            (_, true) => "podman",
            _ => return Ok(()),
        };
        Err(Failure::usage(format!(
            "a bundle for {what} is not here yet; leave the flag out for a script for a Linux host with systemd"
        )))
    }

    /// The script. `site` is what people call the site, or the network it joins.
    pub fn script(&self, kind: Kind, site: &str, token: &str) -> String {
        let (what, conf) = match kind {
            Kind::Interior => (format!("the interior site {site}"), INTERIOR),
            Kind::Member => (format!("a site of the application network {site}"), MEMBER),
        };
        let router = match &self.router {
            Some(file) => format!("[network]\nrouter = {}", toml::Value::String(file.display().to_string())),
            None => "# [network]\n# router = \"/usr/sbin/skrouterd\"".into(),
        };
        let parts = [
            ("@WHAT@", what.as_str()),
            ("@VERSION@", env!("CARGO_PKG_VERSION")),
            ("@UNIT@", UNIT.trim_end()),
            ("@USER@", USER.trim_end()),
            ("@CONF@", conf.trim_end()),
            ("@ROUTER@", &router),
            ("@TOKEN@", token.trim()),
        ];
        parts.iter().fold(SCRIPT.into(), |script: String, (mark, text)| script.replace(mark, text))
    }
}
