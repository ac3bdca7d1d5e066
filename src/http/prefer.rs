//! The header `Prefer` (RFC 7240): how long a client waits for a response.

use std::time::Duration;

use axum::http::HeaderMap;

use crate::service::ANSWER_WITHIN;

/// The longest wait.
const MAX_WAIT: Duration = Duration::from_mins(10);

/// How long a client waits, and which of its preferences were applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Preference {
    /// How long to wait before answering that the operation is running.
    pub(super) wait: Duration,
    /// The header `Preference-Applied`.
    pub(super) applied: Option<String>,
}

/// Reads the preferences. Unknown ones are ignored, as the RFC requires.
pub(super) fn read(headers: &HeaderMap) -> Preference {
    let lines = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut wait = None;
    let mut is_async = false;
    for preference in
        lines.flat_map(|line| line.split(',')).map(|text| text.split(';').next().unwrap_or_default().trim())
    {
        let (name, value) =
            preference.split_once('=').map_or((preference, ""), |(name, value)| (name.trim(), value.trim()));
        match name.to_ascii_lowercase().as_str() {
            "respond-async" => is_async = true,
            // The first value counts (section 2).
            "wait" if wait.is_none() => wait = value.trim_matches('"').parse().ok().map(Duration::from_secs),
            _ => {}
        }
    }
    let wait = wait.map(|wait| wait.min(MAX_WAIT));
    let parts = [is_async.then(|| "respond-async".to_owned()), wait.map(|wait| format!("wait={}", wait.as_secs()))];
    let applied = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    Preference {
        wait: wait.unwrap_or(if is_async { Duration::ZERO } else { ANSWER_WITHIN }),
        applied: (!applied.is_empty()).then_some(applied),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_set_the_wait() {
        let of = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("prefer", line.parse().unwrap());
            }
            let Preference { wait, applied } = read(&headers);
            (wait.as_secs(), applied.unwrap_or_default())
        };
        assert_eq!(of(&[]), (45, String::new()));
        assert_eq!(of(&["respond-async"]), (0, "respond-async".to_owned()));
        assert_eq!(of(&["return=minimal, wait=7"]), (7, "wait=7".to_owned()));
        assert_eq!(of(&["respond-async, wait=3"]), (3, "respond-async, wait=3".to_owned()));
        assert_eq!(of(&["Respond-Async; x=y", "wait=\"2\", wait=9"]), (2, "respond-async, wait=2".to_owned()));
        assert_eq!(of(&["wait=99999999"]), (600, "wait=600".to_owned()));
        assert_eq!(of(&["wait=soon"]), (45, String::new()));
    }
}
