//! [`Proxies`]: the HTTP proxies to use.

use url::Url;

use crate::error::Error;

/// The HTTP proxies to use, by the scheme of the URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// The proxy for `http` URLs.
    pub http: Option<Url>,
    /// The proxy for `https` URLs.
    pub https: Option<Url>,
    /// The hosts that are reached without a proxy, as in `NO_PROXY`: `example.org`, `.example.org`, `*`.
    pub except: Vec<String>,
}

impl Proxies {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case, through `env`.
    pub fn read(env: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let find = |name: &str| {
            let lower = name.to_ascii_lowercase();
            env(&lower).map(|value| (lower, value)).or_else(|| Some((name.to_owned(), env(name)?)))
        };
        let proxy = |name: &str| {
            let found = find(name).or_else(|| find("ALL_PROXY"));
            found.map(|(name, value)| parse(&name, &value)).transpose()
        };
        let except = find("NO_PROXY").map(|(_, hosts)| hosts).unwrap_or_default();
        let except = except.split(',').map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
        Ok(Self { http: proxy("HTTP_PROXY")?, https: proxy("HTTPS_PROXY")?, except: except.collect() })
    }
}

impl Proxies {
    /// Returns the proxy for a URL, or `None` if it is reached without one.
    pub fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        let host = url.host_str().unwrap_or_default();
        let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        let is_excepted = |except: &String| {
            let except = except.trim_start_matches('.');
            let is_subdomain = |host: &str| host.strip_suffix(except).is_some_and(|before| before.ends_with('.'));
            except == "*" || [host, &with_port].iter().any(|host| *host == except || is_subdomain(host))
        };
        proxy.as_ref().filter(|_| !self.except.iter().any(is_excepted))
    }
}

fn parse(name: &str, value: &str) -> Result<Url, Error> {
    let url = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let known = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];
    match Url::parse(&url) {
        Ok(url) if url.has_host() && known.contains(&url.scheme()) => Ok(url),
        // The value may contain a password, so the error does not repeat it.
        _ => Err(Error::invalid(format!("invalid proxy URL in {name}"))
            .hint(format!("Set it to a URL, as in {name}=http://proxy.example:3128, or unset it"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme_has_its_own_proxy_and_all_proxy_is_the_default() {
        let read = |pairs: &[(&str, &str)]| {
            let find =
                |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            Proxies::read(find)
        };
        let host = |url: &Option<Url>| url.as_ref().map(|url| url.host_str().unwrap().to_owned());
        let both = read(&[("HTTP_PROXY", "a:1"), ("https_proxy", "socks5://b:2"), ("NO_PROXY", "x, .y,,")]).unwrap();
        assert_eq!((host(&both.http), host(&both.https)), (Some("a".to_owned()), Some("b".to_owned())));
        assert_eq!(both.except, ["x", ".y"]);
        let all = read(&[("ALL_PROXY", "http://c:3"), ("HTTPS_PROXY", "http://d:4")]).unwrap();
        assert_eq!((host(&all.http), host(&all.https)), (Some("c".to_owned()), Some("d".to_owned())));
        assert_eq!(read(&[]).unwrap(), Proxies::default());
        let all = Proxies { except: vec![".lan".to_owned(), "127.0.0.1:80".to_owned()], ..all };
        let through = |url: &str| all.of(&Url::parse(url).unwrap()).is_some();
        assert!(through("https://images.example/x") && through("https://plan/x") && through("http://127.0.0.1:81/x"));
        assert!(!through("https://lan/x") && !through("https://m.lan:8443/x") && !through("http://127.0.0.1/x"));
        for bad in ["ftp://x:1", "http://", "u:secret@:"] {
            let error = read(&[("http_proxy", bad)]).unwrap_err();
            assert!(error.message.contains("http_proxy") && !error.to_string().contains("secret"), "{error}");
        }
    }
}
