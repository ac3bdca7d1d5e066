//! [`AllowedHost`]: a host name or address by which clients may address the service.

use std::{net::IpAddr, str::FromStr};

use axum::http::uri::Authority;

use crate::error::{Error, Result};

/// A host name or an address, with any port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost(String);

impl FromStr for AllowedHost {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let host = normalize(text);
        let is_name =
            |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if host.parse::<IpAddr>().is_ok() || host.split('.').all(is_name) {
            return Ok(Self(host));
        }
        let host = text.escape_debug();
        Err(Error::invalid(format!("invalid host `{host}`: it must be a name or an address without a port"))
            .hint("Give vm.example.org, 10.0.0.5 or fd00::5, for example"))
    }
}

impl AllowedHost {
    /// Returns whether a request names this host, with any port.
    pub(super) fn matches(&self, host: &Authority) -> bool {
        self.0 == normalize(host.host())
    }
}

/// Returns the form of a host that is compared: lower case, without brackets and without a trailing dot.
fn normalize(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => host.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_the_same_host_match_and_other_hosts_do_not() {
        for (allowed, host, is_allowed) in [
            ("vm.example", "VM.Example:8092", true),
            ("VM.example.", "vm.example", true),
            ("vm.example", "vm.example.:80", true),
            ("vm.example", "vm.example.evil.org", false),
            ("vm.example", "evil.vm.example", false),
            ("10.0.0.5", "10.0.0.5:8092", true),
            ("10.0.0.5", "[::ffff:10.0.0.5]:8092", true),
            ("[FD00::5]", "[fd00:0::5]:8092", true),
            ("fd00::5", "[fd00::6]", false),
            ("10.0.0.5", "10.0.0.5.evil.org", false),
        ] {
            let allowed: AllowedHost = allowed.parse().unwrap();
            assert_eq!(allowed.matches(&host.parse().unwrap()), is_allowed, "{allowed:?} {host}");
        }
        for wrong in ["", ".", "*", "*.example", "vm.example:8092", "http://vm.example", "a b", "a..b", "[fd00::5]:80"]
        {
            assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
        }
    }
}
