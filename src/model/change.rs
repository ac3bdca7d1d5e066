//! [`Change`]: what is to become of a VM that exists.

use std::{fmt, str::FromStr};

use clap::{ArgAction, Args};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    size::{DiskSize, Memory},
    vm::{check_vcpus, parse_vcpus},
};
use crate::error::Error;

/// Describes what to change of a VM
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Change {
    /// VM, by name or UUID
    #[schema(min_length = 1, max_length = 255)]
    pub vm: String,

    /// Memory; a number alone is MiB. A running VM gets it at once, up to what it was started with at most
    #[arg(long, value_name = "SIZE")]
    #[serde(default)]
    pub memory: Option<Memory>,

    /// Virtual CPUs. A running VM is given more at once, up to what it was started with at most; less at its next start
    #[arg(long, value_name = "N", value_parser = parse_vcpus)]
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4_294_967_295_u32)]
    pub vcpus: Option<u32>,

    /// Disk size, which only grows; a number alone is GiB. The guest's file system follows at its next boot, where
    /// cloud-init grows it
    #[arg(long, value_name = "SIZE")]
    #[serde(default)]
    pub disk_size: Option<DiskSize>,

    /// Whether the VM starts whenever the host starts
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    #[serde(default)]
    pub autostart: Option<bool>,

    /// What the VM is for, in libvirt's own description of it; an empty one removes it
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    #[serde(default)]
    pub description: Option<Description>,
}

impl Change {
    /// Refuses what changes nothing or cannot be had, whichever way it came in.
    pub fn check(&self) -> Result<(), Error> {
        let is_empty = self.memory.is_none()
            && self.vcpus.is_none()
            && self.disk_size.is_none()
            && self.autostart.is_none()
            && self.description.is_none();
        if is_empty {
            return Err(Error::invalid("nothing is said of what to change")
                .hint("Give at least one of --memory, --vcpus, --disk-size, --autostart and --description."));
        }
        self.vcpus.map(check_vcpus).transpose().map(drop)
    }
}

/// Text that can stand in a domain's XML: lines without control characters, of a length that is still a description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(max_length = 4096, pattern = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]
pub struct Description(String);

impl Description {
    /// The most bytes: a few screens.
    const MAX: usize = 4096;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Description {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| Err(Error::invalid("this cannot be a VM's description").because(why));
        // XML has no place for the last two, either.
        let is_text = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
        if let Some(c) = text.chars().find(|&c| !is_text(c) && !matches!(c, '\n' | '\t')) {
            return refuse(format!("it contains `{}`", c.escape_debug()));
        }
        if text.len() > Self::MAX {
            return refuse(format!("it has {} bytes, {} are allowed", text.len(), Self::MAX));
        }
        Ok(Self(text.trim().to_owned()))
    }
}

impl TryFrom<String> for Description {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Description> for String {
    fn from(description: Description) -> Self {
        description.0
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
    fn json_has_what_the_command_line_has() {
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
    fn what_xml_has_no_place_for_is_refused() {
        for text in ["a\0b", "\u{1b}[31m", "a\rb", "\u{fffe}", &"x".repeat(4097)] {
            assert!(text.parse::<Description>().is_err(), "{text:?}");
        }
        assert_eq!(" it's a <b> & \"c\"\n☃ \n".parse::<Description>().unwrap().as_str(), "it's a <b> & \"c\"\n☃");
        assert_eq!("".parse::<Description>().unwrap().as_str(), "");
    }
}
