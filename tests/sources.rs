//! What a limited request may name and reach: nothing private, by no way, unless the operator allows it. libvirt's
//! in-memory driver stands behind the operations.
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

/// Somebody on the loopback whom nobody may connect to.
struct Private(TcpListener);

impl Private {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn url(&self, scheme: &str, host: &str) -> String {
        format!("{scheme}://{host}:{}/x.img", self.0.local_addr().unwrap().port())
    }

    /// Nobody has connected.
    #[track_caller]
    fn is_left_alone(&self) {
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

/// `127.0.0.1:PORT` of a server.
fn place(mirror: &Mirror) -> &str {
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
fn what_is_not_public_is_refused_before_anything_is_connected_to() {
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
    private.is_left_alone();
}

#[test]
fn a_host_that_the_operator_allows_is_asked_and_no_other_that_it_redirects_to() {
    let (private, mirror) = (Private::new(), Mirror::new());
    mirror.put("sums", "text");
    let http = http(limits(&[place(&mirror)]), &Proxies::default());
    assert_eq!(http.text_once(&mirror.url("sums")).unwrap().unwrap().bytes, b"text");
    http.admit(&Url::parse(&mirror.url("sums")).unwrap()).unwrap();
    for to in [private.url("http", "127.0.0.1"), private.url("https", "127.0.0.1"), private.url("https", "localhost")] {
        mirror.spoil("moved", [Fault::Redirect(to)]);
        refused(&http, &mirror.url("moved"));
    }
    assert_eq!(mirror.requests(), ["GET /sums 200", "GET /moved 302", "GET /moved 302", "GET /moved 302"]);
    mirror.spoil("moved", [Fault::Redirect("/sums".to_owned())]);
    assert_eq!(http.text_once(&mirror.url("moved")).unwrap().unwrap().bytes, b"text");
    private.is_left_alone();
}

#[test]
fn what_the_operator_gave_is_asked_and_may_redirect_to_itself_or_what_is_public() {
    let (private, mirror) = (Private::new(), Mirror::new());
    mirror.put("sums", "text");
    let http = http(Limits::default(), &Proxies::default());
    refused(&http, &mirror.url("sums"));
    let http = http.given_by(UrlTrust::Operator);
    mirror.spoil("moved", [Fault::Redirect("/sums".to_owned())]);
    assert_eq!(http.text_once(&mirror.url("moved")).unwrap().unwrap().bytes, b"text");
    for to in [private.url("http", "127.0.0.1"), private.url("https", "localhost")] {
        mirror.spoil("moved", [Fault::Redirect(to)]);
        assert!(refused(&http, &mirror.url("moved")).cause.unwrap().contains("not public"));
    }
    private.is_left_alone();
}

#[test]
fn a_proxy_is_reached_wherever_it_is_and_told_no_address_that_is_not_public() {
    let proxy = Mirror::new();
    let http = through("http", place(&proxy));
    for host in ["10.0.0.1", "localhost", "[::1]"] {
        refused(&http, &format!("https://{host}/x.img"));
    }
    assert_eq!(proxy.requests(), Vec::<String>::new());
    // It has no TLS to offer, but it was asked.
    let error = http.text_once("https://1.1.1.1/x.img").unwrap_err().error;
    assert_ne!(error.code, Code::Forbidden, "{error}");
    assert_eq!(proxy.requests(), ["CONNECT 1.1.1.1:443 HTTP/1.1"]);
}

/// The library looks the names of both up, the proxy's and the server's, and asks the same resolver.
#[test]
fn a_proxy_that_is_told_addresses_is_told_those_that_are_public() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = through("socks5", &listener.local_addr().unwrap().to_string());
    refused(&http, "https://localhost/x.img");
    let asked = std::thread::spawn(move || {
        let mut greeting = [0; 3];
        listener.accept().unwrap().0.read_exact(&mut greeting).unwrap();
        greeting
    });
    let error = http.text_once("https://1.1.1.1/x.img").unwrap_err().error;
    assert_ne!(error.code, Code::Forbidden, "{error}");
    assert_eq!(asked.join().unwrap(), [5, 1, 0]);
}

/// Limited, and behind a proxy.
fn through(scheme: &str, place: &str) -> Http {
    let proxy = Some(Url::parse(&format!("{scheme}://{place}")).unwrap());
    http(Limits::default(), &Proxies { http: proxy.clone(), https: proxy, except: Vec::new() })
}

/// A home for one host, and a server with an image that is none, so that one that comes so far goes no further.
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

    /// A host that anything may be named on.
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

    /// It was fetched, and looked at.
    #[track_caller]
    fn is_fetched(&self, host: &Host, image: &str, path: &str) {
        let error = pull(host, image);
        assert_eq!(error.code, Code::InvalidInput, "{image}: {error}");
        let fetched = format!("GET {path} 200");
        let requests = self.mirror.requests();
        assert!(requests.contains(&fetched), "{image}: {error}: {requests:?}");
    }

    #[track_caller]
    fn is_refused(&self, host: &Host, image: &str) {
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
fn a_request_names_public_urls_and_those_that_the_operator_allows() {
    let site = Site::new();
    let url = site.mirror.url("x.img");
    let tls = url.replace("http:", "https:");
    let host = site.limited(Limits::default());
    for image in [&url, &tls, &tls.replace("127.0.0.1", "localhost")] {
        site.is_refused(&host, image);
    }
    site.is_fetched(&site.host(&[], ""), &url, "/x.img");
    site.is_fetched(&site.limited(limits(&["127.0.0.1"])), &url, "/x.img");
    let only = Some(vec!["example.org".parse().unwrap()]);
    let error = pull(&site.limited(Limits { only, ..limits(&["127.0.0.1"]) }), &url);
    assert_eq!(
        (error.code, error.cause.as_deref()),
        (Code::Forbidden, Some("its host is not one of the allowed hosts (example.org)"))
    );
}

/// No libvirt is there that could be asked for what is in the pool.
#[test]
fn what_is_named_is_refused_before_it_is_looked_for_in_the_pool() {
    let site = Site::new();
    let mut host = site.limited(Limits::default());
    host.settings.uri = "test:///nowhere".to_owned();
    let host = host.limited_to(host.settings.sources.clone());
    site.is_refused(&host, &site.mirror.url("x.img"));
    site.is_refused(&host, "/etc/passwd");
}

#[test]
fn the_files_of_checksums_beside_an_image_lead_nowhere_else() {
    let (site, private) = (Site::new(), Private::new());
    for file in ["SHA256SUMS", "SHA512SUMS", "x.img.sha256", "x.img.sha512", "CHECKSUM"] {
        site.mirror.spoil(file, (0..9).map(|_| Fault::Redirect(private.url("http", "127.0.0.1"))));
    }
    site.is_fetched(&site.limited(limits(&[place(&site.mirror)])), &site.mirror.url("x.img"), "/x.img");
    private.is_left_alone();
}

#[test]
fn names_and_mirrors_lead_where_the_operator_says() {
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
    site.is_fetched(&host, "here", "/x.img");
    site.mirror.put("m/x.img", "<html>");
    site.is_fetched(&host, "https://images.example/x.img", "/m/x.img");
    site.mirror.spoil("moved.img", [Fault::Redirect(private.url("http", "127.0.0.1"))]);
    assert_eq!(pull(&host, "moved").code, Code::Forbidden);
    private.is_left_alone();
    // No way leads out of the folder of a mirror.
    fs::write(site.folder().join("secret"), "").unwrap();
    let messages = ["secret", "nothing"].map(|file| {
        let error = pull(&host, &format!("https://files.example/..%2F{file}"));
        assert_eq!(error.code, Code::InvalidInput);
        error.to_string().replace(file, "FILE")
    });
    assert_eq!(messages[0], messages[1]);
}

#[test]
fn files_are_named_below_allowed_folders_and_no_other_is_looked_for() {
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
    for place in [folder.to_string(), format!("{allowed}/.."), format!("file://{folder}")] {
        let [there, missing] = ["secret.img", "missing.img"].map(|file| {
            let path = format!("{place}/{file}");
            site.is_refused(&host, &path);
            pull(&host, &path).to_string().replace(file, "FILE")
        });
        assert_eq!(there, missing);
    }
    site.is_refused(&host, allowed.join("link.img").as_str());
    site.is_refused(&host, "Cargo.toml/");
    for iso in [folder.join("secret.img"), folder.join("missing.img"), allowed.join("link.img")] {
        let error = create(&host, "iso", iso.as_str());
        assert_eq!(error.code, Code::Forbidden, "{iso}: {error}");
    }
}

#[test]
fn whoever_may_not_name_every_file_is_told_of_none() {
    let site = Site::new();
    let hint = |host: &Host| image::info(host, "Cargo.toml").unwrap_err().hint_text(vmprov::api::as_command).unwrap();
    assert!(hint(&site.host(&[], "")).contains("for the file of that name"));
    assert!(!hint(&site.limited(Limits::default())).contains("for the file of that name"));
}
