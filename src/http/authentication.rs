//! Authentication: refuses requests that may come from a web page, and finds the client of a token.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use axum::http::{HeaderMap, StatusCode, Uri, header, uri::Authority};
use camino::Utf8PathBuf;
use url::Url;

use super::{
    Access,
    allowed_hosts::AllowedHost,
    listen::{Network, Peer},
    problem::Problem,
    tokens::Tokens,
};
use crate::{
    api,
    error::{Code, Error, Result},
    service::client::Client,
};

/// Returns whether a route needs no token. Health probes have no token, and a browser sends none to load a page. The
/// documentation contains nothing about this host.
fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/openapi.json" | "/docs") || path.starts_with("/docs/")
}

/// Authenticates requests.
pub(super) struct Authenticator {
    rules: AccessRules,
    /// The hosts that requests from the network may name; any if it is empty.
    hosts: Vec<AllowedHost>,
    /// Whether clients on the network need no token.
    allow_unauthenticated: bool,
}

/// Who has access.
enum AccessRules {
    /// Every client, with all rights.
    Open,
    /// The clients with a token of this file. The pool is the configured one, the default of each token.
    Tokens { file: Utf8PathBuf, pool: String, tokens: RwLock<Arc<Tokens>> },
}

impl Authenticator {
    /// Returns an authenticator, and reads the token file, if there is one.
    pub(super) fn new(access: Access, pool: String) -> Result<Self> {
        let Access { tokens, allow_unauthenticated, allowed_hosts } = access;
        let rules = match tokens {
            None => AccessRules::Open,
            Some(file) => {
                let tokens = RwLock::new(Arc::new(Tokens::read(&file, &pool)?));
                AccessRules::Tokens { file, pool, tokens }
            }
        };
        Ok(Self { rules, hosts: allowed_hosts, allow_unauthenticated })
    }

    /// Reads the token file again. If that fails, the old tokens stay valid.
    pub(super) fn reload(&self) {
        let AccessRules::Tokens { file, pool, tokens } = &self.rules else { return };
        match Tokens::read(file, pool) {
            Ok(new) => {
                let count = new.len();
                *tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                // Logged after the new tokens are in effect, so that readers of the log can rely on it.
                tracing::info!(tokens = count, "reloaded the tokens");
            }
            Err(error) => {
                let hint = error.hint_text(api::as_command).unwrap_or_default();
                tracing::error!(hint, "cannot reload the tokens; the old ones stay valid: {error}");
            }
        }
    }

    /// Returns the client of a request, or the refusal.
    pub(super) fn authenticate(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Arc<Client>, Problem> {
        let host = requested_host(uri, headers)?;
        if let (Some(peer), Some(host)) = (peer, &host) {
            self.require_host(peer.network, host)?;
        }
        require_own_origin(headers, host.as_ref())?;
        match &self.rules {
            AccessRules::Open if self.allow_unauthenticated && is_public(uri.path()) => {
                Ok(Arc::new(Client::unauthenticated()))
            }
            AccessRules::Open => Ok(Arc::new(Client::anonymous())),
            AccessRules::Tokens { tokens, .. } => {
                let tokens = tokens.read().unwrap_or_else(PoisonError::into_inner).clone();
                let client = bearer(headers).and_then(|token| {
                    tokens.find(token).ok_or_else(|| unauthenticated("invalid token", "invalid_token"))
                });
                if is_public(uri.path()) {
                    Ok(client.unwrap_or_else(|_| Arc::new(Client::unauthenticated())))
                } else {
                    client
                }
            }
        }
    }

    /// Refuses a host name that another party has pointed at the service's address (DNS rebinding). Only browsers can
    /// be attacked in this way. They always name a host, and cannot reach a Unix socket.
    fn require_host(&self, network: Network, host: &Authority) -> Result<(), Problem> {
        let is_allowed = self.hosts.iter().any(|allowed| allowed.matches(host));
        match network {
            Network::None => Ok(()),
            _ if is_allowed => Ok(()),
            Network::Loopback => require_loopback_host(host),
            Network::Other if self.hosts.is_empty() => Ok(()),
            Network::Other => {
                let cause = "a request from the network must name an allowed host";
                Err(foreign(host, cause, ["Use an allowed host in the URL", "Ask the operator to allow this host"]))
            }
        }
    }
}

/// Returns the bearer token of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(unauthenticated("missing or duplicate Authorization header", ""));
    };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() {
        return Ok(token.trim());
    }
    Err(unauthenticated("the Authorization header has no bearer token", "invalid_request"))
}

