//! A machine of its own for one test: an empty home, a clean environment, and the program run in it.

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

/// How long a run may take before the test gives it up. Far more than any needs: a bound, not a measure.
const LIMIT: Duration = Duration::from_mins(2);

/// How often is looked whether a run has ended.
const POLL: Duration = Duration::from_millis(2);

/// Where the programs of the system are.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// libvirt's in-memory driver: one domain `test`, one pool `default-pool`, one network `default`, anew for each process.
pub(crate) const TEST_DRIVER: &str = "test:///default";

/// An empty home, and what is put into it.
pub(crate) struct TestHost {
    folder: tempfile::TempDir,
    path: Option<String>,
    wrapper: Vec<String>,
    env: BTreeMap<String, String>,
}

impl TestHost {
    /// A host whose libvirt is the in-memory driver.
    pub(crate) fn new() -> Self {
        Self::bare().with_env("LIBVIRT_URI", TEST_DRIVER)
    }

    /// A host on which nothing is set.
    pub(crate) fn bare() -> Self {
        // Not behind a symbolic link, so that paths that are printed are those that were given.
        let folder = tempfile::tempdir_in(fs::canonicalize(std::env::temp_dir()).unwrap()).unwrap();
        // Other users must get through; what is secret in it has modes of its own.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        Self { folder, path: None, wrapper: Vec::new(), env: BTreeMap::new() }
    }

    /// Sets a variable for every run.
    pub(crate) fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs the program by another one: `setpriv …`, `nsenter …`.
    pub(crate) fn by<S: Into<String>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper.extend(wrapper.into_iter().map(Into::into));
        self
    }

    /// Puts a fake of a program in front of the real one.
    pub(crate) fn with_program(self, name: &str, script: &str) -> Self {
        let path = self.folder.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// A host on which of the system's programs only these are installed.
    pub(crate) fn with_only(mut self, programs: &[&str]) -> Self {
        for program in programs {
            let real = SYSTEM_PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
            let real = real.unwrap_or_else(|| panic!("{program} is not installed"));
            std::os::unix::fs::symlink(real, self.folder.path().join("bin").join(program)).unwrap();
        }
        self.path = Some(self.folder.path().join("bin").to_str().unwrap().to_owned());
        self
    }

    /// A path in the home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("home").join(name)
    }

    /// Writes a file into the home, and its folders; returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Makes a qcow2 image of 10 MiB, from which nothing boots; returns its path.
    pub(crate) fn image(&self, name: &str) -> String {
        self.tool("qemu-img", &["create", "-q", "-f", "qcow2", name, "10M"]);
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Runs a program of the system in the home; it must succeed.
    #[track_caller]
    pub(crate) fn tool(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.path("")).env("LC_ALL", "C").stdin(Stdio::null());
        let ran = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Every file below the home, with its mode and its content.
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

    /// Runs the program; the words are split at spaces.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.args(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs the program with these arguments.
    pub(crate) fn args(&self, args: &[&str]) -> Ran {
        self.start(args, "").end()
    }

    /// Runs the program with something on standard input.
    pub(crate) fn with_input(&self, args: &[&str], input: &str) -> Ran {
        self.start(args, input).end()
    }

    /// Starts the program.
    pub(crate) fn start(&self, args: &[&str], input: &str) -> Running<'_> {
        self.start_program(env!("CARGO_BIN_EXE_vmprov"), args, input)
    }

    /// Runs a shell's script in which `vmprov` is the program.
    pub(crate) fn shell(&self, script: &str) -> Ran {
        let binary = env!("CARGO_BIN_EXE_vmprov");
        self.program("/bin/bash", &["-c", &format!("vmprov() {{ {binary} \"$@\"; }}; {script}")])
    }

    /// Runs the program on a terminal, where `typed` is typed once it has said `prompt`. What it prints comes together
    /// on standard output.
    pub(crate) fn on_terminal(&self, line: &str, prompt: &str, typed: &str) -> Ran {
        let command = format!("{} {line}", env!("CARGO_BIN_EXE_vmprov"));
        let args = ["-qefc", &command, "/dev/null"];
        let mut running = self.spawn(self.command("/usr/bin/script", &args).stdin(Stdio::piped()));
        let mut keyboard = running.process.stdin();
        assert!(within(LIMIT, || read(&running.out).contains(prompt)), "no `{prompt}`: {}", read(&running.out));
        keyboard.write_all(typed.as_bytes()).unwrap();
        let mut ran = running.end();
        drop(keyboard);
        ran.stdout = ran.stdout.replace("\r\n", "\n");
        ran
    }

    /// Runs another program with these arguments.
    pub(crate) fn program(&self, program: &str, args: &[&str]) -> Ran {
        self.start_program(program, args, "").end()
    }

    fn start_program(&self, program: &str, args: &[&str], input: &str) -> Running<'_> {
        let stdin = tempfile::NamedTempFile::new_in(self.folder.path()).unwrap();
        fs::write(stdin.path(), input).unwrap();
        self.spawn(self.command(program, args).stdin(stdin.reopen().unwrap()))
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let home = self.path("");
        // Entering a namespace loses the working directory.
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
        // Files, not pipes, which processes left behind would keep open.
        let out = tempfile::tempfile_in(self.folder.path()).unwrap();
        let err = tempfile::tempfile_in(self.folder.path()).unwrap();
        command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        Running { process: Process::spawn(command), out, err, host: self }
    }

    /// Text with the home's path replaced, which is another in each run.
    pub(crate) fn normal(&self, text: &str) -> String {
        text.replace(self.path("").to_str().unwrap().trim_end_matches('/'), "~")
    }
}

