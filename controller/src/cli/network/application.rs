//! `muster network list|show|create|set-times|set-home|end`, `class …`, `invitation …`.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::{
    super::{
        Failure, Form, Global, Result,
        client::Client,
        output::{self, age, facts, green, when},
    },
    composition, done, install, line, member, path, set, word,
    words::{self, End, Hang, Pair},
};

/// Look after application networks
#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// List application networks: your own, and to operators everybody's
    List,
    /// Show a network with its classes, sites, service links and endpoints
    Show {
        /// Its name
        network: String,
    },
    /// Make an application network; it belongs to you
    #[command(after_help = "Examples:\n  muster network create shop --backbone europe\n  \
        muster network create fair --backbone europe --starts 2026-12-01 --ends +30d --delete-delay 7d")]
    Create {
        /// Its name
        network: String,
        /// The backbone that carries it
        #[arg(long)]
        backbone: String,
        #[command(flatten)]
        times: When,
    },
    /// Change when a network lives; what is not said stays as it is
    #[command(after_help = "Examples:\n  muster network set-times shop --ends +30d\n  \
        muster network set-times shop --ends never\n\n\
        At its end a network's links are cut; after its delete delay it is removed with all that is under it.")]
    SetTimes {
        /// Its name
        network: String,
        #[command(flatten)]
        times: When,
    },
    /// Say on whose host what belongs to a network as a whole is to stand
    #[command(after_help = "Examples:\n  muster network set-home shop --agent helsinki\n  \
        muster network set-home shop --controller")]
    SetHome {
        /// Its name
        network: String,
        #[command(flatten)]
        home: Home,
    },
    /// End a network now: its links are cut, and it is removed when its delete delay is over
    End {
        /// Its name
        network: String,
    },
}

/// Whose host
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Home {
    /// That of an agent of class network-home, by its name or id
    #[arg(long)]
    agent: Option<String>,
    /// The controller's, as it is at first
    #[arg(long)]
    controller: bool,
}

/// When a network lives
#[derive(Debug, clap::Args)]
pub(crate) struct When {
    /// When it starts: now, +36h, 2026-12-01 or 2026-12-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = words::moment)]
    starts: Option<i64>,
    /// When it ends: never, +30d, 2026-12-31 or 2026-12-31T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = words::end)]
    ends: Option<End>,
    /// How long after its end it is removed: 12h, 7d
    #[arg(long, value_name = "SPAN", value_parser = words::span)]
    delete_delay: Option<i64>,
}

/// The sites of networks are grouped in classes
#[derive(Debug, Subcommand)]
pub(crate) enum Class {
    /// List the classes of a network
    List {
        /// The network
        network: String,
    },
    /// Make a class, or describe it anew
    #[command(after_help = "Example:\n  muster network class set shop/front --description \"where people stand\"")]
    Set {
        /// Network and class, as in shop/front
        #[arg(value_name = "NETWORK/CLASS", value_parser = words::pair)]
        at: Pair,
        /// What it is for
        #[arg(long)]
        description: Option<String>,
    },
}

