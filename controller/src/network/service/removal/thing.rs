//! What can go: each thing with its name for people, its place in the order, and the event of its going. Pure.

use super::super::{
    super::store::{
        AccessPointRow, AttachmentRow, BackboneRow, EndpointRow, ImageRow, LinkRow, NetworkRow, OfferedRow, PortRow,
        RequiredRow, ServiceLinkRow, ServiceRow, SiteRow,
    },
    backbone::site_subject,
    network::subject,
};

/// One of the things that go.
#[derive(Debug, Clone)]
pub(super) enum Thing {
    Backbone(BackboneRow),
    Network(NetworkRow),
    Site {
        backbone: String,
        row: SiteRow,
    },
    AccessPoint {
        backbone: String,
        site: String,
        row: AccessPointRow,
    },
    Link {
        backbone: String,
        ends: String,
        row: LinkRow,
    },
    /// What a network has of an access point: a port of its own, and the sites and invitations that hang there.
    Hold {
        network: String,
        point: String,
        site: String,
        hanging: Vec<String>,
        row: PortRow,
    },
    Service(ServiceRow),
    Image(ImageRow),
    Offer(OfferedRow),
    Requirement(RequiredRow),
    ServiceLink {
        network: String,
        row: ServiceLinkRow,
    },
    Endpoint {
        network: String,
        row: EndpointRow,
    },
    /// An endpoint's part in a service link.
    Attachment {
        of: String,
        link: String,
        endpoint: EndpointRow,
        row: AttachmentRow,
    },
}

// === impl Thing ===

impl Thing {
    /// Where it comes among the things that go: before all that may stand on it.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Backbone(_) | Self::Service(_) => 0,
            Self::Network(_) | Self::Image(_) => 1,
            Self::Site { .. } | Self::Offer(_) | Self::Requirement(_) => 2,
            Self::AccessPoint { .. } | Self::ServiceLink { .. } => 3,
            Self::Link { .. } | Self::Hold { .. } | Self::Endpoint { .. } => 4,
            Self::Attachment { .. } => 5,
        }
    }

    /// In words for people; no two things have the same.
    pub fn label(&self) -> String {
        match self {
            Self::Backbone(row) => format!("backbone {}", row.name),
            Self::Network(row) => format!("network {} with all that is under it", row.name),
            Self::Site { row, .. } => format!("site {}", row.name),
            Self::AccessPoint { site, row, .. } => format!("access point {site}/{}", row.name),
            Self::Link { ends, row, .. } => format!("link {ends} of cost {} ({})", row.cost, row.id),
            Self::Hold { network, point, hanging, .. } if hanging.is_empty() => {
                format!("the place of network {network} at {point}")
            }
            Self::Hold { network, point, hanging, .. } => {
                format!("the place of network {network} at {point}, for {}", hanging.join(", "))
            }
            Self::Service(row) => format!("service {}", row.name),
            Self::Image(row) => format!("image {}", row.name),
            Self::Offer(row) => format!("that image {} offers {}", row.image, row.service),
            Self::Requirement(row) => format!("that image {} requires {}", row.image, row.service),
            Self::ServiceLink { network, row } => format!("service link {network}/{}", row.name),
            Self::Endpoint { network, row } => format!("{} {network}/{}", row.kind, row.name),
            Self::Attachment { of, link, .. } => format!("the part of {of} in service link {link}"),
        }
    }

    /// The event of its removal; parts of other things have none.
    pub fn event(&self) -> Option<(&'static str, String)> {
        Some(match self {
            Self::Backbone(row) => ("backbone.removed", format!("network/backbone/{}", row.name)),
            Self::Site { backbone, row } => ("site.removed", site_subject(backbone, &row.name)),
            Self::AccessPoint { backbone, site, row } => {
                ("access_point.removed", format!("{}/access-point/{}", site_subject(backbone, site), row.name))
            }
            Self::Link { backbone, row, .. } => {
                ("link.removed", format!("network/backbone/{backbone}/link/{}", row.id))
            }
            Self::Service(row) => ("service.removed", format!("network/service/{}", row.name)),
            Self::Image(row) => ("image.removed", format!("network/image/{}", row.name)),
            Self::ServiceLink { network, row } => {
                ("service_link.removed", format!("{}/service-link/{}", subject(network), row.name))
            }
            Self::Endpoint { network, row } => {
                ("endpoint.removed", format!("{}/endpoint/{}", subject(network), row.name))
            }
            // A network's own removal says so.
            Self::Network(_) | Self::Hold { .. } | Self::Offer(_) | Self::Requirement(_) | Self::Attachment { .. } => {
                return None;
            }
        })
    }
}
