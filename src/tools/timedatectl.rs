//! `timedatectl`: checks whether the clock is synchronized with a time server.

use std::time::Duration;

use super::{Runner, Tool};
use crate::error::{Code, Error, Result};

/// The time limit. systemd only reads the kernel's state, so it responds at once or not at all.
const LIMIT: Duration = Duration::from_secs(5);

/// Returns whether the kernel's clock is synchronized, by whatever program.
pub fn is_synchronised(runner: &Runner) -> Result<bool> {
    let tool = Tool::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).limit(LIMIT);
    let finished = tool.read(runner)?;
    let word = String::from_utf8_lossy(&finished.stdout);
    match word.trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => {
            let why = finished.stderr.lines().next().unwrap_or("timedatectl printed no error");
            Err(Error::new(Code::ToolFailed, "cannot determine whether the clock is synchronized").because(why))
        }
    }
}
