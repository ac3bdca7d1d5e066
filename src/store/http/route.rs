//! How a request reaches a server: by which proxy, and by which redirects.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use rustls::crypto::{CryptoProvider, ring};
use ureq::{
    Agent, Body, Error, Proxy, ProxyProtocol,
    http::{HeaderName, Response, header},
    tls::{Certificate, RootCerts, TlsConfig},
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

/// The certificates of the host's store, and the cryptography. They are loaded once, because that takes a while.
static TLS: LazyLock<TlsConfig> = LazyLock::new(|| {
    let store = rustls_native_certs::load_native_certs();
    for error in &store.errors {
        tracing::debug!("cannot load a certificate: {error}");
    }
    let roots = store.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
    let provider: Arc<CryptoProvider> = ring::default_provider().into();
    TlsConfig::builder().root_certs(RootCerts::from(roots)).unversioned_rustls_crypto_provider(provider).build()
});

/// The number of redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// The HTTP agents for all requests, with and without limits.
#[derive(Clone)]
pub(super) struct Routes {
    proxies: Proxies,
    /// Made by the first request, because most commands send none.
    unrestricted: Arc<LazyLock<Agents, Box<dyn FnOnce() -> Agents + Send>>>,
    /// If sources are limited: the hosts that are allowed, and the agents for all others, which check addresses. They
    /// share no connections with the unrestricted ones.
    limited: Option<(Limits, Agents)>,
}

/// The agents for direct and for proxied requests.
#[derive(Clone)]
struct Agents {
    direct: Agent,
    /// For `http` and for `https` URLs; `None` if there is no such proxy or the library does not support it.
    proxied: [Option<Agent>; 2],
}

/// A response after all redirects.
pub(super) struct FinalResponse {
    pub(super) response: Response<Body>,
    /// The URL of the last hop.
    pub(super) url: String,
    /// Whether every hop used TLS.
    pub(super) tls: bool,
}

impl Routes {
    /// Returns routes without limits.
    pub(super) fn new(stall_timeout: Duration, proxies: &Proxies) -> Self {
        let for_agents = proxies.clone();
        let agents = move || Agents::new(&|proxy| config(stall_timeout, proxy).into(), &for_agents);
        Self { proxies: proxies.clone(), unrestricted: Arc::new(LazyLock::new(Box::new(agents))), limited: None }
    }

    /// Allows only public addresses and the hosts in `limits` from now on.
    pub(super) fn limit(&mut self, stall_timeout: Duration, limits: &Limits) {
        let agent = |proxy: Option<Proxy>| {
            let resolver = PublicOnly::new(proxy.as_ref());
            Agent::with_parts(config(stall_timeout, proxy), DefaultConnector::default(), resolver)
        };
        self.limited = Some((limits.clone(), Agents::new(&agent, &self.proxies)));
    }

    /// Sends a GET request and follows redirects. Each hop chooses its proxy and its limits by its own URL.
    ///
    /// A redirect may lead from HTTPS to HTTP, which [`FinalResponse::tls`] reports, but to no other scheme.
    pub(super) fn get(
        &self,
        url: &str,
        trust: UrlTrust,
        headers: &[(HeaderName, String)],
    ) -> Result<FinalResponse, Error> {
        let requested = Url::parse(url).map_err(|error| Error::BadUri(error.to_string()))?;
        let mut url = requested.clone();
        let mut tls = true;
        for _ in 0..=MAX_REDIRECTS {
            tls &= url.scheme() == "https";
            let operator_url = (trust == UrlTrust::Operator).then_some(&requested);
            let request = self.agent(&url, operator_url)?.get(url.as_str());
            let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
            let response = request.call()?;
            let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
            let location = location.filter(|_| matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308));
            let Some(location) = location else { return Ok(FinalResponse { response, url: url.into(), tls }) };
            url = url.join(location).map_err(|_| Error::RedirectFailed)?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(Error::RedirectFailed);
            }
        }
        Err(Error::TooManyRedirects)
    }

    /// Returns whether this process must check the addresses of a client's URL. Fails if the URL itself is refused.
    pub(super) fn needs_address_check(&self, url: &Url) -> Result<bool, Error> {
        Ok(self.restricted(url, None)?.is_some() && self.proxies.of(url).is_none())
    }

    /// Returns the agent for a hop. `operator_url` is the requested URL, if the operator gave it.
    fn agent(&self, hop: &Url, operator_url: Option<&Url>) -> Result<&Agent, Error> {
        let agents = self.restricted(hop, operator_url)?.unwrap_or(&self.unrestricted);
        if self.proxies.of(hop).is_none() {
            return Ok(&agents.direct);
        }
        // A configured proxy is never bypassed.
        agents.proxied[usize::from(hop.scheme() == "https")].as_ref().ok_or(Error::InvalidProxyUrl)
    }

    /// Returns the agents that check the addresses of a hop, or `None` if this hop needs no check.
    ///
    /// With a proxy, only the proxy knows the addresses of a name, so only an address that the URL itself names can be
    /// checked here. A proxy that reaches both the internet and private services must refuse the private ones itself.
    fn restricted(&self, hop: &Url, operator_url: Option<&Url>) -> Result<Option<&Agents>, Error> {
        let Some((limits, restricted)) = &self.limited else { return Ok(None) };
        if limits.allow(hop) || operator_url.is_some_and(|url| url.origin() == hop.origin()) {
            return Ok(None);
        }
        if operator_url.is_none() && hop.scheme() != "https" {
            return Err(Error::Other(Box::new(without_tls(hop))));
        }
        if self.proxies.of(hop).is_some() && !hop.host().as_ref().is_some_and(may_be_public) {
            return Err(Error::Other(Box::new(not_public(hop))));
        }
        Ok(Some(restricted))
    }
}

impl Agents {
    fn new(agent: &dyn Fn(Option<Proxy>) -> Agent, proxies: &Proxies) -> Self {
        let through = |url: &Option<_>| Some(agent(Some(proxy(url.as_ref()?).ok()?)));
        Self { direct: agent(None), proxied: [&proxies.http, &proxies.https].map(through) }
    }
}

fn config(stall_timeout: Duration, proxy: Option<Proxy>) -> ureq::config::Config {
    Agent::config_builder()
        .timeout_resolve(Some(stall_timeout))
        .timeout_connect(Some(stall_timeout.min(CONNECT_LIMIT)))
        .timeout_recv_response(Some(stall_timeout))
        .tls_config(TLS.clone())
        .user_agent(concat!("vmprov/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .build()
}

/// Converts a proxy URL to the library's type.
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
