//! What the gateway costs, by which executors that are on no agent reach home: a connector that says yes to everything
//! brings one node, and heartbeats and flags are put through for the executor on it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use anyhow::Context;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use crate::{
    Wanted,
    http::{Client, load},
    line, ms,
    part::Part,
};

/// Bytes of a heartbeat: what a small pipeline of netunicorn's library reports.
const RESULT: usize = 5000;

/// Measures the gateway of a home.
pub fn measure(home: &Part, admin: &Client, client: &Client) -> anyhow::Result<()> {
    let (address, told) = connector()?;
    let spec = json!({"url": format!("http://{address}"), "api_key": "key"});
    admin.ask("PUT", "/api/v1/experiment/connectors/bench", Some(&spec))?;
    client.until("/api/v1/experiment/connectors", |all| all[0]["health"] == "well")?;
    let deployment = json!({
        "node": node(), "prepared": false, "executor_id": "", "error": null, "execution_graph": "gAQ=",
        "keep_alive_timeout_minutes": 10, "cleanup": true, "environment_definition_type": "ShellExecution",
        "environment_definition": {"commands": [], "runtime_context": {
            "ports_mapping": {}, "environment_variables": {}, "additional_arguments": [], "network": null}},
    });
    let path = "/netunicorn/api/v1/experiment/gateway";
    let order = json!({"deployment_map": [deployment], "deployment_context": null});
    client.ask("POST", &format!("{path}/prepare"), Some(&order))?;
    client.until(path, |told| told["status"] == 2)?;
    client.ask("POST", &format!("{path}/start"), None)?;
    let asked = client.until(path, |told| told["status"] == 3)?;
    let deployment = &asked["experiment"]["deployment_map"][0];
    let variables = &deployment["environment_definition"]["runtime_context"]["environment_variables"];
    let experiment = variables["NETUNICORN_EXPERIMENT_ID"].as_str().context("an experiment")?.to_owned();
    let executor = deployment["executor_id"].as_str().context("an executor")?.to_owned();
    let gateway = told.lock().expect("not poisoned").clone();

    let beat = json!({"executor_id": executor, "results": BASE64_STANDARD.encode([7; RESULT]), "state": 1}).to_string();
    let per_core = |method: &str, path: &str, body: &str| {
        let before = home.cpu();
        let load = load(&gateway, method, path, "", body)?;
        Ok::<_, anyhow::Error>((load.answered as f64 / (home.cpu() - before).as_secs_f64(), ms(load.median)))
    };
    let wanted = || Wanted::more((343.0, 391.0), 5000.0);
    let (rate, median) = per_core("POST", "/api/v1/executor/result", &beat)?;
    line(&format!("a heartbeat at the gateway, p50 {median:.1} ms"), rate, "requests a second and core", &wanted());
    let flag = format!("/api/v1/experiment/{experiment}/flag/go");
    client.ask("POST", &format!("{path}/flag/go"), Some(&json!({"text_value": "yes", "int_value": 1})))?;
    let (rate, median) = per_core("GET", &flag, "")?;
    line(&format!("a flag at the gateway, p50 {median:.1} ms"), rate, "requests a second and core", &wanted());
    Ok(())
}

fn node() -> Value {
    json!({"name": "bench-1", "properties": {"connector": "bench"}, "additional_properties": {}, "architecture": "linux/amd64"})
}

/// A connector's server, and where it was told that the gateway is.
fn connector() -> anyhow::Result<(String, Arc<Mutex<String>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, told) = (listener.local_addr()?.to_string(), Arc::new(Mutex::new(String::new())));
    let gateway = told.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever asked does without the answer then.
            let _ = serve(stream, &gateway);
        }
    });
    Ok((address, told))
}

fn serve(stream: TcpStream, gateway: &Mutex<String>) -> anyhow::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(said) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = said.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default();
    let answer = match path.split('/').nth(1).unwrap_or_default() {
        "initialize" => {
            let url = body["netunicorn_gateway"].as_str().unwrap_or_default();
            url.clone_into(&mut gateway.lock().expect("not poisoned"));
            json!(null)
        }
        "health" => json!({"status": "well"}),
        "nodes" => {
            json!({"node_pool_type": "CountableNodePool", "node_pool_data": [node()], "node_pool_metadata": null})
        }
        _ => {
            let yes = |it: &Value| {
                let id = it["executor_id"].as_str().unwrap_or_default();
                (id.to_owned(), json!({"result_type": "Success", "result": null}))
            };
            Value::Object(body.as_array().into_iter().flatten().map(yes).collect::<Map<_, _>>())
        }
    };
    let answer = answer.to_string();
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", answer.len());
    reader.into_inner().write_all((head + &answer).as_bytes())?;
    Ok(())
}
