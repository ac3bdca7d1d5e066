//! `vmprov doctor`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{output::Output, progress::Terminal};
use crate::{
    error::Result,
    ops::{
        Host,
        doctor::{self, CHECKS, Check, DoctorOptions},
    },
};

#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    options: DoctorOptions,

    /// List the checks and exit
    #[arg(long, conflicts_with_all = ["checks", "fix"])]
    list: bool,
}

/// All checks.
#[derive(Debug, Serialize)]
pub(super) struct Checks {
    pub(super) checks: &'static [Check],
}

/// Runs the checks. The first failure determines the exit status.
pub(super) fn run(host: &Host, args: &Doctor, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    if args.list {
        output.show(&Checks { checks: CHECKS })?;
        return Ok(ExitCode::SUCCESS);
    }
    let diagnosis = doctor::examine(host, &args.options)?;
    terminal.finish();
    output.show(&diagnosis)?;
    Ok(diagnosis.code().map_or(ExitCode::SUCCESS, |code| ExitCode::from(code.exit_status())))
}
