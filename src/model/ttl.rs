//! [`Ttl`] and [`Lifetime`]: the lifetime of a VM, as an operator types it.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use utoipa::ToSchema;

use crate::error::Error;

/// A time to live: `30m`, `2h`, `7d`, `1h30m`. A number alone is refused, because its unit is unclear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, SerializeDisplay, DeserializeFromStr, ToSchema)]
#[schema(
    value_type = String,
    pattern = "^([1-9][0-9]{0,4}m|[1-9][0-9]{0,2}h([0-5]?[0-9]m)?|([1-9]|[1-9][0-9]|[12][0-9]{2}|3[0-5][0-9]|36[0-6])d)$",
    example = "2h"
)]
pub struct Ttl(SignedDuration);

impl Ttl {
    /// The minimum. A VM with less would expire before its first login.
    const MIN: SignedDuration = SignedDuration::from_mins(1);
    /// The maximum. A VM that is kept for more than a year does not need to expire.
    const MAX: SignedDuration = SignedDuration::from_hours(366 * 24);

    /// Returns the time as a duration of whole seconds.
    pub const fn duration(self) -> Duration {
        self.0.unsigned_abs()
    }
}

impl FromStr for Ttl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || {
            Error::invalid(format!("invalid time to live `{}`", text.escape_debug()))
                .hint("Use 1 minute to 366 days, such as 30m, 2h, 7d or 1h30m")
        };
        let span: Span = text.parse().map_err(|_| refuse())?;
        // A day always has 24 hours here, even when the clocks change. Months have no fixed length and are refused.
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| refuse())?;
        let duration = SignedDuration::from_secs(duration.as_secs());
        if (Self::MIN..=Self::MAX).contains(&duration) { Ok(Self(duration)) } else { Err(refuse()) }
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// A time to live, or `never` for a VM that does not expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub enum Lifetime {
    /// It expires after this time.
    Limited(Ttl),
    /// It does not expire.
    Unlimited,
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited(ttl) => ttl.fmt(f),
            Self::Unlimited => f.write_str("never"),
        }
    }
}

impl FromStr for Lifetime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "never" => Ok(Self::Unlimited),
            text => text.parse().map(Self::Limited).map_err(|error: Error| error.hint("Use never for no expiry")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_has_units() {
        for (text, seconds) in
            [("1m", 60), ("30m", 1800), ("2h", 7200), ("7d", 604_800), ("1h30m", 5400), ("366d", 31_622_400)]
        {
            let ttl: Ttl = text.parse().unwrap();
            assert_eq!(ttl.duration().as_secs(), seconds, "{text}");
            assert_eq!(ttl.to_string().parse::<Ttl>().unwrap(), ttl, "{text}");
        }
        for text in
            ["", "90", "59s", "0m", "-2h", "2h ago", "367d", "1mo", "1y", "x", "5 parsecs", "never", "999999999d"]
        {
            assert!(text.parse::<Ttl>().is_err(), "{text}");
        }
    }

    #[test]
    fn json_has_the_same_forms() {
        for (json, lifetime) in
            [("\"never\"", Lifetime::Unlimited), ("\"2h\"", Lifetime::Limited("2h".parse().unwrap()))]
        {
            assert_eq!(serde_json::from_str::<Lifetime>(json).unwrap(), lifetime);
            assert_eq!(serde_json::to_string(&lifetime).unwrap(), json);
        }
        assert!(serde_json::from_str::<Ttl>("\"never\"").is_err());
    }
}
