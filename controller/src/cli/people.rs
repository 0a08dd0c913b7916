//! `muster login`, `user`, `token`, `session`: people and what they hold.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use http::Method;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use super::{
    Failure, Form, Global, Result,
    client::{Client, encoded},
    context::{self, Contexts, Target},
    output::{self, facts, green},
};
use crate::{
    access::{
        CreatedToken, LogIn, LoggedIn, Me, NewPassword, NewToken, NewUser, OwnPassword, UserChange, UserCreated, Want,
    },
    web::Role,
};

/// Log in to a controller and remember it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  muster login https://muster.example.org --user ada\n  \
    muster login http://127.0.0.1:8080 --password-file first-admin\n  \
    muster login https://muster.internal:8080 --ca-file house.pem --name house")]
pub(crate) struct Login {
    /// The controller's URL
    #[arg(value_name = "URL")]
    at: String,
    /// Name
    #[arg(long, default_value = "admin")]
    user: String,
    /// File with the password, `-` for standard input; without it, it is asked for
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Remember the controller under this name
    #[arg(long, default_value = "default", value_name = "NAME")]
    name: String,
}

/// Look after your API tokens
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// List your tokens
    List,
    /// Make a token; its text is printed this once
    #[command(
        after_help = "Example:\n  muster token create ci --role operator --days 90 >token\n  muster --token-file token staging list"
    )]
    Create {
        /// What to call it
        name: String,
        /// What it may: viewer, operator or admin; no more than you may
        #[arg(long, default_value = "viewer", value_parser = role)]
        role: Role,
        /// It ends after this many days
        #[arg(long, value_name = "DAYS")]
        days: Option<i64>,
    },
    /// End a token at once
    Revoke {
        /// Its id
        id: String,
    },
}

/// Look after your web sessions
#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// List your sessions
    List,
    /// End a session
    End {
        /// Its id
        id: String,
    },
    /// End all your sessions
    EndAll,
}

/// Look after users
#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// List users
    List,
    /// Make a user; a password is made up and printed this once, unless one is given
    #[command(
        after_help = "Examples:\n  muster user create ada --role operator\n  muster user create lab --role operator --password-file lab.password      # for a program: it need not be changed first\n\nA viewer looks, an operator runs things, an admin decides who may."
    )]
    Create {
        /// Name
        name: String,
        /// viewer, operator or admin
        #[arg(long, default_value = "viewer", value_parser = role)]
        role: Role,
        /// File with the password, `-` for standard input; a given one need not be changed at the first log-in
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Change what a user may
    Role {
        /// Name
        name: String,
        /// viewer, operator or admin
        #[arg(value_parser = role)]
        role: Role,
    },
    /// Change which nodes are open to a user
    #[command(
        after_help = "Examples:\n  muster user tags ada lab field      # nodes that carry lab or field, and those without tags\n  muster user tags ada                # all nodes\n\nA node carries the tags of its agent's label access-tags: access-tags=lab.field"
    )]
    Tags {
        /// Name
        name: String,
        /// Tags; none: all nodes
        tags: Vec<String>,
    },
    /// Disable a user; sessions and tokens end at once
    Disable {
        /// Name
        name: String,
    },
    /// Let a disabled user log in again
    Enable {
        /// Name
        name: String,
    },
    /// Make up a new password for a user and print it this once
    ResetPassword {
        /// Name
        name: String,
    },
    /// Change your own password
    Password,
    /// Remove a user, with sessions and tokens
    Remove {
        /// Name
        name: String,
    },
}

// === impl Login ===

impl Login {
    pub fn run(&self, global: &Global) -> Result {
        let ca_pem = global.ca_file.as_deref().map(context::read).transpose()?;
        let mut target = Target { url: self.at.clone(), ca_pem, token: None };
        let password = match &self.password_file {
            Some(file) => password_in(file)?,
            None => ask_secret(&format!("Password of {} at {}: ", self.user, self.at))?,
        };
        let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let token_name = Some(format!("muster on {}", host.trim()));
        let log_in = LogIn { name: self.user.clone(), password, want: Want::Token, token_name };
        let in_: LoggedIn = Client::new(&target)?.post("/api/v1/login", &log_in)?;
        target.token = in_.token;
        let mut all = Contexts::load()?;
        all.contexts.insert(self.name.clone(), target);
        all.current.clone_from(&self.name);
        all.save()?;
        eprintln!("{} as {} ({})", green("logged in"), in_.name, in_.role.word());
        if in_.must_change {
            eprintln!("change the password with `muster user password`");
        }
        Ok(())
    }
}

/// Ends the token that is remembered, and forgets the controller.
pub(crate) fn log_out(global: &Global) -> Result {
    let target = context::resolve(global)?;
    Client::new(&target)?.act(Method::POST, "/api/v1/logout", Some(&json!({})))?;
    let mut all = Contexts::load()?;
    all.contexts.retain(|_, there| *there != target);
    all.save()?;
    eprintln!("{}", green("logged out"));
    Ok(())
}

/// Prints who one is.
pub(crate) fn whoami(global: &Global) -> Result {
    let client = global.client()?;
    let me: Value = client.get("/api/v1/me")?;
    output::one(global.output, &me, "/name", |me| {
        let word = |at: &str| output::text(me.pointer(at));
        facts(&[("Name", word("/name")), ("Role", word("/role")), ("Controller", client.url().into())])
    })
}

// === impl Token ===

