//! `muster network …`: backbones of routers, and the application networks on them.

mod application;
mod backbone;
mod composition;
pub(super) mod dev;
mod install;
mod member;
mod standing;
mod words;

use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value};

use super::{
    Failure, Form, Global, Result,
    client::{Client, encoded},
    output::{self, green},
};

/// Look after backbones, and the application networks on them
#[derive(Debug, clap::Args)]
#[command(after_help = "A backbone and a network on it, step by step:\n  \
    muster network backbone create europe\n  \
    muster network site create europe/paris\n  \
    muster network access-point create europe/paris/members --kind member --host paris.example.org --port 45671\n  \
    muster network site install europe/paris | ssh root@paris bash -s -- --package muster-agent.deb\n  \
    muster network create shop --backbone europe --ends +30d\n  \
    muster network class set shop/front --description tills\n  \
    muster network invitation create shop --class front --at paris/members\n\n\
    The same as a file: `muster apply -f`, with the kinds network.backbone and network.network.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Network(application::Network),
    Status(standing::Status),
    #[command(subcommand)]
    Rotation(standing::Rotation),
    /// The sites of networks are grouped in classes
    #[command(subcommand)]
    Class(application::Class),
    /// Invite sites to networks
    #[command(subcommand)]
    Invitation(application::Invitation),
    /// Look after the sites that joined networks
    #[command(subcommand)]
    Member(member::Member),
    /// Look after service links: names under which endpoints find one another
    #[command(subcommand)]
    ServiceLink(composition::ServiceLink),
    /// Look after endpoints: processes, ingresses and egresses, allocated to sites
    #[command(subcommand)]
    Endpoint(composition::Endpoint),
    /// Look after the library's services: what images offer and require
    #[command(subcommand)]
    Service(composition::Service),
    /// Look after the library's images: what processes run
    #[command(subcommand)]
    Image(composition::Image),
    /// Look after backbones
    #[command(subcommand)]
    Backbone(backbone::Backbone),
    /// Look after the interior sites of backbones
    #[command(subcommand)]
    Site(backbone::Site),
    /// Look after access points: where others connect to an interior site
    #[command(subcommand)]
    AccessPoint(backbone::AccessPoint),
    /// Look after the links between interior sites
    #[command(subcommand)]
    Link(backbone::Link),
}

// === impl Args ===

impl Args {
    /// Does what was asked for.
    pub fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        match &self.command {
            Command::Network(it) => it.run(global, &client),
            Command::Status(it) => it.run(global, &client),
            Command::Rotation(it) => it.run(global, &client),
            Command::Class(it) => it.run(global, &client),
            Command::Invitation(it) => it.run(global, &client),
            Command::Member(it) => it.run(global, &client),
            Command::ServiceLink(it) => it.run(global, &client),
            Command::Endpoint(it) => it.run(global, &client),
            Command::Service(it) => it.run(global, &client),
            Command::Image(it) => it.run(global, &client),
            Command::Backbone(it) => it.run(global, &client),
            Command::Site(it) => it.run(global, &client),
            Command::AccessPoint(it) => it.run(global, &client),
            Command::Link(it) => it.run(global, &client),
        }
    }
}

/// Where something of the domain is.
fn path(parts: &[&str]) -> String {
    parts.iter().fold("/api/v1/network".into(), |path, part| format!("{path}/{}", encoded(part)))
}

/// Says that something was done; where data is wanted, gives the thing it was done to.
fn done(global: &Global, item: &Value, what: &str, how: &str) -> Result {
    match global.output {
        Form::Table => eprintln!("{what} {}", green(how)),
        form => output::one(form, item, "/name", |_| String::new())?,
    }
    Ok(())
}

/// What goes with something
#[derive(Debug, Clone, Copy, clap::Args)]
struct Cascade {
    /// Remove what stands on it too; it is listed first, and nothing goes before that was agreed to
    #[arg(long)]
    cascade: bool,
}

/// Removes something on which nothing may stand, after asking.
fn remove(global: &Global, client: &Client, parts: &[&str], what: &str, loss: &str) -> Result {
    global.confirm(&format!("Remove {what}?{loss}"))?;
    client.act(Method::DELETE, &path(parts), None::<&()>)?;
    eprintln!("{what} {}", green("removed"));
    Ok(())
}

impl Cascade {
    /// Removes something, after asking; with all that stands on it, if that is wanted, after showing it.
    fn remove(self, global: &Global, client: &Client, parts: &[&str], what: &str, loss: &str) -> Result {
        if !self.cascade {
            return remove(global, client, parts, what, loss).map_err(|failure| match failure.standing {
                Some(_) => Failure { message: format!("{}, or give --cascade", failure.message), ..failure },
                None => failure,
            });
        }
        // Without the right word a removal is refused with what stands on the thing, even where nothing does.
        let looked = client.act(Method::DELETE, &format!("{}?cascade=", path(parts)), None::<&()>);
        let failure = looked.err().ok_or_else(|| Failure::failed("home removed what it was only asked to look at"))?;
        let Some((standing, seen)) = failure.standing.as_deref() else { return Err(failure) };
        for it in standing {
            eprintln!("  {it}");
        }
        let question = match standing.len() {
            0 => format!("Nothing stands on {what}. Remove it?{loss}"),
            1 => format!("Remove {what}, and what is listed above, which stands on it?{loss}"),
            n => format!("Remove {what}, and the {n} listed above, which stand on it?{loss}"),
        };
        global.confirm(&question)?;
        client.act(Method::DELETE, &format!("{}?cascade={}", path(parts), encoded(seen)), None::<&()>)?;
        eprintln!("{what} {}", green("removed"));
        Ok(())
    }
}

/// Makes something of this name, or changes of it what is said and leaves the rest as it is. `at` is the list it is in.
fn set(
    global: &Global,
    client: &Client,
    at: &[&str],
    name: &str,
    change: impl FnOnce(&mut Map<String, Value>) -> Result,
) -> Result {
    let there = client.all(&path(at))?.into_iter().find(|item| item["name"] == name);
    let how = if there.is_some() { "changed" } else { "created" };
    let mut spec = match there {
        Some(Value::Object(spec)) => spec,
        _ => Map::new(),
    };
    spec.remove("name");
    change(&mut spec)?;
    client.act(Method::PUT, &format!("{}/{}", path(at), encoded(name)), Some(&spec))?;
    spec.insert("name".into(), name.into());
    done(global, &spec.into(), name, how)
}

/// Sets what was said.
fn said(spec: &mut Map<String, Value>, field: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        spec.insert(field.into(), value.into());
    }
}

/// The entries of a list within something, to be read or changed.
fn entries<'a>(spec: &'a mut Map<String, Value>, field: &str) -> Result<&'a mut Vec<Value>> {
    let list = spec.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    list.as_array_mut().ok_or_else(|| Failure::failed(format!("{field} is no list; is this program older than home?")))
}

/// Entries of a list as one line of a table.
fn line(list: &Value, one: impl Fn(&Value) -> String) -> String {
    list.as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
}

/// A text within something; empty where there is none.
fn word<'a>(item: &'a Value, field: &str) -> &'a str {
    item[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