/// A run that has not ended. It is killed when it is dropped.
pub(crate) struct Running<'h> {
    process: Process,
    out: File,
    err: File,
    host: &'h TestHost,
}

impl Running<'_> {
    /// What it has said on standard error so far.
    pub(crate) fn said(&self) -> String {
        read(&self.err)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        self.process.signal(signal);
    }

    pub(crate) fn id(&self) -> rustix::process::Pid {
        self.process.id()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ran {
        let Some(status) = self.process.wait(LIMIT) else {
            panic!("it does not end; so far: {}{}", read(&self.out), read(&self.err));
        };
        assert!(!self.process.has_processes(), "it has ended, what it started has not: {}", read(&self.err));
        let normal = |file| self.host.normal(&read(file));
        Ran { status, stdout: normal(&self.out), stderr: normal(&self.err) }
    }
}

fn read(file: &File) -> String {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Looks again and again until it is so; false when the time is up.
pub(crate) fn within(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// How a run ended.
pub(crate) struct Ran {
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, stdout, stderr } = self;
        write!(f, "{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

impl Ran {
    /// The exit status, or 128 and the signal, as a shell has it.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap())
    }

    /// It exited with 0, printed exactly this, and said nothing.
    #[track_caller]
    pub(crate) fn prints(self, stdout: &str) -> Self {
        assert_eq!((self.code(), self.stdout.as_str(), self.stderr.as_str()), (0, stdout, ""), "{self:?}");
        self
    }

    /// It exited with 0; whatever it said.
    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.code(), 0, "{self:?}");
        self
    }

    /// It exited with `code`, printed nothing, and said exactly this.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, stderr: &str) -> Self {
        assert_eq!((self.code(), self.stdout.as_str(), self.stderr.as_str()), (code, "", stderr), "{self:?}");
        self
    }

    /// It exited with `code`, printed nothing, and said this among other things.
    #[track_caller]
    pub(crate) fn fails_saying(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!((self.code(), self.stdout.as_str()), (code, ""), "{self:?}");
        self.says(parts)
    }

    /// It said all of this on standard error.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "it does not say `{part}`: {self:?}");
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Standard error as JSON: what was said, and the errors, one after the other.
    #[track_caller]
    pub(crate) fn said(&self) -> Vec<serde_json::Value> {
        let values = serde_json::Deserializer::from_str(&self.stderr).into_iter();
        values.map(|value| value.unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))).collect()
    }

    /// The last error, as JSON.
    #[track_caller]
    pub(crate) fn error(&self) -> serde_json::Value {
        self.said().pop().unwrap_or_else(|| panic!("no error: {self:?}"))
    }

    /// The cells of a table, which are two spaces apart at least.
    pub(crate) fn cells(&self) -> Vec<Vec<&str>> {
        fn cells(line: &str) -> Vec<&str> {
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
        }
        self.stdout.lines().map(cells).collect()
    }
}
