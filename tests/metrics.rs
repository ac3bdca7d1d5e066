//! Metrics: the number of processes that reading the statistics takes, its failures, and the counters of processes and
//! downloads.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

use std::{os::unix::net::UnixListener, sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use mirror::Mirror;
use vmprov::{
    cancel::Cancel,
    error::Code,
    model::{proxy::Proxies, stats::Stats},
    ops::{
        Host, Settings,
        image::{NewPull, pull},
        stats::read,
    },
    service::metrics::Metrics,
};

/// An empty folder for a host, and the metrics of its operations.
struct Site {
    folder: tempfile::TempDir,
    metrics: Arc<Metrics>,
}

impl Site {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), metrics: Arc::new(Metrics::new()) }
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.folder.path().join(name)).unwrap()
    }

    fn host(&self, uri: &str, pool: &str) -> Host {
        let settings = Settings {
            uri: uri.to_owned(),
            pool: pool.to_owned(),
            pool_path: self.path("pool"),
            key_dir: self.path("keys"),
            data_dir: self.path("data"),
            cache_dir: self.path("cache"),
            mirrors: Vec::new(),
            proxies: Proxies::default(),
            require_verified: false,
            stall_limit: Duration::from_secs(2),
            catalogue_files: Vec::new(),
            sources: vmprov::model::source_policy::SourcePolicy::Any,
        };
        Host::new(settings, Cancel::default(), Arc::new(())).observed_by(self.metrics.clone())
    }

    /// Returns the URI of the test driver with these pools.
    fn with_pools(&self, pools: &[&str]) -> String {
        let pool =
            |name: &&str| format!("<pool type='dir'><name>{name}</name><target><path>/{name}</path></target></pool>");
        let pools: String = pools.iter().map(pool).collect();
        let path = self.path("node.xml");
        std::fs::write(&path, format!("<node>{pools}</node>")).unwrap();
        format!("test://{path}")
    }

    /// Returns the value of a counter, or 0 if it has none yet.
    fn count(&self, name: &str) -> u64 {
        let text = self.metrics.encode(Ok(&Stats::default()));
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    fn processes(&self) -> u64 {
        self.count("vmprov_processes_started_total{program=\"virsh\"}")
    }
}

/// Returns the names of the pools, each with whether its space is known.
fn pools(stats: &Stats) -> Vec<(&str, bool)> {
    stats.pools.iter().map(|pool| (pool.name.as_str(), pool.space.is_some())).collect()
}

#[test]
fn reading_the_statistics_takes_one_process() {
    let site = Site::new();
    let stats = read(&site.host("test:///default", "default-pool")).unwrap();
    assert_eq!(stats.vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["test"]);
    assert_eq!(pools(&stats), [("default-pool", true)]);
    assert_eq!(site.processes(), 1);
}

#[test]
fn any_number_of_other_pools_takes_one_more_process() {
    let site = Site::new();
    let uri = site.with_pools(&["a b", "mine", "c"]);
    let stats = read(&site.host(&uri, "mine")).unwrap();
    assert_eq!(pools(&stats), [("a b", true), ("c", true), ("mine", true)]);
    assert_eq!(site.processes(), 2);
}

#[test]
fn a_missing_configured_pool_is_not_a_failure() {
    let site = Site::new();
    let uri = site.with_pools(&[]);
    assert_eq!(read(&site.host(&uri, "mine")).unwrap(), Stats::default());
    assert_eq!(site.processes(), 1);
}

/// The socket accepts the connection and never responds, like a stuck libvirtd.
#[test]
fn a_libvirt_that_hangs_times_out_and_counts_as_down() {
    let site = Site::new();
    let socket = site.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = read(&site.host(&format!("qemu+unix:///system?socket={socket}"), "default")).unwrap_err();
    assert_eq!(error.code, Code::Timeout, "{error}");
    assert!(error.message.ends_with("did not end within 3 s"), "{error}");
    assert_eq!(site.count("vmprov_processes_failed_total{program=\"virsh\"}"), 1);
    assert!(site.metrics.encode(Err(&error)).contains("\nlibvirt_up 0\n"));
}

#[test]
fn downloads_and_their_bytes_are_counted() {
    let (site, mirror) = (Site::new(), Mirror::new());
    let host = site.host("test:///default", "default-pool");
    // The test driver supports no uploads, so the pull fails after the download.
    let body = [&b"QFI\xfb\0\0\0\x03"[..], &vec![0; 300_000]].concat();
    let fetch = |name: &str| {
        let image = mirror.url(name);
        pull(&host, &NewPull { image, checksum: None, require_verified: false, arch: None }).unwrap_err()
    };
    mirror.put("image.qcow2", body.clone());
    fetch("image.qcow2");
    assert_eq!(fetch("missing.qcow2").code, Code::NotFound);
    assert_eq!(site.count("vmprov_image_download_bytes_total"), body.len() as u64);
    assert_eq!(site.count("vmprov_image_downloads_total{result=\"succeeded\"}"), 1);
    assert_eq!(site.count("vmprov_image_downloads_total{result=\"not_found\"}"), 1);
}
