//! The arguments of all processes of this machine, which every user may read, watched for what should not stand there.

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

/// How often is looked: far more often than a program that talks to libvirt can begin and end.
const POLL: Duration = Duration::from_millis(2);

/// Arguments that are read again and again.
pub(crate) struct Watched {
    ended: Arc<AtomicBool>,
    seen: JoinHandle<BTreeSet<String>>,
}

impl Watched {
    /// Looks for processes of `program`, to know that it can see them, and for texts in the arguments of any.
    pub(crate) fn new(program: &'static str, texts: &[&str]) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (flag, texts) = (ended.clone(), texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        let seen = thread::spawn(move || {
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
        Self { ended, seen }
    }

    /// The program, if it was seen, and all arguments that have one of the texts.
    pub(crate) fn seen(self) -> Vec<String> {
        self.ended.store(true, Ordering::SeqCst);
        self.seen.join().unwrap().into_iter().collect()
    }
}
