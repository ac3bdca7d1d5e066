//! Who comes in: whether a request may have come from a page in somebody's browser, and whose token it bears.

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

/// What is told to everybody: whoever asks whether the service lives has no token, and a browser sends none for a page. The
/// documentation says nothing of this host.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/openapi.json" | "/docs") || path.starts_with("/docs/")
}

/// What a request must have to come in.
pub(super) struct Authenticator {
    entrance: AccessRules,
    /// The hosts that a request from the network may be for; any where there are none.
    hosts: Vec<AllowedHost>,
    /// Whether everybody on the network may come in.
    is_public: bool,
}

/// Whether anybody may come in, or those with a token.
enum AccessRules {
    /// Everybody may do everything.
    Open,
    /// Those with a token of a file. The pool is the configured one, the default of each token.
    Tokens { file: Utf8PathBuf, pool: String, tokens: RwLock<Arc<Tokens>> },
}

impl Authenticator {
    /// Reads the tokens, where there is a file of them.
    pub(super) fn new(access: Access, pool: String) -> Result<Self> {
        let Access { tokens, allow_unauthenticated, allowed_hosts } = access;
        let entrance = match tokens {
            None => AccessRules::Open,
            Some(file) => {
                let tokens = RwLock::new(Arc::new(Tokens::read(&file, &pool)?));
                AccessRules::Tokens { file, pool, tokens }
            }
        };
        Ok(Self { entrance, hosts: allowed_hosts, is_public: allow_unauthenticated })
    }

    /// Reads the tokens again. A file that cannot be used changes nothing.
    pub(super) fn reload(&self) {
        let AccessRules::Tokens { file, pool, tokens } = &self.entrance else { return };
        match Tokens::read(file, pool) {
            Ok(new) => {
                let count = new.len();
                *tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                // Whoever reads this may rely on it.
                tracing::info!(tokens = count, "the tokens were read again");
            }
            Err(error) => {
                let hint = error.hint_text(api::as_command).unwrap_or_default();
                tracing::error!(hint, "cannot reload the tokens, the old ones stay valid: {error}");
            }
        }
    }

    /// Who asks, where they may.
    pub(super) fn admit(&self, uri: &Uri, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Arc<Client>, Problem> {
        let host = asked_for(uri, headers)?;
        if let (Some(peer), Some(host)) = (peer, &host) {
            self.require_host(peer.network, host)?;
        }
        require_own_origin(headers, host.as_ref())?;
        match &self.entrance {
            AccessRules::Open if self.is_public && is_open(uri.path()) => Ok(Arc::new(Client::unauthenticated())),
            AccessRules::Open => Ok(Arc::new(Client::anonymous())),
            AccessRules::Tokens { tokens, .. } => {
                let tokens = tokens.read().unwrap_or_else(PoisonError::into_inner).clone();
                let known = bearer(headers).and_then(|token| {
                    tokens.find(token).ok_or_else(|| unauthenticated("nobody has this token", "invalid_token"))
                });
                if is_open(uri.path()) {
                    Ok(known.unwrap_or_else(|_| Arc::new(Client::unauthenticated())))
                } else {
                    known
                }
            }
        }
    }

    /// Refuses a host name that another party has pointed at the service's address, as DNS rebinding does. Only browsers are led astray
    /// so; they always name a host, and cannot reach a socket of the file system.
    fn require_host(&self, network: Network, host: &Authority) -> Result<(), Problem> {
        let is_allowed = self.hosts.iter().any(|allowed| allowed.matches(host));
        match network {
            Network::None => Ok(()),
            _ if is_allowed => Ok(()),
            Network::Loopback => require_own_host(host),
            Network::Other if self.hosts.is_empty() => Ok(()),
            Network::Other => {
                let cause = "from the network, the service answers under the names given with --allowed-host alone";
                Err(foreign(host, cause, "Name one of these in the URL, or ask the operator to allow this one."))
            }
        }
    }
}

/// The token that a request bears.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(unauthenticated("the request bears no token, or several", ""));
    };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() {
        return Ok(token.trim());
    }
    Err(unauthenticated("the header Authorization holds no bearer token", "invalid_request"))
}

