//! [`Limit`]: a time limit, as an operator types it.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer};
use serde_with::SerializeDisplay;

use super::size::number_or_text;
use crate::error::Error;

/// A time limit: `90`, `90s`, `5m`, `1h30m`. A number alone is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, SerializeDisplay)]
pub struct Limit(pub Duration);

impl Limit {
    /// The default time that a guest may take to boot.
    pub const WAIT: Self = Self(Duration::from_mins(5));

    /// The maximum. A wait of more than a day is probably a mistake.
    const MAX: Duration = Duration::from_hours(24);
}

impl FromStr for Limit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || {
            Error::invalid(format!("invalid duration `{}`", text.escape_debug()))
                .hint("Use up to 24 hours, such as 90s, 5m or 1h30m; a number alone is seconds")
        };
        let seconds = text.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()));
        let friendly = || Duration::try_from(text.parse::<jiff::SignedDuration>().ok()?).ok();
        let limit = seconds.or_else(friendly).ok_or_else(refuse)?;
        if limit > Self::MAX { Err(refuse()) } else { Ok(Self(limit)) }
    }
}

impl<'de> Deserialize<'de> for Limit {
    /// Reads text or a number of seconds.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        if seconds > 0 && seconds.is_multiple_of(60) { write!(f, "{}m", seconds / 60) } else { write!(f, "{seconds}s") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_units_or_is_a_number_of_seconds() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("0", 0)] {
            assert_eq!(text.parse::<Limit>().unwrap().0.as_secs(), seconds);
        }
        for text in ["", "-5s", "x", "25h", "5 parsecs"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }
}