impl Token {
    pub fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        match self {
            Self::List => {
                let items = client.all("/api/v1/tokens")?;
                let columns = [
                    ("ID", "/id"),
                    ("NAME", "/name"),
                    ("ROLE", "/role"),
                    ("USED", "/used_at"),
                    ("EXPIRES", "/expires_at"),
                ];
                output::list(global.output, items, &columns, "/id", "no tokens")
            }
            Self::Create { name, role, days } => {
                let expires_in_seconds = days.map(|d| d.saturating_mul(86_400));
                let new = NewToken { name: name.clone(), role: *role, expires_in_seconds };
                let made: CreatedToken = client.post("/api/v1/tokens", &new)?;
                eprintln!("keep this token; it is not shown again");
                match global.output {
                    Form::Table | Form::Name => output::print(&format!("{}\n", made.token)),
                    form => {
                        let made = serde_json::to_value(made).map_err(|e| Failure::failed(e.to_string()))?;
                        output::one(form, &made, "/token", |_| String::new())
                    }
                }
            }
            Self::Revoke { id } => {
                client.act(Method::DELETE, &format!("/api/v1/tokens/{}", encoded(id)), None::<&()>)?;
                said("revoked")
            }
        }
    }
}

// === impl Session ===

impl Session {
    pub fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        match self {
            Self::List => {
                let items = client.all("/api/v1/sessions")?;
                let columns = [
                    ("ID", "/id"),
                    ("ADDRESS", "/address"),
                    ("BROWSER", "/user_agent"),
                    ("USED", "/used_at"),
                    ("EXPIRES", "/expires_at"),
                ];
                output::list(global.output, items, &columns, "/id", "no sessions")
            }
            Self::End { id } => {
                client.act(Method::DELETE, &format!("/api/v1/sessions/{}", encoded(id)), None::<&()>)?;
                said("ended")
            }
            Self::EndAll => {
                client.act(Method::DELETE, "/api/v1/sessions", None::<&()>)?;
                said("ended")
            }
        }
    }
}

// === impl User ===

impl User {
    pub fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        let path = |name: &str| format!("/api/v1/users/{}", encoded(name));
        match self {
            Self::List => {
                let items = client.all("/api/v1/users")?;
                let columns = [("NAME", "/name"), ("ROLE", "/role"), ("DISABLED", "/disabled"), ("AGE", "/created_at")];
                output::list(global.output, items, &columns, "/name", "no users")
            }
            Self::Create { name, role, password_file } => {
                let password = password_file.as_deref().map(password_in).transpose()?;
                let made: UserCreated =
                    client.post("/api/v1/users", &NewUser { name: name.clone(), role: *role, password })?;
                match made.password {
                    Some(made_up) => print_password(Some(made_up)),
                    None => said("created"),
                }
            }
            Self::Role { name, role } => {
                change(&client, &path(name), UserChange { role: Some(*role), ..UserChange::default() })
            }
            Self::Tags { name, tags } => {
                let tags = Some(tags.iter().cloned().collect());
                change(&client, &path(name), UserChange { tags, ..UserChange::default() })
            }
            Self::Disable { name } => {
                global.confirm(&format!("Disable {name}? Their sessions and tokens end at once."))?;
                change(&client, &path(name), UserChange { disabled: Some(true), ..UserChange::default() })
            }
            Self::Enable { name } => {
                change(&client, &path(name), UserChange { disabled: Some(false), ..UserChange::default() })
            }
            Self::ResetPassword { name } => {
                let url = format!("{}/password", path(name));
                let made: Value = client.put(&url, &NewPassword { password: None }, None)?;
                print_password(made["password"].as_str().map(str::to_owned))
            }
            Self::Password => {
                let me: Me = client.get("/api/v1/me")?;
                let current = ask_secret(&format!("Password of {}: ", me.name))?;
                let password = ask_secret("New password, at least 12 characters: ")?;
                client.act(Method::PUT, "/api/v1/me/password", Some(&OwnPassword { current, password }))?;
                said("changed")
            }
            Self::Remove { name } => {
                global.confirm(&format!("Remove {name}, with sessions and tokens?"))?;
                client.act(Method::DELETE, &path(name), None::<&()>)?;
                said("removed")
            }
        }
    }
}

fn change(client: &Client, path: &str, change: UserChange) -> Result {
    client.act(Method::PATCH, path, Some(&change))?;
    said("changed")
}

/// Says what was done.
fn said(word: &str) -> Result {
    eprintln!("{}", green(word));
    Ok(())
}

fn print_password(password: Option<String>) -> Result {
    eprintln!("keep this password; it is not shown again, and is to be changed at the first log-in");
    output::print(&format!("{}\n", password.unwrap_or_default()))
}

fn role(word: &str) -> Result<Role, String> {
    Role::from_word(word).ok_or_else(|| "a role is viewer, operator or admin".into())
}

/// The password in a file, its line's end left out; `-` is standard input.
pub(crate) fn password_in(file: &Path) -> Result<String> {
    let text = if file == Path::new("-") { std::io::read_to_string(std::io::stdin())? } else { context::read(file)? };
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks for a secret, unseen on a terminal; reads a line where there is none.
fn ask_secret(question: &str) -> Result<String> {
    let stdin = std::io::stdin();
    let seen = stdin.is_terminal().then(|| tcgetattr(&stdin)).transpose().map_err(std::io::Error::from)?;
    if let Some(seen) = &seen {
        eprint!("{question}");
        std::io::stderr().flush()?;
        let mut unseen = seen.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &unseen).map_err(std::io::Error::from)?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if let Some(seen) = &seen {
        tcsetattr(&stdin, OptionalActions::Now, seen).map_err(std::io::Error::from)?;
        eprintln!();
    }
    if read? == 0 {
        return Err(Failure::usage(format!(
            "{} nothing was given; type it, or send it to standard input",
            question.trim()
        )));
    }
    Ok(line.trim_end_matches('\n').to_owned())
}
