//! The Python that environments are made over, and what is installed there.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::tail::Tail;
use crate::host::{self, Host, Program};

/// How long the question may take: what is slower is of no use for experiments.
const LIMIT: Duration = Duration::from_secs(30);

/// Prints what is asked of a Python. All folders of packages count: distributions have further ones than `purelib`.
const QUESTION: &str = r#"
import json, os, platform, site, sys, sysconfig
from importlib.metadata import PackageNotFoundError, version
def of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
try:
    import netunicorn.executor
    executor = of("netunicorn-executor")
except Exception:
    executor = None
found = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
paths = [path for path in dict.fromkeys(found) if os.path.isdir(path)]
print(json.dumps({"path": sys.executable, "version": platform.python_version(), "executor": executor,
                  "cloudpickle": of("cloudpickle"), "paths": paths}))
"#;

/// One Python.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Python {
    /// Its program.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
    /// Version of netunicorn's executor, if it can be imported.
    pub executor: Option<String>,
    /// Version of cloudpickle.
    pub cloudpickle: Option<String>,
    /// Where its packages lie.
    pub paths: Vec<PathBuf>,
}

// === impl Python ===

impl Python {
    /// Asks a Python about itself; `folder` is to work in. None where there is none that answers.
    pub async fn ask(host: &dyn Host, chosen: &Path, folder: &Path) -> Option<Self> {
        let path = host::find(chosen)?;
        host.executable(&path).ok()?;
        let shown = path.display().to_string();
        let program = Program {
            path,
            args: ["-I", "-c", QUESTION].map(str::to_owned).into(),
            env: Vec::new(),
            folder: folder.join("question"),
            keep_folder: false,
            limit: LIMIT,
            memory_bytes: 0,
            file_bytes: 0,
        };
        let said = Tail::new(host, None);
        let exit = host.run(program, CancellationToken::new(), &said).await;
        let text = said.text();
        // Whatever a package prints when it is imported comes before the answer.
        let answer = text.split(|byte| *byte == b'\n').rev().find_map(|line| serde_json::from_slice(line).ok());
        if answer.is_none() {
            tracing::warn!(python = shown, ?exit, said = said.last_words(), "this Python does not say what it is");
        }
        answer
    }
}
