//! The clock, from which guests take their time and by which certificates are verified.

use std::time::{Duration, SystemTime};

use super::{context::Context, finding::Finding};
use crate::{
    error::{Code, Result},
    store::system,
    tools::timedatectl,
};

/// How much the clocks of two machines may differ without being wrong, because of a confused time zone for example.
const TOLERANCE: Duration = Duration::from_hours(24);

/// The command that synchronizes the clock.
const SYNCHRONISE: &str = "sudo timedatectl set-ntp true";

pub(super) fn time() -> Finding {
    let now = SystemTime::now();
    let Some(installed) = system::program_installed() else {
        return Finding::skip("cannot read when this program was installed");
    };
    judge(now, installed)
}

fn judge(now: SystemTime, installed: SystemTime) -> Finding {
    let shown = |time: SystemTime| {
        let time = jiff::Timestamp::try_from(time).and_then(|time| time.round(jiff::Unit::Second));
        time.map(|time| time.to_string()).unwrap_or_default()
    };
    if now + TOLERANCE < installed {
        let (now, installed) = (shown(now), shown(installed));
        let observed = format!("the clock is behind: it shows {now}, but this program was installed at {installed}");
        return Finding::fail(Code::Conflict, observed).fix(SYNCHRONISE);
    }
    Finding::ok(format!("the clock shows {}", shown(now)))
}

pub(super) fn synchronised(context: &Context) -> Result<Finding> {
    Ok(if timedatectl::is_synchronised(&context.host.runner)? {
        Finding::ok("the clock is synchronized with a time server")
    } else {
        Finding::warn("the clock is not synchronized with a time server; guests take its time").fix(SYNCHRONISE)
    })
}

#[cfg(test)]
mod tests {
    use super::{super::CheckStatus, *};
    use crate::error::Hint;

    #[test]
    fn a_clock_behind_the_installation_date_fails() {
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
        let text = "the clock is behind: it shows 1970-01-01T00:00:00Z, \
                    but this program was installed at 2019-12-20T00:00:00Z";
        assert_eq!(hint, Hint::run(text, "sudo timedatectl set-ntp true"));
    }
}
