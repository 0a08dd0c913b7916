//! `muster network service …`, `image …`, `service-link …`, `endpoint …`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    super::{Failure, Form, Global, Result, client::Client, output},
    Cascade, entries, line, path, remove, said, set, word,
    words::{self, Pair, Port},
};

/// Look after the library's services: what images offer and require
#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// List the services of the library
    List,
    /// Make a service, or change it; what is not said stays as it is
    #[command(after_help = "Example:\n  muster network service set web --protocol http --default-port 80")]
    Set {
        /// Its name
        name: String,
        /// What is spoken
        #[arg(long, value_parser = ["tcp", "http", "http2"])]
        protocol: Option<String>,
        /// Where it is looked for unless something else is said
        #[arg(long, value_name = "PORT")]
        default_port: Option<i64>,
        /// For people
        #[arg(long)]
        description: Option<String>,
    },
    /// Remove a service, which nothing may name unless that is to go too
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        cascade: Cascade,
    },
}

/// Look after the library's images: what processes run
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// List the images of the library
    List,
    /// Make an image, or change it; what is not said stays as it is
    #[command(after_help = "Examples:\n  \
        muster network image set shelf --reference registry.example.org/shop/shelf --offer web:8080 --require stock\n  \
        muster network image set shelf --reference shelf-server\n\n\
        A reference is an OCI reference without tag, run by podman or docker, or the name of an executable in a folder that\n\
        the host's owner allowed.")]
    Set {
        /// Its name
        name: String,
        /// An OCI reference without tag, or the name of an executable
        #[arg(long)]
        reference: Option<String>,
        /// For people
        #[arg(long)]
        description: Option<String>,
        /// A service it offers, and where it listens if not at the service's own port; may be repeated
        #[arg(long, value_name = "SERVICE[:PORT]", value_parser = words::port)]
        offer: Vec<Port>,
        /// A service it requires; may be repeated
        #[arg(long, value_name = "SERVICE")]
        require: Vec<String>,
        /// A service it offers or requires no more; may be repeated
        #[arg(long, value_name = "SERVICE")]
        unset: Vec<String>,
    },
    /// Remove an image, which nothing may run unless that is to go too
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        cascade: Cascade,
    },
}

/// Look after service links: names under which endpoints find one another
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceLink {
    /// List the service links of a network
    List {
        /// The network
        network: String,
    },
    /// Make a service link, or change it; what is not said stays as it is
    #[command(after_help = "Example:\n  muster network service-link set shop/web --service web --distribution closest")]
    Set {
        /// Network and service link, as in shop/web
        #[arg(value_name = "NETWORK/NAME", value_parser = words::pair)]
        at: Pair,
        /// The service it carries
        #[arg(long)]
        service: Option<String>,
        /// Its address, unique in its network; its name if not said
        #[arg(long)]
        address: Option<String>,
        /// How far its address reaches
        #[arg(long, value_parser = ["van", "site", "instance"])]
        scope: Option<String>,
        /// How connections are spread
        #[arg(long, value_parser = ["balanced", "closest", "unavailable"])]
        distribution: Option<String>,
    },
    /// Remove a service link, in which no endpoint may have a part unless that is to go too
    Remove {
        /// Network and service link, as in shop/web
        #[arg(value_name = "NETWORK/NAME", value_parser = words::pair)]
        at: Pair,
        #[command(flatten)]
        cascade: Cascade,
    },
}

/// Look after endpoints: processes, ingresses and egresses, allocated to sites
#[derive(Debug, Subcommand)]
pub(crate) enum Endpoint {
    /// List the endpoints of a network
    List {
        /// The network
        network: String,
    },
    /// Make an endpoint, or change it; what is not said stays as it is
    #[command(after_help = "Examples:\n  \
        muster network endpoint set shop/shelf --kind process --class back --image shelf --tag v1 --attach web\n  \
        muster network endpoint set shop/door --kind ingress --class front --attach web:8080\n  \
        muster network endpoint set shop/till --kind egress --site till-7 --host 10.0.0.5 --attach stock:5432\n\n\
        Each site of the class gets it, those that join later too. Connections go to processes and egresses and come from\n\
        ingresses; a process connects to what its image requires.")]
    Set(Box<EndpointChange>),
    /// Remove an endpoint: it is withdrawn everywhere
    Remove {
        /// Network and endpoint, as in shop/door
        #[arg(value_name = "NETWORK/NAME", value_parser = words::pair)]
        at: Pair,
    },
}

