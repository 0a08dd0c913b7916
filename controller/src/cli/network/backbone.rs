//! `muster network backbone …`, `site …`, `access-point …`, `link …`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    super::{
        Form, Global, Result,
        client::Client,
        output::{self, facts, when},
    },
    Cascade, done, install, line, path, remove, word,
    words::{self, PointName, SiteName},
};

/// Look after backbones
#[derive(Debug, Subcommand)]
pub(crate) enum Backbone {
    /// List backbones
    List,
    /// Make a backbone
    #[command(after_help = "Example:\n  muster network backbone create europe")]
    Create {
        /// Its name
        name: String,
    },
    /// Remove a backbone, on which nothing may stand unless it is to go too
    #[command(after_help = "Examples:\n  muster network backbone remove europe\n  \
        muster network backbone remove europe --cascade")]
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        cascade: Cascade,
    },
}

/// Look after the interior sites of backbones
#[derive(Debug, Subcommand)]
pub(crate) enum Site {
    /// List the sites of a backbone, and what each waits for
    #[command(after_help = "Example:\n  muster network site list europe")]
    List {
        /// The backbone
        backbone: String,
    },
    /// Show a site
    Show(At),
    /// Make a site
    #[command(after_help = "Example:\n  muster network site create europe/paris")]
    Create {
        /// Backbone and site, as in europe/paris
        #[arg(value_name = "BACKBONE/SITE", value_parser = words::pair)]
        at: words::Pair,
    },
    /// Make the invitation by which the site's agent joins, and print its token this once; one made before is revoked
    #[command(after_help = "Example:\n  muster network site invite europe/paris | ssh paris muster-agent enroll")]
    Invite(At),
    /// Print a script that makes a host the site: agent, unit, class and invitation; paste it there as root
    #[command(after_help = "Examples:\n  muster network site install europe/paris >paris.sh\n  \
        muster network site install europe/paris | ssh root@paris bash -s -- --package muster-agent.deb\n  \
        bash paris.sh --binary muster-agent --prefix ./look\n\n\
        The script has the site's invitation in it: keep it as you would a key. One made before is revoked.\n\
        With --prefix it lays everything under a folder and starts nothing: for a look, or for an image.")]
    Install {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        how: install::How,
    },
    /// Remove a site, on which nothing may stand unless it is to go too
    Remove {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        cascade: Cascade,
    },
}

/// Which site
#[derive(Debug, clap::Args)]
pub(crate) struct At {
    /// Backbone and site, as in europe/paris; the site will do where one backbone alone has it
    #[arg(value_name = "BACKBONE/SITE", value_parser = words::site)]
    site: SiteName,
}

/// Look after access points: where others connect to an interior site
#[derive(Debug, Subcommand)]
pub(crate) enum AccessPoint {
    /// List the access points of a backbone
    List {
        /// The backbone
        backbone: String,
    },
    /// Make an access point
    #[command(after_help = "Examples:\n  \
        muster network access-point create europe/paris/peers --kind peer --host paris.example.org --port 55671\n  \
        muster network access-point create europe/paris/members --kind member --host paris.example.org --port 45671 --ports 10\n\n\
        Other interior sites link to one for peers; sites of application networks hang on one for members, where each\n\
        network takes a port of its own.")]
    Create {
        /// Backbone, site and name, as in europe/paris/members
        #[arg(value_name = "BACKBONE/SITE/NAME", value_parser = words::point)]
        at: PointName,
        /// For whom it is
        #[arg(long, value_parser = ["peer", "member"])]
        kind: String,
        /// What others dial: a DNS name or an IP address
        #[arg(long)]
        host: String,
        /// The first port
        #[arg(long)]
        port: i64,
        /// How many ports from there on; for members as many as there may be networks at it
        #[arg(long, default_value_t = 1)]
        ports: i64,
        /// The IP address to bind; every one if not said
        #[arg(long, default_value = "", value_name = "ADDRESS")]
        bind: String,
    },
    /// Remove an access point, on which nothing may stand unless it is to go too
    Remove {
        /// Backbone, site and name, as in europe/paris/members
        #[arg(value_name = "BACKBONE/SITE/NAME", value_parser = words::point)]
        at: PointName,
        #[command(flatten)]
        cascade: Cascade,
    },
}

