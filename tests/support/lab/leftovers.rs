//! Snapshots of everything that a run may leave behind, and assertions that nothing is left.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{Lab, POLL, SETTLE_LIMIT, Snapshot};

impl Lab {
    /// Takes a snapshot of everything that a run may leave behind, one line each.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let lines = |text: &str| -> Vec<String> {
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        };
        let mark = "8-8-8";
        let script = [
            "list --all --uuid --name",
            "list --uuid",
            "pool-list --all --name",
            "pool-list --name",
            "net-list --all --name",
            "net-list --name",
        ]
        .join("; echo 8-8-8; ");
        let text = self.virsh(&[&script]);
        let sections: Vec<_> = text.split(mark).map(lines).collect();
        let [domains, active, pools, active_pools, networks, active_networks] = &sections[..] else {
            panic!("unexpected output of virsh: {text}")
        };
        let mut found = BTreeSet::new();
        for domain in domains {
            let state = if active.iter().any(|uuid| domain.starts_with(uuid)) { "active" } else { "inactive" };
            found.insert(format!("domain {domain}: {state}"));
        }
        for (kind, all, active) in [("pool", pools, active_pools), ("network", networks, active_networks)] {
            for name in all {
                found.insert(format!("{kind} {name}: {}", if active.contains(name) { "active" } else { "inactive" }));
            }
        }
        for pool in active_pools {
            for row in lines(&self.virsh(&["vol-list", "--pool", pool])) {
                found.insert(format!("volume {pool}/{}", row.split_whitespace().next().unwrap()));
            }
        }
        let mut files = |what: &str, folder: &Path| {
            for file in walk(folder) {
                found.insert(format!("{what} {}", file.strip_prefix(folder).unwrap().display()));
            }
        };
        files("pool file", &self.folder.join("lib/images"));
        files("home", self.home.path());
        let ours = |folder: &str| {
            let entries = std::fs::read_dir(folder).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
            entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("vmprov")).collect::<Vec<_>>()
        };
        // The lock folders of other users stay, as /run/vmprov-locks does.
        let is_lock_folder = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.strip_prefix("vmprov-").is_some_and(|uid| uid.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let (locks, temporary): (Vec<_>, Vec<_>) = ours("/tmp").into_iter().partition(is_lock_folder);
        found.extend(temporary.iter().map(|path| format!("temporary file {}", path.display())));
        for folder in locks {
            found.extend(stale(&ours(folder.to_str().unwrap())).map(|path| format!("lock {}", path.display())));
        }
        found.extend(
            stale(&ours(&format!("/proc/{}/root/run/vmprov-locks", self.holder)))
                .map(|path| format!("lock {}", path.display())),
        );
        found.extend(self.processes().into_iter().map(|(pid, name)| format!("process {name} ({pid})")));
        Snapshot(found)
    }

    /// Returns the processes in the lab: libvirt's daemons, guests, and leftovers of runs.
    fn processes(&self) -> Vec<(String, String)> {
        let net = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let lab = net(&self.holder);
        let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let members = pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && net(pid) == lab);
        members
            .filter_map(|pid| {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
                Some((pid, name.trim().to_owned()))
            })
            .collect()
    }

    /// Waits until the lab is as it was `before`; panics with the difference after [`SETTLE_LIMIT`].
    #[track_caller]
    pub(crate) fn settles(&self, before: &Snapshot, when: &str) {
        self.settles_without(before, |_| false, when);
    }

    /// Like [`Self::settles`], but ignores differences in some lines.
    #[track_caller]
    pub(crate) fn settles_without(&self, before: &Snapshot, ignored: impl Fn(&str) -> bool, when: &str) {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let now = self.snapshot();
            // A temporary file that disappeared belongs to another program, because vmprov's have no names.
            let gone = before.0.difference(&now.0).filter(|line| !ignored(line) && !line.starts_with("temporary"));
            let gone = gone.map(|line| format!("- {line}"));
            let came = now.0.difference(&before.0).filter(|line| !ignored(line)).map(|line| format!("+ {line}"));
            let difference: Vec<_> = gone.chain(came).collect();
            if difference.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{when}: the lab differs from before:\n{}", difference.join("\n"));
            std::thread::sleep(POLL);
        }
    }
}

/// Returns the lock files that no process holds. Held ones belong to other processes.
fn stale(locks: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    let held = std::fs::read_to_string("/proc/locks").unwrap();
    locks.iter().filter(move |path| {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = std::fs::symlink_metadata(path) else { return false };
        !held.split_whitespace().any(|word| word.ends_with(&format!(":{}", metadata.ino())))
    })
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.flat_map(|path| if path.is_dir() && !path.is_symlink() { walk(&path) } else { vec![path] }).collect()
}
