//! A temporary host for one test: runs the program with an empty home and a clean environment.

#[path = "process.rs"]
mod process;

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::Write,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

pub(crate) use process::Process;

/// The time limit of a run. Far longer than any run needs, so that a busy machine does not fail a test.
const LIMIT: Duration = Duration::from_mins(2);

/// How often to check whether a run has ended.
const POLL: Duration = Duration::from_millis(2);

/// What a fake program includes, so that it also answers as a session.
const SESSION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/session");

/// The system's program directories.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// libvirt's in-memory driver. Each process gets its own domain `test`, pool `default-pool` and network `default`.
pub(crate) const TEST_DRIVER: &str = "test:///default";

/// A temporary host: a home, a folder of fake programs, and environment variables.
pub(crate) struct TestHost {
    folder: tempfile::TempDir,
    path: Option<String>,
    wrapper: Vec<String>,
    env: BTreeMap<String, String>,
}

impl TestHost {
    /// A host that uses the in-memory driver.
    pub(crate) fn new() -> Self {
        Self::bare().with_env("LIBVIRT_URI", TEST_DRIVER)
    }

    /// A host without a libvirt URI in the environment.
    pub(crate) fn bare() -> Self {
        // Canonical, so that the program prints paths exactly as the tests pass them.
        let folder = tempfile::tempdir_in(fs::canonicalize(std::env::temp_dir()).unwrap()).unwrap();
        // Tests run the program as other users, too. Secret files have stricter modes of their own.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        Self { folder, path: None, wrapper: Vec::new(), env: BTreeMap::new() }
    }

    /// Sets an environment variable for every run.
    pub(crate) fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs the program through another one: `setpriv …`, `nsenter …`.
    pub(crate) fn via<S: Into<String>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper.extend(wrapper.into_iter().map(Into::into));
        self
    }

    /// Installs a fake program that takes precedence over the real one.
    pub(crate) fn with_program(self, name: &str, script: &str) -> Self {
        let path = self.folder.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n. {SESSION}\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// Limits the installed system programs to `programs`.
    pub(crate) fn with_only(mut self, programs: &[&str]) -> Self {
        for program in programs {
            let real = SYSTEM_PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
            let real = real.unwrap_or_else(|| panic!("{program} is not installed"));
            std::os::unix::fs::symlink(real, self.folder.path().join("bin").join(program)).unwrap();
        }
        self.path = Some(self.folder.path().join("bin").to_str().unwrap().to_owned());
        self
    }

    /// Returns a path in the home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("home").join(name)
    }

    /// Writes a file in the home, creates its folders, and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Creates an unbootable 10 MiB qcow2 image and returns its path.
    pub(crate) fn image(&self, name: &str) -> String {
        self.tool("qemu-img", &["create", "-q", "-f", "qcow2", name, "10M"]);
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Runs a system program in the home and returns its standard output; panics if it fails.
    #[track_caller]
    pub(crate) fn tool(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.path("")).env("LC_ALL", "C").stdin(Stdio::null());
        let ran = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Returns all files and folders below the home by relative path, each with its mode and content.
    pub(crate) fn files(&self) -> BTreeMap<String, (u32, Vec<u8>)> {
        let home = self.path("");
        let mut files = BTreeMap::new();
        let mut folders = vec![home.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = path.symlink_metadata().unwrap();
                let name = path.strip_prefix(&home).unwrap().to_str().unwrap().to_owned();
                let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                files.insert(name, (metadata.permissions().mode(), content));
                if metadata.is_dir() {
                    folders.push(path);
                }
            }
        }
        files
    }

    /// Runs the program with arguments separated by spaces.
    pub(crate) fn run(&self, line: &str) -> Run {
        self.args(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs the program with these arguments.
    pub(crate) fn args(&self, args: &[&str]) -> Run {
        self.start(args, "").end()
    }

    /// Runs the program with `input` on standard input.
    pub(crate) fn with_input(&self, args: &[&str], input: &str) -> Run {
        self.start(args, input).end()
    }

    /// Starts the program without waiting for its end.
    pub(crate) fn start(&self, args: &[&str], input: &str) -> Running<'_> {
        self.start_program(env!("CARGO_BIN_EXE_vmprov"), args, input)
    }

    /// Runs a bash script in which `vmprov` is the program under test.
    pub(crate) fn shell(&self, script: &str) -> Run {
        let binary = env!("CARGO_BIN_EXE_vmprov");
        self.program("/bin/bash", &["-c", &format!("vmprov() {{ {binary} \"$@\"; }}; {script}")])
    }

    /// Runs the program on a terminal and types `typed` once `prompt` has appeared. The result's `stdout` holds both
    /// output streams.
    pub(crate) fn on_terminal(&self, line: &str, prompt: &str, typed: &str) -> Run {
        let command = format!("{} {line}", env!("CARGO_BIN_EXE_vmprov"));
        let args = ["-qefc", &command, "/dev/null"];
        let mut running = self.spawn(self.command("/usr/bin/script", &args).stdin(Stdio::piped()));
        let mut keyboard = running.process.stdin();
        let shown = || read(&running.out);
        assert!(within(LIMIT, || shown().contains(prompt)), "`{prompt}` did not appear: {}", shown());
        keyboard.write_all(typed.as_bytes()).unwrap();
        let mut ran = running.end();
        drop(keyboard);
        ran.stdout = ran.stdout.replace("\r\n", "\n");
        ran
    }

    /// Runs another program on this host.
    pub(crate) fn program(&self, program: &str, args: &[&str]) -> Run {
        self.start_program(program, args, "").end()
    }

    fn start_program(&self, program: &str, args: &[&str], input: &str) -> Running<'_> {
        let stdin = tempfile::NamedTempFile::new_in(self.folder.path()).unwrap();
        fs::write(stdin.path(), input).unwrap();
        self.spawn(self.command(program, args).stdin(stdin.reopen().unwrap()))
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let home = self.path("");
        // nsenter does not keep the working directory.
        let at_home = ["/usr/bin/env", "-C", home.to_str().unwrap()];
        let wrapper = self.wrapper.iter().map(String::as_str).chain(at_home);
        let mut words = wrapper.chain([program]).chain(args.iter().copied());
        let mut command = Process::command(words.next().unwrap());
        let bin = self.folder.path().join("bin");
        let path = self.path.clone().unwrap_or_else(|| format!("{}:{SYSTEM_PATH}", bin.display()));
        command.args(words).env_clear().env("PATH", path).env("HOME", &home);
        command.env("TERM", "xterm").envs(&self.env);
        command
    }

    fn spawn(&self, command: &mut Command) -> Running<'_> {
        // Files instead of pipes: a leftover process would keep a pipe open.
        let out = tempfile::tempfile_in(self.folder.path()).unwrap();
        let err = tempfile::tempfile_in(self.folder.path()).unwrap();
        command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        Running { process: Process::spawn(command), out, err, host: self }
    }

    /// Replaces the path of the home, which differs between runs, with `~`.
    pub(crate) fn normalize(&self, text: &str) -> String {
        text.replace(self.path("").to_str().unwrap().trim_end_matches('/'), "~")
    }
}

