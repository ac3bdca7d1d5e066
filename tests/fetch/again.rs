//! Repeated, concurrent and interrupted downloads of images.

use super::{
    Site, lab,
    mirror::{Fault, Served},
    sha256,
};

#[test]
fn a_pull_fetches_a_new_version_and_vms_keep_theirs() {
    let site = Site::new();
    let before = site.lab.snapshot();
    site.catalogue(&site.entry("golden:1", "g/disk.qcow2", "checksum = { file = 'SHA256SUMS', form = 'sha256sums' }"));
    let before_all = site.lab.snapshot();
    let old = site.publish("g/disk.qcow2");
    let create = |vm: &str, more: &[&str]| {
        site.ok(&[&["vm", "create", vm, "--image", "golden:1", "--no-start", "--disk-size", "1"], more].concat())
    };
    create("fetch-a", &[]);
    site.mirror.requests();
    // Nothing is new: only the checksum file is requested.
    let pulled = site.json(&["image", "pull", "golden:1"]);
    assert_eq!((&pulled["status"], &pulled["image"]["sha256"]), (&"unchanged".into(), &sha256(&old).into()));
    assert_eq!(site.mirror.requests(), ["GET /g/SHA256SUMS 200"]);
    create("fetch-b", &[]);
    assert_eq!(site.mirror.requests(), Vec::<String>::new(), "a create must not send requests");

    let new = site.publish("g/disk.qcow2");
    create("fetch-c", &[]);
    let base = |vm: &str| site.json(&["vm", "info", vm])["imageSha256"].clone();
    assert_eq!(base("fetch-c"), sha256(&old), "a create must use the stored image");
    create("fetch-d", &["--pull"]);
    assert_eq!(base("fetch-d"), sha256(&new));
    let images = site.json(&["image", "list"]);
    let row = |current: bool| {
        let all = images["images"].as_array().unwrap();
        let of = |image: &&serde_json::Value| image["name"] == "golden:1" && image["current"] == current;
        all.iter().find(of).unwrap_or_else(|| panic!("{images}")).clone()
    };
    assert_eq!(row(true)["vms"], serde_json::json!(["fetch-d"]));
    assert_eq!(row(false)["vms"], serde_json::json!(["fetch-a", "fetch-b", "fetch-c"]));
    let newer = site.publish("g/disk.qcow2");
    let pulled = site.json(&["image", "pull", "golden:1"]);
    assert_eq!((&pulled["status"], &pulled["replaced"]), (&"updated".into(), &sha256(&new)[..12].into()), "{pulled}");
    assert_eq!(pulled["image"]["sha256"], sha256(&newer));
    // An image that was replaced is available by its ID.
    let by_id = site.json(&["image", "info", &sha256(&old)[..12]]);
    assert_eq!((&by_id["current"], &by_id["vms"][0]), (&false.into(), &"fetch-a".into()), "{by_id}");
    site.ok(&["vm", "delete", "fetch-a", "fetch-b", "fetch-c", "fetch-d", "--yes"]);
    let pruned = site.json(&["image", "prune"]);
    assert_eq!(pruned["images"].as_array().unwrap().len(), 3, "{pruned}");
    site.lab.settles(&before_all, "at the end");
    site.catalogue("");
    drop(before);
}

/// Without a checksum file a conditional request determines whether the image has changed.
#[test]
fn a_url_is_pulled_again_only_if_its_etag_or_date_changed() {
    let site = Site::new();
    let url = site.mirror.url("u/disk.qcow2");
    let date = |day: u32| Some(format!("Tue, {day} Nov 2026 08:00:00 GMT"));
    let serve = |etag: Option<&str>, day| {
        let etag = etag.map(str::to_owned);
        let body = site.disk();
        site.mirror.serve("u/disk.qcow2", Served { body, etag, last_modified: date(day), ..Served::default() });
    };
    for etags in [[Some("\"a\""), Some("\"b\"")], [None, None]] {
        serve(etags[0], 24);
        let status = |expected: &str, got: &str| {
            site.mirror.requests();
            let pulled = site.json(&["image", "pull", &url]);
            assert_eq!(pulled["status"], expected, "{pulled}");
            let requests = site.mirror.requests();
            assert!(requests.last().unwrap().ends_with(got), "{requests:?}");
        };
        status("fetched", "200");
        status("unchanged", "304");
        serve(etags[1], 25);
        status("updated", "200");
        status("unchanged", "304");
        site.ok(&["image", "prune"]);
    }
}

