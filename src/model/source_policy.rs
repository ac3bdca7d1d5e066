//! [`Sources`]: what a request may name as an image or as an installer.

use core::net::Ipv6Addr;
use std::{fmt, str::FromStr};

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::address::may_be_public;
use crate::error::{Code, Error, Hint};

/// What a request may name as an image or as an installer. Names of the catalogue and of images in the pool always may
/// be named: where those lead is the operator's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SourcePolicy {
    /// Anything: whoever asks has the rights of this process anyway.
    #[default]
    Any,
    /// What is public, and what the operator adds.
    Limited(Limits),
}

/// What may be named beside public `https` URLs, and which of those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Hosts that are allowed although they are private, or have no TLS.
    pub hosts: Vec<HostPattern>,
    /// Folders of this machine, by absolute paths, below which files may be named.
    pub folders: Vec<Utf8PathBuf>,
    /// Where given, the only hosts that may be named at all. One that is private must be among `hosts`, too. Where such a
    /// host redirects to is held to the rest of these limits, not to this list: publishers hand out their files from
    /// elsewhere.
    pub only: Option<Vec<HostPattern>>,
}

impl Limits {
    /// Whether the operator allows a URL's host, be it private or without TLS.
    pub fn allow(&self, url: &Url) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(url))
    }

    /// Refuses a URL that may not be named, as far as it can be told from the URL alone.
    pub fn check(&self, url: &Url) -> Result<(), Error> {
        if let Some(only) = &self.only
            && !only.iter().any(|pattern| pattern.matches(url))
        {
            let listed: Vec<_> = only.iter().map(ToString::to_string).collect();
            let listed = if listed.is_empty() { "no host".to_owned() } else { listed.join(", ") };
            return Err(Error::new(Code::Forbidden, format!("cannot fetch `{url}`"))
                .because(format!("images may be named from {listed} only"))
                .hint("Give a name of `vmprov image search`, or ask the operator for the host."));
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

/// The refusal of a URL without TLS.
pub fn without_tls(url: &Url) -> Error {
    refusal(url, "images are fetched over https alone")
}

/// The refusal of a URL whose host has an address that is not public. What that is or whether anything answers there is
/// not told.
pub fn not_public(url: &Url) -> Error {
    refusal(url, &format!("the address of `{}` is not public", url.host_str().unwrap_or_default()))
}

fn refusal(url: &Url, why: &str) -> Error {
    let host = url.host_str().unwrap_or_default();
    Error::new(Code::Forbidden, format!("cannot fetch `{url}`"))
        .because(why)
        .hint(Hint::run("Ask the operator to allow the host", format!("vmprov serve --allow-image-host {host}")))
}

/// The hosts that an operator means: a name, `*.` and the domain that they are below, or an IP address; with `:` and a
/// port, that port of them only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    One(Host),
    /// All whose names end with a dot and this.
    Below(String),
}

impl HostPattern {
    /// Whether a URL's host is one of them.
    pub fn matches(&self, url: &Url) -> bool {
        let fits = match (&self.hosts, url.host()) {
            (Hosts::One(Host::Domain(name)), Some(Host::Domain(host))) => undotted(host) == name,
            (Hosts::One(Host::Ipv4(address)), Some(Host::Ipv4(host))) => host == *address,
            (Hosts::One(Host::Ipv6(address)), Some(Host::Ipv6(host))) => host == *address,
            (Hosts::Below(domain), Some(Host::Domain(host))) => {
                let before = undotted(host).strip_suffix(domain.as_str()).and_then(|rest| rest.strip_suffix('.'));
                before.is_some_and(|before| !before.is_empty())
            }
            _ => false,
        };
        fits && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

/// A name without the dot of the root.
fn undotted(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

impl Hosts {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (domain, is_below) = text.strip_prefix("*.").map_or((text, false), |domain| (domain, true));
        match Host::parse(domain) {
            _ if domain.contains(['*', '%']) => Err("a `*` may only stand for what is before the first dot"),
            Ok(Host::Domain(name)) if is_below => Ok(Self::Below(undotted(&name).to_owned())),
            Ok(_) if is_below => Err("there are no hosts below an address"),
            Ok(Host::Domain(name)) => Ok(Self::One(Host::Domain(undotted(&name).to_owned()))),
            Ok(address) => Ok(Self::One(address)),
            Err(_) => Err("it is neither a name nor an address"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Error::invalid(format!("`{}` means no host: {why}", text.escape_debug())).hint(
                "Give a name, *.DOMAIN or an address, and behind a colon a port if only that is meant: \
                 mirror.example:8080, *.example.org, 10.0.0.7, [fd00::7]:8080.",
            )
        };
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self { hosts: Hosts::One(Host::Ipv6(address)), port: None });
        }
        // A colon before the closing bracket is the address's.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port =
            port.map(|port| port.parse().ok().filter(|port| *port != 0).ok_or_else(|| refuse("its port is none")));
        Ok(Self { hosts: Hosts::parse(host).map_err(refuse)?, port: port.transpose()? })
    }
}

impl TryFrom<String> for HostPattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
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
    fn a_pattern_matches_what_it_names_and_nothing_that_looks_like_it() {
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
    fn what_means_no_host_is_refused() {
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
    fn a_url_is_public_or_allowed_or_refused_with_what_allows_it() {
        let limits = Limits { hosts: patterns(&["10.0.0.7", "m.lan"]), ..Limits::default() };
        for url in ["https://example.org/x", "https://1.1.1.1/x", "http://10.0.0.7/x", "http://m.lan:81/x"] {
            limits.check(&Url::parse(url).unwrap()).unwrap();
        }
        for (url, host, why) in [
            ("http://example.org/x", "example.org", "https alone"),
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
    fn a_list_of_hosts_takes_away_and_never_adds() {
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
        assert_eq!(error.cause.unwrap(), "images may be named from no host only");
    }
}
