//! Text in URLs.

/// A text as one piece of a URL (RFC 3986, section 2.3): a part of a path, or a value in a query.
pub fn encoded(text: &str) -> String {
    let piece = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(piece).collect()
}
