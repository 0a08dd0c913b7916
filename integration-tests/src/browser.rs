//! A real headless Chromium, driven over its DevTools protocol, by mouse.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket, stream::MaybeTlsStream};

use crate::processes::wait;

/// One browser with one page.
pub struct Browser {
    process: Child,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    session: String,
    sent: u64,
    width: u32,
    shots: PathBuf,
    _profile: TempDir,
}

impl Browser {
    /// Starts Chromium with an empty profile. Screenshots go to the folder `shots`.
    ///
    /// # Panics
    /// There is no Chromium; Debian's package is `chromium`.
    pub fn start(shots: &Path) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(shots).expect("a folder");
        let process = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--remote-debugging-port=0", "--window-size=1280,900"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Chromium starts; it is Debian's package chromium");
        let port_file = profile.path().join("DevToolsActivePort");
        let address = wait("Chromium names its port", || {
            let text = fs::read_to_string(&port_file).ok()?;
            let (port, path) = text.split_once('\n')?;
            Some(format!("ws://127.0.0.1:{port}{path}"))
        });
        let (socket, _) = tungstenite::connect(address).expect("Chromium answers");
        let mut browser = Self {
            process,
            socket,
            session: String::new(),
            sent: 0,
            width: 1280,
            shots: shots.to_owned(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        browser.call("Page.enable", json!({}));
        browser
    }

    /// One command of the protocol.
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// One command of the protocol, which may come too late for the page there was.
    fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.sent += 1;
        let mut command = json!({"id": self.sent, "method": method, "params": params});
        if !self.session.is_empty() {
            command["sessionId"] = self.session.clone().into();
        }
        self.socket.send(Message::text(command.to_string())).expect("Chromium listens");
        loop {
            let message = self.socket.read().expect("Chromium answers");
            let Ok(text) = message.to_text() else { continue };
            let answer: Value = serde_json::from_str(text).unwrap_or_default();
            if answer["id"] == self.sent {
                return if answer["error"].is_null() {
                    Ok(answer["result"].clone())
                } else {
                    Err(answer["error"].clone())
                };
            }
        }
    }

    /// Lets pages run scripts, or not. Looking at a page works either way.
    pub fn scripts(&mut self, on: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !on}));
    }

    /// As wide as a desktop or as a phone, light or dark.
    pub fn look(&mut self, width: u32, dark: bool) {
        let mobile = width < 600;
        self.width = width;
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// Goes to an address.
    pub fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
        self.loaded();
    }

    fn loaded(&mut self) {
        wait("the page is there", || (self.eval("document.readyState") == "complete").then_some(()));
    }

    /// What an expression gives, in the page's own world: also where its scripts are off. Asked again when the page gives
    /// way to another meanwhile.
    pub fn eval(&mut self, expression: &str) -> Value {
        wait(&format!("{expression} is told"), || self.try_eval(expression).ok())
    }

    fn try_eval(&mut self, expression: &str) -> Result<Value, Value> {
        let tree = self.try_call("Page.getFrameTree", json!({}))?;
        let frame = tree["frameTree"]["frame"]["id"].clone();
        let world = self.try_call("Page.createIsolatedWorld", json!({"frameId": frame, "worldName": "test"}))?;
        let asked = json!({
            "expression": expression, "contextId": world["executionContextId"], "returnByValue": true, "awaitPromise": true,
        });
        Ok(self.try_call("Runtime.evaluate", asked)?["result"]["value"].clone())
    }

    /// Whether an element is there.
    pub fn has(&mut self, selector: &str) -> bool {
        self.eval(&format!("!!document.querySelector({})", json!(selector))) == true
    }

    /// The text of an element; empty when it is not there.
    pub fn text(&mut self, selector: &str) -> String {
        let asked = format!("document.querySelector({})?.innerText ?? ''", json!(selector));
        self.eval(&asked).as_str().unwrap_or_default().to_owned()
    }

    /// Clicks the middle of an element, by mouse.
    pub fn click(&mut self, selector: &str) {
        let asked = format!(
            "(() => {{ const e = document.querySelector({}); if (!e) return null; e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        );
        let at = wait(&format!("{selector} is there"), || Some(self.eval(&asked)).filter(|at| !at.is_null()));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Drags by mouse, from the middle of an element.
    pub fn drag(&mut self, selector: &str, (dx, dy): (f64, f64)) {
        let asked = format!(
            "(() => {{ const r = document.querySelector({}).getBoundingClientRect(); \
             return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        );
        let at = self.eval(&asked);
        let [x, y] = [0, 1].map(|n| at[n].as_f64().expect("it is there"));
        for (kind, x, y) in [("mousePressed", x, y), ("mouseMoved", x + dx, y + dy), ("mouseReleased", x + dx, y + dy)]
        {
            let event = json!({"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Clicks what leads to another page, and waits until that is there.
    pub fn follow(&mut self, selector: &str) {
        self.eval("document.documentElement.dataset.left = 'yes'");
        self.click(selector);
        wait(&format!("{selector} leads to another page"), || {
            (self.eval("document.documentElement?.dataset.left ?? ''") == "").then_some(())
        });
        self.loaded();
    }

    /// Types into a field, in place of what it holds.
    pub fn fill(&mut self, selector: &str, text: &str) {
        self.click(selector);
        self.eval(&format!("document.querySelector({}).select?.()", json!(selector)));
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Waits until an element says something.
    pub fn wait_for(&mut self, selector: &str, text: &str) {
        wait(&format!("{selector} says {text:?}"), || self.text(selector).contains(text).then_some(()));
    }

    /// Loads the page again until an element says something: what a person without scripts does.
    pub fn reload_for(&mut self, selector: &str, text: &str) {
        wait(&format!("{selector} says {text:?} after a reload"), || {
            self.call("Page.reload", json!({}));
            std::thread::sleep(Duration::from_millis(100));
            self.loaded();
            self.text(selector).contains(text).then_some(())
        });
    }

    /// Whether the page is no wider than its window.
    pub fn fits(&mut self) -> bool {
        // A phone's window grows with a page that is too wide, so it is no measure.
        self.eval("document.documentElement.scrollWidth").as_u64() <= Some(self.width.into())
    }

    /// Keeps a picture of the whole page.
    pub fn shot(&mut self, name: &str) {
        let picture = self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let bytes = BASE64_STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64");
        fs::write(self.shots.join(format!("{name}.png")), bytes).expect("written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended meanwhile, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
