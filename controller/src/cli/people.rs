//! `muster login`, `user`, `token`, `session`: people and what they hold.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use http::Method;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use super::{
    Failure, Form, Global, Result,
    client::Client,
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
    muster login http://127.0.0.1:8080 --password-file first-admin")]
pub(crate) struct Login {
    /// The controller's URL
    #[arg(value_name = "URL")]
    at: String,
    /// Name
    #[arg(long, default_value = "admin")]
    user: String,
    /// File with the password; without it, it is asked for
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Remember the controller under this name
    #[arg(long, default_value = "default", value_name = "NAME")]
    name: String,
}

/// API tokens
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// List one's tokens
    List,
    /// Make a token; its text is printed this once
    Create {
        /// What to call it
        name: String,
        /// What it may: viewer, operator or admin; no more than oneself
        #[arg(long, default_value = "viewer", value_parser = role)]
        role: Role,
        /// It ends after this many days
        #[arg(long, value_name = "DAYS")]
        days: Option<i64>,
    },
    /// End a token
    Revoke {
        /// Its id
        id: String,
    },
}

/// Web sessions
#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// List one's sessions
    List,
    /// End one
    End {
        /// Its id
        id: String,
    },
    /// End all of one's sessions
    EndAll,
}

/// People
#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// List them
    List,
    /// Make one; a password is made up and printed this once
    Create {
        /// Name
        name: String,
        /// viewer, operator or admin
        #[arg(long, default_value = "viewer", value_parser = role)]
        role: Role,
    },
    /// Change what somebody may
    Role {
        /// Name
        name: String,
        /// viewer, operator or admin
        #[arg(value_parser = role)]
        role: Role,
    },
    /// Let nobody log in by this name; sessions and tokens end at once
    Disable {
        /// Name
        name: String,
    },
    /// Let somebody log in again
    Enable {
        /// Name
        name: String,
    },
    /// Make up a new password for somebody and print it this once
    ResetPassword {
        /// Name
        name: String,
    },
    /// Change one's own password
    Password,
    /// Remove somebody
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
            Some(file) => context::read(file)?.trim_end_matches('\n').to_owned(),
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
                let expires_in_seconds = days.map(|d| d * 86_400);
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
            Self::Revoke { id } => client.act(Method::DELETE, &format!("/api/v1/tokens/{id}"), None::<&()>),
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
            Self::End { id } => client.act(Method::DELETE, &format!("/api/v1/sessions/{id}"), None::<&()>),
            Self::EndAll => client.act(Method::DELETE, "/api/v1/sessions", None::<&()>),
        }
    }
}

// === impl User ===

impl User {
    pub fn run(&self, global: &Global) -> Result {
        let client = global.client()?;
        let path = |name: &str| format!("/api/v1/users/{name}");
        match self {
            Self::List => {
                let items = client.all("/api/v1/users")?;
                let columns = [("NAME", "/name"), ("ROLE", "/role"), ("DISABLED", "/disabled"), ("AGE", "/created_at")];
                output::list(global.output, items, &columns, "/name", "no users")
            }
            Self::Create { name, role } => {
                let made: UserCreated =
                    client.post("/api/v1/users", &NewUser { name: name.clone(), role: *role, password: None })?;
                print_password(made.password)
            }
            Self::Role { name, role } => change(&client, &path(name), UserChange { role: Some(*role), disabled: None }),
            Self::Disable { name } => {
                global.confirm(&format!("Disable {name}? Their sessions and tokens end at once."))?;
                change(&client, &path(name), UserChange { role: None, disabled: Some(true) })
            }
            Self::Enable { name } => change(&client, &path(name), UserChange { role: None, disabled: Some(false) }),
            Self::ResetPassword { name } => {
                let url = format!("{}/password", path(name));
                let made: Value = client.put(&url, &NewPassword { password: None })?;
                print_password(made["password"].as_str().map(str::to_owned))
            }
            Self::Password => {
                let me: Me = client.get("/api/v1/me")?;
                let current = ask_secret(&format!("Password of {}: ", me.name))?;
                let password = ask_secret("New password, at least 12 characters: ")?;
                client.act(Method::PUT, "/api/v1/me/password", Some(&OwnPassword { current, password }))?;
                eprintln!("{}", green("changed"));
                Ok(())
            }
            Self::Remove { name } => {
                global.confirm(&format!("Remove {name}?"))?;
                client.act(Method::DELETE, &path(name), None::<&()>)
            }
        }
    }
}

fn change(client: &Client, path: &str, change: UserChange) -> Result {
    client.act(Method::PATCH, path, Some(&change))
}

fn print_password(password: Option<String>) -> Result {
    eprintln!("keep this password; it is not shown again, and is to be changed at the first log-in");
    output::print(&format!("{}\n", password.unwrap_or_default()))
}

fn role(word: &str) -> Result<Role, String> {
    Role::from_word(word).ok_or_else(|| "a role is viewer, operator or admin".into())
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
    read?;
    Ok(line.trim_end_matches('\n').to_owned())
}
