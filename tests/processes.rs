//! A test leaves no process behind, whether it passes, fails or is killed. If a process is left anyway, the test run
//! fails.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use support::{Process, TestHost, within};

/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// The environment variable that makes a copy of this test binary the test to be killed. Its value is the file for the
/// ID of the process that the test starts.
const VICTIM: &str = "VMPROV_TEST_VICTIM";

/// Returns a host whose virsh never ends, ignores every signal but KILL, and has a child. It writes both process IDs to
/// a file.
fn host_with_stuck_virsh() -> TestHost {
    let host = TestHost::new();
    let pids = host.path("pids");
    let script = format!(
        "trap '' TERM INT\nsleep 600 &\necho $$ $! >{0}.new\nmv {0}.new {0}\nwhile :; do sleep 600; done",
        pids.display()
    );
    host.with_program("virsh", &script)
}

/// Returns the process IDs that the host's virsh wrote.
fn virsh_pids(host: &TestHost) -> Vec<i32> {
    let read = || fs::read_to_string(host.path("pids"));
    assert!(within(LIMIT, || read().is_ok()), "virsh was not called");
    read().unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Returns whether a process is running. A zombie is not.
fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| !"ZX".contains(state))
}

#[test]
fn a_process_and_its_children_end_when_their_test_fails() {
    let host = host_with_stuck_virsh();
    let mut pids = Vec::new();
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let running = host.start(&["vm", "list"], "");
        pids = virsh_pids(&host);
        pids.push(running.id().as_raw_nonzero().get());
        assert!(pids.iter().all(|&pid| is_running(pid)), "{pids:?}");
        panic!("this test fails on purpose");
    }));
    assert!(failed.is_err());
    let left: Vec<_> = pids.iter().filter(|&&pid| is_running(pid)).collect();
    assert!(pids.len() == 3 && left.is_empty(), "still running: {left:?} of {pids:?}");
}

/// The test runner kills a test that hangs. No destructor runs then.
#[test]
fn a_process_ends_when_its_test_is_killed() {
    let pid_file = std::env::var(VICTIM);
    if let Ok(pid_file) = &pid_file {
        let host = TestHost::new();
        let service = host.start(&["serve", "--listen", "127.0.0.1:0"], "");
        assert!(within(LIMIT, || service.stderr().contains("\"listening\"")), "{}", service.stderr());
        fs::write(format!("{pid_file}.new"), service.id().to_string()).unwrap();
        fs::rename(format!("{pid_file}.new"), pid_file).unwrap();
        // Waits until it is killed.
        within(LIMIT * 4, || false);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let name = "a_process_ends_when_its_test_is_killed";
    command.args(["--exact", name]).env(VICTIM, &pid_file).stdout(std::process::Stdio::null());
    let test = Process::spawn(&mut command);
    assert!(within(LIMIT, || pid_file.exists()), "the other test started no process");
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert!(is_running(pid));
    kill_process(test.id(), Signal::KILL).unwrap();
    let ended = within(LIMIT, || !is_running(pid));
    // Before the assertion, so that this test leaves no process behind either.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    assert!(ended, "the service of a killed test is still running");
}

/// Returns a host that does not mistake the programs of concurrent tests for its own.
fn isolated_host() -> TestHost {
    let host = TestHost::new();
    let nothing = host.path("target").to_str().unwrap().to_owned();
    host.with_env("CARGO_TARGET_DIR", &nothing)
}

/// Runs a script under `tests/leave-nothing`.
fn supervised(host: &TestHost, script: &str) -> support::Run {
    let supervise = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/leave-nothing");
    host.program(supervise.to_str().unwrap(), &["/bin/bash", "-c", script])
}

#[test]
fn a_test_run_without_leftovers_has_its_commands_exit_status() {
    let host = isolated_host();
    supervised(&host, "sleep 0; echo done").prints("done\n");
    supervised(&host, "setsid sleep 0.2 & exit 7").fails(7, "");
}

#[test]
fn a_test_run_fails_and_names_each_process_left_behind() {
    let host = isolated_host();
    let leave_process = "setsid sleep 601 >/dev/null 2>&1 & echo $!";
    let ran = supervised(&host, leave_process);
    let pid: i32 = ran.stdout.trim().parse().unwrap();
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert_eq!(ran.stderr, format!("error: processes are left after the tests:\n  {pid} sleep 601\n"));
    assert!(!is_running(pid), "the process is still running");
    // The command's own failure keeps its exit status.
    let ran = supervised(&host, &format!("{leave_process}; exit 7"));
    assert_eq!(ran.code(), 7, "{ran:?}");
}

/// A program that clears its children's environment removes the mark of the test run. The children are then found by
/// their path, and only reported, because the path does not prove who started them.
#[test]
fn a_leftover_vmprov_process_is_found_without_its_environment() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("vmprov");
    fs::copy("/usr/bin/sleep", &program).unwrap();
    let host = TestHost::new().with_env("CARGO_TARGET_DIR", folder.path().to_str().unwrap());
    let ran = supervised(&host, &format!("setsid env -i {} 602 >/dev/null 2>&1 & echo $!", program.display()));
    let pid: i32 = ran.stdout.trim().parse().unwrap();
    let was_running = is_running(pid);
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let report = format!("error: processes are left after the tests:\n  {pid} {} 602\n", program.display());
    assert!(was_running && ran.code() == 1 && ran.stderr == report, "{ran:?}");
}
