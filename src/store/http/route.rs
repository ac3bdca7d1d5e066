//! The way to a server: through which proxy, and on where a redirect leads.

use std::time::Duration;

use ureq::{
    Agent, Body, Error, Proxy, ProxyProtocol,
    http::{HeaderName, Response, header},
    tls::{RootCerts, TlsConfig},
    unversioned::transport::DefaultConnector,
};
use url::Url;

use super::{
    CONNECT_LIMIT,
    public_only::{PublicOnly, UrlTrust},
};
use crate::model::{
    address::may_be_public,
    proxy::Proxies,
    source_policy::{Limits, not_public, without_tls},
};

/// The most redirects that are followed.
const MOST_HOPS: usize = 10;

/// The ways that there are.
#[derive(Clone)]
pub(super) struct Routes {
    proxies: Proxies,
    free: Agents,
    /// What is allowed where not everything is, and who fetches the rest. They share no connection with the others.
    limited: Option<(Limits, Agents)>,
}

/// Who fetches, by the way.
#[derive(Clone)]
struct Agents {
    direct: Agent,
    /// For `http` and for `https` URLs; none where there is no such proxy, or the library cannot use it.
    through: [Option<Agent>; 2],
}

/// An answer that is no redirect.
pub(super) struct Arrival {
    pub(super) response: Response<Body>,
    /// The address that answered.
    pub(super) url: String,
    /// Whether every hop on the way had TLS.
    pub(super) tls: bool,
}

impl Routes {
    /// The ways with so much patience for each silence.
    pub(super) fn new(patience: Duration, proxies: &Proxies) -> Self {
        let free = Agents::new(&|proxy| config(patience, proxy).into(), proxies);
        Self { proxies: proxies.clone(), free, limited: None }
    }

    /// Allows from now on only what is public or within the limits.
    pub(super) fn limit(&mut self, patience: Duration, limits: &Limits) {
        let agent = |proxy: Option<Proxy>| {
            let resolver = PublicOnly::new(proxy.as_ref());
            Agent::with_parts(config(patience, proxy), DefaultConnector::default(), resolver)
        };
        self.limited = Some((limits.clone(), Agents::new(&agent, &self.proxies)));
    }

    /// Asks, and follows redirects, each by its own way. TLS is never left for anything but plain HTTP, and that is told.
    pub(super) fn get(&self, url: &str, by: UrlTrust, headers: &[(HeaderName, String)]) -> Result<Arrival, Error> {
        let given = Url::parse(url).map_err(|error| Error::BadUri(error.to_string()))?;
        let mut url = given.clone();
        let mut tls = true;
        for _ in 0..=MOST_HOPS {
            tls &= url.scheme() == "https";
            let operators = (by == UrlTrust::Operator).then_some(&given);
            let request = self.agent(&url, operators)?.get(url.as_str());
            let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
            let response = request.call()?;
            let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
            let location = location.filter(|_| matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308));
            let Some(location) = location else { return Ok(Arrival { response, url: url.into(), tls }) };
            url = url.join(location).map_err(|_| Error::RedirectFailed)?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(Error::RedirectFailed);
            }
        }
        Err(Error::TooManyRedirects)
    }

    /// Whether the addresses of a request's URL are looked up and judged here; an error where it is refused as it is.
    pub(super) fn is_looked_up(&self, url: &Url) -> Result<bool, Error> {
        Ok(self.judging(url, None)?.is_some() && self.proxies.of(url).is_none())
    }

    /// Who fetches a hop on the way from `operators`, the operator's URL, if it is one.
    fn agent(&self, hop: &Url, operators: Option<&Url>) -> Result<&Agent, Error> {
        let agents = self.judging(hop, operators)?.unwrap_or(&self.free);
        if self.proxies.of(hop).is_none() {
            return Ok(&agents.direct);
        }
        // Never past a proxy that was asked for.
        agents.through[usize::from(hop.scheme() == "https")].as_ref().ok_or(Error::InvalidProxyUrl)
    }

    /// Those who fetch a hop and judge its addresses; none where those are not judged. Behind a proxy only the proxy
    /// can tell which addresses a name has, so there the hop's own word is all there is: it must not be an address that
    /// is not public. A proxy that reaches both the internet and private services has to refuse those itself.
    fn judging(&self, hop: &Url, operators: Option<&Url>) -> Result<Option<&Agents>, Error> {
        let Some((limits, judging)) = &self.limited else { return Ok(None) };
        if limits.allow(hop) || operators.is_some_and(|given| given.origin() == hop.origin()) {
            return Ok(None);
        }
        if operators.is_none() && hop.scheme() != "https" {
            return Err(Error::Other(Box::new(without_tls(hop))));
        }
        if self.proxies.of(hop).is_some() && !hop.host().as_ref().is_some_and(may_be_public) {
            return Err(Error::Other(Box::new(not_public(hop))));
        }
        Ok(Some(judging))
    }
}

impl Agents {
    fn new(agent: &dyn Fn(Option<Proxy>) -> Agent, proxies: &Proxies) -> Self {
        let through = [&proxies.http, &proxies.https].map(|url| Some(agent(Some(proxy(url.as_ref()?).ok()?))));
        Self { direct: agent(None), through }
    }
}

fn config(patience: Duration, proxy: Option<Proxy>) -> ureq::config::Config {
    Agent::config_builder()
        .timeout_resolve(Some(patience))
        .timeout_connect(Some(patience.min(CONNECT_LIMIT)))
        .timeout_recv_response(Some(patience))
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .user_agent(concat!("vmprov/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .build()
}

/// A proxy as the library has it.
fn proxy(url: &Url) -> Result<Proxy, Error> {
    let text = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let protocol = ProxyProtocol::try_from(url.scheme())?;
    let mut builder = Proxy::builder(protocol).host(url.host_str().unwrap_or_default());
    if let Some(port) = url.port() {
        builder = builder.port(port);
    }
    if !url.username().is_empty() {
        builder = builder.username(&text(url.username()));
    }
    if let Some(password) = url.password() {
        builder = builder.password(&text(password));
    }
    builder.build()
}
