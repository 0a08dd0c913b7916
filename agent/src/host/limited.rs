//! `muster-agent exec-limited`: sets limits on itself, waits at a gate, and becomes the program named.
//!
//! Standard input is one end of a socket pair. The program is executed when a byte arrives: by then the agent has
//! recorded the process group durably, so that no process can outlive an agent that does not know it. If the agent
//! dies first, the socket ends and nothing is executed. When the program cannot be executed, the error's number is
//! written back; when it can, the socket closes by itself.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    process::Command,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};

/// What to become, under which limits.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// RLIMIT_DATA of each process, bytes
    #[arg(long)]
    data: Option<u64>,
    /// RLIMIT_FSIZE, bytes
    #[arg(long)]
    fsize: Option<u64>,
    /// Wait for a byte on standard input, which is a socket, before executing
    #[arg(long)]
    gate: bool,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// Executes the program; returns only when that is impossible.
pub fn exec(args: Args) -> io::Error {
    match prepare(&args) {
        Ok(back) => {
            let error = Command::new(&args.program[0]).args(&args.program[1..]).exec();
            if let Some(mut back) = back {
                let _ = back.write_all(&error.raw_os_error().unwrap_or(0).to_le_bytes());
            }
            error
        }
        Err(e) => e,
    }
}

fn prepare(args: &Args) -> io::Result<Option<File>> {
    limit(Resource::Data, args.data)?;
    limit(Resource::Fsize, args.fsize)?;
    if !args.gate {
        return Ok(None);
    }
    setsid()?;
    let mut gate = File::from(rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?);
    gate.read_exact(&mut [0])?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(Some(gate))
}

fn limit(resource: Resource, bytes: Option<u64>) -> io::Result<()> {
    let Some(bytes) = bytes else { return Ok(()) };
    // Raising the hard limit is not ours; lowering it is what makes the limit hold.
    let hard = getrlimit(resource).maximum.map_or(bytes, |most| most.min(bytes));
    Ok(setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) })?)
}
