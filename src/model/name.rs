//! [`Name`]: the name of a VM or a key.

use std::{fmt, str::FromStr};

use serde_with::{DeserializeFromStr, SerializeDisplay};
use utoipa::ToSchema;

use crate::error::Error;

/// A DNS label (RFC 1123): lower-case letters, digits and hyphens, at most 63, a letter or digit at both ends.
///
/// After parsing it is safe in every use of a name: domain, volume, file, host name, URL segment, argument.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr, ToSchema)]
#[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", example = "web")]
pub struct Name(String);

/// The longest DNS label (RFC 1035, section 2.3.4).
const MAX_LEN: usize = 63;

impl Name {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reads a prefix of names.
pub fn prefix(text: &str) -> Result<String, Error> {
    if text.is_empty() || format!("{text}x").parse::<Name>().is_err() {
        return Err(Error::invalid(format!("invalid name prefix `{}`", text.escape_debug()))
            .hint("Use lower-case letters, digits and hyphens, as in agent-"));
    }
    Ok(text.to_owned())
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Err(Error::invalid(format!("invalid name `{}`: {why}", text.escape_debug()))
                .hint("Use 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends"))
        };
        let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > MAX_LEN {
            return refuse(&format!("it has {} bytes; the maximum is {MAX_LEN}", text.len()));
        }
        if let Some(c) = text.chars().find(|&c| !is_alphanumeric(c) && c != '-') {
            return refuse(&format!("it contains `{}`", c.escape_debug()));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return refuse("it begins or ends with a hyphen");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_label_is_a_name() {
        for text in ["a", "0", "web", "web-1", "0a", &"a".repeat(63)] {
            assert_eq!(text.parse::<Name>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn any_other_text_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "empty"),
            ("-web", "hyphen"),
            ("web-", "hyphen"),
            ("Web", "`W`"),
            ("a/b", "`/`"),
            ("..", "`.`"),
            ("a'b", "`\\'`"),
            ("a\nb", "`\\n`"),
            ("<x>", "`<`"),
            ("wéb", "`é`"),
            (&"a".repeat(64), "64 bytes"),
        ] {
            let error = text.parse::<Name>().unwrap_err();
            assert!(error.message.contains(why), "{text:?}: {error}");
            assert_eq!(error.code, crate::error::Code::InvalidInput);
        }
    }
}
