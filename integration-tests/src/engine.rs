//! An engine of containers that really runs them, for hosts with stores of their own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::lab::Lab;

/// What runs containers, for tests; it takes the arguments of podman.
const ENGINE: &str = "MUSTER_TEST_ENGINE";

/// A host's engine: it has no image but those that it makes or is given.
pub struct Engine {
    /// What its agent is to call.
    pub program: PathBuf,
}

// === impl Engine ===

impl Engine {
    /// The engine of a host in a lab. None, and a loud line, where there is none; one that is named and does not work
    /// fails the test.
    pub fn of(lab: &Lab, host: &str) -> Option<Self> {
        let Some(real) = std::env::var_os(ENGINE).map(PathBuf::from) else {
            eprintln!("======== {ENGINE} names no engine: images are NOT built and run by a REAL ONE ========");
            return None;
        };
        let folder = lab.house.path(&format!("{host}-engine"));
        fs::create_dir(&folder).expect("a folder");
        let program = folder.join("podman");
        let (images, state) = (folder.join("images"), folder.join("state"));
        let text = format!(
            "#!/bin/sh\nexec {} --root {} --runroot {} \"$@\"\n",
            real.display(),
            images.display(),
            state.display()
        );
        fs::write(&program, text).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
        let engine = Self { program };
        engine.says(&["info"]);
        Some(engine)
    }

    /// Makes an image under the name of Python's own, without a registry: a shell, the lab's Python, and package managers
    /// that do nothing.
    pub fn make_base(&self, lab: &Lab) {
        let folder = lab.house.path("base");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/all/experiment/base.py");
        let made = Command::new(&lab.python).args(["-B"]).arg(script).arg(&folder).status().expect("it runs");
        assert!(made.success(), "the folder of an image is not made");
        let (file, folder) = (folder.join("Containerfile").display().to_string(), folder.display().to_string());
        self.says(&["build", "--quiet", "-t", "docker.io/library/python:3.11-slim", "-f", &file, &folder]);
    }

    /// What it prints when it is called with these arguments, which must end well.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = Command::new(&self.program).args(arguments).output().expect("it runs");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}{}", said(&output.stdout), said(&output.stderr));
        said(&output.stdout)
    }
}
