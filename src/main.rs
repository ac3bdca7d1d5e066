//! The `vmprov` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmprov::cli::main()
}
