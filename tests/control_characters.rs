//! Control characters in names and texts from outside are escaped in all output, so that they do not reach a terminal.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use support::TestHost;

/// The one-character form of the Control Sequence Introducer. XML, and therefore libvirt, allows it in a name.
const CSI: char = '\u{9b}';

const UUID: &str = "6695eb01-f6a4-8304-79aa-97f2502e193f";

/// Returns a host with a stopped VM whose name would clear a terminal.
fn host() -> TestHost {
    let host = TestHost::bare();
    let domain = format!(
        "<node xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><domain type='test'><name>we{CSI}2Jb</name>\
         <uuid>{UUID}</uuid><memory>65536</memory><os><type>hvm</type></os><test:runstate>5</test:runstate></domain></node>"
    );
    let file = host.write("node.xml", domain);
    host.with_env("LIBVIRT_URI", &format!("test://{file}"))
}

/// Returns whether a text has control characters other than line breaks.
fn has_control_characters(text: &str) -> bool {
    text.chars().any(|c| c.is_control() && c != '\n')
}

#[test]
fn a_hint_has_no_control_characters() {
    host().args(&["vm", "wait", UUID, "--for", "ip"]).fails(
        4,
        "error: VM `we\\u{9b}2Jb` is shut off, so it will not become ready\n\
         hint: Start it: vmprov vm start we\\u{9b}2Jb\n",
    );
}

#[test]
fn reports_and_errors_have_no_control_characters_in_any_format() {
    let host = host();
    for format in ["table", "json", "yaml", "name"] {
        let list = host.run(&format!("vm list -o {format}")).succeeds();
        assert!(!has_control_characters(&list.stdout) && list.stdout.contains("2Jb"), "{list:?}");
        let wait = host.run(&format!("vm wait {UUID} --for ip -o {format}"));
        assert!(!has_control_characters(&wait.stderr) && wait.stderr.contains("2Jb"), "{wait:?}");
    }
    // JSON has its own escapes, so a program reads the original name.
    assert_eq!(host.run("vm list -o json").json()["vms"][0]["name"], format!("we{CSI}2Jb"));
}

#[test]
fn progress_has_no_control_characters() {
    let host = host();
    // Progress is drawn only on a terminal.
    let ran = host.on_terminal(&format!("vm start {UUID}; echo ended"), "ended", "");
    assert!(!ran.stdout.contains(CSI), "{ran:?}");
}
