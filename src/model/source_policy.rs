//! [`SourcePolicy`]: the sources of images and installers that a request may name.

use core::net::Ipv6Addr;
use std::{fmt, str::FromStr};

use camino::Utf8PathBuf;
use serde_with::{DeserializeFromStr, SerializeDisplay};
use url::{Host, Url};

use super::address::may_be_public;
use crate::error::{Code, Error, Hint};

/// The sources of images and installers that a request may name. Images of the catalogue and of the pool are always
/// allowed, because the operator chooses those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SourcePolicy {
    /// Any source, for a caller who has the rights of this process anyway.
    #[default]
    Any,
    /// Public hosts, and what the operator adds.
    Limited(Limits),
}

/// The sources that are allowed in addition to public `https` URLs, and which of those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Hosts that are allowed even if they are private or have no TLS.
    pub hosts: Vec<HostPattern>,
    /// Folders of this host, as absolute paths, in which files are allowed.
    pub folders: Vec<Utf8PathBuf>,
    /// If given, the only hosts that a request may name. A private host must be in `hosts`, too. The target of a
    /// redirect must satisfy the other limits, but need not be in this list: publishers often redirect to mirrors.
    pub only: Option<Vec<HostPattern>>,
}

impl Limits {
    /// Returns whether the operator allows a URL's host even if it is private or has no TLS.
    pub fn allow(&self, url: &Url) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(url))
    }

    /// Refuses a URL that is not allowed, as far as the URL alone shows it.
    pub fn check(&self, url: &Url) -> Result<(), Error> {
        if let Some(only) = &self.only
            && !only.iter().any(|pattern| pattern.matches(url))
        {
            let listed: Vec<_> = only.iter().map(ToString::to_string).collect();
            let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
            return Err(Error::new(Code::Forbidden, format!("cannot fetch `{url}`"))
                .because(format!("its host is not one of the allowed hosts ({listed})"))
                .hint(Hint::call_any("Choose a published image", "image_search"))
                .hint("Ask the operator to allow the host"));
        }
        if self.allow(url) {
            return Ok(());
        }
        if url.scheme() != "https" {
            return Err(without_tls(url));
        }
        if url.host().as_ref().is_some_and(may_be_public) { Ok(()) } else { Err(not_public(url)) }
    }
}

/// Returns the error for a URL without TLS.
pub fn without_tls(url: &Url) -> Error {
    refusal(url, "images can only be fetched over https")
}

/// Returns the error for a URL whose host has an address that is not public. It does not reveal the address, or whether
/// a server responds there.
pub fn not_public(url: &Url) -> Error {
    refusal(url, &format!("the address of `{}` is not public", url.host_str().unwrap_or_default()))
}

fn refusal(url: &Url, why: &str) -> Error {
    let host = url.host_str().unwrap_or_default();
    Error::new(Code::Forbidden, format!("cannot fetch `{url}`"))
        .because(why)
        .hint(Hint::call_any("Choose a published image", "image_search"))
        .hint(Hint::run("Ask the operator to allow the host", format!("vmprov serve --allow-image-host {host}")))
}

/// A pattern of hosts: a host name, `*.` followed by a domain, or an IP address. With `:` and a port, it matches only
/// that port.
#[derive(Debug, Clone, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub struct HostPattern {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    One(Host),
    /// All subdomains of this domain.
    Below(String),
}

