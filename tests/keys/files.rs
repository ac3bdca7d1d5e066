//! Files of the key store: permissions, existing files and links, interruptions, and foreign files.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    thread,
};

use vmprov::{
    error::{Code, Error},
    model::key::{Key, KeyKind, NewKey},
    store::keys::KeyStore,
};

use crate::{Folder, ed25519, file_names, mode, name, new_key, openssh::assert_openssh_agrees, run};

#[test]
fn files_and_folder_are_private() {
    let folder = Folder::new();
    let deep = folder.path.join("a/b/keys");
    let key = KeyStore::new(&deep).generate(&ed25519("k")).unwrap();
    assert_eq!(key.private_key_path.as_deref(), Some(&*deep.join("k")));
    assert_eq!(key.public_key_path.as_deref(), Some(&*deep.join("k.pub")));
    assert_eq!((mode(deep.join("k")), mode(deep.join("k.pub")), mode(&deep)), (0o600, 0o644, 0o700));
    assert_eq!(mode(folder.path.join("a")), 0o700);
}

#[test]
fn an_existing_folder_keeps_its_mode_with_a_warning_if_open() {
    let folder = Folder::new();
    fs::create_dir(folder.keys()).unwrap();
    for (bits, warns) in [(0o700, false), (0o755, false), (0o1777, false), (0o770, true), (0o777, true)] {
        fs::set_permissions(folder.keys(), fs::Permissions::from_mode(bits)).unwrap();
        folder.store().generate(&ed25519(&format!("k{bits}"))).unwrap();
        assert_eq!(mode(folder.keys()), bits);
        assert_eq!(folder.store().warning().is_some(), warns, "{bits:o}");
    }
}

#[test]
fn no_file_is_overwritten_and_no_link_is_followed() {
    let source = Folder::new();
    let source = source.ssh_keygen("source", &["-t", "ed25519", "-N", ""]);
    for (taken, free) in [("k", "k.pub"), ("k.pub", "k")] {
        for what in ["file", "link", "dangling link", "folder"] {
            let folder = Folder::new();
            fs::create_dir(folder.keys()).unwrap();
            let path = folder.keys().join(taken);
            let target = folder.path.join("target");
            match what {
                "file" => fs::write(&path, "old").unwrap(),
                "folder" => fs::create_dir(&path).unwrap(),
                _ => symlink(&target, &path).unwrap(),
            }
            if what == "link" {
                fs::write(&target, "old").unwrap();
            }
            for result in [folder.store().generate(&ed25519("k")), folder.store().import(&name("k"), &source)] {
                assert_eq!(result.unwrap_err().code, Code::AlreadyExists, "{taken}: {what}");
            }
            assert!(fs::symlink_metadata(folder.keys().join(free)).is_err(), "{taken}: {what}");
            assert_eq!(target.exists(), what == "link");
            if what == "file" || what == "link" {
                assert_eq!(fs::read(&path).unwrap(), b"old");
            }
        }
    }
}

#[test]
fn one_of_several_concurrent_calls_gets_the_name() {
    let folder = Folder::new();
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| folder.store().generate(&ed25519("k")))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let created: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(created.len(), 1);
    assert_openssh_agrees(created[0]);
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.code, Code::AlreadyExists);
    }
}

#[test]
fn a_folder_that_cannot_be_created_is_an_error() {
    let folder = Folder::new();
    let file = folder.file("file", "");
    symlink("nowhere", folder.path.join("dangling")).unwrap();
    for path in [file.clone(), file.join("below"), folder.path.join("dangling")] {
        let error = KeyStore::new(&path).generate(&ed25519("k")).unwrap_err();
        assert_eq!(error.code, Code::Conflict, "{path}: {error}");
    }
    for path in [file.clone(), file.join("below")] {
        assert_eq!(KeyStore::new(&path).list().unwrap_err().code, Code::Conflict);
    }
    // Not even root can create a folder there.
    let error = KeyStore::new("/sys/vmprov-keys".into()).generate(&ed25519("k")).unwrap_err();
    assert_eq!(error.code, Code::Denied, "{error}");
    assert_eq!(file_names(&folder.path), ["dangling", "file"]);
}

#[test]
fn an_invalid_request_creates_no_folder() {
    let folder = Folder::new();
    for new in [
        NewKey { bits: Some(1024), ..new_key("k", KeyKind::Rsa) },
        NewKey { bits: Some(4096), ..ed25519("k") },
        NewKey { comment: Some("a\nb".to_owned()), ..ed25519("k") },
    ] {
        assert_eq!(folder.store().generate(&new).unwrap_err().code, Code::InvalidInput);
    }
    assert!(!folder.keys().exists());
}

