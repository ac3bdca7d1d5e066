//! The service behaves as its OpenAPI description says: schemathesis generates requests from the description and checks
//! the responses against it.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{fs, path::Path, process::Command, time::Duration};

use support::{TestHost, within};

/// Far longer than the service takes to listen.
const START: Duration = Duration::from_secs(30);

/// Returns the path at which `tests/lab/install` installed it.
fn schemathesis() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/schemathesis");
    let path = Command::new(script).output().unwrap();
    assert!(
        path.status.success(),
        "run tests/lab/install to install schemathesis: {}",
        String::from_utf8_lossy(&path.stderr)
    );
    String::from_utf8(path.stdout).unwrap().trim().to_owned()
}

#[test]
fn generated_requests_get_the_described_responses() {
    let host = TestHost::new();
    // The mirror of the hosts that the examples name is empty.
    fs::create_dir(host.path("mirror")).unwrap();
    let mirror = format!("file://{}", host.path("mirror").display());
    let mirrors = ["cloud.debian.org", "example.org"].map(|host| format!("--mirror={host}={mirror}"));
    let service = host.start(&[&mirrors[0], &mirrors[1], "serve", "--listen", "127.0.0.1:0"], "");
    assert!(within(START, || service.stderr().contains("\"listening\"")), "{}", service.stderr());
    let log = service.stderr();
    let url = log.split("\"place\":\"").nth(1).unwrap().split('"').next().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis.toml");
    let run = Command::new(schemathesis())
        .arg("--config-file")
        .arg(config)
        .args([
            "run",
            &format!("{url}/openapi.json"),
            "--seed=1",
            "--workers=2",
            // The service responds to long-running requests after 45 s, with a URL to poll.
            "--request-timeout=60",
            "--no-color",
        ])
        // The event stream does not end. serve_life.rs and the service's unit tests cover it.
        .arg("--exclude-path=/api/events")
        .current_dir(host.path(""))
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&run.stderr));
}
