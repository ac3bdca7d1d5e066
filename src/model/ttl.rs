//! [`Ttl`] and [`Lifetime`]: how long a VM is kept, as an operator types it.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Error;

/// A time to live: `30m`, `2h`, `7d`, `1h30m`. A number alone could be anything, and is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(
    value_type = String,
    pattern = "^([1-9][0-9]{0,4}m|[1-9][0-9]{0,2}h([0-5]?[0-9]m)?|([1-9]|[1-9][0-9]|[12][0-9]{2}|3[0-5][0-9]|36[0-6])d)$",
    example = "2h"
)]
pub struct Ttl(SignedDuration);

impl Ttl {
    /// Less is gone before anybody has logged in.
    const MIN: SignedDuration = SignedDuration::from_mins(1);
    /// What is to live for longer than a year need not expire.
    const MAX: SignedDuration = SignedDuration::from_hours(366 * 24);

    /// The time as a duration of whole seconds.
    pub const fn duration(self) -> Duration {
        self.0.unsigned_abs()
    }
}

impl FromStr for Ttl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || {
            Error::invalid(format!("`{}` is no time to live", text.escape_debug()))
                .hint("Give 1 minute to 366 days as in 30m, 2h, 7d or 1h30m.")
        };
        let span: Span = text.parse().map_err(|_| refuse())?;
        // A day has 24 hours here, also when the clocks are changed; months are of no certain length.
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

impl TryFrom<String> for Ttl {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Ttl> for String {
    fn from(ttl: Ttl) -> Self {
        ttl.to_string()
    }
}

/// A time to live, or `never` for a VM that does not expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Lifetime {
    /// It expires after so long.
    Limited(Ttl),
    /// It does not expire.
    Unlimited,
}

impl FromStr for Lifetime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "never" => Ok(Self::Unlimited),
            text => text.parse().map(Self::Limited).map_err(|error: Error| error.hint("Or give never.")),
        }
    }
}

impl TryFrom<String> for Lifetime {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Lifetime> for String {
    fn from(lifetime: Lifetime) -> Self {
        match lifetime {
            Lifetime::Limited(ttl) => ttl.into(),
            Lifetime::Unlimited => "never".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_typed_as_people_say_them() {
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
    fn json_has_the_same_words() {
        for (json, lifetime) in
            [("\"never\"", Lifetime::Unlimited), ("\"2h\"", Lifetime::Limited("2h".parse().unwrap()))]
        {
            assert_eq!(serde_json::from_str::<Lifetime>(json).unwrap(), lifetime);
            assert_eq!(serde_json::to_string(&lifetime).unwrap(), json);
        }
        assert!(serde_json::from_str::<Ttl>("\"never\"").is_err());
    }
}
