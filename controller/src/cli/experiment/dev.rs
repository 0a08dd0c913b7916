//! Experiments in a house on one machine, run by its nodes.

mod check;

use super::{EXPERIMENTS, experiments, nodes};
use crate::{
    cli::{
        Form, Result,
        dev::{House, Tenant},
        output,
    },
    fleet::model::Class,
};

/// What this domain brings. Its nodes need no settings, and nothing runs before somebody asks for it.
pub(in crate::cli) const TENANT: Tenant = Tenant {
    name: "experiment",
    classes: &[Class::ExperimentNode],
    agent_config: |_, _| Ok(None),
    settle: |_| Ok(()),
    show,
    check: check::run_and_cancel,
    example: "experiment nodes",
};

fn show(house: &House) -> Result {
    let client = house.client()?;
    nodes(Form::Table, &client)?;
    let all = client.all(EXPERIMENTS)?;
    if all.is_empty() {
        return Ok(());
    }
    output::print("\n")?;
    experiments(Form::Table, all)
}
