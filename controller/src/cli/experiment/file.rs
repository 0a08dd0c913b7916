//! Experiments as files: read, with the place of each mistake.

use std::path::Path;

use crate::{
    cli::{
        Failure, Result,
        yaml::{self, Document},
    },
    experiment::spec::Spec,
    web::body,
};

/// Reads and checks a file; every mistake is told with its line and column. `name` stands in the place of the file's.
pub fn read(file: &Path, name: Option<&str>) -> Result<(String, Spec)> {
    match yaml::read(file)?.as_slice() {
        [document] => of(document, name),
        all => Err(Failure::usage(format!("{} has {} documents; an experiment is one", file.display(), all.len()))),
    }
}

/// What a document says.
pub fn of(document: &Document, name: Option<&str>) -> Result<(String, Spec)> {
    let wrong = |field: &str, text: &str| Failure::usage(format!("{}: {text}", document.place(field)));
    let mut value = document.value();
    let map = value.as_object_mut().ok_or_else(|| wrong("", "an experiment has a `name` and `deployments`"))?;
    let own = map.remove("name");
    let spec: Spec = body::from_value("", value).map_err(|error| {
        let text = error.to_string();
        wrong(text.split(": ").next().unwrap_or_default(), &text)
    })?;
    let mistakes: Vec<_> = spec.mistakes().iter().map(|m| wrong(&m.field, &m.to_string()).to_string()).collect();
    if !mistakes.is_empty() {
        return Err(Failure::usage(mistakes.join("\n")));
    }
    match (name, own.as_ref().map(|own| own.as_str())) {
        (Some(name), _) | (None, Some(Some(name))) => Ok((name.to_owned(), spec)),
        (None, Some(None)) => Err(wrong("name", "name: a text is wanted; put it in quotes")),
        (None, None) => Err(wrong("", "give the experiment a name: `name: …`, or --name")),
    }
}
