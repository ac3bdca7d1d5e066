//! A client can write to the folder that `--allow-image-folder` names. Even if it swaps folders and symbolic links
//! while the service uses a path, no file outside the folder is opened.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use http::Service;
use lab::{Lab, Running};
use rustix::fs::{CWD, RenameFlags, inotify, renameat_with};
use serde_json::{Value, json};

/// The number of VMs that are requested, each with a separate image and installer.
const ROUNDS: usize = 20;

/// The content of the files outside the allowed folder.
const SECRET: &str = "content outside the folder";

/// A raw disk with this content, and a boot record without partitions.
fn disk(content: &str) -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[4096..4096 + content.len()].copy_from_slice(content.as_bytes());
    disk
}

/// Ends a thread's loop when it is dropped, even if the test fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Whether a file in the folder contains a text.
fn contains_text(folder: &Path, text: &str) -> bool {
    let has = |path: &Path| fs::read(path).unwrap().windows(text.len()).any(|part| part == text.as_bytes());
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| path.is_file() && has(&path))
}

fn folders(lab: &Lab) -> (PathBuf, PathBuf) {
    let [allowed, outside] = ["allowed", "outside"].map(|name| lab.file(name));
    fs::create_dir_all(allowed.join("sub")).unwrap();
    fs::create_dir(&outside).unwrap();
    for round in 0..ROUNDS {
        for (name, content) in [(format!("{round}.img"), "disk"), (format!("{round}.iso"), "installer")] {
            fs::write(allowed.join("sub").join(&name), disk(&format!("{content} {round}"))).unwrap();
            fs::write(outside.join(&name), disk(SECRET)).unwrap();
        }
    }
    // Checksum files are looked up in the image's folder.
    fs::write(outside.join("SHA256SUMS"), SECRET).unwrap();
    symlink(&outside, allowed.join("link")).unwrap();
    (allowed, outside)
}

#[test]
fn a_path_swapped_during_use_never_opens_a_file_outside() {
    let lab = Lab::warm();
    lab.run(&["image", "prune", "--all"]).succeeded();
    let before = lab.snapshot();
    let (allowed, outside) = folders(&lab);
    let opened = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    for file in fs::read_dir(&outside).unwrap() {
        inotify::add_watch(&opened, file.unwrap().path(), inotify::WatchFlags::OPEN).unwrap();
    }
    let folder = allowed.to_str().unwrap();
    let service = Service::new(lab.serve(&["--allow-image-folder", folder]), Running::signal, lab.socket());
    let send = |method: &str, path: &str, body: &Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        service.client.send(method, path, &["Content-Type: application/json"], &body)
    };

    let ended = AtomicBool::new(false);
    let (sub, link) = (allowed.join("sub"), allowed.join("link"));
    let mut created = 0;
    thread::scope(|scope| {
        let _swapping = EndOnDrop(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                // An atomic exchange, so that both paths always exist.
                renameat_with(CWD, &sub, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for round in 0..ROUNDS {
            let file = |suffix: &str| sub.join(format!("{round}.{suffix}"));
            let (name, image, iso) = (format!("vm{round}"), file("img"), file("iso"));
            let new = json!({"name": name, "imageUrl": image, "iso": iso, "user": "u", "memory": 64, "diskSize": 1, "start": false});
            let answer = send("POST", "/api/vms", &new);
            // A path that leads outside at that moment is refused.
            assert!(matches!(answer.status, 201 | 403), "{answer}");
            if answer.status == 201 {
                created += 1;
                let pool = lab.pool_folder();
                assert!(
                    contains_text(&pool, &format!("installer {round}")) && !contains_text(&pool, SECRET),
                    "{answer}"
                );
                send("DELETE", &format!("/api/vms/{name}"), &Value::Null).is(200);
            }
        }
    });
    assert_ne!(created, 0, "every request was refused");
    let mut space = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&opened, &mut space);
    assert_eq!(events.next().err(), Some(rustix::io::Errno::AGAIN), "a file outside was opened");
    send("POST", "/api/images/prune", &json!({"all": true})).is(200);
    service.end().end().succeeded();
    for folder in [allowed, outside] {
        fs::remove_dir_all(folder).unwrap();
    }
    lab.settles(&before, "at the end");
}
