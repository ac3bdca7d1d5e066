//! A test leaves no process behind: not when it passes, not when it fails, not when it is killed. And where one is left
//! all the same, the run of the tests fails.
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

/// What tells a copy of this test binary that it is the test that is killed, and where it reports its processes.
const VICTIM: &str = "VMPROV_TEST_VICTIM";

/// A host whose virsh never ends, heeds no signal but KILL, and has a child. It writes both process ids to a file.
fn stuck() -> TestHost {
    let host = TestHost::new();
    let pids = host.path("pids");
    let script = format!(
        "trap '' TERM INT\nsleep 600 &\necho $$ $! >{0}.new\nmv {0}.new {0}\nwhile :; do sleep 600; done",
        pids.display()
    );
    host.with_program("virsh", &script)
}

/// The process ids that the host's virsh has written.
fn virsh_pids(host: &TestHost) -> Vec<i32> {
    let read = || fs::read_to_string(host.path("pids"));
    assert!(within(LIMIT, || read().is_ok()), "virsh was not called");
    read().unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Whether a process runs. One that has ended and that nobody has waited for does not.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| !"ZX".contains(state))
}

#[test]
fn a_process_and_what_it_started_end_with_their_test_also_when_it_fails() {
    let host = stuck();
    let mut pids = Vec::new();
    let failed = catch_unwind(AssertUnwindSafe(|| {
        let running = host.start(&["vm", "list"], "");
        pids = virsh_pids(&host);
        pids.push(running.id().as_raw_nonzero().get());
        assert!(pids.iter().all(|&pid| runs(pid)), "{pids:?}");
        panic!("this test fails on purpose");
    }));
    assert!(failed.is_err());
    let left: Vec<_> = pids.iter().filter(|&&pid| runs(pid)).collect();
    assert!(pids.len() == 3 && left.is_empty(), "still running: {left:?} of {pids:?}");
}

/// The test runner kills a test that hangs. No destructor runs then.
#[test]
fn a_process_ends_with_its_test_also_when_that_is_killed() {
    let place = std::env::var(VICTIM);
    if let Ok(place) = &place {
        let host = TestHost::new();
        let service = host.start(&["serve", "--listen", "127.0.0.1:0"], "");
        assert!(within(LIMIT, || service.said().contains("\"listening\"")), "{}", service.said());
        fs::write(format!("{place}.new"), service.id().to_string()).unwrap();
        fs::rename(format!("{place}.new"), place).unwrap();
        // Until it is killed.
        within(LIMIT * 4, || false);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("pid");
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let name = "a_process_ends_with_its_test_also_when_that_is_killed";
    command.args(["--exact", name]).env(VICTIM, &place).stdout(std::process::Stdio::null());
    let test = Process::spawn(&mut command);
    assert!(within(LIMIT, || place.exists()), "the other test has started nothing");
    let pid: i32 = fs::read_to_string(&place).unwrap().parse().unwrap();
    assert!(runs(pid));
    kill_process(test.id(), Signal::KILL).unwrap();
    let ended = within(LIMIT, || !runs(pid));
    // Before the assertion, so that this test leaves nothing either.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    assert!(ended, "the service of a killed test goes on");
}

/// A host that takes no program of another test, which runs beside this one, for its own.
fn alone() -> TestHost {
    let host = TestHost::new();
    let nothing = host.path("target").to_str().unwrap().to_owned();
    host.with_env("CARGO_TARGET_DIR", &nothing)
}

/// Runs a script by `tests/leave-nothing`.
fn supervised(host: &TestHost, script: &str) -> support::Ran {
    let supervise = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/leave-nothing");
    host.program(supervise.to_str().unwrap(), &["/bin/bash", "-c", script])
}

#[test]
fn a_run_of_the_tests_that_leaves_nothing_ends_as_its_command_does() {
    let host = alone();
    supervised(&host, "sleep 0; echo done").prints("done\n");
    supervised(&host, "setsid sleep 0.2 & exit 7").fails(7, "");
}

#[test]
fn a_run_of_the_tests_fails_where_a_process_is_left_and_says_which() {
    let host = alone();
    let left = "setsid sleep 601 >/dev/null 2>&1 & echo $!";
    let ran = supervised(&host, left);
    let pid: i32 = ran.stdout.trim().parse().unwrap();
    assert_eq!(ran.code(), 1, "{ran:?}");
    assert_eq!(ran.stderr, format!("error: processes are left after the tests:\n  {pid} sleep 601\n"));
    assert!(!runs(pid), "it is ended");
    // A failure of the command itself stays what it was.
    let ran = supervised(&host, &format!("{left}; exit 7"));
    assert_eq!(ran.code(), 7, "{ran:?}");
}

/// What clears its children's environment takes the mark away. They are known by the program's path then, and only shown:
/// that does not prove who started them.
#[test]
fn a_program_of_ours_that_is_left_is_found_without_its_environment() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("vmprov");
    fs::copy("/usr/bin/sleep", &program).unwrap();
    let host = TestHost::new().with_env("CARGO_TARGET_DIR", folder.path().to_str().unwrap());
    let ran = supervised(&host, &format!("setsid env -i {} 602 >/dev/null 2>&1 & echo $!", program.display()));
    let pid: i32 = ran.stdout.trim().parse().unwrap();
    let was_running = runs(pid);
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let told = format!("error: processes are left after the tests:\n  {pid} {} 602\n", program.display());
    assert!(was_running && ran.code() == 1 && ran.stderr == told, "{ran:?}");
}
