//! The life of a staging, step by step, with a look at what its wrappers really did.

use std::time::Duration;

use serde_json::{Value, json};

use super::dev::{folder_of, url_of};
use crate::cli::{
    Failure, Result,
    dev::{House, get, step, wait, word},
};

/// A step may take this long.
const PATIENCE: Duration = Duration::from_secs(90);

/// Lives the life of the first staging there is: update → delete → restore → cleanup.
pub(super) fn live_a_life(house: &mut House) -> Result {
    let client = house.client()?;
    let stagings = client.all("/api/v1/staging/stagings")?;
    let first = stagings
        .first()
        .ok_or_else(|| Failure::failed("the manifest declares no staging; there is nothing to check"))?;
    let it = Life {
        path: format!("/api/v1/staging/projects/{}/stagings/{}", word(first, "project"), word(first, "name")),
        staging: first.clone(),
    };
    it.must_be(house, "Running")?;
    it.must_serve(house, word(&first["settings"], "tag"))?;
    step("created: it is Running and serves its tag");

    let visits = it.visits(house)?;
    let _: Value = client.patch(&it.path, &json!({"tag": "v2"}), None)?;
    it.must_be(house, "Running")?;
    it.must_serve(house, "v2")?;
    step("updated: it serves the new tag");

    let _: Value = client.post(&format!("{}/delete", it.path), &json!({}))?;
    it.must_be(house, "Archived")?;
    let url = url_of(house, &it.staging);
    if url.is_some_and(|url| get(&url).is_ok()) {
        return Err(Failure::failed("it is Archived, and still answers"));
    }
    step("archived: it answers no more");

    let _: Value = client.post(&format!("{}/restore", it.path), &json!({}))?;
    it.must_be(house, "Running")?;
    it.must_serve(house, "v2")?;
    if it.visits(house)? < visits {
        return Err(Failure::failed("it was restored without its data"));
    }
    step("restored: it serves again, with its last settings and its data");

    let _: Value = client.post(&format!("{}/delete", it.path), &json!({}))?;
    it.must_be(house, "Archived")?;
    let folder = folder_of(house, &it.staging);
    let _: Value = client.post(&format!("{}/cleanup", it.path), &json!({}))?;
    wait(PATIENCE, "it is gone", || {
        house.must_live()?;
        Ok(client.get::<Value>(&it.path).err().map(drop))
    })?;
    if folder.is_some_and(|folder| folder.exists()) {
        return Err(Failure::failed("it was cleaned up, and its data is still there"));
    }
    step("cleaned up: nothing is left of it");
    Ok(())
}

struct Life {
    path: String,
    staging: Value,
}

impl Life {
    fn must_be(&self, house: &mut House, status: &str) -> Result {
        let client = house.client()?;
        let mut last = String::new();
        let found = wait(PATIENCE, &format!("it is {status}"), || {
            house.must_live()?;
            let view: Value = client.get(&self.path)?;
            last = format!("{}: {}", word(&view, "status"), word(&view, "status_why"));
            Ok((view["pending"].is_null() && word(&view, "status") == status).then_some(()))
        });
        found.map_err(|failure| Failure::failed(format!("{failure}; it is {last}")))
    }

    fn must_serve(&self, house: &House, tag: &str) -> Result {
        let url = url_of(house, &self.staging).ok_or_else(|| Failure::failed("its wrapper left no port"))?;
        let status: Value = serde_json::from_str(&get(&format!("{url}status.json"))?)
            .map_err(|e| Failure::failed(format!("{url}status.json is no JSON: {e}")))?;
        if word(&status, "tag") == tag {
            return Ok(());
        }
        Err(Failure::failed(format!("{url} serves the tag {:?}, not {tag:?}", word(&status, "tag"))))
    }

    /// Visits its pages so far: kept on its disk.
    fn visits(&self, house: &House) -> Result<i64> {
        let url = url_of(house, &self.staging).ok_or_else(|| Failure::failed("its wrapper left no port"))?;
        get(&url)?;
        let status: Value = serde_json::from_str(&get(&format!("{url}status.json"))?).unwrap_or_default();
        status["visits"].as_i64().ok_or_else(|| Failure::failed(format!("{url}status.json counts no visits")))
    }
}