/// Look after the links between interior sites
#[derive(Debug, Subcommand)]
pub(crate) enum Link {
    /// List the links of a backbone
    List {
        /// The backbone
        backbone: String,
    },
    /// Make a link
    #[command(after_help = "Example:\n  muster network link create europe --from berlin --to paris --cost 5")]
    Create {
        /// The backbone
        backbone: String,
        /// The site that makes it
        #[arg(long, value_name = "SITE")]
        from: String,
        /// The site it leads to
        #[arg(long, value_name = "SITE")]
        to: String,
        /// That site's access point for peers; may be left out where it has one
        #[arg(long, default_value = "", value_name = "NAME")]
        access_point: String,
        /// What it costs: traffic takes the cheapest way
        #[arg(long, default_value_t = 1)]
        cost: i64,
    },
    /// Remove a link
    Remove {
        /// The backbone
        backbone: String,
        /// The link's id, as `list` tells it
        id: String,
    },
}

// === impl Backbone ===

impl Backbone {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List => {
                let columns = [("NAME", "/name"), ("AGE", "/created_at")];
                let empty = "no backbones; make one with `muster network backbone create`";
                output::list(global.output, client.all(&path(&["backbones"]))?, &columns, "/name", empty)
            }
            Self::Create { name } => {
                let made: Value = client.post(&path(&["backbones"]), &json!({"name": name}))?;
                done(global, &made, &format!("backbone {name}"), "created")
            }
            Self::Remove { name, cascade } => {
                let loss = " Its certificate authorities go with it.";
                cascade.remove(global, client, &["backbones", name], &format!("the backbone {name}"), loss)
            }
        }
    }
}

// === impl Site ===

impl Site {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List { backbone } => {
                let mut sites = client.all(&path(&["backbones", backbone, "sites"]))?;
                for site in sites.iter_mut().filter(|_| global.output == Form::Table) {
                    site["points"] = line(&site["access_points"], |point| word(point, "name").into()).into();
                }
                let columns = [
                    ("SITE", "/name"),
                    ("DEPLOYMENT", "/deployment"),
                    ("AGENT", "/agent"),
                    ("ACCESS POINTS", "/points"),
                    ("WAITS FOR", "/waits_for"),
                ];
                let empty = format!("no sites; make one with `muster network site create {backbone}/NAME`");
                output::list(global.output, sites, &columns, "/name", &empty)
            }
            Self::Show(at) => {
                let (backbone, site) = at.site.resolve(client)?;
                let item: Value = client.get(&path(&["backbones", &backbone, "sites", &site]))?;
                output::one(global.output, &item, "/name", |item| {
                    facts(&[
                        ("Site", format!("{backbone}/{site}")),
                        ("Router", word(item, "router").into()),
                        ("Deployment", word(item, "deployment").into()),
                        ("Waits for", word(item, "waits_for").into()),
                        ("Agent", word(item, "agent").into()),
                        ("Access points", line(&item["access_points"], ports).replace(", ", "\n")),
                        ("Created", item["created_at"].as_i64().map(when).unwrap_or_default()),
                    ])
                })
            }
            Self::Create { at: words::Pair(backbone, site) } => {
                let made: Value = client.post(&path(&["backbones", backbone, "sites"]), &json!({"name": site}))?;
                done(global, &made, &format!("site {backbone}/{site}"), "created")
            }
            Self::Invite(at) => {
                let (backbone, site) = at.site.resolve(client)?;
                let token = invite(global, client, &backbone, &site)?;
                eprintln!("keep this token; it is not shown again. On the host: muster-agent enroll < token");
                match global.output {
                    Form::Table | Form::Name => output::print(&format!("{token}\n")),
                    form => output::one(form, &json!({"token": token}), "/token", |_| String::new()),
                }
            }
            Self::Install { at, how } => {
                how.check()?;
                let (backbone, site) = at.site.resolve(client)?;
                let token = invite(global, client, &backbone, &site)?;
                eprintln!("as root on the host of {site}; its invitation is open for 7 days, for this one host");
                output::print(&how.script(install::Kind::Interior, &format!("{backbone}/{site}"), &token))
            }
            Self::Remove { at, cascade } => {
                let (backbone, site) = at.site.resolve(client)?;
                let loss = " Its agent is told to end its router; the agent itself stays.";
                let what = format!("the site {backbone}/{site}");
                cascade.remove(global, client, &["backbones", &backbone, "sites", &site], &what, loss)
            }
        }
    }
}