/// What an endpoint is to be
#[derive(Debug, clap::Args)]
pub(crate) struct EndpointChange {
    /// Network and endpoint, as in shop/door
    #[arg(value_name = "NETWORK/NAME", value_parser = words::pair)]
    at: Pair,
    /// What it is
    #[arg(long, value_parser = ["process", "ingress", "egress"])]
    kind: Option<String>,
    /// The class it is allocated to
    #[arg(long, conflicts_with = "site")]
    class: Option<String>,
    /// The one site it is allocated to
    #[arg(long)]
    site: Option<String>,
    /// Processes: an image of the library
    #[arg(long)]
    image: Option<String>,
    /// Processes: the image's tag; nothing for an executable
    #[arg(long)]
    tag: Option<String>,
    /// Processes: an argument, in place of all there were; may be repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    arg: Vec<String>,
    /// Ingresses: the IP address to bind, every one if not said. Egresses: the server outside, left to each site if
    /// not said
    #[arg(long)]
    host: Option<String>,
    /// A service link it takes part in, and the port if it is not the service's or image's own; may be repeated
    #[arg(long, value_name = "SERVICE-LINK[:PORT]", value_parser = words::port)]
    attach: Vec<Port>,
    /// A service link it takes part in no more; may be repeated
    #[arg(long, value_name = "SERVICE-LINK")]
    detach: Vec<String>,
}

// === impl Service ===

impl Service {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List => {
                let columns = [
                    ("SERVICE", "/name"),
                    ("PROTOCOL", "/protocol"),
                    ("PORT", "/default_port"),
                    ("DESCRIPTION", "/description"),
                ];
                let empty = "no services; make one with `muster network service set`";
                output::list(global.output, client.all(&path(&["services"]))?, &columns, "/name", empty)
            }
            Self::Set { name, protocol, default_port, description } => {
                set(global, client, &["services"], name, |spec| {
                    said(spec, "protocol", protocol.as_deref());
                    said(spec, "default_port", *default_port);
                    said(spec, "description", description.as_deref());
                    needed(spec, &[("protocol", "--protocol"), ("default_port", "--default-port")])
                })
            }
            Self::Remove { name, cascade } => {
                cascade.remove(global, client, &["services", name], &format!("the service {name}"), "")
            }
        }
    }
}

// === impl Image ===

impl Image {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List => {
                let mut items = client.all(&path(&["images"]))?;
                for item in items.iter_mut().filter(|_| global.output == Form::Table) {
                    item["offers"] = line(&item["offers"], |o| format!("{}:{}", word(o, "service"), o["port"])).into();
                    item["requires"] = line(&item["requires"], |r| r.as_str().unwrap_or_default().into()).into();
                }
                let columns = [
                    ("IMAGE", "/name"),
                    ("REFERENCE", "/reference"),
                    ("OFFERS", "/offers"),
                    ("REQUIRES", "/requires"),
                    ("DESCRIPTION", "/description"),
                ];
                let empty = "no images; make one with `muster network image set`";
                output::list(global.output, items, &columns, "/name", empty)
            }
            Self::Set { name, reference, description, offer, require, unset } => {
                set(global, client, &["images"], name, |spec| {
                    said(spec, "reference", reference.as_deref());
                    said(spec, "description", description.as_deref());
                    let offers = entries(spec, "offers")?;
                    offers.retain(|o| {
                        let is = |name: &String| o["service"] == name.as_str();
                        !unset.iter().chain(offer.iter().map(|Port(name, _)| name)).any(is)
                    });
                    offers.extend(offer.iter().map(|Port(service, port)| json!({"service": service, "port": port})));
                    let requires = entries(spec, "requires")?;
                    requires.retain(|r| !unset.iter().chain(require).any(|name| *r == name.as_str()));
                    requires.extend(require.iter().map(|name| Value::from(name.as_str())));
                    needed(spec, &[("reference", "--reference")])
                })
            }
            Self::Remove { name, cascade } => {
                cascade.remove(global, client, &["images", name], &format!("the image {name}"), "")
            }
        }
    }
}

// === impl ServiceLink ===

