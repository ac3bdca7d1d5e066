//! The way to a server: through which proxy, and on where a redirect leads.

use std::time::Duration;

use ureq::{
    Agent, Body, Error, Proxy, ProxyProtocol,
    http::{HeaderName, Response, header},
    tls::{RootCerts, TlsConfig},
};
use url::Url;

use super::CONNECT_LIMIT;
use crate::model::proxy::Proxies;

/// The most redirects that are followed.
const MOST_HOPS: usize = 10;

/// The ways that there are.
#[derive(Clone)]
pub(super) struct Routes {
    proxies: Proxies,
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
        let through =
            [&proxies.http, &proxies.https].map(|url| Some(agent(patience, Some(proxy(url.as_ref()?).ok()?))));
        Self { proxies: proxies.clone(), direct: agent(patience, None), through }
    }

    /// Asks, and follows redirects, each by its own way. TLS is never left for anything but plain HTTP, and that is told.
    pub(super) fn get(&self, url: &str, headers: &[(HeaderName, String)]) -> Result<Arrival, Error> {
        let mut url = Url::parse(url).map_err(|error| Error::BadUri(error.to_string()))?;
        let mut tls = true;
        for _ in 0..=MOST_HOPS {
            tls &= url.scheme() == "https";
            let request = self.agent(&url)?.get(url.as_str());
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

    fn agent(&self, url: &Url) -> Result<&Agent, Error> {
        if self.proxies.of(url).is_none() {
            return Ok(&self.direct);
        }
        // Never past a proxy that was asked for.
        self.through[usize::from(url.scheme() == "https")].as_ref().ok_or(Error::InvalidProxyUrl)
    }
}

fn agent(patience: Duration, proxy: Option<Proxy>) -> Agent {
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
        .into()
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
