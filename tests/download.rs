//! Downloads from servers that disconnect, stall, send wrong headers or change the file: the result is complete and
//! correct, no request is unnecessary, and a failed download leaves no files.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

use std::{
    cell::RefCell,
    fs, thread,
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;
use mirror::{Fault, Mirror, Served};
use vmprov::{
    cancel::Cancel,
    error::{Code, Error, Result},
    model::{image::Algorithm, proxy::Proxies},
    store::{
        checksum_file::Sums,
        download::{Downloaded, download},
        http::{Http, Listener},
        partial_file,
    },
};

/// The stall timeout of these tests. Pauses between attempts are proportional to it.
const STALL_TIMEOUT: Duration = Duration::from_millis(1500);

/// More than any buffer on the way holds.
const SIZE: usize = 3 << 20;

const FILE: &str = "images/disk.img";

/// A server, and a folder for downloads.
struct Fixture {
    mirror: Mirror,
    folder: tempfile::TempDir,
    cancel: Cancel,
}

/// Records the progress of a transfer.
#[derive(Default)]
struct Progress {
    pauses: RefCell<Vec<Duration>>,
    last: RefCell<(u64, Option<u64>)>,
}

impl Listener for Progress {
    fn bytes(&self, done: u64, total: Option<u64>) {
        *self.last.borrow_mut() = (done, total);
    }

    fn retry(&self, _: &Error, pause: Duration) {
        self.pauses.borrow_mut().push(pause);
    }
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { mirror: Mirror::new(), folder: tempfile::tempdir().unwrap(), cancel: Cancel::default() };
        fixture.mirror.put(FILE, content(1));
        fixture
    }

    fn folder(&self) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.folder.path().to_owned()).unwrap()
    }

    fn get(&self) -> Result<Downloaded> {
        self.get_with(&Progress::default())
    }

    fn get_with(&self, progress: &Progress) -> Result<Downloaded> {
        let http = Http::new(STALL_TIMEOUT, &Proxies::default(), self.cancel.clone());
        let url = self.mirror.url(FILE);
        download(&http, &url, &self.folder(), &[Algorithm::Sha512], &|_| Ok(()), progress, &self.cancel)
    }

    /// Checks that the download succeeds with this content and these requests, and leaves nothing once it is discarded.
    #[track_caller]
    fn assert_download(&self, expected: &[u8], requests: &[&str]) {
        let got = self.get().unwrap();
        assert!(fs::read(&got.path).unwrap() == expected, "the content is wrong");
        let mut sums = Sums::new(&[Algorithm::Sha512]);
        sums.update(expected);
        assert_eq!(got.sums.sha256(), sums.sha256());
        assert_eq!(got.sums.get(Algorithm::Sha512), sums.get(Algorithm::Sha512));
        assert!(!got.facts.tls);
        let path = FILE;
        let expected: Vec<_> = requests.iter().map(|request| format!("GET /{path} {request}")).collect();
        assert_eq!(self.mirror.requests(), expected);
        got.discard();
        drop(got);
        assert_eq!(self.files(), Vec::<String>::new());
    }

    /// The files in the folder.
    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Interrupts a transfer when `at` bytes have arrived and the server holds the rest.
    fn interrupt_at(&self, at: usize) {
        self.mirror.inject_faults(FILE, [Fault::Hold(at)]);
        let (cancel, folder, url) = (Cancel::default(), self.folder(), self.mirror.url(FILE));
        thread::scope(|scope| {
            let (raise, folder) = (cancel.clone(), &folder);
            scope.spawn(move || {
                let deadline = Instant::now() + Duration::from_mins(1);
                let has_arrived = || partial_file::list(folder).first().is_some_and(|(_, size)| *size >= at as u64);
                while !has_arrived() && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(5));
                }
                raise.raise();
            });
            let http = Http::new(Duration::from_mins(2), &Proxies::default(), cancel.clone());
            let ended = download(&http, &url, folder, &[], &|_| Ok(()), &(), &cancel);
            assert_eq!(ended.unwrap_err().code, Code::Interrupted);
        });
        self.mirror.requests();
    }
}

/// Pseudorandom content for a file, which depends on the seed.
fn content(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..SIZE).map(|_| next()).collect()
}

#[test]
fn a_download_without_faults_takes_one_request() {
    let fixture = Fixture::new();
    let progress = Progress::default();
    fixture.get_with(&progress).unwrap().discard();
    assert_eq!(*progress.last.borrow(), (SIZE as u64, Some(SIZE as u64)));
    fixture.mirror.requests();
    fixture.assert_download(&content(1), &["200"]);
}

#[test]
fn a_broken_transfer_resumes_where_it_stopped() {
    let fixture = Fixture::new();
    fixture.mirror.inject_faults(FILE, [Fault::Cut(1_000_000), Fault::Cut(500_000)]);
    fixture.assert_download(&content(1), &["200", "1000000- 206", "1500000- 206"]);
}

