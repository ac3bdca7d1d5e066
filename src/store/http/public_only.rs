//! Where a request may lead that comes from elsewhere: only to public addresses, each looked at before it is connected to.

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

/// Who gave a URL. It matters only where what a request may name is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlTrust {
    /// Whoever asks: each hop needs TLS and public addresses, but for the hosts that the operator allows.
    Request,
    /// The operator, as a mirror or in the catalogue: nothing is asked of its scheme, host and port. Where it redirects to
    /// another must be public, with or without TLS: publishers hand out by mirrors what their signatures prove.
    Operator,
}

impl Http {
    /// The same, limited to what such a request may reach.
    #[must_use]
    pub fn limited_to(mut self, sources: &SourcePolicy) -> Self {
        if let SourcePolicy::Limited(limits) = sources {
            self.routes.limit(self.patience, limits);
        }
        self
    }

    /// The same, for URLs that somebody else gave.
    #[must_use]
    pub fn given_by(&self, giver: UrlTrust) -> Self {
        Self { giver, ..self.clone() }
    }

    /// Refuses a request's URL whose host has an address that is not public, without asking anything of it: for what may
    /// be there already and need not be fetched. A fetch looks again, at the very addresses that it then connects to.
    pub fn admit(&self, url: &Url) -> Result<()> {
        if !self.routes.is_looked_up(url).map_err(|error| super::refused(url.as_str(), &error).error)? {
            return Ok(());
        }
        let (sender, found) = sync_channel(1);
        let asked = url.clone();
        // As in a fetch: a slow resolver must not hold this thread.
        std::thread::spawn(move || drop(sender.send(asked.socket_addrs(|| None))));
        let unknown = |error| Error::new(Code::Unreachable, format!("cannot fetch `{url}`")).because(error);
        match receive(&found, self.patience, &self.cancel)? {
            Some(Ok(addresses)) if addresses.iter().all(is_public_socket) && !addresses.is_empty() => Ok(()),
            Some(Ok(_)) => Err(not_public(url)),
            Some(Err(error)) => Err(unknown(error.to_string()).hint("Look whether the name is right.")),
            None => Err(unknown("its host's name was not resolved in time".to_owned()).hint("Try again later.")),
        }
    }
}

fn is_public_socket(address: &SocketAddr) -> bool {
    is_public(address.ip())
}

/// Resolves names to what is public, and refuses those that have any other address. The library connects to what a
/// resolver returns and looks nothing up by itself, so a name cannot mean one address here and another one then.
#[derive(Debug)]
pub(super) struct PublicOnly {
    inner: DefaultResolver,
    /// The proxy's address, which is the operator's.
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
