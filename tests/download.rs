//! Fetching from servers that break off, fall silent, lie and change their minds: what comes is whole and what it should
//! be, is asked for no more than it must be, and leaves nothing where it cannot come.
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

/// How long a server may be silent here. Pauses between tries are in proportion to it.
const PATIENCE: Duration = Duration::from_millis(1500);

/// More than one buffer of anybody's.
const SIZE: usize = 3 << 20;

const FILE: &str = "images/disk.img";

/// A server, and a folder for what is fetched.
struct Place {
    mirror: Mirror,
    folder: tempfile::TempDir,
    cancel: Cancel,
}

/// What was heard of a transfer.
#[derive(Default)]
struct Heard {
    pauses: RefCell<Vec<Duration>>,
    last: RefCell<(u64, Option<u64>)>,
}

impl Listener for Heard {
    fn bytes(&self, done: u64, total: Option<u64>) {
        *self.last.borrow_mut() = (done, total);
    }

    fn retry(&self, _: &Error, pause: Duration) {
        self.pauses.borrow_mut().push(pause);
    }
}

impl Place {
    fn new() -> Self {
        let place = Self { mirror: Mirror::new(), folder: tempfile::tempdir().unwrap(), cancel: Cancel::default() };
        place.mirror.put(FILE, content(1));
        place
    }