/// The token of a site's invitation. Where the site has an agent, that agent's identity moves to whoever uses it.
fn invite(global: &Global, client: &Client, backbone: &str, site: &str) -> Result<String> {
    let there: Value = client.get(&path(&["backbones", backbone, "sites", site]))?;
    if let Some(agent) = there["agent"].as_str() {
        global.confirm(&format!(
            "{backbone}/{site} has the agent {agent} already. Make an invitation that moves its identity to another host?"
        ))?;
    }
    let made: Value = client.post(&path(&["backbones", backbone, "sites", site, "invitation"]), &json!({}))?;
    Ok(word(&made, "token").into())
}

/// An access point in a word: `members 45671-45680`.
fn ports(point: &Value) -> String {
    let (first, ports) = (point["port"].as_i64().unwrap_or_default(), point["ports"].as_i64().unwrap_or(1));
    let last = if ports > 1 { format!("-{}", first + ports - 1) } else { String::new() };
    format!("{} ({}) {}:{first}{last}", word(point, "name"), word(point, "kind"), word(point, "host"))
}

// === impl AccessPoint ===

impl AccessPoint {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List { backbone } => {
                let sites = client.all(&path(&["backbones", backbone, "sites"]))?;
                let of = |site: &Value| -> Vec<Value> {
                    let named = |point: &Value| {
                        let mut point = point.clone();
                        point["site"] = site["name"].clone();
                        point["full_name"] =
                            format!("{backbone}/{}/{}", word(site, "name"), word(&point, "name")).into();
                        point
                    };
                    site["access_points"].as_array().into_iter().flatten().map(named).collect()
                };
                let columns = [
                    ("SITE", "/site"),
                    ("NAME", "/name"),
                    ("FOR", "/kind"),
                    ("HOST", "/host"),
                    ("PORT", "/port"),
                    ("PORTS", "/ports"),
                    ("BINDS", "/bind"),
                ];
                let items = sites.iter().flat_map(of).collect();
                let empty = "no access points; make one with `muster network access-point create`";
                output::list(global.output, items, &columns, "/full_name", empty)
            }
            Self::Create { at: PointName(at, name), kind, host, port, ports, bind } => {
                let (backbone, site) = at.resolve(client)?;
                let new = json!({
                    "name": name, "kind": kind, "host": host, "port": port, "ports": ports, "bind": bind,
                });
                let at = path(&["backbones", &backbone, "sites", &site, "access-points"]);
                let made: Value = client.post(&at, &new)?;
                done(global, &made, &format!("access point {backbone}/{site}/{name}"), "created")
            }
            Self::Remove { at: PointName(at, name), cascade } => {
                let (backbone, site) = at.resolve(client)?;
                let what = format!("the access point {backbone}/{site}/{name}");
                let parts = ["backbones", &backbone, "sites", &site, "access-points", name];
                cascade.remove(global, client, &parts, &what, " Its ports close.")
            }
        }
    }
}

// === impl Link ===

impl Link {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List { backbone } => {
                let items = client.all(&path(&["backbones", backbone, "links"]))?;
                let columns = [
                    ("LINK", "/id"),
                    ("FROM", "/from"),
                    ("TO", "/to"),
                    ("ACCESS POINT", "/access_point"),
                    ("COST", "/cost"),
                ];
                let empty = "no links; make one with `muster network link create`";
                output::list(global.output, items, &columns, "/id", empty)
            }
            Self::Create { backbone, from, to, access_point, cost } => {
                let new = json!({"from": from, "to": to, "access_point": access_point, "cost": cost});
                let mut made: Value = client.post(&path(&["backbones", backbone, "links"]), &new)?;
                if global.output == Form::Name {
                    made["name"] = made["id"].clone();
                }
                done(global, &made, &format!("link {} from {from} to {to}", word(&made, "id")), "created")
            }
            Self::Remove { backbone, id } => {
                let loss = " What takes this way takes another, or stops.";
                remove(global, client, &["backbones", backbone, "links", id], &format!("the link {id}"), loss)
            }
        }
    }
}
