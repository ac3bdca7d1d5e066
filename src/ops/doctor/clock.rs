//! The clock, which guests start with and certificates are judged by.

use std::time::{Duration, SystemTime};

use super::{context::Context, finding::Finding};
use crate::{
    error::{Code, Result},
    store::system,
    tools::timedatectl,
};

/// By how much clocks of two machines may differ without being wrong: a time zone taken for another.
const TOLERANCE: Duration = Duration::from_hours(24);

/// What sets the clock.
const SYNCHRONISE: &str = "sudo timedatectl set-ntp true";

pub(super) fn time() -> Finding {
    let now = SystemTime::now();
    let Some(installed) = system::program_installed() else {
        return Finding::skip("the date of this program cannot be read");
    };
    judge(now, installed)
}

fn judge(now: SystemTime, installed: SystemTime) -> Finding {
    let shown = |time: SystemTime| {
        let time = jiff::Timestamp::try_from(time).and_then(|time| time.round(jiff::Unit::Second));
        time.map(|time| time.to_string()).unwrap_or_default()
    };
    if now + TOLERANCE < installed {
        let saw = format!("it is {}, and this program is of {}: the clock is behind", shown(now), shown(installed));
        return Finding::fail(Code::Conflict, saw).mend(SYNCHRONISE);
    }
    Finding::ok(format!("it is {}", shown(now)))
}

pub(super) fn synchronised(look: &Context) -> Result<Finding> {
    Ok(if timedatectl::is_synchronised(&look.host.runner)? {
        Finding::ok("the clock follows a time server")
    } else {
        Finding::warn("the clock follows no time server; guests start with its time").mend(SYNCHRONISE)
    })
}

#[cfg(test)]
mod tests {
    use super::{super::CheckStatus, *};
    use crate::error::Hint;

    #[test]
    fn a_clock_that_is_behind_the_program_is_wrong() {
        let installed = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 50);
        for (now, status) in [
            (installed + TOLERANCE, CheckStatus::Ok),
            (installed - TOLERANCE, CheckStatus::Ok),
            (installed - 2 * TOLERANCE, CheckStatus::Fail),
            (SystemTime::UNIX_EPOCH, CheckStatus::Fail),
        ] {
            assert_eq!(judge(now, installed).status, status);
        }
        let hint = judge(SystemTime::UNIX_EPOCH, installed).as_hint().unwrap();
        let says = "it is 1970-01-01T00:00:00Z, and this program is of 2019-12-20T00:00:00Z: the clock is behind";
        assert_eq!(hint, Hint::run(says, "sudo timedatectl set-ntp true"));
    }
}