#[test]
fn two_concurrent_creates_fetch_an_image_once() {
    let site = Site::new();
    let before = site.lab.snapshot();
    site.publish("t/disk.qcow2");
    let url = site.mirror.url("t/disk.qcow2");
    site.mirror.inject_faults("t/disk.qcow2", [Fault::Hold(300_000)]);
    let args = |vm: &'static str| ["vm", "create", vm, "--image", &url, "--user", "u", "--no-start", "-o", "json"];
    let (first, second) = (args("fetch-a"), args("fetch-b"));
    let first = site.lab.begin("", &first);
    lab::wait_until("the first create to fetch the image", || site.mirror.sent() > 300_000);
    let second = site.lab.begin("", &second);
    lab::wait_until("the second create to probe the host", || second.has_probed_host());
    site.mirror.release();
    for ran in [first.end().succeeded(), second.end().succeeded()] {
        assert_eq!(ran.json()["imageVerification"], "checksum", "{ran}");
    }
    let images = site.mirror.requests().into_iter().filter(|request| request.contains("disk.qcow2 ")).count();
    assert_eq!(images, 1);
    site.ok(&["vm", "delete", "fetch-a", "fetch-b", "--yes"]);
    site.ok(&["image", "prune"]);
    site.lab.settles(&before, "at the end");
}

#[test]
fn an_interrupted_download_is_resumed_or_pruned() {
    let site = Site::new();
    let before = site.lab.snapshot();
    site.publish("i/disk.qcow2");
    let url = site.mirror.url("i/disk.qcow2");
    let half = 300_000;
    let interrupt = || {
        site.mirror.inject_faults("i/disk.qcow2", [Fault::Hold(half)]);
        let sent = site.mirror.sent();
        let pull = ["image", "pull", &url];
        let running = site.lab.begin("", &pull);
        lab::wait_until("half of the image", || {
            site.mirror.sent() >= sent + half as u64 && site.downloaded() >= half as u64
        });
        running.signal(rustix::process::Signal::INT);
        running.end().failed_with(130);
        site.mirror.requests();
    };
    interrupt();
    let pulled = site.json(&["image", "pull", &url]);
    assert_eq!((&pulled["status"], &pulled["image"]["verification"]), (&"fetched".into(), &"checksum".into()));
    assert!(site.mirror.requests().last().unwrap().ends_with(&format!("disk.qcow2 {half}- 206")));
    site.ok(&["image", "prune"]);
    site.lab.settles(&before, "after the download was resumed");
    interrupt();
    let dry = site.json(&["image", "prune", "--dry-run"]);
    assert_eq!((dry["downloads"].as_array().unwrap().len(), &dry["dryRun"]), (1, &true.into()), "{dry}");
    assert!(site.downloaded() > 0, "a dry run removed the download");
    let pruned = site.json(&["image", "prune"]);
    assert_eq!((&pruned["downloads"], &pruned["freed"]), (&dry["downloads"], &dry["freed"]), "{pruned}");
    site.lab.settles(&before, "after the download was pruned");
}

impl Site {
    /// The size of the partial downloads in the cache.
    fn downloaded(&self) -> u64 {
        let folder = self.lab.file(".cache/vmprov/downloads");
        let entries = std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap);
        let parts = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "part"));
        parts.map(|entry| entry.metadata().map_or(0, |metadata| metadata.len())).sum()
    }
}

#[test]
fn a_proxy_from_the_environment_is_used() {
    let site = Site::new();
    let before = site.lab.snapshot();
    site.publish("p/disk.qcow2");
    let url = "http://images.example/p/disk.qcow2";
    let proxy = site.mirror.url.clone();
    let pulled = site.lab.with_env("HTTP_PROXY", &proxy, &["image", "pull", url, "-o", "json"]).succeeded().json();
    assert_eq!(pulled["image"]["verification"], "checksum", "{pulled}");
    let requests = site.mirror.requests();
    assert!(requests.iter().any(|request| request.contains("disk.qcow2 200")), "{requests:?}");
    site.ok(&["image", "prune"]);
    site.lab.settles(&before, "at the end");
}
