//! What people type for names, moments and spans.

use super::{
    super::{Failure, Result, client::Client},
    path, word,
};

/// Two names in one word, as in `shop/front`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair(pub String, pub String);

/// An interior site, as in `europe/paris`; its backbone may be left out where one backbone alone has such a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SiteName {
    backbone: Option<String>,
    site: String,
}

/// An access point, as in `europe/paris/members`, or `paris/members`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PointName(pub SiteName, pub String);

/// The end of something; none: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End(pub Option<i64>);

/// Where members hang on the backbone: site, access point, priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hang(pub String, pub String, pub i64);

/// A name, perhaps with a port: `web`, `web:8080`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port(pub String, pub Option<i64>);

// === impl SiteName ===

impl SiteName {
    /// Backbone and site, looked for where the backbone was not said.
    pub fn resolve(&self, client: &Client) -> Result<(String, String)> {
        if let Some(backbone) = &self.backbone {
            return Ok((backbone.clone(), self.site.clone()));
        }
        let mut found = Vec::new();
        for backbone in client.all(&path(&["backbones"]))? {
            let name = word(&backbone, "name");
            let sites = client.all(&path(&["backbones", name, "sites"]))?;
            if sites.iter().any(|s| s["name"] == self.site.as_str()) {
                found.push(name.to_owned());
            }
        }
        let site = &self.site;
        match found.as_slice() {
            [backbone] => Ok((backbone.clone(), site.clone())),
            [] => Err(Failure::new(
                Failure::NOT_FOUND,
                format!("no backbone has a site {site:?}; see `muster network backbone list`"),
            )),
            several => {
                let names: Vec<_> = several.iter().map(|b| format!("{b}/{site}")).collect();
                Err(Failure::usage(format!("several backbones have a site {site:?}; say one of {}", names.join(", "))))
            }
        }
    }
}

/// `NETWORK/NAME`.
pub(super) fn pair(text: &str) -> Result<Pair, String> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [one, other] if !one.is_empty() && !other.is_empty() => Ok(Pair(one.into(), other.into())),
        _ => Err("it takes two names with a / between them, as in shop/front".into()),
    }
}

/// `BACKBONE/SITE`, or `SITE`.
pub(super) fn site(text: &str) -> Result<SiteName, String> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [site] if !site.is_empty() => Ok(SiteName { backbone: None, site: site.into() }),
        [backbone, site] if !backbone.is_empty() && !site.is_empty() => {
            Ok(SiteName { backbone: Some(backbone.into()), site: site.into() })
        }
        _ => Err("it takes a backbone and a site, as in europe/paris".into()),
    }
}

/// `BACKBONE/SITE/NAME`, or `SITE/NAME`.
pub(super) fn point(text: &str) -> Result<PointName, String> {
    let wrong = || "it takes a backbone, a site and a name, as in europe/paris/members".to_owned();
    let (before, name) = text.rsplit_once('/').filter(|(_, name)| !name.is_empty()).ok_or_else(wrong)?;
    site(before).map(|site| PointName(site, name.into())).map_err(|_| wrong())
}

/// `SITE/ACCESS-POINT`, or `SITE/ACCESS-POINT=PRIORITY`.
pub(super) fn hang(text: &str) -> Result<Hang, String> {
    let wrong =
        || "it takes a site and its access point for members, as in paris/members or paris/members=2".to_owned();
    let (at, priority) = text.split_once('=').unwrap_or((text, "1"));
    let Pair(site, point) = pair(at).map_err(|_| wrong())?;
    Ok(Hang(site, point, priority.parse().map_err(|_| wrong())?))
}

/// `NAME`, or `NAME:PORT`.
pub(super) fn port(text: &str) -> Result<Port, String> {
    let Some((name, port)) = text.split_once(':') else { return Ok(Port(text.into(), None)) };
    let port = port.parse().map_err(|_| format!("{port:?} is no port; it takes NAME or NAME:PORT, as in web:8080"))?;
    Ok(Port(name.into(), Some(port)))
}

/// A moment: `now`, a time from now as `+7d`, a day as `2026-12-01` (UTC) or a time as `2026-12-01T08:00:00Z`.
pub(super) fn moment(text: &str) -> Result<i64, String> {
    let now = jiff::Timestamp::now().as_millisecond();
    if let Some(later) = text.strip_prefix('+') {
        return span(later).map(|span| now + span);
    }
    if text == "now" {
        return Ok(now);
    }
    let day = |day: jiff::civil::Date| day.to_zoned(jiff::tz::TimeZone::UTC).map(|at| at.timestamp());
    let at = text.parse::<jiff::Timestamp>().or_else(|_| text.parse().and_then(day));
    at.map(|at| at.as_millisecond()).map_err(|_| {
        format!("{text:?} is no time; say now, a time from now as +7d, a day as 2026-12-01, or 2026-12-01T08:00:00Z")
    })
}

/// A moment, or `never`.
pub(super) fn end(text: &str) -> Result<End, String> {
    if text == "never" { Ok(End(None)) } else { moment(text).map(|at| End(Some(at))) }
}

/// A span as `90s`, `15m`, `36h`, `7d` or `2w`, in milliseconds.
pub(super) fn span(text: &str) -> Result<i64, String> {
    let unit = |unit: &str| {
        [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)].into_iter().find(|u| u.0 == unit)
    };
    let (count, letter) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let ms = count.parse::<i64>().ok().zip(unit(letter)).and_then(|(n, (_, s))| n.checked_mul(s * 1000));
    ms.filter(|ms| *ms < 1 << 48)
        .ok_or_else(|| format!("{text:?} is no span of time; say it as 90s, 15m, 36h, 7d or 2w"))
}
