//! [`Change`]: the request to change an existing VM.

use std::{fmt, str::FromStr};

use clap::{ArgAction, Args};
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use utoipa::ToSchema;

use super::{
    size::{DiskSize, Memory},
    vm::{check_vcpus, parse_vcpus},
};
use crate::error::{Error, Hint};

/// The changes to make to a VM
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Change {
    /// VM, by name or UUID
    #[schema(min_length = 1, max_length = 255)]
    pub vm: String,

    /// Memory; a number alone is MiB. Increases are hot-plugged up to the boot-time maximum; decreases apply at the
    /// next start
    #[arg(long, value_name = "SIZE")]
    #[serde(default)]
    pub memory: Option<Memory>,

    /// Virtual CPUs. Increases are hot-plugged up to the boot-time maximum; decreases apply at the next start
    #[arg(long, value_name = "N", value_parser = parse_vcpus)]
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4_294_967_295_u32)]
    pub vcpus: Option<u32>,

    /// Disk size, which can only grow; a number alone is GiB. cloud-init grows the guest's file system at the next boot
    #[arg(long, value_name = "SIZE")]
    #[serde(default)]
    pub disk_size: Option<DiskSize>,

    /// Whether the VM starts with the host
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    #[serde(default)]
    pub autostart: Option<bool>,

    /// Description, which libvirt stores; an empty one removes it
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    #[serde(default)]
    pub description: Option<Description>,
}

impl Change {
    /// Refuses a request without changes and invalid values, whichever front end it came from.
    pub fn check(&self) -> Result<(), Error> {
        let is_empty = self.memory.is_none()
            && self.vcpus.is_none()
            && self.disk_size.is_none()
            && self.autostart.is_none()
            && self.description.is_none();
        if is_empty {
            const CHANGES: &[&str] = &["memory", "vcpus", "diskSize", "autostart", "description"];
            return Err(Error::invalid("no changes requested").hint(Hint::set_any("Request a change", CHANGES)));
        }
        self.vcpus.map(check_vcpus).transpose().map(drop)
    }
}

/// A VM's description. The domain's XML must be able to contain it, so line breaks and tabs are its only control
/// characters.
#[derive(Debug, Clone, PartialEq, Eq, SerializeDisplay, DeserializeFromStr, ToSchema)]
#[schema(max_length = 4096, pattern = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]
pub struct Description(String);

impl Description {
    /// The maximum length in bytes: a few screens.
    const MAX: usize = 4096;

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Description {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| Err(Error::invalid("invalid description").because(why));
        // XML cannot contain the last two, either.
        let is_text = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
        if let Some(c) = text.chars().find(|&c| !is_text(c) && !matches!(c, '\n' | '\t')) {
            return refuse(format!("it contains `{}`", c.escape_debug()));
        }
        if text.len() > Self::MAX {
            return refuse(format!("it has {} bytes; the maximum is {}", text.len(), Self::MAX));
        }
        Ok(Self(text.trim().to_owned()))
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_every_member_and_allows_nulls() {
        let all: Change = serde_json::from_str(
            r#"{"vm": "web", "memory": "2G", "vcpus": 3, "diskSize": 30, "autostart": false, "description": "a\nb"}"#,
        )
        .unwrap();
        all.check().unwrap();
        let nulls =
            r#"{"vm": "web", "memory": null, "vcpus": null, "diskSize": null, "autostart": null, "description": null}"#;
        assert!(serde_json::from_str::<Change>(nulls).unwrap().check().is_err());
        assert!(serde_json::from_str::<Change>(r#"{"vm": "web", "name": "x"}"#).is_err());
    }

    #[test]
    fn text_that_xml_cannot_contain_is_refused() {
        for text in ["a\0b", "\u{1b}[31m", "a\rb", "\u{fffe}", &"x".repeat(4097)] {
            assert!(text.parse::<Description>().is_err(), "{text:?}");
        }
        assert_eq!(" it's a <b> & \"c\"\n☃ \n".parse::<Description>().unwrap().as_str(), "it's a <b> & \"c\"\n☃");
        assert_eq!("".parse::<Description>().unwrap().as_str(), "");
    }
}
