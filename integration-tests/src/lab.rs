//! A lab: a house with hosts for experiments, and researchers who use netunicorn's own client.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    processes::{Processes, wait},
    site::{Site, told},
};

/// The Python with netunicorn in it, for tests.
const PYTHON: &str = "MUSTER_TEST_PYTHON";

const PASSWORD: &str = "correct horse battery";

/// Agents of class `experiment-node` as programs, and their home. Tasks write their traces into [`Lab::traces`].
pub struct Lab {
    // Nodes end before the folder in which they lie goes.
    /// Its nodes.
    pub nodes: Vec<Site>,
    /// Its home.
    pub house: Processes,
    /// The Python with netunicorn in it.
    pub python: PathBuf,
}

/// A researcher's script under way.
pub struct Script {
    name: String,
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    errors: PathBuf,
}

// === impl Lab ===

impl Lab {
    /// A home with the users `ada` and `bob`, and nodes `node-1` and so on that are online. None, and a loud line, where
    /// there is no Python with netunicorn; one that is named and does not work fails the test.
    pub fn open(nodes: usize) -> Option<Self> {
        let Some(python) = std::env::var_os(PYTHON).map(PathBuf::from) else {
            eprintln!("======== {PYTHON} names no Python with netunicorn: its REAL CLIENT is NOT tried ========");
            return None;
        };
        let imports = "import netunicorn.client.remote, netunicorn.executor, netunicorn.library";
        let imported = Command::new(&python).args(["-c", imports]).status();
        assert!(imported.is_ok_and(|status| status.success()), "{PYTHON}={} lacks netunicorn", python.display());
        let mut house = Processes::new();
        house.certificate_seconds = 3600;
        // Far from UTC: what is silent for how long has nothing to do with where home stands.
        house.env.push(("TZ", "Asia/Shanghai".into()));
        house.start_controller(None);
        fs::create_dir(house.path("traces")).expect("a folder");
        let mut lab = Self { nodes: Vec::new(), house, python };
        for user in ["ada", "bob"] {
            lab.done("POST", "/api/v1/users", &json!({"name": user, "role": "operator", "password": PASSWORD}));
        }
        (1..=nodes).for_each(|n| lab.join(&format!("node-{n}"), &json!({}), ""));
        lab.are_online();
        Some(lab)
    }

    /// Lets a node join and starts its agent; `settings` stand before those of its experiments.
    pub fn join(&mut self, name: &str, labels: &Value, settings: &str) {
        self.join_as(name, labels, settings, "");
    }

    /// The same with further settings of its experiments.
    pub fn join_as(&mut self, name: &str, labels: &Value, settings: &str, experiments: &str) {
        let settings = format!(
            "reconnect_seconds = 5\n{settings}\n[experiment]\npython = {}\n{experiments}\n",
            json!(self.python)
        );
        let mut node = Site::with(&self.house, name, &settings);
        let said = node.enroll(&self.house, &self.house.invite_as("experiment-node", labels), None);
        assert!(said.status.success(), "{name}: {}", told(&said));
        self.done("PATCH", &format!("/api/v1/agents/{}", node.id()), &json!({"name": name}));
        node.start(&self.house, None);
        self.nodes.push(node);
    }

    /// The Python with netunicorn in it.
    pub fn python(&self) -> &Path {
        &self.python
    }

    /// Waits until every node can be used.
    pub fn are_online(&self) {
        wait(&format!("every node is online\n{}", self.house.logs()), || {
            let (_, nodes) = self.house.call("GET", "/api/v1/experiment/nodes", None)?;
            let is_ready = |node: &&Value| {
                node["online"] == true && node["environments"].as_array().is_some_and(|e| !e.is_empty())
            };
            let ready = nodes.as_array()?.iter().filter(is_ready).count();
            (ready == self.nodes.len()).then_some(())
        });
    }

    /// One of its nodes.
    pub fn node(&mut self, name: &str) -> &mut Site {
        self.nodes.iter_mut().find(|node| node.name == name).expect("it is a node")
    }

    /// Starts a node's agent.
    pub fn start(&mut self, name: &str) {
        let at = self.nodes.iter().position(|node| node.name == name).expect("it is a node");
        self.nodes[at].start(&self.house, None);
    }

    /// Executors that run on a host: the processes in their folders, those of tasks among them.
    pub fn executors_on(&self, name: &str) -> usize {
        let node = self.nodes.iter().find(|node| node.name == name).expect("it is a node");
        node.running("experiment/executors").len()
    }

    /// Executors that run anywhere.
    pub fn executors(&self) -> usize {
        self.nodes.iter().map(|node| self.executors_on(&node.name)).sum()
    }

    /// Asks the API, which must say yes.
    pub fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = wait(path, || self.house.call(method, path, Some(body)));
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    /// An experiment of ada's, as the API shows it.
    pub fn experiment(&self, name: &str) -> Value {
        self.house.ask("GET", &format!("/api/v1/experiment/experiments/{name}?owner=ada"), None)
    }

    /// Where tasks leave traces: a file a name, a line each time.
    pub fn traces(&self) -> PathBuf {
        self.house.path("traces")
    }

    /// The lines that tasks left under a name.
    pub fn trace(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.traces().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Begins a script of `tests/all/experiment` as a user.
    pub fn begin(&self, user: &str, script: &str, arguments: &[&str]) -> Script {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/all/experiment").join(script);
        let errors = self.house.path(&format!("{script}.errors"));
        let mut process = Command::new(&self.python)
            .args(["-B", "-W", "ignore"])
            .arg(path)
            .args([&format!("{}/netunicorn", self.house.url), user, PASSWORD])
            .args(arguments)
            .env("TRACES", self.traces())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&errors).expect("a file"))
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        Script { name: script.into(), process, lines, errors }
    }

    /// Runs a script of ada's to its end and gives what it printed last.
    pub fn client(&self, script: &str, arguments: &[&str]) -> Value {
        let mut script = self.begin("ada", script, arguments);
        let said = script.says(self);
        script.ends(self);
        said
    }
}

// === impl Script ===

impl Script {
    /// The next line that it prints.
    pub fn says(&mut self, lab: &Lab) -> Value {
        match self.lines.next() {
            Some(Ok(line)) => serde_json::from_str(&line).expect("a script prints JSON"),
            _ => panic!("{} says no more: {}\n{}", self.name, self.errors(), lab.house.logs()),
        }
    }

    /// Waits until it has ended, which must be well.
    pub fn ends(mut self, lab: &Lab) {
        let more: Vec<_> = self.lines.by_ref().map_while(Result::ok).collect();
        let status = self.process.wait().expect("it ends");
        assert!(status.success() && more.is_empty(), "{} {more:?}: {}\n{}", self.name, self.errors(), lab.house.logs());
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended meanwhile, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
