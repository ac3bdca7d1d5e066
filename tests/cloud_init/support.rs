//! Creates seeds and merges them with cloud-init's own code.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use serde_json::Value;
use tempfile::TempDir;
use vmprov::cloud_init::{HostKey, Seed, UserData};

/// The default user of the guest's image.
pub(crate) const DEFAULT_USER: &str = "debian";

pub(crate) const VMPROV_KEY: &str = "ssh-ed25519 AAAAours it's \"ours\": {yes} #1 ü\u{2028}\u{1f511}";

/// The path of cloud-init's code: of this machine's release, or of another release to test with.
static CLOUD_INIT: LazyLock<String> = LazyLock::new(|| {
    if let Ok(path) = std::env::var("VMPROV_TEST_CLOUD_INIT") {
        return path;
    }
    let script = Command::new(root().join("tests/lab/cloud-init")).output().unwrap();
    let stderr = String::from_utf8_lossy(&script.stderr);
    assert!(script.status.success(), "cannot find or download cloud-init's code: {stderr}");
    String::from_utf8(script.stdout).unwrap().trim().to_owned()
});

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn seed(user: &str, user_data: Option<UserData>) -> Seed {
    let host_key = |algorithm: &str| HostKey {
        algorithm: algorithm.to_owned(),
        private: format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{algorithm}\n-----END OPENSSH PRIVATE KEY-----\n"),
        public: format!("ssh-{algorithm} AAAAhost web"),
    };
    Seed {
        instance_id: "web-1".to_owned(),
        hostname: "web".parse().unwrap(),
        user: user.to_owned(),
        mac: "52:54:00:AB:CD:EF".to_owned(),
        authorized_keys: vec![VMPROV_KEY.to_owned(), "ssh-rsa AAAAsecond".to_owned()],
        host_keys: ["ed25519", "ecdsa", "rsa"].map(host_key).to_vec(),
        user_data,
    }
}

/// The seeds of one test, which one run of cloud-init's code merges.
pub(crate) struct Seeds {
    folder: TempDir,
    count: usize,
}

impl Seeds {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), count: 0 }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.path().join(number.to_string())
    }

    /// Adds a seed's files, and the files that its `#include` finds; returns the seed's number.
    pub(crate) fn add(&mut self, files: &[(&str, Vec<u8>)], included: &[(&str, &str)]) -> usize {
        let number = self.count;
        self.count += 1;
        let write = |folder: &Path, name: &str, content: &[u8]| {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join(name), content).unwrap();
        };
        for (name, content) in files {
            write(&self.path(number), name, content);
        }
        for (name, content) in included {
            write(&self.path(number).join("included"), name, content.as_bytes());
        }
        number
    }

    pub(crate) fn add_seed(&mut self, seed: &Seed, included: &[(&str, &str)]) -> usize {
        self.add(&seed.files(), included)
    }

    /// Merges the seeds as guests do; returns the results by number.
    pub(crate) fn merge(&self) -> Vec<Value> {
        let paths: Vec<PathBuf> = (0..self.count).map(|number| self.path(number)).collect();
        let output = Command::new("/usr/bin/python3")
            .arg(root().join("tests/support/merge.py"))
            .arg(DEFAULT_USER)
            .args(&paths)
            .env("PYTHONPATH", CLOUD_INIT.as_str())
            .output()
            .unwrap();
        assert!(output.status.success(), "merge.py: {}", String::from_utf8_lossy(&output.stderr));
        let read = |path: &PathBuf| serde_json::from_slice(&fs::read(path.join("merged.json")).unwrap()).unwrap();
        paths.iter().map(read).collect()
    }
}
