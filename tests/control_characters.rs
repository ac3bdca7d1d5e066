//! Names and texts from elsewhere steer no terminal: whatever is printed, their control characters are escaped.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use support::TestHost;

/// "Control Sequence Introducer" as one character. XML, and so libvirt, lets it into a name.
const CSI: char = '\u{9b}';

const UUID: &str = "6695eb01-f6a4-8304-79aa-97f2502e193f";

/// A libvirt with a domain that is shut off, whose name would clear a terminal.
fn host() -> TestHost {
    let host = TestHost::bare();
    let domain = format!(
        "<node xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><domain type='test'><name>we{CSI}2Jb</name>\
         <uuid>{UUID}</uuid><memory>65536</memory><os><type>hvm</type></os><test:runstate>5</test:runstate></domain></node>"
    );
    let file = host.write("node.xml", domain);
    host.with_env("LIBVIRT_URI", &format!("test://{file}"))
}

/// Whether a text has control characters other than line breaks.
fn steers(text: &str) -> bool {
    text.chars().any(|c| c.is_control() && c != '\n')
}

#[test]
fn a_hint_does_not_steer_the_terminal() {
    host().args(&["vm", "wait", UUID, "--for", "ip"]).fails(
        4,
        "error: VM `we\\u{9b}2Jb` is shut off, so it will not become ready\n\
         hint: Start it: vmprov vm start we\\u{9b}2Jb\n",
    );
}

#[test]
fn no_format_of_a_report_or_an_error_does() {
    let host = host();
    for format in ["table", "json", "yaml", "name"] {
        let list = host.run(&format!("vm list -o {format}")).succeeds();
        assert!(!steers(&list.stdout) && list.stdout.contains("2Jb"), "{list:?}");
        let wait = host.run(&format!("vm wait {UUID} --for ip -o {format}"));
        assert!(!steers(&wait.stderr) && wait.stderr.contains("2Jb"), "{wait:?}");
    }
    // Escaped as JSON has it, so that a program reads the name that it is.
    assert_eq!(host.run("vm list -o json").json()["vms"][0]["name"], format!("we{CSI}2Jb"));
}

#[test]
fn progress_does_not() {
    let host = host();
    // `script` makes a terminal, on which progress is drawn. It takes its first line on standard input for typed.
    let drawn = host.on_terminal(&format!("vm start {UUID}; echo ended"), "ended", "");
    assert!(!drawn.stdout.contains(CSI), "{drawn:?}");
}