impl HostPattern {
    /// Returns whether it matches a URL's host.
    pub fn matches(&self, url: &Url) -> bool {
        let fits = match (&self.hosts, url.host()) {
            (Hosts::One(Host::Domain(name)), Some(Host::Domain(host))) => without_root_dot(host) == name,
            (Hosts::One(Host::Ipv4(address)), Some(Host::Ipv4(host))) => host == *address,
            (Hosts::One(Host::Ipv6(address)), Some(Host::Ipv6(host))) => host == *address,
            (Hosts::Below(domain), Some(Host::Domain(host))) => {
                let subdomain = without_root_dot(host).strip_suffix(domain.as_str());
                subdomain.and_then(|rest| rest.strip_suffix('.')).is_some_and(|subdomain| !subdomain.is_empty())
            }
            _ => false,
        };
        fits && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

/// Returns a name without the trailing dot of the DNS root.
fn without_root_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

impl Hosts {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (domain, has_wildcard) = text.strip_prefix("*.").map_or((text, false), |domain| (domain, true));
        match Host::parse(domain) {
            _ if domain.contains(['*', '%']) => Err("`*` is only allowed before the first dot, and `%` nowhere"),
            Ok(Host::Domain(name)) if has_wildcard => Ok(Self::Below(without_root_dot(&name).to_owned())),
            Ok(_) if has_wildcard => Err("an IP address has no subdomains"),
            Ok(Host::Domain(name)) => Ok(Self::One(Host::Domain(without_root_dot(&name).to_owned()))),
            Ok(address) => Ok(Self::One(address)),
            Err(_) => Err("it is neither a host name nor an IP address"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Error::invalid(format!("invalid host pattern `{}`: {why}", text.escape_debug())).hint(
                "Use a host name, *.DOMAIN or an IP address, optionally with a port: mirror.example:8080, \
                 *.example.org, 10.0.0.7, [fd00::7]:8080",
            )
        };
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self { hosts: Hosts::One(Host::Ipv6(address)), port: None });
        }
        // A colon before the closing bracket belongs to the address.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port =
            port.map(|port| port.parse().ok().filter(|port| *port != 0).ok_or_else(|| refuse("its port is invalid")));
        Ok(Self { hosts: Hosts::parse(host).map_err(refuse)?, port: port.transpose()? })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::One(host) => write!(f, "{host}")?,
            Hosts::Below(domain) => write!(f, "*.{domain}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<HostPattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_pattern_matches_its_hosts_and_no_similar_ones() {
        for (pattern, yes, no) in [
            ("m.example", "http://M.example./x", "https://a.m.example/x"),
            ("m.example", "https://m.example:8443/x", "https://m.example.evil/x"),
            ("m.example:8080", "http://m.example:8080/x", "http://m.example/x"),
            ("m.example:443", "https://m.example/x", "http://m.example/x"),
            ("*.example.org", "https://a.b.example.org/x", "https://example.org/x"),
            ("*.example.org", "https://a.example.org/x", "https://notexample.org/x"),
            ("*.example.org", "https://a.example.org./x", "https://.example.org/x"),
            ("*.example.org:81", "http://a.example.org:81/x", "http://a.example.org:82/x"),
            ("10.0.0.7", "http://10.0.0.7/x", "http://10.0.0.8/x"),
            ("127.0.0.1", "http://0x7f.1/x", "http://localhost/x"),
            ("127.0.0.1", "http://2130706433/x", "http://[::ffff:127.0.0.1]/x"),
            ("fd00::7", "http://[fd00:0::7]:99/x", "http://[fd00::8]/x"),
            ("[fd00::7]:99", "http://[fd00::7]:99/x", "http://[fd00::7]/x"),
        ] {
            let [parsed] = &patterns(&[pattern])[..] else { panic!() };
            assert!(parsed.matches(&Url::parse(yes).unwrap()), "{pattern} {yes}");
            assert!(!parsed.matches(&Url::parse(no).unwrap()), "{pattern} {no}");
        }
    }

    #[test]
    fn a_pattern_is_written_as_it_is_read() {
        for (text, written) in [
            ("M.Example.", "m.example"),
            ("*.Example.org:81", "*.example.org:81"),
            ("127.1", "127.0.0.1"),
            ("FD00::7", "[fd00::7]"),
            ("[fd00::7]", "[fd00::7]"),
            ("[fd00::7]:99", "[fd00::7]:99"),
        ] {
            let pattern = text.parse::<HostPattern>().unwrap();
            assert_eq!(pattern.to_string(), written);
            assert_eq!(written.parse::<HostPattern>().unwrap(), pattern);
        }
    }

    #[test]
    fn an_invalid_pattern_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "a.*.b",
            "*.10.0.0.1",
            "*.[::1]",
            "http://a",
            "a/b",
            "a:",
            "a:0",
            "a:65536",
            "a:b",
            "[::1",
            "a b",
            "user@a",
            "%61",
        ] {
            let error = text.parse::<HostPattern>().unwrap_err();
            assert_eq!((error.code, error.hints.len()), (Code::InvalidInput, 1), "{text}");
        }
    }

    #[test]
    fn a_url_is_allowed_or_refused_with_a_hint_how_to_allow_it() {
        let limits = Limits { hosts: patterns(&["10.0.0.7", "m.lan"]), ..Limits::default() };
        for url in ["https://example.org/x", "https://1.1.1.1/x", "http://10.0.0.7/x", "http://m.lan:81/x"] {
            limits.check(&Url::parse(url).unwrap()).unwrap();
        }
        for (url, host, why) in [
            ("http://example.org/x", "example.org", "only be fetched over https"),
            ("https://10.0.0.8/x", "10.0.0.8", "not public"),
            ("https://localhost/x", "localhost", "not public"),
            ("https://[::1]/x", "[::1]", "not public"),
            ("https://0x7f.1/x", "127.0.0.1", "not public"),
        ] {
            let error = limits.check(&Url::parse(url).unwrap()).unwrap_err();
            assert_eq!(error.code, Code::Forbidden);
            assert!(error.cause.as_ref().unwrap().contains(why), "{url}");
            assert!(error.command().unwrap().ends_with(&format!("--allow-image-host {host}")), "{url}");
        }
    }

    #[test]
    fn a_list_of_hosts_restricts_and_never_allows() {
        let (hosts, only) = (patterns(&["m.lan", "n.lan"]), patterns(&["m.lan", "*.example.org", "10.0.0.7"]));
        let limits = Limits { hosts, only: Some(only), ..Limits::default() };
        let check = |url: &str| limits.check(&Url::parse(url).unwrap());
        check("http://m.lan/x").unwrap();
        check("https://a.example.org/x").unwrap();
        for url in ["http://n.lan/x", "https://example.net/x", "http://a.example.org/x", "https://10.0.0.7/x"] {
            assert_eq!(check(url).unwrap_err().code, Code::Forbidden, "{url}");
        }
        let nothing = Limits { only: Some(Vec::new()), ..Limits::default() };
        let error = nothing.check(&Url::parse("https://example.org/x").unwrap()).unwrap_err();
        assert_eq!(error.cause.unwrap(), "its host is not one of the allowed hosts (none)");
    }
}
