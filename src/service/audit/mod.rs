//! [`Audit`]: who has asked for what, and what came of it, a line of JSON each. A line is queued before the answer is sent, and
//! written by a thread of its own.

mod queue;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use camino::Utf8PathBuf;
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use uuid::Uuid;

use self::queue::Queue;
use super::job::View;
use crate::{
    api::{Effect, Operation},
    error::{Code, Error, Result},
};

/// The most that is kept of a path that is no route.
const MOST_PATH: usize = 256;

/// How long the last records may take to be written when the service ends.
const FLUSH: Duration = Duration::from_secs(5);

/// The log, where there is one.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    queue: Option<Arc<Queue>>,
    is_required: bool,
}

/// What is found out about a request while it is answered.
#[derive(Debug, Default)]
pub(crate) struct RequestInfo {
    /// The operation.
    pub(crate) operation: OnceLock<&'static Operation>,
    /// The names of what it is about, as `kind/name`: VMs, keys, images, networks.
    pub(crate) targets: OnceLock<Vec<String>>,
    /// The operation that was begun by it.
    pub(crate) job: OnceLock<Uuid>,
}

/// Whence a request came, and what it was for.
#[derive(Clone, Copy)]
pub(crate) struct AuditOrigin<'r> {
    /// The name of the token; none where nobody has said who asks.
    pub(crate) client: Option<&'r str>,
    /// The other end of the connection.
    pub(crate) peer: Option<&'r str>,
    pub(crate) method: &'r str,
    pub(crate) path: &'r str,
}

/// A request that was answered.
pub(crate) struct Answered<'r> {
    pub(crate) whence: AuditOrigin<'r>,
    pub(crate) request_id: &'r str,
    pub(crate) status: u16,
    /// The code of the problem.
    pub(crate) code: Option<&'static str>,
    /// The operation that it began.
    pub(crate) operation_id: Option<&'r str>,
    pub(crate) duration: Duration,
}

/// A line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'l> {
    time: Timestamp,
    /// `request`, or `operation` for the end of one.
    event: &'static str,
    request_id: &'l str,
    client: Option<&'l str>,
    peer: Option<&'l str>,
    method: Option<&'l str>,
    route: Option<&'l str>,
    operation: Option<&'static str>,
    target: &'l [String],
    status: Option<u16>,
    code: Option<&'static str>,
    duration_ms: u128,
    operation_id: Option<&'l str>,
}

impl Audit {
    /// Opens the file, or makes it. If the log is required, [`Self::require`] refuses what might not be recorded; `lost` counts
    /// the records that are lost otherwise.
    pub(crate) fn open(path: Option<Utf8PathBuf>, is_required: bool, lost: Counter) -> Result<Self> {
        let queue = path.map(|path| Queue::open(path, lost)).transpose()?;
        Ok(Self { queue, is_required })
    }

    /// Opens the file again: it may have been renamed.
    pub(crate) fn reopen(&self) {
        if let Some(queue) = &self.queue {
            queue.reopen();
        }
    }

    /// Refuses a change while records might be lost, if the log is required.
    pub(crate) fn require(&self) -> Result<()> {
        let obstacle = self.queue.as_ref().filter(|_| self.is_required).and_then(|queue| queue.obstacle());
        let Some(obstacle) = obstacle else { return Ok(()) };
        let error = Error::new(Code::Unreachable, "cannot record the request in the audit log").because(obstacle);
        Err(error.hint("Nothing was changed. Try again once the operator has repaired the audit log."))
    }

