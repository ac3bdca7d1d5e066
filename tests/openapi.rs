//! The service does what its description says: schemathesis makes up requests from it, and holds the answers against it.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{fs, path::Path, process::Command, time::Duration};

use support::{TestHost, within};

/// Far longer than the service takes to listen.
const START: Duration = Duration::from_secs(30);

/// Where `tests/lab/install` has put it.
fn schemathesis() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/schemathesis");
    let path = Command::new(script).output().unwrap();
    assert!(path.status.success(), "tests/lab/install installs it: {}", String::from_utf8_lossy(&path.stderr));
    String::from_utf8(path.stdout).unwrap().trim().to_owned()
}

#[test]
fn requests_that_are_made_up_are_answered_as_described() {
    let host = TestHost::new();
    // What the examples name is looked for here, and is not there.
    fs::create_dir(host.path("mirror")).unwrap();
    let mirror = format!("file://{}", host.path("mirror").display());
    let mirrors = ["cloud.debian.org", "example.org"].map(|of| format!("--mirror={of}={mirror}"));
    let service = host.start(&[&mirrors[0], &mirrors[1], "serve", "--listen", "127.0.0.1:0"], "");
    assert!(within(START, || service.said().contains("\"listening\"")), "{}", service.said());
    let said = service.said();
    let place = said.split("\"place\":\"").nth(1).unwrap().split('"').next().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis.toml");
    let tried = Command::new(schemathesis())
        .arg("--config-file")
        .arg(config)
        .args([
            "run",
            &format!("{place}/openapi.json"),
            "--seed=1",
            "--workers=2",
            // The service answers what takes long after 45 s, with where to look for the result.
            "--request-timeout=60",
            "--no-color",
        ])
        // A stream has no end to wait for; serve_life.rs and the service's own tests read it.
        .arg("--exclude-path=/api/events")
        .current_dir(host.path(""))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&tried.stdout);
    assert!(tried.status.success(), "{told}\n{}", String::from_utf8_lossy(&tried.stderr));
}
