//! The operator's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster_controller::cli::main()
}