    fn folder(&self) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.folder.path().to_owned()).unwrap()
    }

    fn get(&self) -> Result<Downloaded> {
        self.get_heard(&Heard::default())
    }

    fn get_heard(&self, heard: &Heard) -> Result<Downloaded> {
        let http = Http::new(PATIENCE, &Proxies::default(), self.cancel.clone());
        let url = self.mirror.url(FILE);
        download(&http, &url, &self.folder(), &[Algorithm::Sha512], &|_| Ok(()), heard, &self.cancel)
    }

    /// It comes, is this, and goes without a trace.
    #[track_caller]
    fn brings(&self, expected: &[u8], requests: &[&str]) {
        let got = self.get().unwrap();
        assert!(fs::read(&got.path).unwrap() == expected, "it is something else");
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
        assert_eq!(self.left(), Vec::<String>::new());
    }

    /// The files in the folder.
    fn left(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Breaks a transfer off when the server has sent so much and holds the rest.
    fn interrupted_at(&self, at: usize) {
        self.mirror.spoil(FILE, [Fault::Hold(at)]);
        let (cancel, folder, url) = (Cancel::default(), self.folder(), self.mirror.url(FILE));
        thread::scope(|scope| {
            let (raise, folder) = (cancel.clone(), &folder);
            scope.spawn(move || {
                let deadline = Instant::now() + Duration::from_mins(1);
                let there = || partial_file::list(folder).first().is_some_and(|(_, size)| *size >= at as u64);
                while !there() && Instant::now() < deadline {
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

/// A file that is like no other.
fn content(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..SIZE).map(|_| next()).collect()
}

#[test]
fn a_good_server_is_asked_once() {
    let place = Place::new();
    let heard = Heard::default();
    place.get_heard(&heard).unwrap().discard();
    assert_eq!(*heard.last.borrow(), (SIZE as u64, Some(SIZE as u64)));
    place.mirror.requests();
    place.brings(&content(1), &["200"]);
}

#[test]
fn what_breaks_off_goes_on_where_it_was() {
    let place = Place::new();
    place.mirror.spoil(FILE, [Fault::Cut(1_000_000), Fault::Cut(500_000)]);
    place.brings(&content(1), &["200", "1000000- 206", "1500000- 206"]);
}

/// As long as each try brings more than was ever there, the line may break as often as it likes.
#[test]
fn a_line_that_breaks_again_and_again_still_brings_it() {
    let place = Place::new();
    let body: Vec<u8> = content(1).repeat(4);
    place.mirror.put(FILE, body.clone());
    place.mirror.spoil(FILE, (0..9).map(|_| Fault::Cut(1_200_000)));
    let got = place.get().unwrap();
    assert!(fs::read(&got.path).unwrap() == body);
    assert_eq!(place.mirror.requests().len(), 10);
}

#[test]
fn a_later_call_goes_on_where_an_earlier_one_was_cut_short() {
    let place = Place::new();
    place.interrupted_at(1_048_576);
    assert_eq!(place.left().len(), 2, "{:?}", place.left());
    place.brings(&content(1), &["1048576- 206"]);
}

#[test]
fn a_file_that_has_changed_meanwhile_is_fetched_anew() {
    for heedless in [false, true] {
        let place = Place::new();
        place.interrupted_at(1_048_576);
        place.mirror.put(FILE, content(2));
        let mut changed =
            Served { body: content(2), etag: Some("\"other\"".to_owned()), ranges: true, ..Served::default() };
        if heedless {
            // It sends the rest of what is another file now; its tag shows that.
            changed.faults = [].into();
            changed.last_modified = Some("Wed, 25 Nov 2026 00:00:00 GMT".to_owned());
            changed.body.truncate(SIZE - 1);
            changed.heedless = true;
            let body = changed.body.clone();
            place.mirror.serve(FILE, changed);
            place.brings(&body, &["1048576- 206", "200"]);
        } else {
            place.mirror.serve(FILE, changed);
            place.brings(&content(2), &["1048576- 200"]);
        }
    }
}

#[test]
fn what_was_whole_already_is_not_fetched_again() {
    let place = Place::new();
    // Killed after the last byte: the part is whole, and nothing says so.
    place.get().unwrap();
    place.mirror.requests();
    place.brings(&content(1), &[&format!("{SIZE}- 416")]);
    // The same with a file that has become shorter.
    place.get().unwrap();
    place.mirror.requests();
    let shorter = content(1)[..1000].to_vec();
    let etag = Some("\"shorter\"".to_owned());
    place.mirror.serve(FILE, Served { body: shorter.clone(), etag, ranges: true, heedless: true, ..Served::default() });
    place.brings(&shorter, &[&format!("{SIZE}- 416"), "200"]);
}

#[test]
fn without_something_to_compare_it_begins_anew() {
    for etag in [None, Some("W/\"weak\"".to_owned())] {
        let place = Place::new();
        place.mirror.serve(FILE, Served { body: content(1), etag, ranges: true, ..Served::default() });
        place.mirror.spoil(FILE, [Fault::Cut(1_000_000)]);
        place.brings(&content(1), &["200", "200"]);
        // What cannot be gone on with is not kept.
        place.mirror.spoil(FILE, (0..9).map(|_| Fault::Cut(1000)));
        let error = place.get().unwrap_err();
        assert_eq!(error.code, Code::Unreachable);
        assert!(error.message.contains("ended after 1000 of 3145728 bytes"), "{error}");
        assert_eq!(place.left(), Vec::<String>::new());
    }
}

#[test]
fn a_date_can_be_compared_too_and_a_server_without_ranges_is_borne() {
    let date = Some("Tue, 24 Nov 2026 08:00:00 GMT".to_owned());
    for (ranges, second) in [(true, "1000000- 206"), (false, "1000000- 200")] {
        let place = Place::new();
        place.mirror.serve(FILE, Served { body: content(1), last_modified: date.clone(), ranges, ..Served::default() });
        place.mirror.spoil(FILE, [Fault::Cut(1_000_000)]);
        place.brings(&content(1), &["200", second]);
    }
}

#[test]
fn a_server_that_falls_silent_is_given_up_and_asked_again() {
    let place = Place::new();
    place.mirror.spoil(FILE, [Fault::Stall(1_000_000)]);
    place.brings(&content(1), &["200", "1000000- 206"]);
    place.mirror.spoil(FILE, (0..5).map(|_| Fault::Stall(0)));
    let error = place.get().unwrap_err();
    assert_eq!((error.code, error.code.is_retryable()), (Code::Timeout, true));
    assert!(error.message.starts_with("no data from `") && error.message.ends_with(" for 1.5 s"), "{error}");
    assert_eq!(place.mirror.requests().len(), 5);
}

#[test]
fn only_what_may_pass_is_tried_again_and_pauses_grow() {
    let heard = Heard::default();
    let place = Place::new();
    place.mirror.spoil(FILE, [500, 502, 503].map(Fault::Status));
    place.mirror.spoil(FILE, [Fault::Later(429, 1)]);
    place.get_heard(&heard).unwrap().discard();
    let pauses = heard.pauses.take();
    assert_eq!(pauses[..3], [PATIENCE / 30, PATIENCE / 15, PATIENCE * 4 / 30]);
    assert_eq!(pauses[3], Duration::from_secs(1));
    assert_eq!(place.mirror.requests().len(), 5);
    for (status, code, tries) in [
        (404, Code::NotFound, 1),
        (410, Code::NotFound, 1),
        (403, Code::Denied, 1),
        (418, Code::Unreachable, 1),
        (503, Code::Unreachable, 5),
    ] {
        place.mirror.spoil(FILE, (0..tries).map(|_| Fault::Status(status)));
        let error = place.get().unwrap_err();
        assert_eq!((error.code, place.mirror.requests().len()), (code, tries), "{error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert_eq!(place.left(), Vec::<String>::new());
    }
}

#[test]
fn redirects_are_followed_and_have_an_end() {
    let place = Place::new();
    let elsewhere = place.mirror.url("elsewhere");
    place.mirror.put("elsewhere", content(3));
    place.mirror.spoil(FILE, [Fault::Redirect(elsewhere)]);
    let got = place.get().unwrap();
    assert!(fs::read(&got.path).unwrap() == content(3));
    got.discard();
    drop(got);
    let round = place.mirror.url(FILE);
    place.mirror.spoil(FILE, (0..99).map(|_| Fault::Redirect(round.clone())));
    let error = place.get().unwrap_err();
    assert!(error.to_string().contains("redirect"), "{error}");
    assert_eq!(place.left(), Vec::<String>::new());
}

/// A server that says another length than it sends: less is a break, more is never read.
#[test]
fn a_wrong_length_is_noticed_or_kept_to() {
    let place = Place::new();
    place.mirror.spoil(FILE, [Fault::Length(SIZE + 10)]);
    place.brings(&content(1), &["200", &format!("{SIZE}- 416"), "200"]);
    place.mirror.spoil(FILE, [Fault::Length(1000)]);
    let got = place.get().unwrap();
    assert!(fs::read(&got.path).unwrap() == content(1)[..1000], "checksums are for that");
    got.discard();
    drop(got);
    place.mirror.requests();
    place.mirror.spoil(FILE, [Fault::NoLength]);
    place.brings(&content(1), &["200"]);
}

#[test]
fn what_is_not_admitted_is_not_fetched() {
    let place = Place::new();
    // More than the kernel's buffers take.
    let size = 64 << 20;
    place.mirror.put(FILE, vec![7; size]);
    let http = Http::new(PATIENCE, &Proxies::default(), Cancel::default());
    let admit = |length| Err(Error::conflict(format!("{length} are too many")));
    let url = place.mirror.url(FILE);
    let refused = download(&http, &url, &place.folder(), &[], &admit, &(), &Cancel::default());
    assert_eq!(refused.unwrap_err().message, format!("{size} are too many"));
    assert_eq!(place.left(), Vec::<String>::new());
    assert!(place.mirror.sent() < size as u64, "it was sent nevertheless");
}

#[test]
fn an_interrupt_ends_a_silence_at_once() {
    let place = Place::new();
    place.mirror.spoil(FILE, [Fault::Stall(0)]);
    let http = Http::new(Duration::from_mins(5), &Proxies::default(), place.cancel.clone());
    let ended = thread::scope(|scope| {
        let url = place.mirror.url(FILE);
        let (http, folder, cancel) = (&http, place.folder(), &place.cancel);
        let transfer = scope.spawn(move || download(http, &url, &folder, &[], &|_| Ok(()), &(), cancel));
        while place.mirror.requests().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        place.cancel.raise();
        transfer.join().unwrap()
    });
    assert_eq!(ended.unwrap_err().code, Code::Interrupted);
}

#[test]
fn small_texts_come_whole_or_not_at_all() {
    let place = Place::new();
    let http = Http::new(PATIENCE, &Proxies::default(), Cancel::default());
    place.mirror.put("SUMS", "sum");
    let text = |path: &str| http.text(&place.mirror.url(path), &());
    assert_eq!(text("SUMS").unwrap().unwrap().bytes, b"sum");
    for status in [403, 404, 410] {
        place.mirror.spoil("SUMS", [Fault::Status(status)]);
        assert_eq!(text("SUMS").unwrap(), None);
    }
    assert_eq!(text("nothing").unwrap(), None);
    place.mirror.spoil("SUMS", [Fault::Cut(1), Fault::Status(500)]);
    assert_eq!(text("SUMS").unwrap().unwrap().bytes, b"sum");
    place.mirror.put("SUMS", vec![b'x'; 5 << 20]);
    assert_eq!(text("SUMS").unwrap_err().code, Code::InvalidInput);
}