#[test]
fn the_list_is_sorted_and_contains_all_usable_keys() {
    let folder = Folder::new();
    let store = folder.store();
    assert!(store.list().unwrap().keys.is_empty());
    for key in ["web", "a", "m"] {
        store.generate(&ed25519(key)).unwrap();
    }
    let dir = folder.keys();
    fs::write(dir.join("config"), "Host *\n").unwrap();
    fs::write(dir.join("cut.pub"), "ssh-ed25519 AAAA").unwrap();
    fs::write(dir.join("known_hosts"), "").unwrap();
    fs::write(dir.join(".hidden"), "").unwrap();
    fs::create_dir(dir.join("folder")).unwrap();
    symlink("web", dir.join("link")).unwrap();
    symlink("nowhere", dir.join("dangling.pub")).unwrap();
    run("mkfifo", &[dir.join("pipe").as_str()]);
    let listing = store.list().unwrap();
    let names: Vec<_> = listing.keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["a", "m", "web"]);
    for (name, why) in [
        ("known_hosts", "name"),
        ("config", "cannot use"),
        ("cut.pub", "cannot use"),
        ("dangling.pub", "symbolic link"),
        ("folder", "not a file"),
        ("link", "symbolic link"),
        ("pipe", "not a file"),
    ] {
        let names_file = |error: &&Error| error.message.contains(dir.join(name).as_str());
        let error = listing.unusable.iter().find(names_file).unwrap_or_else(|| panic!("{name} is not reported"));
        assert!(error.message.contains(why), "{error}");
        assert!(!error.hints.is_empty(), "{error}");
    }
    assert_eq!(listing.unusable.len(), 7);
}

#[test]
fn leftovers_of_a_killed_call_are_reported_and_can_be_deleted() {
    let folder = Folder::new();
    let (store, dir) = (folder.store(), folder.keys());
    let key = store.generate(&ed25519("k")).unwrap();
    let private = fs::read(dir.join("k")).unwrap();

    // Killed between the two files: the key is complete.
    fs::remove_file(dir.join("k.pub")).unwrap();
    let left = store.get(&name("k")).unwrap();
    assert_eq!(left, Key { public_key_path: None, ..key.clone() });
    assert_eq!(store.list().unwrap().keys, [left]);
    assert!(store.private_key_path(&name("k")).is_ok());
    assert_eq!(store.generate(&ed25519("k")).unwrap_err().code, Code::AlreadyExists);

    // Killed while it wrote the second file: the error has a hint.
    fs::write(dir.join("k.pub"), "").unwrap();
    let error = store.get(&name("k")).unwrap_err();
    assert_eq!(error.code, Code::Conflict);
    assert!(error.hints[0].text.contains("read from"));

    // Killed while it wrote the first file.
    fs::remove_file(dir.join("k.pub")).unwrap();
    for length in [0, 100, private.len() - 40] {
        fs::write(dir.join("k"), &private[..length]).unwrap();
        let error = store.get(&name("k")).unwrap_err();
        assert!(error.hint_text(vmprov::api::as_command).unwrap().contains("vmprov key delete k"), "{error:?}");
        assert_eq!(store.list().unwrap().unusable, [error]);
        assert_eq!(store.generate(&ed25519("k")).unwrap_err().code, Code::AlreadyExists);
    }
    store.delete(&name("k")).unwrap();
    assert_eq!(store.generate(&ed25519("k")).unwrap().name, name("k"));
}

#[test]
fn delete_removes_both_files_and_no_link_target() {
    let folder = Folder::new();
    let store = folder.store();
    for key in ["k", "kk"] {
        store.generate(&ed25519(key)).unwrap();
    }
    store.delete(&name("k")).unwrap();
    assert_eq!(file_names(&folder.keys()), ["kk", "kk.pub"]);
    let error = store.delete(&name("k")).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(store.get(&name("k")).is_err_and(|error| error.code == Code::NotFound));
    symlink("kk", folder.keys().join("link")).unwrap();
    store.delete(&name("link")).unwrap();
    assert_eq!(file_names(&folder.keys()), ["kk", "kk.pub"]);
}

#[test]
fn a_private_key_that_others_can_read_is_not_used() {
    let folder = Folder::new();
    let store = folder.store();
    let path = store.generate(&ed25519("k")).unwrap().private_key_path.unwrap();
    assert_eq!(store.private_key_path(&name("k")).unwrap(), path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = store.private_key_path(&name("k")).unwrap_err();
    assert_eq!(error.code, Code::Denied);
    assert!(error.command().unwrap().contains("chmod 600"));
}

#[test]
fn a_report_contains_no_private_key() {
    let folder = Folder::new();
    let key = folder.store().generate(&ed25519("k")).unwrap();
    let private = fs::read_to_string(key.private_key_path.as_ref().unwrap()).unwrap();
    let secret = private.lines().nth(3).unwrap();
    let report = format!("{key:?} {}", serde_json::to_string(&key).unwrap());
    assert!(!report.contains(secret) && !report.contains("PRIVATE KEY"), "{report}");
    let json: serde_json::Value = serde_json::to_value(&key).unwrap();
    let members: Vec<_> = json.as_object().unwrap().keys().collect();
    assert_eq!(
        members,
        ["name", "type", "bits", "fingerprint", "comment", "publicKey", "publicKeyPath", "privateKeyPath"]
    );
}
