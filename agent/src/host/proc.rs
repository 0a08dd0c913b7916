//! Reading `/proc`.

use std::fs;

use crate::ledger::Group;

/// One process as `/proc/<pid>/stat` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Process group.
    pub pgid: i32,
    /// Start, clock ticks since boot.
    pub started: u64,
    /// It has ended and waits to be reaped.
    pub is_zombie: bool,
}

/// Names the current boot.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// The group that a process leads.
pub fn group_of(pid: i32) -> Option<Group> {
    let stat = stat(pid)?;
    Some(Group { pgid: pid, started: stat.started, boot_id: boot_id() })
}

/// Whether a live process of this very group is left.
///
/// A number may be reused only when no process is left in the group of that number, so members without their leader
/// are still ours; a leader with another start is not.
pub fn is_alive(group: &Group) -> bool {
    if group.boot_id != boot_id() || stat(group.pgid).is_some_and(|s| s.started != group.started) {
        return false;
    }
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter_map(stat).any(|s| s.pgid == group.pgid && s.started >= group.started && !s.is_zombie)
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
}

/// The program's name stands in parentheses and may hold anything, so that counting begins after the last one.
pub fn parse(stat: &str) -> Option<Stat> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    let pgid = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(16)?.parse().ok()?;
    Some(Stat { pgid, started, is_zombie })
}
