//! Checks whether a program is installed and reads its version.

use super::{Runner, Tool};
use crate::error::{Code, Result};

/// The path at which libvirtd finds it. Only root has its folder in `PATH`.
const DNSMASQ: &str = "/usr/sbin/dnsmasq";

/// Returns the version that a program prints, or an empty string if it prints none. Fails if it is not installed.
pub fn of(runner: &Runner, program: &'static str) -> Result<String> {
    let flag = match program {
        "ssh" => "-V",
        "isoinfo" => "-version",
        _ => "--version",
    };
    let call = |program| Tool::new(program).args([flag]).read(runner);
    let finished = match call(program) {
        Err(error) if error.code == Code::ToolMissing && program == "dnsmasq" => call(DNSMASQ).map_err(|_| error)?,
        result => result?,
    };
    // ssh prints its version on standard error.
    let text = String::from_utf8_lossy(&finished.stdout) + finished.stderr.as_str();
    Ok(number(&text).to_owned())
}

/// Returns the first word with a digit on the first line.
fn number(text: &str) -> &str {
    let words = text.lines().next().unwrap_or_default().split_whitespace();
    let mut words = words.map(|word| word.trim_matches([',', '(', ')']));
    words.find(|word| word.bytes().any(|byte| byte.is_ascii_digit())).unwrap_or_default()
}

/// Returns whether a version is older than another. A version that cannot be parsed counts as not older.
pub fn is_older(version: &str, least: [u32; 2]) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => [major, minor] < least,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_the_output_of_each_program() {
        for (text, version) in [
            ("11.3.0\n", "11.3.0"),
            ("qemu-img version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) 2003\n", "10.0.2"),
            ("genisoimage 1.1.11 (Linux)\n", "1.1.11"),
            ("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026\n", "OpenSSH_9.2p1"),
            ("Dnsmasq version 2.90  Copyright (c) 2000-2024 Simon Kelley\n", "2.90"),
            ("passt unknown version\nCopyright 2020\n", ""),
            ("", ""),
        ] {
            assert_eq!(number(text), version);
        }
    }

    #[test]
    fn versions_are_compared_numerically() {
        for (version, older) in
            [("6.9.0", true), ("6.10.0", false), ("11.3.0", false), ("6", false), ("", false), ("5.99", true)]
        {
            assert_eq!(is_older(version, [6, 10]), older, "{version}");
        }
    }
}
