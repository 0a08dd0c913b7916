//! How data is printed.

use std::io::{IsTerminal, Write, stderr, stdout};

use serde_json::Value;

use super::{Failure, Form, Result};

/// A column: its heading, and the JSON pointer of what stands in it.
pub(crate) type Column<'a> = (&'a str, &'a str);

/// Prints a list. `name` is the pointer of what names an item; `empty` is said when there is none.
pub(crate) fn list(form: Form, items: Vec<Value>, columns: &[Column<'_>], name: &str, empty: &str) -> Result {
    match form {
        Form::Table if items.is_empty() => eprintln!("{empty}"),
        Form::Table => {
            let head = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
            let rows =
                items.iter().map(|item| columns.iter().map(|(heading, at)| cell(heading, item.pointer(at))).collect());
            print(&table(std::iter::once(head).chain(rows).collect()))?;
        }
        Form::Name => print(&items.iter().map(|i| format!("{}\n", text(i.pointer(name)))).collect::<String>())?,
        Form::Json | Form::Yaml => data(form, &Value::Array(items))?,
    }
    Ok(())
}

/// Prints one thing as JSON or YAML; for a table, what `table` makes of it.
pub(crate) fn one(form: Form, item: &Value, name: &str, table: impl FnOnce(&Value) -> String) -> Result {
    match form {
        Form::Table => print(&table(item)),
        Form::Name => print(&format!("{}\n", text(item.pointer(name)))),
        Form::Json | Form::Yaml => data(form, item),
    }
}

fn data(form: Form, value: &Value) -> Result {
    let text = match form {
        Form::Yaml => serde_saphyr::to_string(value).map_err(|e| Failure::failed(e.to_string()))?,
        _ => format!("{}\n", serde_json::to_string_pretty(value).map_err(|e| Failure::failed(e.to_string()))?),
    };
    print(&text)
}

/// Prints data. A reader that goes away, as `head` does, is no failure.
pub(crate) fn print(text: &str) -> Result {
    match stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Lines of labels and values.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let line = |(label, value): &(&str, String)| {
        format!("{label:<width$}  {}\n", value.trim_end().replace('\n', &format!("\n{:w$}  ", "", w = width)))
    };
    facts.iter().filter(|(_, value)| !value.is_empty()).map(line).collect()
}

/// Columns, as wide as their widest cell.
pub(crate) fn table(rows: Vec<Vec<String>>) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |n: usize| rows.iter().map(|r| r[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// One cell. What ends in `_at` under a heading of time is told as an age.
fn cell(heading: &str, value: Option<&Value>) -> String {
    match (heading, value) {
        ("AGE" | "SINCE" | "SEEN" | "USED", Some(Value::Number(at))) => ago(at.as_i64().unwrap_or_default()),
        ("EXPIRES" | "DEADLINE" | "TIME" | "STARTS" | "ENDS" | "JOINED", Some(Value::Number(at))) => {
            when(at.as_i64().unwrap_or_default())
        }
        (_, value) => text(value),
    }
}

/// A value as plain text, on one line.
pub(crate) fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.replace('\n', " "),
        Some(Value::Object(map)) if map.values().all(Value::is_string) => {
            map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}

/// How long ago a moment was, in its largest unit.
pub(crate) fn ago(at: i64) -> String {
    age(jiff::Timestamp::now().as_millisecond() - at)
}

/// A span of milliseconds in its largest unit.
pub(crate) fn age(ms: i64) -> String {
    match ms / 1000 {
        i64::MIN..=0 => "0s".into(),
        s @ 1..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// A moment, UTC.
pub(crate) fn when(at: i64) -> String {
    let Ok(moment) = jiff::Timestamp::from_millisecond(at) else { return at.to_string() };
    moment.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Red on a terminal that wants colour.
pub(crate) fn red(text: &str) -> String {
    colour("31;1", text)
}

/// Green on a terminal that wants colour.
pub(crate) fn green(text: &str) -> String {
    colour("32", text)
}

fn colour(code: &str, text: &str) -> String {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && stderr().is_terminal();
    if wanted { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
}

/// A line of progress on standard error: rewritten on a terminal, said once per change elsewhere.
pub(crate) struct Progress {
    last: String,
    is_terminal: bool,
}

impl Progress {
    /// No line yet.
    pub fn new() -> Self {
        Self { last: String::new(), is_terminal: stderr().is_terminal() }
    }

    /// Shows a line. `volatile` is shown on a terminal alone.
    pub fn show(&mut self, line: &str, volatile: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[K{line} {volatile}");
            let _ = stderr().flush();
        } else if line != self.last {
            eprintln!("{line}");
        }
        self.last = line.into();
    }

    /// Leaves the line as it is and goes to the next.
    pub fn end(&mut self) {
        if self.is_terminal && !self.last.is_empty() {
            eprintln!();
        }
    }
}
