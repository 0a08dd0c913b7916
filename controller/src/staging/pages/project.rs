//! The pages of projects: the list, and the form that makes or changes one.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};

use crate::{
    error::{Error, Result},
    staging::{api::Project, form, model::ProjectSpec, service::Staging, store},
    web::{
        Caller, Fields, Layout, Page, Paging,
        page::{redirect, render, render_refused},
        screen::Confirm,
    },
};

#[derive(Template)]
#[template(path = "staging/templates/projects.html")]
struct ProjectsPage {
    layout: Layout,
    projects: Page<Project>,
}

#[derive(Template)]
#[template(path = "staging/templates/project.html")]
struct ProjectPage {
    layout: Layout,
    /// None when it is being made.
    project: Option<Project>,
    fields: Fields,
}

pub(super) async fn projects(State(staging): State<Staging>, layout: Layout, paging: Paging) -> Result<Response> {
    let rows = store::projects(&mut *staging.fleet.db.read().await?, &paging.after, paging.rows()).await?;
    let projects = paging.page(rows, |p| p.name.clone()).try_map(Project::try_from)?;
    render(&ProjectsPage { layout: layout.title("Projects"), projects })
}

pub(super) async fn new_project(layout: Layout) -> Result<Response> {
    let spec: ProjectSpec = serde_json::from_value(serde_json::json!({
        "base_domain": "", "namespace": "", "wrappers": "",
    }))
    .map_err(Error::internal)?;
    render(&ProjectPage { layout: layout.title("New project"), project: None, fields: form::of_project("", &spec) })
}

pub(super) async fn create_project(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    mut fields: Fields,
) -> Result<Response> {
    let made = async { staging.create_project(&caller.actor, fields.text("name"), &form::project(&fields)?).await };
    match made.await {
        Ok(_) => Ok(redirect(&format!("/staging/projects/{}", fields.text("name")), "The project is made.")),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&ProjectPage { layout: layout.title("New project"), project: None, fields })
        }
    }
}

async fn find_project(staging: &Staging, name: &str) -> Result<Project> {
    staging.project(&mut *staging.fleet.db.read().await?, name).await?.try_into()
}

pub(super) async fn project(
    State(staging): State<Staging>,
    layout: Layout,
    Path(name): Path<String>,
) -> Result<Response> {
    let project = find_project(&staging, &name).await?;
    let fields = form::of_project(&name, &project.spec);
    render(&ProjectPage { layout: layout.title(name), project: Some(project), fields })
}

pub(super) async fn save_project(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    mut fields: Fields,
) -> Result<Response> {
    let project = find_project(&staging, &name).await?;
    let saved = async {
        let version = Some(fields.number("version")?);
        staging.save_project(&caller.actor, &name, &form::project(&fields)?, version).await
    };
    match saved.await {
        Ok(_) => Ok(redirect(&format!("/staging/projects/{name}"), "Saved.")),
        Err(error) => {
            fields.refuse(error)?;
            render_refused(&ProjectPage { layout: layout.title(name), project: Some(project), fields })
        }
    }
}

fn remove_project_screen(layout: Layout, name: &str) -> Confirm {
    let question = format!("The project {name} is removed. It must have no stagings.");
    Confirm::new(layout.title("Remove the project?"), question, "Remove project", format!("/staging/projects/{name}"))
}

pub(super) async fn ask_remove_project(
    State(staging): State<Staging>,
    layout: Layout,
    Path(name): Path<String>,
) -> Result<Response> {
    find_project(&staging, &name).await?;
    remove_project_screen(layout, &name).render()
}

pub(super) async fn remove_project(
    State(staging): State<Staging>,
    caller: Caller,
    layout: Layout,
    Path(name): Path<String>,
    fields: Fields,
) -> Result<Response> {
    match staging.remove_project(&caller.actor, &name).await {
        Ok(()) => Ok(redirect("/staging/projects", format!("The project {name} is removed."))),
        Err(error) => remove_project_screen(layout, &name).refused(fields, error),
    }
}
