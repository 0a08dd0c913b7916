//! Who may look: the token in the state folder, and what a browser is given for it.
//!
//! Nothing is kept of sessions: a cookie names its end and proves itself by the token, a form's secret by the cookie.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, chown},
    path::Path,
};

use crate::durable;

/// Name of the token's file in the state folder.
const FILE: &str = "console-token";

/// Hexadecimal digits of a token.
const LENGTH: usize = 64;

/// How long a browser is let in, milliseconds.
pub const SESSION_MS: i64 = 12 * 3_600_000;

/// What lets its holder in; never printed but on purpose.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// What a browser shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Value of its cookie.
    pub cookie: String,
    /// What its forms must hold.
    pub csrf: String,
}

// === impl Token ===

impl Token {
    /// The token of a state folder, made when there is none. Of several who make it at once one is first.
    pub fn make(state_dir: &Path) -> io::Result<Self> {
        if let Some(token) = Self::read(state_dir)? {
            return Ok(token);
        }
        let (path, beside) = (state_dir.join(FILE), state_dir.join(format!("{FILE}.{}", std::process::id())));
        // What a process of this number left in the middle is nobody's.
        durable::remove(&beside)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(muster_pki::hex(&muster_pki::random::<32>()).as_bytes())?;
        let owner = fs::metadata(state_dir)?;
        if file.metadata()?.uid() != owner.uid() {
            // Made by root, it is the agent's all the same.
            chown(&beside, Some(owner.uid()), Some(owner.gid()))?;
        }
        let named = fs::hard_link(&beside, &path);
        durable::remove(&beside)?;
        match named {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Self::read(state_dir)?.ok_or_else(|| io::Error::other(format!("{} went away", path.display()))),
        }
    }

    /// The token of a state folder, if there is one.
    pub fn read(state_dir: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(state_dir.join(FILE)) {
            Ok(text) if text.len() < LENGTH => Err(io::Error::other(format!("{FILE} is damaged; remove it"))),
            Ok(text) => Ok(Some(Self(text))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether a text is the token. Digests are compared, so that the time it takes says nothing.
    pub fn is(&self, shown: &str) -> bool {
        muster_pki::sha256(shown.as_bytes()) == muster_pki::sha256(self.0.as_bytes())
    }

    /// A session from now on.
    pub fn session(&self, now_ms: i64) -> Session {
        self.session_until(now_ms + SESSION_MS)
    }

    /// The session that a cookie shows, if it is one of this token's and not over.
    pub fn known(&self, cookie: &str, now_ms: i64) -> Option<Session> {
        let until_ms = cookie.split_once('.')?.0.parse().ok()?;
        let session = self.session_until(until_ms);
        let is_same = muster_pki::sha256(cookie.as_bytes()) == muster_pki::sha256(session.cookie.as_bytes());
        (is_same && now_ms < until_ms).then_some(session)
    }

    fn session_until(&self, until_ms: i64) -> Session {
        // The secret stands at both ends, so that nothing can be appended to what it proves.
        let prove = |what: &str| {
            muster_pki::hex(&muster_pki::sha256(format!("{what} {} {until_ms} {}", self.0, self.0).as_bytes()))
        };
        Session { cookie: format!("{until_ms}.{}", prove("session")), csrf: prove("form") }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}