/// Invite sites to networks
#[derive(Debug, Subcommand)]
pub(crate) enum Invitation {
    /// List the invitations to a network
    List {
        /// The network
        network: String,
    },
    /// Make an invitation; its token is printed this once
    #[command(after_help = "Examples:\n  \
        muster network invitation create shop --class front --at paris/members | ssh till muster-agent enroll\n  \
        muster network invitation create shop --class front --at paris/members --at berlin/members=2 --uses 20 --approval\n  \
        muster network invitation create shop --class front --at paris/members --install >till.sh")]
    Create {
        /// The network
        network: String,
        /// Class of the sites that join
        #[arg(long)]
        class: String,
        /// Where they hang on the backbone: an interior site and its access point for members, lower priorities first;
        /// may be repeated
        #[arg(long, required = true, value_name = "SITE/ACCESS-POINT[=PRIORITY]", value_parser = words::hang)]
        at: Vec<Hang>,
        /// What to call it
        #[arg(long, default_value = "invitation")]
        name: String,
        /// Until when they may join
        #[arg(long, default_value = "+1d", value_name = "TIME", value_parser = words::moment)]
        deadline: i64,
        /// How many may join
        #[arg(long, default_value_t = 1)]
        uses: i64,
        /// Let each in by hand, with `muster network member approve`
        #[arg(long)]
        approval: bool,
        /// Print a script that makes a host a site of the network in place of the bare token; paste it there as root
        #[arg(long)]
        install: bool,
        #[command(flatten)]
        how: install::How,
    },
    /// Change how many may join by an invitation and until when; what is not said stays
    #[command(after_help = "Example:\n  muster network invitation change shop/01JB6Q --uses 30 --deadline +7d")]
    Change {
        /// Network and the invitation's id
        #[arg(value_name = "NETWORK/ID", value_parser = words::pair)]
        at: Pair,
        /// Until when they may join
        #[arg(long, value_name = "TIME", value_parser = words::moment, required_unless_present = "uses")]
        deadline: Option<i64>,
        /// How many may join; no fewer than did
        #[arg(long)]
        uses: Option<i64>,
    },
    /// Let nobody else join by an invitation; those who joined by it stay
    Revoke {
        /// Network and the invitation's id
        #[arg(value_name = "NETWORK/ID", value_parser = words::pair)]
        at: Pair,
    },
}

// === impl Network ===

impl Network {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List => {
                let columns = [
                    ("NETWORK", "/name"),
                    ("PHASE", "/phase"),
                    ("BACKBONE", "/backbone"),
                    ("OWNER", "/owner"),
                    ("SITES", "/members"),
                    ("STARTS", "/starts_at"),
                    ("ENDS", "/ends_at"),
                ];
                let empty = "no application networks; make one with `muster network create`";
                output::list(global.output, client.all(&path(&["networks"]))?, &columns, "/name", empty)
            }
            Self::Show { network } => show(global, client, network),
            Self::Create { network, backbone, times } => {
                let new = json!({
                    "name": network, "backbone": backbone, "starts_at": times.starts,
                    "ends_at": times.ends.and_then(|end| end.0), "delete_delay": times.delete_delay.unwrap_or_default(),
                });
                let made: Value = client.post(&path(&["networks"]), &new)?;
                done(global, &made, &format!("network {network}"), "created")
            }
            Self::SetTimes { network, times } => {
                let was: Value = client.get(&path(&["networks", network]))?;
                let ends = times.ends.map_or_else(|| was["ends_at"].clone(), |end| end.0.into());
                let new = json!({
                    "starts_at": times.starts.map_or_else(|| was["starts_at"].clone(), Value::from),
                    "ends_at": ends,
                    "delete_delay": times.delete_delay.map_or_else(|| was["delete_delay"].clone(), Value::from),
                });
                let now: Value = client.put(&path(&["networks", network, "times"]), &new, was["version"].as_i64())?;
                done(global, &now, &format!("network {network}"), "changed")
            }
            Self::SetHome { network, home } => {
                let new = json!({"agent": home.agent});
                client.act(Method::PUT, &path(&["networks", network, "home"]), Some(&new))?;
                eprintln!("the home of {network} {}", green("set"));
                Ok(())
            }
            Self::End { network } => {
                let there: Value = client.get(&path(&["networks", network]))?;
                let delay = age(there["delete_delay"].as_i64().unwrap_or_default());
                global.confirm(&format!(
                    "End the network {network}? The links of its {} site(s) are cut now, and {delay} later it is removed.",
                    there["members"]
                ))?;
                client.act(Method::POST, &path(&["networks", network, "end"]), Some(&json!({})))?;
                eprintln!("network {network} {}", green("ended"));
                Ok(())
            }
        }
    }
}

