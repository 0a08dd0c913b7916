//! The page of invitations: who may join, and a new token, shown once.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};

use crate::{
    error::{Error, Result},
    fleet::{
        Fleet,
        api::{Invitation, InvitationState},
        model::{AgentId, Class, InvitationId},
        service::NewInvitation,
        store,
    },
    web::{
        Caller, Fields, Layout, Page, Paging,
        page::{redirect, redirect_refused, render, render_refused},
        screen::{Confirm, Secret},
        view::{Chip, Tone},
    },
};

const HOUR: i64 = 3_600_000;

#[derive(Template)]
#[template(path = "fleet/templates/invitations.html")]
struct InvitationsPage {
    layout: Layout,
    invitations: Page<Invitation>,
    fields: Fields,
}

impl Invitation {
    fn is_open(&self) -> bool {
        self.state == InvitationState::Open
    }

    fn chip(&self) -> Chip {
        match self.state {
            InvitationState::Open => Chip { word: "open", tone: Tone::Good },
            InvitationState::UsedUp => Chip { word: "used_up", tone: Tone::Quiet },
            InvitationState::Expired => Chip { word: "expired", tone: Tone::Warn },
            InvitationState::Revoked => Chip { word: "revoked", tone: Tone::Bad },
        }
    }
}

pub(super) async fn invitations(State(fleet): State<Fleet>, layout: Layout, paging: Paging) -> Result<Response> {
    let fields = Fields::filled([("max_uses", "1".into()), ("hours", "24".into())]);
    render(&invitations_page(&fleet, layout, &paging, fields).await?)
}

async fn invitations_page(fleet: &Fleet, layout: Layout, paging: &Paging, fields: Fields) -> Result<InvitationsPage> {
    let found = fleet.list_invitations(&paging.after, paging.rows()).await?;
    let invitations = paging.page(found, |i| i.id.clone());
    Ok(InvitationsPage { layout: layout.title("Invitations"), invitations, fields })
}

pub(super) async fn invite(
    State(fleet): State<Fleet>,
    caller: Caller,
    layout: Layout,
    paging: Paging,
    mut fields: Fields,
) -> Result<Response> {
    let made = async {
        let new = NewInvitation {
            name: fields.text("name").into(),
            class: Class::parse(fields.text("class"))?,
            labels: fields.pairs("labels")?,
            max_uses: fields.number("max_uses")?,
            life: fields.number("hours")?.saturating_mul(HOUR),
            for_agent: Some(fields.text("for_agent")).filter(|id| !id.is_empty()).map(|id| AgentId(id.into())),
        };
        fleet.invite(&caller.actor, &new).await.map_err(|error| match error {
            Error::Invalid { field, message } if field == "expires_in_seconds" => Error::invalid("hours", message),
            Error::NotFound { what: "agent", name } => {
                Error::invalid("for_agent", format!("there is no agent {name:?}"))
            }
            other => other,
        })
    };
    match made.await {
        Ok((row, token)) => render(&Secret {
            layout: layout.title(format!("Invitation {}", row.name)),
            label: "Token",
            text: "This token is shown this once. It lets a host join; keep it as you would a password.".into(),
            commands: vec![
                ("On the host that is to join", format!("muster-agent enroll <<'TOKEN'\n{token}\nTOKEN")),
                ("Then", "muster-agent run".into()),
            ],
            secret: token,
            back: "/invitations",
        }),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&invitations_page(&fleet, layout, &paging, fields).await?)
        }
    }
}

pub(super) async fn ask_revoke(State(fleet): State<Fleet>, layout: Layout, Path(id): Path<String>) -> Result<Response> {
    revoke_screen(&fleet, layout, &InvitationId(id)).await?.render()
}

async fn revoke_screen(fleet: &Fleet, layout: Layout, id: &InvitationId) -> Result<Confirm> {
    let row = store::fetch_invitation(&mut *fleet.db.read().await?, id).await?;
    let row = row.ok_or_else(|| Error::not_found("invitation", &id.0))?;
    let question = format!("Nobody else can join by {}. Those who joined by it stay.", row.name);
    Ok(Confirm::new(layout.title("Revoke the invitation?"), question, "Revoke invitation", "/invitations"))
}

pub(super) async fn revoke(State(fleet): State<Fleet>, caller: Caller, Path(id): Path<String>) -> Result<Response> {
    match fleet.revoke_invitation(&caller.actor, &InvitationId(id)).await {
        Ok(()) => Ok(redirect("/invitations", "The invitation is revoked.")),
        Err(error) => redirect_refused("/invitations", error),
    }
}