impl ServiceLink {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List { network } => {
                let items = client.all(&path(&["networks", network, "service-links"]))?;
                let columns = [
                    ("SERVICE LINK", "/name"),
                    ("SERVICE", "/service"),
                    ("ADDRESS", "/address"),
                    ("SCOPE", "/scope"),
                    ("DISTRIBUTION", "/distribution"),
                ];
                let empty = format!("no service links; make one with `muster network service-link set {network}/NAME`");
                output::list(global.output, items, &columns, "/name", &empty)
            }
            Self::Set { at: Pair(network, name), service, address, scope, distribution } => {
                set(global, client, &["networks", network, "service-links"], name, |spec| {
                    said(spec, "service", service.as_deref());
                    said(spec, "address", address.as_deref());
                    said(spec, "scope", scope.as_deref());
                    said(spec, "distribution", distribution.as_deref());
                    needed(spec, &[("service", "--service")])
                })
            }
            Self::Remove { at: Pair(network, name), cascade } => {
                let parts = ["networks", network, "service-links", name];
                cascade.remove(global, client, &parts, &format!("the service link {name} of {network}"), "")
            }
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    pub fn run(&self, global: &Global, client: &Client) -> Result {
        match self {
            Self::List { network } => {
                let mut items = client.all(&path(&["networks", network, "endpoints"]))?;
                for item in items.iter_mut().filter(|_| global.output == Form::Table) {
                    let at = match (word(item, "class"), word(item, "site")) {
                        (class, "") => format!("class {class}"),
                        (_, site) => format!("site {site}"),
                    };
                    let runs = match word(item, "tag") {
                        "" => word(item, "image").to_owned(),
                        tag => format!("{}:{tag}", word(item, "image")),
                    };
                    item["links"] = line(&item["attachments"], |a| {
                        let port = a["port"].as_i64().map(|port| format!(":{port}")).unwrap_or_default();
                        format!("{} {}{port}", word(a, "part"), word(a, "service_link"))
                    })
                    .into();
                    (item["at"], item["runs"]) = (at.into(), runs.into());
                }
                let columns = [
                    ("ENDPOINT", "/name"),
                    ("KIND", "/kind"),
                    ("AT", "/at"),
                    ("IMAGE", "/runs"),
                    ("HOST", "/host"),
                    ("SERVICE LINKS", "/links"),
                ];
                let empty = format!("no endpoints; make one with `muster network endpoint set {network}/NAME`");
                output::list(global.output, items, &columns, "/name", &empty)
            }
            Self::Set(change) => {
                let EndpointChange { at, kind, class, site, image, tag, arg, host, attach, detach } = &**change;
                let Pair(network, name) = at;
                set(global, client, &["networks", network, "endpoints"], name, |spec| {
                    for (field, value) in [("kind", kind), ("image", image), ("tag", tag), ("host", host)] {
                        said(spec, field, value.as_deref());
                    }
                    // What is allocated to a class is allocated to no site, and the reverse.
                    for (field, other, value) in [("class", "site", class), ("site", "class", site)] {
                        if let Some(value) = value {
                            spec.insert(field.into(), value.as_str().into());
                            spec.remove(other);
                        }
                    }
                    if !arg.is_empty() {
                        spec.insert("arguments".into(), arg.as_slice().into());
                    }
                    let attachments = entries(spec, "attachments")?;
                    attachments.retain(|a| {
                        let is = |name: &String| a["service_link"] == name.as_str();
                        !detach.iter().chain(attach.iter().map(|Port(name, _)| name)).any(is)
                    });
                    attachments
                        .extend(attach.iter().map(|Port(link, port)| json!({"service_link": link, "port": port})));
                    needed(spec, &[("kind", "--kind")])
                })
            }
            Self::Remove { at: Pair(network, name) } => {
                let parts = ["networks", network, "endpoints", name];
                let what = format!("the endpoint {name} of {network}");
                remove(global, client, &parts, &what, " It is withdrawn at every site that has it.")
            }
        }
    }
}

/// What is made anew needs these.
pub(super) fn needed(spec: &serde_json::Map<String, Value>, fields: &[(&str, &str)]) -> Result {
    let missing: Vec<_> =
        fields.iter().filter(|(field, _)| !spec.contains_key(*field)).map(|(_, flag)| *flag).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!("there is nothing of this name yet; to make it, give {}", missing.join(" and "))))
}
