//! The stylesheet and the script of the console, in the binary. Their URLs carry a hash of their content, so they are
//! cached for good and a new release is seen at once.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use http::header;

use crate::error::Error;

/// One file.
struct Asset {
    name: String,
    kind: &'static str,
    text: &'static str,
}

static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("style", "css", "text/css; charset=utf-8", include_str!("assets/style.css")));
static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("live", "js", "text/javascript; charset=utf-8", include_str!("assets/live.js")));

impl Asset {
    fn new(stem: &str, ending: &str, kind: &'static str, text: &'static str) -> Self {
        let hash = muster_pki::hex(&muster_pki::sha256(text.as_bytes())[..8]);
        Self { name: format!("{stem}-{hash}.{ending}"), kind, text }
    }
}

/// URL of the stylesheet.
pub fn style() -> String {
    format!("/assets/{}", STYLE.name)
}

/// URL of the script, a module.
pub fn script() -> String {
    format!("/assets/{}", SCRIPT.name)
}

/// Serves `/assets/{file}`.
pub async fn serve(Path(file): Path<String>) -> Response {
    let found = [&*STYLE, &*SCRIPT].into_iter().find(|a| a.name == file);
    let Some(asset) = found else { return Error::not_found("file", file).into_response() };
    let cache = "public, max-age=31536000, immutable";
    ([(header::CONTENT_TYPE, asset.kind), (header::CACHE_CONTROL, cache)], asset.text).into_response()
}