/// A running program. Dropping it kills the program.
pub(crate) struct Running<'h> {
    process: Process,
    out: File,
    err: File,
    host: &'h TestHost,
}

impl Running<'_> {
    /// Returns its standard error so far.
    pub(crate) fn stderr(&self) -> String {
        read(&self.err)
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        self.process.signal(signal);
    }

    pub(crate) fn id(&self) -> rustix::process::Pid {
        self.process.id()
    }

    /// Waits until the program and all its children have ended.
    #[track_caller]
    pub(crate) fn end(mut self) -> Run {
        let Some(status) = self.process.wait(LIMIT) else {
            panic!("the program did not end; its output so far: {}{}", read(&self.out), read(&self.err));
        };
        assert!(!self.process.has_processes(), "the program left child processes behind: {}", read(&self.err));
        let output = |file| self.host.normalize(&read(file));
        Run { status, stdout: output(&self.out), stderr: output(&self.err) }
    }
}

fn read(file: &File) -> String {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Polls until `condition` holds; returns false after `limit`.
pub(crate) fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// A finished run: its exit status and output.
pub(crate) struct Run {
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, stdout, stderr } = self;
        write!(f, "{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

impl Run {
    /// Returns the exit status, or 128 plus the signal number, as a shell does.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap())
    }

    /// Asserts that it exited with 0, printed exactly `stdout`, and wrote nothing to standard error.
    #[track_caller]
    pub(crate) fn prints(self, stdout: &str) -> Self {
        assert_eq!((self.code(), self.stdout.as_str(), self.stderr.as_str()), (0, stdout, ""), "{self:?}");
        self
    }

    /// Asserts that it exited with 0.
    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.code(), 0, "{self:?}");
        self
    }

    /// Asserts that it exited with `code`, printed nothing, and wrote exactly `stderr` to standard error.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, stderr: &str) -> Self {
        assert_eq!((self.code(), self.stdout.as_str(), self.stderr.as_str()), (code, "", stderr), "{self:?}");
        self
    }

    /// Asserts that it exited with `code`, printed nothing, and wrote all of `parts` to standard error.
    #[track_caller]
    pub(crate) fn fails_saying(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!((self.code(), self.stdout.as_str()), (code, ""), "{self:?}");
        self.says(parts)
    }

    /// Asserts that its standard error contains all of `parts`.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "stderr lacks `{part}`: {self:?}");
        }
        self
    }

    /// Parses standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("invalid JSON ({error}): {self:?}"))
    }

    /// Parses standard error as JSON: messages and errors in the order of output.
    #[track_caller]
    pub(crate) fn messages(&self) -> Vec<serde_json::Value> {
        let values = serde_json::Deserializer::from_str(&self.stderr).into_iter();
        values.map(|value| value.unwrap_or_else(|error| panic!("invalid JSON ({error}): {self:?}"))).collect()
    }

    /// Returns the last error as JSON.
    #[track_caller]
    pub(crate) fn error(&self) -> serde_json::Value {
        self.messages().pop().unwrap_or_else(|| panic!("no error: {self:?}"))
    }

    /// Splits a table into cells, which are separated by at least two spaces.
    pub(crate) fn cells(&self) -> Vec<Vec<&str>> {
        fn cells(line: &str) -> Vec<&str> {
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
        }
        self.stdout.lines().map(cells).collect()
    }
}