/// The number of disconnects is not limited as long as each attempt makes progress.
#[test]
fn repeated_disconnects_do_not_stop_a_download_that_makes_progress() {
    let fixture = Fixture::new();
    let body: Vec<u8> = content(1).repeat(4);
    fixture.mirror.put(FILE, body.clone());
    fixture.mirror.inject_faults(FILE, (0..9).map(|_| Fault::Cut(1_200_000)));
    let got = fixture.get().unwrap();
    assert!(fs::read(&got.path).unwrap() == body);
    assert_eq!(fixture.mirror.requests().len(), 10);
}

#[test]
fn a_later_call_resumes_an_interrupted_download() {
    let fixture = Fixture::new();
    fixture.interrupt_at(1_048_576);
    assert_eq!(fixture.files().len(), 2, "{:?}", fixture.files());
    fixture.assert_download(&content(1), &["1048576- 206"]);
}

#[test]
fn a_file_that_has_changed_is_downloaded_from_the_start() {
    for ignores_if_range in [false, true] {
        let fixture = Fixture::new();
        fixture.interrupt_at(1_048_576);
        fixture.mirror.put(FILE, content(2));
        let mut changed =
            Served { body: content(2), etag: Some("\"other\"".to_owned()), ranges: true, ..Served::default() };
        if ignores_if_range {
            // The server sends the rest of the new file; the response's headers show the change.
            changed.faults = [].into();
            changed.last_modified = Some("Wed, 25 Nov 2026 00:00:00 GMT".to_owned());
            changed.body.truncate(SIZE - 1);
            changed.ignores_if_range = true;
            let body = changed.body.clone();
            fixture.mirror.serve(FILE, changed);
            fixture.assert_download(&body, &["1048576- 206", "200"]);
        } else {
            fixture.mirror.serve(FILE, changed);
            fixture.assert_download(&content(2), &["1048576- 200"]);
        }
    }
}

#[test]
fn a_complete_partial_file_is_not_downloaded_again() {
    let fixture = Fixture::new();
    // A process that was killed after the last byte leaves a complete file that is not marked as such.
    fixture.get().unwrap();
    fixture.mirror.requests();
    fixture.assert_download(&content(1), &[&format!("{SIZE}- 416")]);
    // The same, but the file on the server has become shorter.
    fixture.get().unwrap();
    fixture.mirror.requests();
    let shorter = content(1)[..1000].to_vec();
    let etag = Some("\"shorter\"".to_owned());
    fixture
        .mirror
        .serve(FILE, Served { body: shorter.clone(), etag, ranges: true, ignores_if_range: true, ..Served::default() });
    fixture.assert_download(&shorter, &[&format!("{SIZE}- 416"), "200"]);
}

#[test]
fn without_a_strong_validator_a_download_starts_again() {
    for etag in [None, Some("W/\"weak\"".to_owned())] {
        let fixture = Fixture::new();
        fixture.mirror.serve(FILE, Served { body: content(1), etag, ranges: true, ..Served::default() });
        fixture.mirror.inject_faults(FILE, [Fault::Cut(1_000_000)]);
        fixture.assert_download(&content(1), &["200", "200"]);
        // A partial file that cannot be resumed is not kept.
        fixture.mirror.inject_faults(FILE, (0..9).map(|_| Fault::Cut(1000)));
        let error = fixture.get().unwrap_err();
        assert_eq!(error.code, Code::Unreachable);
        assert!(error.message.contains("ended after 1000 of 3145728 bytes"), "{error}");
        assert_eq!(fixture.files(), Vec::<String>::new());
    }
}

#[test]
fn a_date_also_validates_and_a_server_may_ignore_ranges() {
    let date = Some("Tue, 24 Nov 2026 08:00:00 GMT".to_owned());
    for (ranges, second) in [(true, "1000000- 206"), (false, "1000000- 200")] {
        let fixture = Fixture::new();
        fixture
            .mirror
            .serve(FILE, Served { body: content(1), last_modified: date.clone(), ranges, ..Served::default() });
        fixture.mirror.inject_faults(FILE, [Fault::Cut(1_000_000)]);
        fixture.assert_download(&content(1), &["200", second]);
    }
}

#[test]
fn a_stalled_transfer_times_out_and_is_retried() {
    let fixture = Fixture::new();
    fixture.mirror.inject_faults(FILE, [Fault::Stall(1_000_000)]);
    fixture.assert_download(&content(1), &["200", "1000000- 206"]);
    fixture.mirror.inject_faults(FILE, (0..5).map(|_| Fault::Stall(0)));
    let error = fixture.get().unwrap_err();
    assert_eq!((error.code, error.code.is_retryable()), (Code::Timeout, true));
    assert!(error.message.starts_with("no data from `") && error.message.ends_with(" for 1.5 s"), "{error}");
    assert_eq!(fixture.mirror.requests().len(), 5);
}

