//! The image sources of restricted clients: nothing private can be named or reached, not even indirectly, unless the
//! operator allows it. The operations use libvirt's in-memory driver.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

use std::{
    fs,
    io::{ErrorKind, Read},
    net::TcpListener,
    sync::Arc,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use mirror::{Fault, Mirror};
use url::Url;
use vmprov::{
    cancel::Cancel,
    error::{Code, Error},
    model::{
        proxy::Proxies,
        source_policy::{Limits, SourcePolicy},
        vm::NewVm,
    },
    ops::{Host, Settings, image, vm},
    store::http::{Http, UrlTrust},
};

const PATIENCE: Duration = Duration::from_secs(5);

/// A server on the loopback interface to which no connection may be made.
struct Private(TcpListener);

impl Private {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn url(&self, scheme: &str, host: &str) -> String {
        format!("{scheme}://{host}:{}/x.img", self.0.local_addr().unwrap().port())
    }

    /// Asserts that there was no connection.
    #[track_caller]
    fn assert_no_connection(&self) {
        self.0.set_nonblocking(true).unwrap();
        assert_eq!(self.0.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

fn limits(hosts: &[&str]) -> Limits {
    Limits { hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(), ..Limits::default() }
}

fn http(limits: Limits, proxies: &Proxies) -> Http {
    Http::new(PATIENCE, proxies, Cancel::default()).limited_to(&SourcePolicy::Limited(limits))
}

/// Returns a server's `127.0.0.1:PORT`.
fn address_of(mirror: &Mirror) -> &str {
    mirror.url.strip_prefix("http://").unwrap()
}

#[track_caller]
fn refused(http: &Http, url: &str) -> Error {
    let error = http.text_once(url).unwrap_err().error;
    assert_eq!(error.code, Code::Forbidden, "{url}: {error}");
    assert!(error.message.contains(url), "{error}");
    error
}

#[test]
fn private_addresses_are_refused_before_any_connection() {
    let private = Private::new();
    let http = http(Limits::default(), &Proxies::default());
    let hosts = ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"];
    for host in hosts {
        let url = private.url("https", host);
        let error = refused(&http, &url);
        let shown = Url::parse(&url).unwrap().host_str().unwrap().to_owned();
        assert_eq!(error.cause.as_deref().unwrap(), format!("the address of `{shown}` is not public"));
        assert!(error.command().unwrap().ends_with(&format!("--allow-image-host {shown}")));
        assert_eq!(http.admit(&Url::parse(&url).unwrap()).unwrap_err().code, Code::Forbidden, "{host}");
    }
    assert!(refused(&http, &private.url("http", "127.0.0.1")).cause.unwrap().contains("only be fetched over https"));
    private.assert_no_connection();
}

#[test]
fn an_allowed_host_may_not_redirect_to_another_private_one() {
    let (private, mirror) = (Private::new(), Mirror::new());
    mirror.put("sums", "text");
    let http = http(limits(&[address_of(&mirror)]), &Proxies::default());
    assert_eq!(http.text_once(&mirror.url("sums")).unwrap().unwrap().bytes, b"text");
    http.admit(&Url::parse(&mirror.url("sums")).unwrap()).unwrap();
    for to in [private.url("http", "127.0.0.1"), private.url("https", "127.0.0.1"), private.url("https", "localhost")] {
        mirror.inject_faults("moved", [Fault::Redirect(to)]);
        refused(&http, &mirror.url("moved"));
    }
    assert_eq!(mirror.requests(), ["GET /sums 200", "GET /moved 302", "GET /moved 302", "GET /moved 302"]);
    mirror.inject_faults("moved", [Fault::Redirect("/sums".to_owned())]);
    assert_eq!(http.text_once(&mirror.url("moved")).unwrap().unwrap().bytes, b"text");
    private.assert_no_connection();
}

#[test]
fn the_operators_urls_may_redirect_only_to_themselves_or_public_hosts() {
    let (private, mirror) = (Private::new(), Mirror::new());
    mirror.put("sums", "text");
    let http = http(Limits::default(), &Proxies::default());
    refused(&http, &mirror.url("sums"));
    let http = http.given_by(UrlTrust::Operator);
    mirror.inject_faults("moved", [Fault::Redirect("/sums".to_owned())]);
    assert_eq!(http.text_once(&mirror.url("moved")).unwrap().unwrap().bytes, b"text");
    for to in [private.url("http", "127.0.0.1"), private.url("https", "localhost")] {
        mirror.inject_faults("moved", [Fault::Redirect(to)]);
        assert!(refused(&http, &mirror.url("moved")).cause.unwrap().contains("not public"));
    }
    private.assert_no_connection();
}

#[test]
fn a_private_proxy_is_used_but_gets_no_requests_for_private_hosts() {
    let proxy = Mirror::new();
    let http = http_through_proxy("http", address_of(&proxy));
    for host in ["10.0.0.1", "localhost", "[::1]"] {
        refused(&http, &format!("https://{host}/x.img"));
    }
    assert_eq!(proxy.requests(), Vec::<String>::new());
    // The proxy cannot open a TLS tunnel, but it received the request.
    let error = http.text_once("https://1.1.1.1/x.img").unwrap_err().error;
    assert_ne!(error.code, Code::Forbidden, "{error}");
    assert_eq!(proxy.requests(), ["CONNECT 1.1.1.1:443 HTTP/1.1"]);
}

/// The HTTP library resolves the names of both the proxy and the server, with the same resolver.
#[test]
fn a_socks_proxy_gets_no_requests_for_private_hosts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = http_through_proxy("socks5", &listener.local_addr().unwrap().to_string());
    refused(&http, "https://localhost/x.img");
    let greeting = std::thread::spawn(move || {
        let mut greeting = [0; 3];
        listener.accept().unwrap().0.read_exact(&mut greeting).unwrap();
        greeting
    });
    let error = http.text_once("https://1.1.1.1/x.img").unwrap_err().error;
    assert_ne!(error.code, Code::Forbidden, "{error}");
    assert_eq!(greeting.join().unwrap(), [5, 1, 0]);
}

/// Returns a restricted HTTP client that uses a proxy.
fn http_through_proxy(scheme: &str, address: &str) -> Http {
    let proxy = Some(Url::parse(&format!("{scheme}://{address}")).unwrap());
    http(Limits::default(), &Proxies { http: proxy.clone(), https: proxy, except: Vec::new() })
}

/// A folder for a host, and a server with a file that is not an image, so that a pull fails once it was downloaded.
struct Site {
    mirror: Mirror,
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { mirror: Mirror::new(), folder: tempfile::tempdir().unwrap() };
        site.mirror.put("x.img", "<html>");
        site
    }

    fn folder(&self) -> Utf8PathBuf {
        Utf8Path::from_path(self.folder.path()).unwrap().canonicalize_utf8().unwrap()
    }

    /// Returns a host without restrictions.
    fn host(&self, mirrors: &[&str], catalogue: &str) -> Host {
        let folder = self.folder();
        let images = folder.join("images.toml");
        fs::write(&images, catalogue).unwrap();
        let settings = Settings {
            uri: "test:///default".to_owned(),
            pool: "default-pool".to_owned(),
            pool_path: "/default-pool".into(),
            key_dir: folder.join("keys"),
            data_dir: folder.join("data"),
            cache_dir: folder.join("cache"),
            mirrors: mirrors.iter().map(|mirror| mirror.parse().unwrap()).collect(),
            proxies: Proxies::default(),
            require_verified: false,
            stall_limit: PATIENCE,
            catalogue_files: vec![images],
            sources: SourcePolicy::Any,
        };
        Host::new(settings, Cancel::default(), Arc::new(()))
    }

    fn limited(&self, limits: Limits) -> Host {
        self.host(&[], "").limited_to(SourcePolicy::Limited(limits))
    }

    /// Asserts that the file was fetched, and refused only because it is not an image.
    #[track_caller]
    fn assert_fetched(&self, host: &Host, image: &str, path: &str) {
        let error = pull(host, image);
        assert_eq!(error.code, Code::InvalidInput, "{image}: {error}");
        let fetched = format!("GET {path} 200");
        let requests = self.mirror.requests();
        assert!(requests.contains(&fetched), "{image}: {error}: {requests:?}");
    }

    #[track_caller]
    fn assert_refused(&self, host: &Host, image: &str) {
        for error in [pull(host, image), create(host, "image", image), create(host, "imageUrl", image)] {
            assert_eq!(error.code, Code::Forbidden, "{image}: {error}");
            assert!(error.hint_text(vmprov::api::as_command).unwrap().contains("--allow-image-"));
        }
        assert_eq!(self.mirror.requests(), Vec::<String>::new());
    }
}

fn pull(host: &Host, image: &str) -> Error {
    let new = serde_json::from_value(serde_json::json!({ "image": image })).unwrap();
    image::pull(host, &new).unwrap_err()
}

fn create(host: &Host, member: &str, value: &str) -> Error {
    let new: NewVm = serde_json::from_value(serde_json::json!({ "name": "sources", member: value })).unwrap();
    vm::create(host, &new).unwrap_err()
}

#[test]
fn a_request_may_name_public_urls_and_those_that_the_operator_allows() {
    let site = Site::new();
    let url = site.mirror.url("x.img");
    let tls = url.replace("http:", "https:");
    let host = site.limited(Limits::default());
    for image in [&url, &tls, &tls.replace("127.0.0.1", "localhost")] {
        site.assert_refused(&host, image);
    }
    site.assert_fetched(&site.host(&[], ""), &url, "/x.img");
    site.assert_fetched(&site.limited(limits(&["127.0.0.1"])), &url, "/x.img");
    let only = Some(vec!["example.org".parse().unwrap()]);
    let error = pull(&site.limited(Limits { only, ..limits(&["127.0.0.1"]) }), &url);
    assert_eq!(
        (error.code, error.cause.as_deref()),
        (Code::Forbidden, Some("its host is not one of the allowed hosts (example.org)"))
    );
}

/// The libvirt does not exist, so looking in the pool would fail with another error.
#[test]
fn a_forbidden_image_is_refused_before_the_pool_is_searched() {
    let site = Site::new();
    let mut host = site.limited(Limits::default());
    host.settings.uri = "test:///nowhere".to_owned();
    let host = host.limited_to(host.settings.sources.clone());
    site.assert_refused(&host, &site.mirror.url("x.img"));
    site.assert_refused(&host, "/etc/passwd");
}

#[test]
fn redirects_of_checksum_files_to_private_hosts_are_not_followed() {
    let (site, private) = (Site::new(), Private::new());
    for file in ["SHA256SUMS", "SHA512SUMS", "x.img.sha256", "x.img.sha512", "CHECKSUM"] {
        site.mirror.inject_faults(file, (0..9).map(|_| Fault::Redirect(private.url("http", "127.0.0.1"))));
    }
    site.assert_fetched(&site.limited(limits(&[address_of(&site.mirror)])), &site.mirror.url("x.img"), "/x.img");
    private.assert_no_connection();
}

#[test]
fn catalogue_names_and_mirrors_may_use_the_operators_private_hosts() {
    let (site, private) = (Site::new(), Private::new());
    let url = site.mirror.url("x.img");
    let entry = |name: &str, url: &str| {
        format!(
            "[[image]]\nname = '{name}'\ntitle = 'T'\nurl = '{url}'\narch = {{ x86_64 = 'x', aarch64 = 'y' }}\nuser = 'u'\n"
        )
    };
    let catalogue = entry("here", &url) + &entry("moved", &site.mirror.url("moved.img"));
    let mirrors =
        [format!("images.example={}/m", site.mirror.url), format!("files.example=file://{}/m", site.folder())];
    let host = site.host(&mirrors.each_ref().map(String::as_str), &catalogue);
    let host = host.limited_to(SourcePolicy::Limited(Limits::default()));
    site.assert_fetched(&host, "here", "/x.img");
    site.mirror.put("m/x.img", "<html>");
    site.assert_fetched(&host, "https://images.example/x.img", "/m/x.img");
    site.mirror.inject_faults("moved.img", [Fault::Redirect(private.url("http", "127.0.0.1"))]);
    assert_eq!(pull(&host, "moved").code, Code::Forbidden);
    private.assert_no_connection();
    // A path cannot leave the folder of a mirror.
    fs::write(site.folder().join("secret"), "").unwrap();
    let messages = ["secret", "nothing"].map(|file| {
        let error = pull(&host, &format!("https://files.example/..%2F{file}"));
        assert_eq!(error.code, Code::InvalidInput);
        error.to_string().replace(file, "FILE")
    });
    assert_eq!(messages[0], messages[1]);
}

#[test]
fn only_files_in_allowed_folders_may_be_named_and_no_others_are_probed() {
    let site = Site::new();
    let folder = site.folder();
    let (allowed, inside) = (folder.join("images"), folder.join("images/x.img"));
    fs::create_dir(&allowed).unwrap();
    fs::write(&inside, "<html>").unwrap();
    fs::write(folder.join("secret.img"), "<html>").unwrap();
    std::os::unix::fs::symlink("../secret.img", allowed.join("link.img")).unwrap();
    let host = site.limited(Limits { folders: vec![allowed.clone()], ..Limits::default() });
    for image in [inside.to_string(), format!("file://{inside}")] {
        let error = pull(&host, &image);
        assert_eq!(error.code, Code::InvalidInput, "{image}: {error}");
        assert!(error.to_string().contains("web page"), "{image}: {error}");
    }
    assert_eq!(pull(&host, allowed.join("missing.img").as_str()).code, Code::NotFound);
    assert_eq!(create(&host, "iso", allowed.join("missing.iso").as_str()).code, Code::NotFound);
    for outside in [folder.to_string(), format!("{allowed}/.."), format!("file://{folder}")] {
        let [existing, missing] = ["secret.img", "missing.img"].map(|file| {
            let path = format!("{outside}/{file}");
            site.assert_refused(&host, &path);
            pull(&host, &path).to_string().replace(file, "FILE")
        });
        assert_eq!(existing, missing);
    }
    site.assert_refused(&host, allowed.join("link.img").as_str());
    site.assert_refused(&host, "Cargo.toml/");
    for iso in [folder.join("secret.img"), folder.join("missing.img"), allowed.join("link.img")] {
        let error = create(&host, "iso", iso.as_str());
        assert_eq!(error.code, Code::Forbidden, "{iso}: {error}");
    }
}

#[test]
fn hints_for_restricted_clients_do_not_reveal_files() {
    let site = Site::new();
    let hint = |host: &Host| image::info(host, "Cargo.toml").unwrap_err().hint_text(vmprov::api::as_command).unwrap();
    assert!(hint(&site.host(&[], "")).contains("for the file of that name"));
    assert!(!hint(&site.limited(Limits::default())).contains("for the file of that name"));
}