/// Returns the refusal of an unauthenticated request (RFC 6750, section 3).
fn unauthenticated(why: &str, error: &str) -> Problem {
    let refusal = Error::new(Code::Denied, "authentication required")
        .because(why)
        .hint("Send the header `Authorization: Bearer TOKEN` with a token from the operator");
    let challenge = if error.is_empty() {
        "Bearer realm=\"vmprov\"".to_owned()
    } else {
        format!("Bearer realm=\"vmprov\", error=\"{error}\"")
    };
    Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", refusal).header(header::WWW_AUTHENTICATE, &challenge)
}

/// Returns the host that a request names: in its target if that is a whole URL, else in the Host header (RFC 9112,
/// section 3.2).
fn requested_host(uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, Problem> {
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.clone()));
    }
    let mut given = headers.get_all(header::HOST).iter();
    let (first, second) = (given.next(), given.next());
    let invalid = || Problem::from(Error::invalid("invalid or duplicate Host header"));
    match (first, second) {
        (None, _) => Ok(None),
        (Some(host), None) if host.is_empty() => Ok(None),
        (Some(host), None) => Authority::try_from(host.as_bytes()).map(Some).map_err(|_| invalid()),
        _ => Err(invalid()),
    }
}

/// Refuses a host name that another party has pointed at the loopback address.
fn require_loopback_host(host: &Authority) -> Result<(), Problem> {
    let name = host.host();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.to_canonical().is_loopback()) {
        return Ok(());
    }
    let cause = "a request over the loopback interface must name localhost, 127.0.0.1 or [::1]";
    Err(foreign(host, cause, ["Use one of these names in the URL", "Make a proxy send one of them in the Host header"]))
}

/// Returns the refusal of a request that names another host.
fn foreign(host: &Authority, cause: &str, hints: [&str; 2]) -> Problem {
    let error = Error::new(Code::Denied, format!("host `{}` is not allowed", host.host().escape_debug()));
    let error = hints.into_iter().fold(error.because(cause), Error::hint);
    Problem::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", error)
}

