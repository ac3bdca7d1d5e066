//! Limits what a client's URL may reach: only public addresses, each checked before the connection is made.

use std::{net::SocketAddr, sync::mpsc::sync_channel};

use ureq::{
    Proxy,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};
use url::Url;

use super::{Http, receive};
use crate::{
    error::{Code, Error, Result},
    model::{
        address::is_public,
        source_policy::{SourcePolicy, not_public},
    },
};

/// Who gave a URL. It matters only if the sources of requests are limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlTrust {
    /// A client: each hop needs TLS and public addresses, except for hosts that the operator allows.
    Request,
    /// The operator, as a mirror or in the catalogue: its scheme, host and port may be anything. A redirect elsewhere
    /// must lead to public addresses, with or without TLS. Publishers redirect to mirrors, and signatures verify the
    /// content.
    Operator,
}

impl Http {
    /// Returns the client limited to these sources.
    #[must_use]
    pub fn limited_to(mut self, sources: &SourcePolicy) -> Self {
        if let SourcePolicy::Limited(limits) = sources {
            self.routes.limit(self.stall_timeout, limits);
        }
        self
    }

    /// Returns the client for URLs that were given by `trust`.
    #[must_use]
    pub fn given_by(&self, trust: UrlTrust) -> Self {
        Self { trust, ..self.clone() }
    }

    /// Refuses a client's URL whose host has an address that is not public. Does not connect.
    ///
    /// This is for images that may exist already and need no download. A download checks the addresses again: those
    /// that it connects to.
    pub fn admit(&self, url: &Url) -> Result<()> {
        if !self.routes.needs_address_check(url).map_err(|error| super::failed(url.as_str(), &error).error)? {
            return Ok(());
        }
        let (sender, resolved) = sync_channel(1);
        let to_resolve = url.clone();
        // As in a download, a slow resolver must not block this thread.
        std::thread::spawn(move || drop(sender.send(to_resolve.socket_addrs(|| None))));
        let unresolved = |cause| Error::new(Code::Unreachable, format!("cannot fetch `{url}`")).because(cause);
        match receive(&resolved, self.stall_timeout, &self.cancel)? {
            Some(Ok(addresses)) if addresses.iter().all(is_public_socket) && !addresses.is_empty() => Ok(()),
            Some(Ok(_)) => Err(not_public(url)),
            Some(Err(error)) => Err(unresolved(error.to_string()).hint("Check the host name")),
            None => Err(unresolved("resolving the host name timed out".to_owned()).hint("Try again later")),
        }
    }
}

fn is_public_socket(address: &SocketAddr) -> bool {
    is_public(address.ip())
}

/// A resolver that refuses names with any address that is not public.
///
/// The library connects to the addresses that its resolver returns and resolves nothing itself. So a name cannot have
/// one address when it is checked and another one when it is connected to.
#[derive(Debug)]
pub(super) struct PublicOnly {
    inner: DefaultResolver,
    /// The proxy's address, which the operator has set and which may be private.
    proxy: Option<Uri>,
}

impl PublicOnly {
    pub(super) fn new(proxy: Option<&Proxy>) -> Self {
        Self { inner: DefaultResolver::default(), proxy: proxy.map(|proxy| proxy.uri().clone()) }
    }
}

impl Resolver for PublicOnly {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let addresses = self.inner.resolve(uri, config, timeout)?;
        let is_proxy = self
            .proxy
            .as_ref()
            .is_some_and(|proxy| (proxy.scheme(), proxy.authority()) == (uri.scheme(), uri.authority()));
        if is_proxy || addresses.iter().all(is_public_socket) {
            return Ok(addresses);
        }
        let url = Url::parse(&uri.to_string()).map_err(|error| ureq::Error::BadUri(error.to_string()))?;
        Err(ureq::Error::Other(Box::new(not_public(&url))))
    }
}
