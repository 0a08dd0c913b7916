//! Use cases of networks: load → decide → write in one transaction, with what it changes for the sites concerned.

mod ask;
mod backbone;
mod composition;
mod join;
mod network;
mod push;
mod removal;
mod rotation;
mod status;

use serde::{Serialize, de::DeserializeOwned};

use super::store::{self, BackboneRow, NetworkRow, SiteRow};
use crate::{
    error::{Error, Result},
    fleet::Fleet,
    platform::{db::Conn, id},
};
pub use ask::asks;
pub use backbone::{NewAccessPoint, NewLink};
pub use composition::{Image, NewEndpoint, NewServiceLink};
pub use network::{NewInvitation, NewNetwork, times_of};
#[cfg(test)]
pub use push::load;
pub use push::site_key;
pub use removal::What;
pub use rotation::Line;
pub use status::{Standings, standings};

/// The door to networks; clones share it.
#[derive(Debug, Clone)]
pub struct Networks {
    /// The fleet that carries them.
    pub fleet: Fleet,
}

// === impl Networks: finding ===

impl Networks {
    /// A backbone by name, or the error that there is none.
    pub async fn backbone(&self, conn: &mut Conn, name: &str) -> Result<BackboneRow> {
        store::one(conn, "name", name).await?.ok_or_else(|| Error::not_found("backbone", name))
    }

    /// An interior site by name, or the error that there is none.
    pub async fn site(&self, conn: &mut Conn, backbone: &str, name: &str) -> Result<SiteRow> {
        let backbone = self.backbone(conn, backbone).await?;
        let sites: Vec<SiteRow> = store::by(conn, "backbone_id", &backbone.id).await?;
        sites.into_iter().find(|s| s.name == name).ok_or_else(|| Error::not_found("site", name))
    }

    /// An application network by name, or the error that there is none.
    pub async fn network(&self, conn: &mut Conn, name: &str) -> Result<NetworkRow> {
        store::one(conn, "name", name).await?.ok_or_else(|| Error::not_found("application network", name))
    }
}

/// A word of the model as the database spells it.
pub fn spell(word: &impl Serialize) -> String {
    // Words of the model are unit variants, which become strings.
    serde_json::to_value(word).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A word of the model from how the database spells it.
pub fn word<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(text.into())).map_err(Error::internal)
}

/// A router's name: what people call its site, with a part of its id, so that it is unique and stays.
fn router_name(name: &str, id: &str) -> String {
    let tail = &id[id.len().saturating_sub(8)..];
    format!("{name}-{}", tail.to_lowercase())
}

fn fresh(now: i64) -> String {
    id::fresh(now)
}