/// Refuses a request from a page of another site. Browsers send the origin of the page.
fn require_own_origin(headers: &HeaderMap, host: Option<&Authority>) -> Result<(), Problem> {
    let is_own = |origin: &[u8]| {
        let origin = std::str::from_utf8(origin).ok().and_then(|text| Url::parse(text).ok());
        let (Some(origin), Some(host)) = (origin, host) else { return false };
        let default = if origin.scheme() == "https" { 443 } else { 80 };
        origin.host_str().is_some_and(|name| name.eq_ignore_ascii_case(host.host()))
            && origin.port_or_known_default() == Some(host.port_u16().unwrap_or(default))
    };
    let Some(foreign) = headers.get_all(header::ORIGIN).iter().find(|origin| !is_own(origin.as_bytes())) else {
        return Ok(());
    };
    let origin = String::from_utf8_lossy(foreign.as_bytes());
    let error = Error::new(Code::Denied, format!("requests from pages of `{}` are not allowed", origin.escape_debug()))
        .because("a browser may only send requests from the service's own pages")
        .hint("Send the request from a program, without the Origin header");
    Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(uri: &str, headers: &[(header::HeaderName, &str)], loopback: bool) -> u16 {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        let network = if loopback { Network::Loopback } else { Network::Other };
        status(&Access::default(), network, uri, &headers.collect())
    }

    fn status(access: &Access, network: Network, uri: &str, headers: &HeaderMap) -> u16 {
        let peer = Peer { network, address: String::new() };
        let authenticator = Authenticator::new(access.clone(), String::new()).unwrap();
        let authenticated = authenticator.authenticate(&uri.parse().unwrap(), headers, Some(&peer));
        authenticated.map_or_else(|problem| problem.status().as_u16(), |_| 200)
    }

    #[test]
    fn over_loopback_only_loopback_names_are_allowed() {
        let host = |host| status_of("/", &[(header::HOST, host)], true);
        for own in ["localhost", "LOCALHOST:1", "127.0.0.1:8092", "127.1.2.3", "[::1]:8092", "[::1]"] {
            assert_eq!(host(own), 200, "{own}");
        }
        for foreign in
            ["evil.example", "localhost.evil.example:8092", "127.0.0.1.evil.example", "10.0.0.1", "[fd00::1]"]
        {
            assert_eq!(host(foreign), 421, "{foreign}");
            assert_eq!(status_of("/", &[(header::HOST, foreign)], false), 200, "{foreign}");
        }
        assert_eq!(host("a b"), 400);
        assert_eq!(status_of("/", &[], true), 200);
        // A host in the target overrides the header.
        assert_eq!(status_of("http://evil.example/", &[(header::HOST, "localhost")], true), 421);
    }

    #[test]
    fn from_the_network_only_allowed_hosts_are_allowed() {
        let allowed_hosts = ["vm.example", "fd00::5"].map(|host| host.parse().unwrap()).to_vec();
        let access = Access { allow_unauthenticated: true, allowed_hosts, ..Access::default() };
        let headers = |host: &str| {
            let host = (!host.is_empty()).then(|| (header::HOST, host.parse().unwrap()));
            let forwarded = ("x-forwarded-host".parse().unwrap(), "vm.example".parse().unwrap());
            host.into_iter().chain([forwarded]).collect::<HeaderMap>()
        };
        for (uri, host, other, loopback) in [
            ("/", "VM.example.:8092", 200, 200),
            ("/", "[FD00:0::5]:8092", 200, 200),
            ("/", "evil.example", 421, 421),
            ("/mcp", "evil.example", 421, 421),
            ("/healthz", "evil.example", 421, 421),
            ("/", "localhost", 421, 200),
            ("/", "10.0.0.5", 421, 421),
            ("/", "user@evil.example", 421, 421),
            ("http://evil.example/", "vm.example", 421, 421),
            ("http://vm.example/", "evil.example", 200, 200),
            // HTTP/1.0, which no browser sends.
            ("/", "", 200, 200),
        ] {
            let of = |network| status(&access, network, uri, &headers(host));
            assert_eq!(
                (of(Network::Other), of(Network::Loopback), of(Network::None)),
                (other, loopback, 200),
                "{uri} {host}"
            );
        }
    }

    #[test]
    fn a_page_of_another_site_is_refused_everywhere() {
        let from = |host, origin| status_of("/", &[(header::HOST, host), (header::ORIGIN, origin)], false);
        for (host, own) in [
            ("vm.example:8092", "http://vm.example:8092"),
            ("vm.example", "http://vm.example"),
            ("vm.example", "https://VM.example"),
            ("vm.example:443", "https://vm.example"),
            ("[::1]:8092", "http://[::1]:8092"),
        ] {
            assert_eq!(from(host, own), 200, "{own}");
        }
        for foreign in ["null", "", "http://evil.example", "http://vm.example:8093", "https://vm.example", "file://"] {
            assert_eq!(from("vm.example:8092", foreign), 403, "{foreign}");
        }
        assert_eq!(status_of("/", &[(header::ORIGIN, "http://vm.example")], false), 403);
    }
}
