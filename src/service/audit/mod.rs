//! [`Audit`]: the audit log, one line of JSON for each request and for each finished operation. A line is queued before
//! the response is sent, and a separate thread writes it.

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
use crate::{
    api::{Effect, Operation, OperationView},
    error::{Code, Error, Result},
};

/// The most characters that are recorded of a route, which may be a path that a client made up.
const MAX_ROUTE: usize = 256;

/// How long the service waits for the last records to be written when it shuts down.
const FLUSH: Duration = Duration::from_secs(5);

/// The audit log, if one is configured.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    queue: Option<Arc<Queue>>,
    is_required: bool,
}

/// What becomes known about a request while it is handled.
#[derive(Debug, Default)]
pub(crate) struct RequestInfo {
    /// The operation.
    pub(crate) operation: OnceLock<&'static Operation>,
    /// The names in the request, as `kind/name`: VMs, keys, images, networks.
    pub(crate) targets: OnceLock<Vec<String>>,
    /// The ID of the job that the request started.
    pub(crate) job: OnceLock<Uuid>,
}

/// Who sent a request, and what it asked for in the terms of its front end: `GET` and a route, or `CALL` and a tool.
#[derive(Clone, Copy)]
pub(crate) struct AuditOrigin<'r> {
    /// The name of the client; none if it was not authenticated.
    pub(crate) client: Option<&'r str>,
    /// The remote address of the connection.
    pub(crate) peer: Option<&'r str>,
    pub(crate) method: &'r str,
    pub(crate) route: &'r str,
}

/// The response to a request.
pub(crate) struct AuditResponse<'r> {
    pub(crate) origin: AuditOrigin<'r>,
    pub(crate) request_id: &'r str,
    /// The status of the response in the terms of the API.
    pub(crate) status: u16,
    /// The error code.
    pub(crate) code: Option<&'static str>,
    /// The ID of the job that the request started.
    pub(crate) operation_id: Option<&'r str>,
    pub(crate) duration: Duration,
}

/// A line of the audit log.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'l> {
    time: Timestamp,
    /// `request`, or `operation` for a finished operation.
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
    /// Opens or creates the file. If the log is required, [`Self::require`] refuses changes that might not be recorded.
    /// `lost` counts the lost records.
    pub(crate) fn open(path: Option<Utf8PathBuf>, is_required: bool, lost: Counter) -> Result<Self> {
        let queue = path.map(|path| Queue::open(path, lost)).transpose()?;
        Ok(Self { queue, is_required })
    }

    /// Reopens the file, which may have been renamed.
    pub(crate) fn reopen(&self) {
        if let Some(queue) = &self.queue {
            queue.reopen();
        }
    }

    /// Refuses a change if the log is required and its record might be lost.
    pub(crate) fn require(&self) -> Result<()> {
        let obstacle = self.queue.as_ref().filter(|_| self.is_required).and_then(|queue| queue.obstacle());
        let Some(obstacle) = obstacle else { return Ok(()) };
        let error = Error::new(Code::Unreachable, "cannot record the request in the audit log").because(obstacle);
        Err(error.hint("Try again after the operator has repaired the audit log: nothing was changed"))
    }

    /// Waits until every record is written, at most for [`FLUSH`].
    pub(crate) async fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let left = queue.flush(FLUSH).await;
        if left > 0 {
            tracing::error!("cannot write {left} records to the audit log: the service is shutting down");
        }
    }

    /// Records the response to a request.
    pub(crate) fn record_response(&self, request: &RequestInfo, response: &AuditResponse<'_>) {
        let AuditOrigin { client, peer, method, route } = response.origin;
        let operation = request.operation.get();
        let end = route.char_indices().nth(MAX_ROUTE).map_or(route.len(), |(end, _)| end);
        let line = Line {
            time: Timestamp::now(),
            event: "request",
            request_id: response.request_id,
            client,
            peer,
            method: Some(method),
            route: Some(&route[..end]),
            operation: operation.map(|operation| operation.name),
            target: request.targets.get().map(Vec::as_slice).unwrap_or_default(),
            status: Some(response.status),
            code: response.code,
            duration_ms: response.duration.as_millis(),
            operation_id: response.operation_id,
        };
        self.write(&line, operation.is_some_and(|operation| operation.effect != Effect::Read));
    }

    /// Records the end of an operation, which may come long after the response.
    pub(crate) fn record_end(&self, view: &OperationView, targets: &[String]) {
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
    fn write(&self, line: &Line<'_>, is_change: bool) {
        let Some(queue) = &self.queue else { return };
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        queue.push(text, is_change);
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

    fn record(audit: &Audit, route: &str, status: u16) {
        let response = AuditResponse {
            origin: AuditOrigin { client: Some("ci"), peer: None, method: "GET", route },
            request_id: "r1",
            status,
            code: None,
            operation_id: None,
            duration: Duration::from_millis(7),
        };
        audit.record_response(&RequestInfo::default(), &response);
    }

    #[tokio::test]
    async fn only_the_owner_can_read_the_file_and_reopening_creates_a_new_one_after_a_rename() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("audit.log")).unwrap();
        let (audit, _) = open(path.clone(), false);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        record(&audit, "/api/vms", 200);
        record(&audit, "/metrics", 401);
        audit.flush().await;
        std::fs::rename(&path, path.with_extension("1")).unwrap();
        audit.reopen();
        record(&audit, &format!("/api/{}", "é".repeat(9999)), 404);
        audit.flush().await;
        let lines = |path: &Utf8PathBuf| -> Vec<serde_json::Value> {
            std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let old = lines(&path.with_extension("1"));
        assert_eq!((old.len(), &old[0]["status"], &old[1]["status"]), (2, &200.into(), &401.into()));
        assert_eq!((&old[0]["durationMs"], &old[0]["route"]), (&7.into(), &"/api/vms".into()));
        assert_eq!(lines(&path)[0]["route"].as_str().unwrap().chars().count(), MAX_ROUTE);
    }

    /// Waits until changes are refused, and returns the error.
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
    async fn a_full_disk_refuses_changes_only_if_the_log_is_required() {
        for is_required in [true, false] {
            let (audit, lost) = open("/dev/full", is_required);
            record(&audit, "/api/vms", 200);
            if is_required {
                let error = refused(&audit).await;
                assert_eq!((error.code, error.code.http_status()), (Code::Unreachable, 503));
                assert_eq!(
                    error.to_string(),
                    "cannot record the request in the audit log: No space left on device (os error 28)"
                );
            }
            for _ in 0..10_000 {
                record(&audit, "/api/vms", 200);
            }
            // The writer may hold one line.
            let lost = lost.get();
            assert!((10_000 - 4096..=10_001 - 4096).contains(&lost), "{lost}");
            assert_eq!(audit.require().is_err(), is_required);
        }
        assert!(Audit::open(Some("/nonexistent/x".into()), false, Counter::default()).is_err());
    }

    #[tokio::test]
    async fn a_fifo_without_a_reader_is_refused_and_a_full_fifo_blocks_no_request() {
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
            record(&audit, "/api/vms", 200);
        }
        assert_eq!(refused(&audit).await.cause.as_deref(), Some("the write to the file is stalled"));
        // Once the FIFO is read, every record arrives and changes are allowed again.
        let reading = std::thread::spawn(move || {
            let lines = std::io::BufRead::lines(std::io::BufReader::new(&reader));
            assert_eq!(lines.take(count).count(), count);
        });
        audit.flush().await;
        reading.join().unwrap();
        assert_eq!((audit.require().is_ok(), lost.get()), (true, 0));
    }
}
