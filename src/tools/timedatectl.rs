//! `timedatectl`: whether the clock follows a time server's.

use std::time::Duration;

use super::{Runner, Tool};
use crate::error::{Code, Error, Result};

/// systemd's answer is one of the kernel's; where nobody answers it is not waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// Whether the kernel's clock is synchronised, whoever does it.
pub fn is_synchronised(runner: &Runner) -> Result<bool> {
    let tool = Tool::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).limit(LIMIT);
    let finished = tool.read(runner)?;
    let word = String::from_utf8_lossy(&finished.stdout);
    match word.trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => {
            let why = finished.stderr.lines().next().unwrap_or("timedatectl said nothing");
            Err(Error::new(Code::ToolFailed, "nobody tells whether the clock is synchronised").because(why))
        }
    }
}
