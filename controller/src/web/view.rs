//! Small pieces of HTML that every page uses: times and chips. Each escapes what it is given, so a template writes it as is.

use std::fmt::{self, Display};

use askama::filters::{Escaper, Html, HtmlSafe};

/// What a chip's colour says. The text says it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// On its way.
    Busy,
    /// Worth a look.
    Warn,
    /// Not as it should be.
    Bad,
    /// Neither.
    Quiet,
}

/// A word of a closed set, with a colour. `data-status` carries the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip {
    /// What it says.
    pub word: &'static str,
    /// How that is meant.
    pub tone: Tone,
}

/// A moment as people say it, with the whole of it beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// The moment, milliseconds since the Unix epoch.
    pub at: i64,
    /// The moment of looking.
    pub now: i64,
}

/// Text escaped for HTML.
struct Escaped<'a>(&'a str);

// === impl Tone ===

impl Tone {
    /// Its name in the stylesheet.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Quiet => "quiet",
        }
    }
}

// === impl Chip ===

impl HtmlSafe for Chip {}

impl Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tone, word) = (self.tone.word(), Escaped(self.word));
        let said = self.word.replace('_', " ");
        write!(f, r#"<span class="chip {tone}" data-status="{word}">{}</span>"#, Escaped(&said))
    }
}

// === impl When ===

impl When {
    /// In words: `3 min ago`, `in 2 h`.
    pub fn relative(self) -> String {
        let distance = (self.now - self.at).unsigned_abs() / 1000;
        let span = match distance {
            0..5 => return "just now".into(),
            5..60 => format!("{distance} s"),
            60..3600 => format!("{} min", distance / 60),
            3600..86_400 => format!("{} h", distance / 3600),
            86_400..172_800 => "1 day".into(),
            _ => format!("{} days", distance / 86_400),
        };
        if self.at > self.now { format!("in {span}") } else { format!("{span} ago") }
    }

    /// In full, UTC.
    pub fn full(self) -> String {
        let at = jiff::Timestamp::from_millisecond(self.at).unwrap_or_default();
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

impl HtmlSafe for When {}

impl Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = self.full();
        let title = full.replace('T', " ").replace('Z', " UTC");
        write!(f, r#"<time datetime="{full}" title="{title}">{}</time>"#, self.relative())
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Html.write_escaped_str(f, self.0)
    }
}

/// Bytes as people say them: `1.4 GiB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut at = 0;
    while value >= 1024.0 && at + 1 < units.len() {
        value /= 1024.0;
        at += 1;
    }
    if at == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[at]) }
}

/// A duration in milliseconds as people say it: `1.2 s`, `3 min 4 s`.
pub fn duration(ms: i64) -> String {
    match ms {
        ..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// A browser as people call it, by what it says of itself: `Firefox on Linux`. What is not known is given as it is.
pub fn browser(user_agent: &str) -> String {
    // Each also claims to be those that follow it.
    let programs = [("Edg/", "Edge"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari")];
    let systems = [
        ("Android", "Android"),
        ("iPhone", "iOS"),
        ("iPad", "iOS"),
        ("Windows", "Windows"),
        ("Mac OS", "macOS"),
        ("Linux", "Linux"),
    ];
    let named =
        |names: &[(&str, &'static str)]| names.iter().find(|(mark, _)| user_agent.contains(mark)).map(|(_, n)| *n);
    match (named(&programs), named(&systems)) {
        (Some(program), Some(system)) => format!("{program} on {system}"),
        (Some(program), None) => program.into(),
        (None, _) => user_agent.into(),
    }
}