#[test]
fn only_transient_failures_are_retried_and_pauses_grow() {
    let progress = Progress::default();
    let fixture = Fixture::new();
    fixture.mirror.inject_faults(FILE, [500, 502, 503].map(Fault::Status));
    fixture.mirror.inject_faults(FILE, [Fault::RetryAfter(429, 1)]);
    fixture.get_with(&progress).unwrap().discard();
    let pauses = progress.pauses.take();
    assert_eq!(pauses[..3], [STALL_TIMEOUT / 30, STALL_TIMEOUT / 15, STALL_TIMEOUT * 4 / 30]);
    assert_eq!(pauses[3], Duration::from_secs(1));
    assert_eq!(fixture.mirror.requests().len(), 5);
    for (status, code, tries) in [
        (404, Code::NotFound, 1),
        (410, Code::NotFound, 1),
        (403, Code::Denied, 1),
        (418, Code::Unreachable, 1),
        (503, Code::Unreachable, 5),
    ] {
        fixture.mirror.inject_faults(FILE, (0..tries).map(|_| Fault::Status(status)));
        let error = fixture.get().unwrap_err();
        assert_eq!((error.code, fixture.mirror.requests().len()), (code, tries), "{error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert_eq!(fixture.files(), Vec::<String>::new());
    }
}

#[test]
fn redirects_are_followed_up_to_a_limit() {
    let fixture = Fixture::new();
    let elsewhere = fixture.mirror.url("elsewhere");
    fixture.mirror.put("elsewhere", content(3));
    fixture.mirror.inject_faults(FILE, [Fault::Redirect(elsewhere)]);
    let got = fixture.get().unwrap();
    assert!(fs::read(&got.path).unwrap() == content(3));
    got.discard();
    drop(got);
    let round = fixture.mirror.url(FILE);
    fixture.mirror.inject_faults(FILE, (0..99).map(|_| Fault::Redirect(round.clone())));
    let error = fixture.get().unwrap_err();
    assert!(error.to_string().contains("redirect"), "{error}");
    assert_eq!(fixture.files(), Vec::<String>::new());
}

/// A `Content-Length` that is too large counts as a disconnect; bytes beyond one that is too small are never read.
#[test]
fn a_wrong_content_length_is_detected_or_respected() {
    let fixture = Fixture::new();
    fixture.mirror.inject_faults(FILE, [Fault::Length(SIZE + 10)]);
    fixture.assert_download(&content(1), &["200", &format!("{SIZE}- 416"), "200"]);
    fixture.mirror.inject_faults(FILE, [Fault::Length(1000)]);
    let got = fixture.get().unwrap();
    assert!(fs::read(&got.path).unwrap() == content(1)[..1000], "only a checksum could detect this");
    got.discard();
    drop(got);
    fixture.mirror.requests();
    fixture.mirror.inject_faults(FILE, [Fault::NoLength]);
    fixture.assert_download(&content(1), &["200"]);
}

#[test]
fn a_file_whose_size_is_refused_is_not_downloaded() {
    let fixture = Fixture::new();
    // More than the kernel's socket buffers hold.
    let size = 64 << 20;
    fixture.mirror.put(FILE, vec![7; size]);
    let http = Http::new(STALL_TIMEOUT, &Proxies::default(), Cancel::default());
    let admit = |length| Err(Error::conflict(format!("{length} are too many")));
    let url = fixture.mirror.url(FILE);
    let refused = download(&http, &url, &fixture.folder(), &[], &admit, &(), &Cancel::default());
    assert_eq!(refused.unwrap_err().message, format!("{size} are too many"));
    assert_eq!(fixture.files(), Vec::<String>::new());
    assert!(fixture.mirror.sent() < size as u64, "the server sent the whole file");
}

#[test]
fn an_interrupt_ends_a_stalled_transfer_immediately() {
    let fixture = Fixture::new();
    fixture.mirror.inject_faults(FILE, [Fault::Stall(0)]);
    let http = Http::new(Duration::from_mins(5), &Proxies::default(), fixture.cancel.clone());
    let ended = thread::scope(|scope| {
        let url = fixture.mirror.url(FILE);
        let (http, folder, cancel) = (&http, fixture.folder(), &fixture.cancel);
        let transfer = scope.spawn(move || download(http, &url, &folder, &[], &|_| Ok(()), &(), cancel));
        while fixture.mirror.requests().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        fixture.cancel.raise();
        transfer.join().unwrap()
    });
    assert_eq!(ended.unwrap_err().code, Code::Interrupted);
}

#[test]
fn a_small_text_is_returned_whole_or_not_at_all() {
    let fixture = Fixture::new();
    let http = Http::new(STALL_TIMEOUT, &Proxies::default(), Cancel::default());
    fixture.mirror.put("SUMS", "sum");
    let text = |path: &str| http.text(&fixture.mirror.url(path), &());
    assert_eq!(text("SUMS").unwrap().unwrap().bytes, b"sum");
    for status in [403, 404, 410] {
        fixture.mirror.inject_faults("SUMS", [Fault::Status(status)]);
        assert_eq!(text("SUMS").unwrap(), None);
    }
    assert_eq!(text("nothing").unwrap(), None);
    fixture.mirror.inject_faults("SUMS", [Fault::Cut(1), Fault::Status(500)]);
    assert_eq!(text("SUMS").unwrap().unwrap().bytes, b"sum");
    fixture.mirror.put("SUMS", vec![b'x'; 5 << 20]);
    assert_eq!(text("SUMS").unwrap_err().code, Code::InvalidInput);
}
