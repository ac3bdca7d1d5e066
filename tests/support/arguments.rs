//! Watches the arguments of all processes on this machine for secrets, because every user can read them.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How often to read the arguments: far shorter than a program that talks to libvirt runs.
const POLL: Duration = Duration::from_millis(2);

/// A thread that polls the arguments of all processes.
pub(crate) struct ArgumentWatcher {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<String>>,
}

impl ArgumentWatcher {
    /// Watches for `texts` in the arguments of all processes, and for processes of `program` as proof that it works.
    pub(crate) fn new(program: &'static str, texts: &[&str]) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (flag, texts) = (ended.clone(), texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        let thread = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !flag.load(Ordering::SeqCst) {
                for process in fs::read_dir("/proc").unwrap().flatten() {
                    let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
                    let line = String::from_utf8_lossy(&line).replace('\0', " ");
                    if line.split(' ').any(|word| word.rsplit('/').next() == Some(program)) {
                        seen.insert(program.to_owned());
                    }
                    if texts.iter().any(|text| line.contains(text)) {
                        seen.insert(line);
                    }
                }
                thread::sleep(POLL);
            }
            seen
        });
        Self { ended, thread }
    }

    /// Stops watching. Returns the program, if it was seen, and all arguments that contain one of the texts.
    pub(crate) fn seen(self) -> Vec<String> {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.join().unwrap().into_iter().collect()
    }
}