fn show(global: &Global, client: &Client, network: &str) -> Result {
    let item: Value = client.get(&path(&["networks", network]))?;
    if global.output != Form::Table {
        return output::one(global.output, &item, "/name", |_| String::new());
    }
    let time = |field: &str| item[field].as_i64().map(when);
    output::print(&facts(&[
        ("Network", network.into()),
        ("Phase", word(&item, "phase").into()),
        ("Backbone", word(&item, "backbone").into()),
        ("Owner", word(&item, "owner").into()),
        ("Home", item["home"].as_str().unwrap_or("the controller's host").into()),
        ("Starts", time("starts_at").unwrap_or_default()),
        ("Ends", time("ends_at").unwrap_or_else(|| "never".into())),
        ("Removed", item["ends_at"].as_i64().map(|_| delay(&item)).unwrap_or_default()),
        ("Created", time("created_at").unwrap_or_default()),
    ]))?;
    output::print("\n")?;
    Class::List { network: network.into() }.run(global, client)?;
    output::print("\n")?;
    member::Member::List { network: network.into() }.run(global, client)?;
    output::print("\n")?;
    composition::ServiceLink::List { network: network.into() }.run(global, client)?;
    output::print("\n")?;
    composition::Endpoint::List { network: network.into() }.run(global, client)
}

fn delay(network: &Value) -> String {
    format!("{} after its end", age(network["delete_delay"].as_i64().unwrap_or_default()))
}

// === impl Class ===

impl Class {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List { network } => {
                let items = client.all(&path(&["networks", network, "classes"]))?;
                let columns = [("CLASS", "/name"), ("DESCRIPTION", "/description")];
                let empty = format!("no classes; make one with `muster network class set {network}/NAME`");
                output::list(global.output, items, &columns, "/name", &empty)
            }
            Self::Set { at: Pair(network, class), description } => {
                set(global, client, &["networks", network, "classes"], class, |spec| {
                    super::said(spec, "description", description.as_deref());
                    Ok(())
                })
            }
        }
    }
}

// === impl Invitation ===

impl Invitation {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List { network } => {
                let mut items = client.all(&path(&["networks", network, "invitations"]))?;
                for item in items.iter_mut().filter(|_| global.output == Form::Table) {
                    item["at"] = line(&item["edge_links"], |link| {
                        format!("{}/{}={}", word(link, "site"), word(link, "access_point"), link["priority"])
                    })
                    .into();
                    item["state"] = match item["revoked_at"].as_i64() {
                        Some(_) => "revoked".into(),
                        None if item["approval"] == true => "open, by approval".into(),
                        None => "open".into(),
                    };
                }
                let columns = [
                    ("ID", "/id"),
                    ("NAME", "/name"),
                    ("CLASS", "/class"),
                    ("AT", "/at"),
                    ("CLAIMED", "/used"),
                    ("OF", "/limit"),
                    ("DEADLINE", "/deadline_at"),
                    ("STATE", "/state"),
                ];
                let empty = format!("no invitations; make one with `muster network invitation create {network}`");
                output::list(global.output, items, &columns, "/id", &empty)
            }
            Self::Create { network, class, at, name, deadline, uses, approval, install, how } => {
                how.check()?;
                if !install && *how != install::How::default() {
                    return Err(Failure::usage("--router is about the script; give --install too"));
                }
                let links: Vec<_> = at
                    .iter()
                    .map(|Hang(site, point, priority)| {
                        json!({"site": site, "access_point": point, "priority": priority})
                    })
                    .collect();
                let new = json!({
                    "name": name, "class": class, "deadline_at": deadline, "limit": uses, "approval": approval,
                    "edge_links": links,
                });
                let made: Value = client.post(&path(&["networks", network, "invitations"]), &new)?;
                let token = word(&made, "token");
                if *install {
                    let until = when(*deadline);
                    eprintln!("as root on each host that is to join; the invitation is for {uses}, until {until}");
                    return output::print(&how.script(install::Kind::Member, network, token));
                }
                eprintln!("keep this token; it is not shown again. On the host: muster-agent enroll < token");
                match global.output {
                    Form::Table | Form::Name => output::print(&format!("{token}\n")),
                    form => output::one(form, &made, "/token", |_| String::new()),
                }
            }
            Self::Change { at: Pair(network, id), deadline, uses } => {
                let change = json!({"deadline_at": deadline, "limit": uses});
                client.act(Method::PATCH, &path(&["networks", network, "invitations", id]), Some(&change))?;
                eprintln!("{}", green("changed"));
                Ok(())
            }
            Self::Revoke { at: Pair(network, id) } => {
                client.act(Method::DELETE, &path(&["networks", network, "invitations", id]), None::<&()>)?;
                eprintln!("{}", green("revoked"));
                Ok(())
            }
        }
    }
}
