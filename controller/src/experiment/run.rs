//! Runs of a native pipeline's tasks, as people see them and as netunicorn's clients read them. Pure.

use muster_pki::hex;
use muster_proto::experiment as proto;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::platform::db::clean;

/// One try of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskRun {
    /// The task.
    pub task: String,
    /// Counts repeats of its part of the pipeline, from 0.
    pub cycle: u32,
    /// Counts tries, from 1; 0 when it never began.
    pub attempt: u32,
    /// Where it stands.
    pub state: TaskState,
    /// The node's clock, milliseconds since the Unix epoch; 0 when it never began.
    pub started_at: i64,
    /// The node's clock, milliseconds since the Unix epoch; 0 while it runs.
    pub ended_at: i64,
    /// Exit code, where it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal, where one ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What it gave as its result.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Why it failed or was skipped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Files it left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}

/// Where a try stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It runs.
    Running,
    /// It exited with 0.
    Succeeded,
    /// It did not.
    Failed,
    /// It was never begun.
    Skipped,
    /// It ran into its limit of time.
    TimedOut,
    /// The pipeline was ended.
    Cancelled,
}

/// A file that a task left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// Its path below the task's folder.
    pub path: String,
    /// SHA-256, hexadecimal.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

impl TaskRun {
    /// A run as a node tells it.
    pub fn of(run: &proto::TaskRun) -> Self {
        let state = match run.state() {
            proto::task_run::State::Unspecified | proto::task_run::State::Running => TaskState::Running,
            proto::task_run::State::Succeeded => TaskState::Succeeded,
            proto::task_run::State::Failed => TaskState::Failed,
            proto::task_run::State::Skipped => TaskState::Skipped,
            proto::task_run::State::TimedOut => TaskState::TimedOut,
            proto::task_run::State::Cancelled => TaskState::Cancelled,
        };
        let artifact = |artifact: &proto::Artifact| {
            let content = artifact.content.clone().unwrap_or_default();
            let digest = if content.blob.is_empty() {
                muster_pki::sha256(&content.inline).to_vec()
            } else {
                content.blob.to_vec()
            };
            Artifact { path: clean(&artifact.path), digest: hex(&digest), size: content.size }
        };
        Self {
            task: clean(&run.task),
            cycle: run.cycle,
            attempt: run.attempt,
            state,
            started_at: run.started_ms,
            ended_at: run.ended_ms,
            exit_code: run.exit_code,
            signal: run.signal,
            value: clean(&run.value),
            message: clean(&run.message),
            artifacts: run.artifacts.iter().map(artifact).collect(),
        }
    }
}
