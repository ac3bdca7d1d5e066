//! [`Memory`] and [`DiskSize`]: sizes, as text that an operator types and as numbers.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::Error;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// A guest's memory. A bare number is MiB, as in the API that preceded vmprov.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(u64);

/// A disk's virtual size. A bare number is GiB, as in the API that preceded vmprov.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskSize(u64);

impl Memory {
    /// The default.
    pub const DEFAULT: Self = Self(2048 * MIB);
    /// The minimum. No Linux boots with less, so a smaller size probably has the wrong unit.
    const MIN: u64 = 64 * MIB;
    /// The maximum: more than any host has. The limit of QEMU's q35 is far below.
    const MAX: u64 = 16 * TIB;

    /// Returns the size in MiB.
    pub const fn mib(self) -> u64 {
        self.0 / MIB
    }
}

impl DiskSize {
    /// The default.
    pub const DEFAULT: Self = Self(20 * GIB);
    /// The minimum: a few qcow2 clusters. A smaller size is a typing error.
    const MIN: u64 = MIB;
    /// The maximum. ext4 with 4 KiB blocks ends at 16 TiB, but XFS supports more.
    const MAX: u64 = 64 * TIB;

    /// Returns the size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Default for DiskSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Reads `20`, `20G`, `20GiB` or `512 M`. Units are binary, as in QEMU. A number without a unit is in `unit`.
fn parse(text: &str, unit: u64, what: &str, min: u64, max: u64) -> Result<u64, Error> {
    let refuse = |why: String| {
        Error::invalid(format!("invalid {what} `{}`: {why}", text.escape_debug()))
            .hint("Use a whole number with K, M, G or T, such as 512M or 20G")
    };
    let trimmed = text.trim();
    let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| {
        refuse(match number {
            "" => "it must begin with a whole number".to_owned(),
            _ => "the number is too large".to_owned(),
        })
    })?;
    let suffix = suffix.trim_start().to_ascii_lowercase();
    let factor = match suffix.strip_suffix("ib").or(suffix.strip_suffix('b')).unwrap_or(&suffix) {
        "" if suffix.is_empty() => unit,
        "k" => KIB,
        "m" => MIB,
        "g" => GIB,
        "t" => TIB,
        _ => return Err(refuse(format!("unknown unit `{}`", suffix.escape_debug()))),
    };
    let bytes = number.saturating_mul(factor);
    if bytes < min {
        return Err(refuse(format!("the minimum is {}", human(min))));
    }
    if bytes > max {
        return Err(refuse(format!("the maximum is {}", human(max))));
    }
    Ok(bytes)
}

/// Returns a number of bytes in the largest unit that fits, if necessary with one decimal: `20G`, `512M`, `2.2G`.
pub fn human(bytes: u64) -> String {
    for (factor, unit) in [(TIB, 'T'), (GIB, 'G'), (MIB, 'M'), (KIB, 'K')] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
        if bytes >= factor {
            let tenths = bytes.saturating_mul(10) / factor;
            return format!("{}.{}{unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes}B")
}

impl FromStr for Memory {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // libvirt rounds to whole MiB. Rounding up here makes every report show the real size.
        parse(text, MIB, "memory size", Self::MIN, Self::MAX).map(|bytes| Self(bytes.next_multiple_of(MIB)))
    }
}

impl FromStr for DiskSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // QEMU requires whole sectors.
        parse(text, GIB, "disk size", Self::MIN, Self::MAX).map(|bytes| Self(bytes.next_multiple_of(512)))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&human(self.0))
    }
}

impl fmt::Display for DiskSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&human(self.0))
    }
}

/// A size in JSON: a number in the member's unit, or text with a unit.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a whole number or text")]
enum NumberOrText {
    Number(u64),
    Text(String),
}

/// Reads a number or a text in JSON as the command line reads it.
pub(super) fn number_or_text<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(number) => number.to_string(),
        NumberOrText::Text(text) => text,
    };
    text.parse().map_err(de::Error::custom)
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for DiskSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number_or_text(deserializer)
    }
}

impl Serialize for Memory {
    /// Writes a number of MiB.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.mib())
    }
}

impl Serialize for DiskSize {
    /// Writes a whole number of GiB if possible, otherwise exact text. The form for people is rounded.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            bytes if bytes.is_multiple_of(GIB) => serializer.serialize_u64(bytes / GIB),
            bytes if bytes.is_multiple_of(MIB) => serializer.collect_str(&format_args!("{}M", bytes / MIB)),
            // Every unit that `parse` accepts is a multiple of this one.
            bytes => serializer.collect_str(&format_args!("{}K", bytes / KIB)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_mib_of_memory_and_gib_of_disk() {
        assert_eq!("2048".parse::<Memory>().unwrap(), "2G".parse().unwrap());
        assert_eq!("20".parse::<DiskSize>().unwrap(), "20GiB".parse().unwrap());
        assert_eq!(serde_json::from_str::<Memory>("2048").unwrap().mib(), 2048);
        assert_eq!(serde_json::from_str::<DiskSize>("\"512M\"").unwrap().bytes(), 512 * MIB);
    }

    #[test]
    fn an_invalid_size_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "whole number"),
            ("-1", "whole number"),
            ("0", "minimum"),
            ("1.5G", "unknown unit"),
            ("2X", "unknown unit"),
            ("b", "whole number"),
            ("5ib", "unknown unit"),
            ("99999999999999999999999", "too large"),
            ("999999999T", "maximum"),
        ] {
            let error = text.parse::<DiskSize>().unwrap_err();
            assert!(error.message.contains(why), "{text:?}: {error}");
        }
        assert!("63".parse::<Memory>().is_err());
    }

    #[test]
    fn a_disk_size_survives_json() {
        for text in ["20G", "2000G", "1999999M", "1025K", "512M", "64T"] {
            let size: DiskSize = text.parse().unwrap();
            let json = serde_json::to_string(&size).unwrap();
            assert_eq!(serde_json::from_str::<DiskSize>(&json).unwrap(), size, "{text}: {json}");
        }
    }

    #[test]
    fn a_size_is_printed_as_it_is_typed() {
        for text in ["64M", "2G", "1T", "1536M"] {
            let memory: Memory = text.parse().unwrap();
            assert_eq!(memory, memory.to_string().replace("1.5G", "1536M").parse().unwrap());
        }
        assert_eq!(human(2_361_393_152), "2.1G");
    }
}
