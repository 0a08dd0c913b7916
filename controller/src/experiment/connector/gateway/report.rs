//! Reports of executors, as they are posted.

use axum::body::Body;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;

use crate::platform::db::clean;

/// Reports of more bytes are read beside the runtime.
const LONG: usize = 256 * 1024;

/// Longest id of an executor or experiment, bytes.
const MAX_ID: usize = 100;

/// What is thrown away because nobody is known by it.
pub const NOBODYS: &str = "it is no executor of this connector";

/// A report as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who posts it.
    pub executor: String,
    /// The pickle; empty where it was too long.
    pub results: Bytes,
    /// Nothing more is to come.
    pub is_final: bool,
    /// It was longer than may be.
    pub too_long: bool,
    /// When it came, milliseconds since the Unix epoch.
    pub at: i64,
}

#[derive(Deserialize)]
struct Post {
    executor_id: String,
    results: Option<String>,
    state: Option<i64>,
}

/// Reads a report to its end, whatever its length: who is answered before may take it for a broken connection.
pub async fn read(body: Body, limit: usize, is_beat: bool) -> std::result::Result<Report, &'static str> {
    let (mut all, mut too_long, mut stream) = (Vec::new(), false, body.into_data_stream());
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| "it was cut off")?;
        too_long |= all.len() + piece.len() > limit;
        if too_long {
            all.truncate(LONG.min(limit));
        } else {
            all.extend_from_slice(&piece);
        }
    }
    if limit == 0 {
        return Err("nobody is known by this secret");
    }
    if too_long {
        return too_long_of(&all, is_beat).ok_or("it is longer than may be, and does not say whose it is");
    }
    if all.len() < LONG {
        return report_of(&all);
    }
    tokio::task::spawn_blocking(move || report_of(&all)).await.unwrap_or(Err("it could not be read"))
}

/// What is posted, once it is read.
fn report_of(body: &[u8]) -> std::result::Result<Report, &'static str> {
    let post: Post = serde_json::from_slice(body).map_err(|_| "it is no report")?;
    let results = post.results.ok_or("it has no results")?;
    let results = BASE64_STANDARD.decode(results.trim()).map_err(|_| "its results are not base64")?;
    // Without a state it counts as the last one, as with netunicorn.
    let is_final = post.state.is_none_or(|state| state >= 2);
    let executor = known_id(&post.executor_id).ok_or(NOBODYS)?;
    Ok(Report { executor, results: results.into(), is_final, too_long: false, at: 0 })
}

/// What can be the id of something here: text of a length that may be remembered.
pub fn known_id(text: &str) -> Option<String> {
    (text.len() <= MAX_ID).then(|| clean(text))
}

/// Whose a report is of which only the begin was kept: executors write their id first.
fn too_long_of(begin: &[u8], is_beat: bool) -> Option<Report> {
    let text = String::from_utf8_lossy(begin);
    let (_, rest) = text.split_once("\"executor_id\"")?;
    let executor = rest.trim_start_matches([':', ' ']).strip_prefix('"')?.split('"').next()?;
    let executor = known_id(executor)?;
    Some(Report { executor, results: Bytes::new(), is_final: !is_beat, too_long: true, at: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_and_what_is_none_is_named() {
        let read = report_of(br#"{"executor_id":"e","results":"gAQ=","state":1,"more":true}"#).expect("a report");
        assert_eq!((read.executor.as_str(), &read.results[..], read.is_final), ("e", &b"\x80\x04"[..], false));
        assert!(report_of(br#"{"executor_id":"e","results":"gAQ="}"#).expect("a report").is_final);
        for (body, why) in [
            ("[]", "no report"),
            (r#"{"executor_id":"e"}"#, "no results"),
            (r#"{"executor_id":"e","results":"*"}"#, "base64"),
        ] {
            assert!(report_of(body.as_bytes()).expect_err("it is refused").contains(why), "{body}");
        }
        let long = too_long_of(br#"{"executor_id": "e-1", "results": "gAQAAAA"#, false).expect("it says whose it is");
        assert!(long.executor == "e-1" && long.too_long && long.is_final);
        assert_eq!(too_long_of(b"{}", false), None);
    }
}
