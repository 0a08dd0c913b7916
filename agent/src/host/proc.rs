//! Reading `/proc`.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process_group},
};

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
    // A group that the kernel does not know at all need not be looked for.
    if Pid::from_raw(group.pgid).is_some_and(|pid| test_kill_process_group(pid) == Err(Errno::SRCH)) {
        return false;
    }
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter_map(stat).any(|s| s.pgid == group.pgid && s.started >= group.started && !s.is_zombie)
}

/// The groups whose leaders work in a folder or below it.
pub fn groups_in(folder: &Path) -> Vec<Group> {
    let pids =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let works_there =
        |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|works_in| works_in.starts_with(folder));
    let leads = |group: &Group| stat(group.pgid).is_some_and(|stat| stat.pgid == group.pgid && !stat.is_zombie);
    pids.filter(works_there).filter_map(group_of).filter(leads).collect()
}

/// Where a process accepts TCP connections.
pub fn listens_on(pid: i32) -> BTreeSet<SocketAddr> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    let inodes: BTreeSet<String> =
        targets.filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let tables = ["tcp", "tcp6"].iter().filter_map(|name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).ok());
    let all: Vec<_> = tables.flat_map(|table| table.lines().filter_map(parse_listener).collect::<Vec<_>>()).collect();
    all.into_iter().filter(|(_, inode)| inodes.contains(inode)).map(|(address, _)| address).collect()
}

/// Address and inode of a line of `/proc/net/tcp` or `tcp6` that stands for a listening socket.
pub fn parse_listener(line: &str) -> Option<(SocketAddr, String)> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    // Each group of four bytes stands in the byte order of the machine.
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        u32::from_str_radix(word, 16).ok().map(u32::to_ne_bytes)
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::from(Ipv4Addr::from(four)),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).to_canonical(),
    };
    (*fields.get(3)? == LISTEN).then_some(())?;
    Some((SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?), (*fields.get(9)?).to_owned()))
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