/// The refusal of somebody unknown (RFC 6750, section 3).
fn unauthenticated(why: &str, error: &str) -> Problem {
    let refusal = Error::new(Code::Denied, "whoever asks must say who they are").because(why);
    let refusal =
        refusal.hint("Send the header Authorization: Bearer TOKEN, with a token that the operator has given you.");
    let challenge = if error.is_empty() {
        "Bearer realm=\"vmprov\"".to_owned()
    } else {
        format!("Bearer realm=\"vmprov\", error=\"{error}\"")
    };
    Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", refusal).header(header::WWW_AUTHENTICATE, &challenge)
}

/// The host that a request is for: in its target where that is a whole URL, else in its header (RFC 9112, section 3.2).
fn asked_for(uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, Problem> {
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.clone()));
    }
    let mut given = headers.get_all(header::HOST).iter();
    let (first, second) = (given.next(), given.next());
    let unreadable = || Problem::from(Error::invalid("the header Host names no host, or several"));
    match (first, second) {
        (None, _) => Ok(None),
        (Some(host), None) if host.is_empty() => Ok(None),
        (Some(host), None) => Authority::try_from(host.as_bytes()).map(Some).map_err(|_| unreadable()),
        _ => Err(unreadable()),
    }
}

/// Refuses a host name that another party has pointed at the loopback.
fn require_own_host(host: &Authority) -> Result<(), Problem> {
    let name = host.host();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.to_canonical().is_loopback()) {
        return Ok(());
    }
    let cause = "over the loopback, the service answers as localhost, 127.0.0.1 and [::1] alone";
    Err(foreign(host, cause, "Name one of these in the URL. A proxy has to send it as the header Host."))
}

/// The refusal of a request for another host.
fn foreign(host: &Authority, cause: &str, hint: &str) -> Problem {
    let error = Error::new(Code::Denied, format!("there is no host `{}` here", host.host().escape_debug()));
    Problem::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", error.because(cause).hint(hint))
}

/// Refuses what a page of another site has sent: a browser says where that came from.
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
    let error = Error::new(Code::Denied, format!("the request comes from a page of `{}`", origin.escape_debug()))
        .because("only pages of the service itself may ask it from within a browser")
        .hint("Ask from a program instead, which sends no header Origin.");
    Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(uri: &str, headers: &[(header::HeaderName, &str)], loopback: bool) -> u16 {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        let network = if loopback { Network::Loopback } else { Network::Other };
        status(&Access::default(), network, uri, &headers.collect())
    }

    fn status(access: &Access, network: Network, uri: &str, headers: &HeaderMap) -> u16 {
        let peer = Peer { network, address: String::new() };
        let gate = Authenticator::new(access.clone(), String::new()).unwrap();
        let admitted = gate.admit(&uri.parse().unwrap(), headers, Some(&peer));
        admitted.map_or_else(|problem| problem.status().as_u16(), |_| 200)
    }

    #[test]
    fn over_the_loopback_only_its_own_names_are_answered() {
        let host = |host| admitted("/", &[(header::HOST, host)], true);
        for own in ["localhost", "LOCALHOST:1", "127.0.0.1:8092", "127.1.2.3", "[::1]:8092", "[::1]"] {
            assert_eq!(host(own), 200, "{own}");
        }
        for foreign in
            ["evil.example", "localhost.evil.example:8092", "127.0.0.1.evil.example", "10.0.0.1", "[fd00::1]"]
        {
            assert_eq!(host(foreign), 421, "{foreign}");
            assert_eq!(admitted("/", &[(header::HOST, foreign)], false), 200, "{foreign}");
        }
        assert_eq!(host("a b"), 400);
        assert_eq!(admitted("/", &[], true), 200);
        // The target's own host counts, whatever the header says.
        assert_eq!(admitted("http://evil.example/", &[(header::HOST, "localhost")], true), 421);
    }

    #[test]
    fn from_the_network_only_the_allowed_hosts_are_answered() {
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
            // HTTP/1.0: no browser sends that.
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
        let from = |host, origin| admitted("/", &[(header::HOST, host), (header::ORIGIN, origin)], false);
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
        assert_eq!(admitted("/", &[(header::ORIGIN, "http://vm.example")], false), 403);
    }
}
