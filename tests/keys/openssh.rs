//! OpenSSH accepts the generated keys and reports the same properties.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use camino::Utf8PathBuf;
use vmprov::{
    model::key::{Key, KeyKind, NewKey},
    store::{
        host_keys::{self, HostKey},
        keys::KeyStore,
    },
};

use crate::{Folder, ed25519, new_key, run};

/// Checks that OpenSSH reads the same properties from both files of a key.
pub(crate) fn assert_openssh_agrees(key: &Key) {
    let private = key.private_key_path.as_ref().unwrap().as_str();
    let public = key.public_key_path.as_ref().unwrap();
    assert_eq!(run("ssh-keygen", &["-y", "-P", "", "-f", private]), key.public_key);
    assert_eq!(fs::read_to_string(public).unwrap(), format!("{}\n", key.public_key));
    let start = format!("{} {} {}", key.bits, key.fingerprint, key.comment);
    let end = format!(" ({})", key.kind.to_uppercase());
    let agrees = |line: &str| line.starts_with(&start) && line.ends_with(&end);
    let line = run("ssh-keygen", &["-l", "-f", public.as_str()]);
    assert!(agrees(&line), "{line}: {key:?}");
    fs::remove_file(public).unwrap();
    let line = run("ssh-keygen", &["-l", "-f", private]);
    assert!(agrees(&line), "{line}: {key:?}");
}

#[test]
fn openssh_reports_the_same_properties_of_every_kind_of_key() {
    let folder = Folder::new();
    let kinds =
        [(KeyKind::Ed25519, None), (KeyKind::Rsa, Some(2048)), (KeyKind::Rsa, Some(3072)), (KeyKind::Rsa, None)];
    let comments = [None, Some(""), Some("me@home"), Some("Zoë's  key, 鍵 #1"), Some(&*"c".repeat(255))];
    for (number, (kind, bits)) in kinds.into_iter().enumerate() {
        // RSA is slow, so each size is tested with one comment only, and Ed25519 with all of them.
        let count = if kind == KeyKind::Rsa { 1 } else { comments.len() };
        for (place, comment) in comments.iter().cycle().skip(number).take(count).enumerate() {
            let new =
                NewKey { comment: comment.map(str::to_owned), bits, ..new_key(&format!("k{number}-{place}"), kind) };
            let key = folder.store().generate(&new).unwrap();
            assert_eq!(key.comment, comment.unwrap_or(new.name.as_str()));
            assert_eq!(key.bits, if kind == KeyKind::Rsa { new.rsa_bits() } else { 256 });
            assert_eq!(folder.store().get(&new.name).unwrap(), key);
            assert_openssh_agrees(&key);
        }
    }
}

#[test]
fn a_real_sshd_accepts_every_kind_of_key_and_host_key() {
    let folder = Folder::new();
    let store = folder.store();
    let keys: Vec<_> = [KeyKind::Rsa, KeyKind::Ed25519]
        .map(|kind| store.generate(&new_key(&format!("{kind:?}").to_lowercase(), kind)).unwrap())
        .into();
    let stranger = Folder::new().store().generate(&ed25519("stranger")).unwrap();
    for host_key in host_keys::generate("guest").unwrap() {
        let sshd = Sshd::new(&folder, &host_key, &keys[1..]);
        assert_eq!(sshd.log_in(&store, &keys[1], &host_key.public), Ok("welcome\n".to_owned()));
        let refused = sshd.log_in(&store, &keys[0], &host_key.public).unwrap_err();
        assert!(refused.contains("Permission denied (publickey)"), "{refused}");
        let sshd = Sshd::new(&folder, &host_key, &keys);
        assert_eq!(sshd.log_in(&store, &keys[0], &host_key.public), Ok("welcome\n".to_owned()));
        let refused = sshd.log_in(&store, &keys[0], &stranger.public_key).unwrap_err();
        assert!(refused.contains("Host key verification failed"), "{refused}");
    }
}

/// OpenSSH's server with one host key. It serves one connection on its standard input and then ends, so it needs no
/// port and no cleanup.
struct Sshd {
    config: Utf8PathBuf,
}

impl Sshd {
    const PROGRAM: &str = "/usr/sbin/sshd";

    fn new(folder: &Folder, host_key: &HostKey, authorized: &[Key]) -> Self {
        assert!(Path::new(Self::PROGRAM).exists(), "sshd is not installed: run `apt-get install openssh-server`");
        if run("id", &["-u"]) == "0" {
            // The chroot folder of sshd before the login, which the service manager usually creates.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let lines: Vec<_> = authorized.iter().map(|key| key.public_key.as_str()).collect();
        let authorized = folder.file("authorized_keys", &lines.join("\n"));
        let private = folder.file("host_key", &host_key.private);
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
        let config = format!(
            "HostKey {private}\nAuthorizedKeysFile {authorized}\nStrictModes no\nUsePAM no\nPidFile none\n\
             AuthenticationMethods publickey\nPermitRootLogin prohibit-password\n"
        );
        Self { config: folder.file("sshd_config", &config) }
    }

    /// Logs in as `vm ssh` does, with only the key and the public host key. Returns stdout, or stderr if it fails.
    fn log_in(&self, store: &KeyStore, key: &Key, host_line: &str) -> Result<String, String> {
        let known_hosts = self.config.with_file_name("known_hosts");
        fs::write(&known_hosts, format!("guest {host_line}\n")).unwrap();
        let output = Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"])
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=none"])
            .args(["-o", &format!("UserKnownHostsFile={known_hosts}")])
            .args(["-o", &format!("ProxyCommand={} -i -f {}", Self::PROGRAM, self.config)])
            .args(["-i", store.private_key_path(&key.name).unwrap().as_str()])
            .args(["-l", &run("id", &["-un"]), "guest", "echo welcome"])
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}
