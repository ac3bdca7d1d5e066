//! [`Audit`]: who has asked for what, and what came of it, a line of JSON each. A line is written before the answer is sent, so
//! whatever was answered is in it.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use camino::Utf8PathBuf;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::job::View;
use crate::{
    api::Operation,
    error::{Error, Result},
};

/// The rights on the file: its owner's alone.
const MODE: u32 = 0o600;

/// The most that is kept of a path that is no route.
const MOST_PATH: usize = 256;

/// The log, where there is one.
#[derive(Debug, Default)]
pub(crate) struct Audit(Option<(Utf8PathBuf, Mutex<File>)>);

/// What is found out about a request while it is answered.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// The operation.
    pub(crate) operation: OnceLock<&'static Operation>,
    /// The names of what it is about, as `kind/name`: VMs, keys, images, networks.
    pub(crate) targets: OnceLock<Vec<String>>,
    /// The operation that was begun by it.
    pub(crate) job: OnceLock<Uuid>,
}

/// Whence a request came, and what it was for.
#[derive(Clone, Copy)]
pub(crate) struct Whence<'r> {
    /// The name of the token; none where nobody has said who asks.
    pub(crate) client: Option<&'r str>,
    /// The other end of the connection.
    pub(crate) peer: Option<&'r str>,
    pub(crate) method: &'r str,
    pub(crate) path: &'r str,
}

/// A request that was answered.
pub(crate) struct Answered<'r> {
    pub(crate) whence: Whence<'r>,
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
    /// Opens the file, or makes it.
    pub(crate) fn open(path: Option<Utf8PathBuf>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = append_to(&path)?;
        Ok(Self(Some((path, Mutex::new(file)))))
    }

    /// Opens the file anew: it may have been put aside.
    pub(crate) fn reopen(&self) {
        let Some((path, file)) = &self.0 else { return };
        match append_to(path) {
            Ok(new) => *file.lock().unwrap_or_else(PoisonError::into_inner) = new,
            Err(error) => tracing::error!("{error}. The audit log goes on in the file that was open"),
        }
    }

    /// Notes a request that was answered: each about the API, and each that was not let in.
    pub(crate) fn answered(&self, asked: &Noted, answered: &Answered<'_>) {
        let Whence { client, peer, method, path } = answered.whence;
        let is_tool = path.starts_with("mcp ") || path.starts_with("/api/tools/");
        let is_noted = path.starts_with("/api") || is_tool || matches!(answered.status, 401 | 403 | 421);
        if !is_noted {
            return;
        }
        let operation = asked.operation.get();
        let route = operation.filter(|_| !is_tool).map(|operation| operation.path);
        let end = path.char_indices().nth(MOST_PATH).map_or(path.len(), |(end, _)| end);
        self.write(&Line {
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
        });
    }

    /// Notes the end of an operation, which may come long after the request was answered.
    pub(crate) fn ended(&self, view: &View, targets: &[String]) {
        let end = view.finished.unwrap_or(view.created);
        self.write(&Line {
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
        });
    }

    /// Writes a line. That there is no room for it must not end the service.
    fn write(&self, line: &Line<'_>) {
        let Some((path, file)) = &self.0 else { return };
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        let written = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text);
        if let Err(error) = written {
            tracing::error!(request_id = line.request_id, "cannot write to the audit log `{path}`: {error}");
        }
    }
}

fn append_to(path: &Utf8PathBuf) -> Result<File> {
    let opened = OpenOptions::new().append(true).create(true).mode(MODE).open(path);
    opened.map_err(|error| Error::io(format!("open the audit log `{path}`"), &error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn answer(audit: &Audit, path: &str, status: u16) {
        let answered = Answered {
            whence: Whence { client: Some("ci"), peer: None, method: "GET", path },
            request_id: "r1",
            status,
            code: None,
            operation_id: None,
            duration: Duration::from_millis(7),
        };
        audit.answered(&Noted::default(), &answered);
    }

    #[test]
    fn the_file_is_its_owners_alone_and_is_made_anew_once_it_was_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("audit.log")).unwrap();
        let audit = Audit::open(Some(path.clone())).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        answer(&audit, "/api/vms", 200);
        answer(&audit, "/healthz", 200);
        answer(&audit, "/metrics", 401);
        std::fs::rename(&path, path.with_extension("1")).unwrap();
        audit.reopen();
        answer(&audit, &format!("/api/{}", "é".repeat(9999)), 404);
        let lines = |path: &Utf8PathBuf| -> Vec<serde_json::Value> {
            std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let old = lines(&path.with_extension("1"));
        assert_eq!((old.len(), &old[0]["status"], &old[1]["status"]), (2, &200.into(), &401.into()));
        assert_eq!((&old[0]["durationMs"], &old[0]["route"]), (&7.into(), &"/api/vms".into()));
        assert_eq!(lines(&path)[0]["route"].as_str().unwrap().chars().count(), MOST_PATH);
    }

    #[test]
    fn a_full_disk_does_not_end_the_service() {
        let audit = Audit::open(Some("/dev/full".into())).unwrap();
        answer(&audit, "/api/vms", 200);
        assert!(Audit::open(Some("/nonexistent/x".into())).is_err());
    }
}