    /// Waits until every record is written, for a limited time.
    pub(crate) async fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let left = queue.flush(FLUSH).await;
        if left > 0 {
            tracing::error!("{left} records could not be written to the audit log");
        }
    }

    /// Notes a request that was answered: each about the API, and each that was not let in.
    pub(crate) fn answered(&self, asked: &RequestInfo, answered: &Answered<'_>) {
        let AuditOrigin { client, peer, method, path } = answered.whence;
        let is_tool = path.starts_with("mcp ") || path.starts_with("/api/tools/");
        let is_noted = path.starts_with("/api") || is_tool || matches!(answered.status, 401 | 403 | 421);
        if !is_noted {
            return;
        }
        let operation = asked.operation.get();
        let route = operation.filter(|_| !is_tool).map(|operation| operation.path);
        let end = path.char_indices().nth(MOST_PATH).map_or(path.len(), |(end, _)| end);
        let line = Line {
            time: Timestamp::now(),
            event: "request",
            request_id: answered.request_id,
            client,
            peer,
            method: Some(method),
            route: Some(route.unwrap_or(&path[..end])),
            operation: operation.map(|operation| operation.name),
            target: asked.targets.get().map(Vec::as_slice).unwrap_or_default(),
            status: Some(answered.status),
            code: answered.code,
            duration_ms: answered.duration.as_millis(),
            operation_id: answered.operation_id,
        };
        self.write(&line, operation.is_some_and(|operation| operation.effect != Effect::Read));
    }

    /// Notes the end of an operation, which may come long after the request was answered.
    pub(crate) fn ended(&self, view: &View, targets: &[String]) {
        let end = view.finished.unwrap_or(view.created);
        let line = Line {
            time: end,
            event: "operation",
            request_id: &view.request_id,
            client: Some(&view.client),
            peer: None,
            method: None,
            route: None,
            operation: Some(view.operation),
            target: targets,
            status: view.status,
            code: view.error.as_ref().map(|error| error.code.name()),
            duration_ms: end.duration_since(view.created).unsigned_abs().as_millis(),
            operation_id: Some(&view.id.to_string()),
        };
        self.write(&line, true);
    }

    /// Queues a line.
    fn write(&self, line: &Line<'_>, tells_of_change: bool) {
        let Some(queue) = &self.queue else { return };
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        queue.push(text, tells_of_change);
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{queue::MODE, *};

    fn open(path: impl Into<Utf8PathBuf>, is_required: bool) -> (Audit, Counter) {
        let lost = Counter::default();
        (Audit::open(Some(path.into()), is_required, lost.clone()).unwrap(), lost)
    }

    fn answer(audit: &Audit, path: &str, status: u16) {
        let answered = Answered {
            whence: AuditOrigin { client: Some("ci"), peer: None, method: "GET", path },
            request_id: "r1",
            status,
            code: None,
            operation_id: None,
            duration: Duration::from_millis(7),
        };
        audit.answered(&RequestInfo::default(), &answered);
    }

    #[tokio::test]
    async fn the_file_is_its_owners_alone_and_is_made_anew_once_it_was_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("audit.log")).unwrap();
        let (audit, _) = open(path.clone(), false);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        answer(&audit, "/api/vms", 200);
        answer(&audit, "/healthz", 200);
        answer(&audit, "/metrics", 401);
        audit.flush().await;
        std::fs::rename(&path, path.with_extension("1")).unwrap();
        audit.reopen();
        answer(&audit, &format!("/api/{}", "é".repeat(9999)), 404);
        audit.flush().await;
        let lines = |path: &Utf8PathBuf| -> Vec<serde_json::Value> {
            std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let old = lines(&path.with_extension("1"));
        assert_eq!((old.len(), &old[0]["status"], &old[1]["status"]), (2, &200.into(), &401.into()));
        assert_eq!((&old[0]["durationMs"], &old[0]["route"]), (&7.into(), &"/api/vms".into()));
        assert_eq!(lines(&path)[0]["route"].as_str().unwrap().chars().count(), MOST_PATH);
    }

    /// Waits until changes are refused.
    async fn refused(audit: &Audit) -> Error {
        let refused = async {
            loop {
                match audit.require() {
                    Ok(()) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(error) => break error,
                }
            }
        };
        tokio::time::timeout(Duration::from_mins(1), refused).await.unwrap()
    }

    #[tokio::test]
    async fn a_full_disk_ends_no_service_and_refuses_changes_only_where_the_log_is_required() {
        for is_required in [true, false] {
            let (audit, lost) = open("/dev/full", is_required);
            answer(&audit, "/api/vms", 200);
            if is_required {
                let error = refused(&audit).await;
                assert_eq!((error.code, error.code.http_status()), (Code::Unreachable, 503));
                assert_eq!(
                    error.to_string(),
                    "cannot record the request in the audit log: No space left on device (os error 28)"
                );
            }
            for _ in 0..10_000 {
                answer(&audit, "/api/vms", 200);
            }
            // One may be with the writer.
            let lost = lost.get();
            assert!((10_000 - 4096..=10_001 - 4096).contains(&lost), "{lost}");
            assert_eq!(audit.require().is_err(), is_required);
        }
        assert!(Audit::open(Some("/nonexistent/x".into()), false, Counter::default()).is_err());
    }

    #[tokio::test]
    async fn a_fifo_without_a_reader_is_refused_and_one_that_is_not_read_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("fifo")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path.as_str(), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let unread = Audit::open(Some(path.clone()), true, Counter::default()).unwrap_err();
        assert!(unread.message.contains("cannot open the audit log"), "{unread}");
        let reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (audit, lost) = open(path, true);
        // More than a pipe holds.
        let count = 2000;
        for _ in 0..count {
            answer(&audit, "/api/vms", 200);
        }
        assert_eq!(refused(&audit).await.cause.as_deref(), Some("the disk does not answer"));
        // Once it is read again, every record arrives, and changes are taken again.
        let reading = std::thread::spawn(move || {
            let lines = std::io::BufRead::lines(std::io::BufReader::new(&reader));
            assert_eq!(lines.take(count).count(), count);
        });
        audit.flush().await;
        reading.join().unwrap();
        assert_eq!((audit.require().is_ok(), lost.get()), (true, 0));
    }
}
