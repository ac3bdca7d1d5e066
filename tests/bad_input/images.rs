//! Unusable images and installers are refused.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Command,
    thread,
};

use super::{Host, INVALID, NOT_FOUND, TOOL_FAILED, UNREACHABLE, sh};

/// A script that creates files that are not usable images, and `good.qcow2`, which is.
const IMAGES: &str = r#"
    qemu-img create -q -f qcow2 good.qcow2 10M
    qemu-io -f qcow2 -c 'write -q -P 7 0 5M' good.qcow2
    : >empty.qcow2
    printf '<!DOCTYPE html>\n<html>' >page.qcow2
    printf '\n  <HTML><head>' >page2.img
    printf '<?xml version="1.0"?><Error>' >answer.qcow2
    head -c 300000 good.qcow2 >cut.qcow2
    head -c 10 good.qcow2 >head.qcow2
    head -c 70000 /dev/zero >zero.img
    head -c 70000 /dev/zero | tr '\0' x >garbage.img
    qemu-img create -q -f qcow2 -u -b /etc/passwd -F raw backing.qcow2 10M
    qemu-img create -q -f qcow2 -u -F raw -b 'json:{"driver":"file","filename":"/etc/passwd"}' json.qcow2 10M
    qemu-img create -q -f qcow2 -u -b nbd://127.0.0.1:1/x -F raw nbd.qcow2 10M
    qemu-img create -q -f qcow2 -o data_file="$PWD/data.raw" external.qcow2 10M
    qemu-img create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s locked.qcow2 10M
    qemu-img create -q -f qcow2 -b "$PWD/backing.qcow2" -u -F qcow2 deep.qcow2 10M
    printf '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 20480 FLAT "/etc/passwd" 0\n' >text.vmdk
    # a sparse VMDK of capacity 0 whose embedded descriptor names another file
    { printf 'KDMV\1\0\0\0\3\0\0\0'; head -c 8 /dev/zero; head -c 8 /dev/zero; printf '\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0'
      head -c 468 /dev/zero; cat text.vmdk; head -c 70000 /dev/zero; } >embedded.vmdk
    printf 'QFI\373\0\0\0\1' >old.qcow; head -c 70000 /dev/zero >>old.qcow
    tar cf good.tar good.qcow2; printf 'PK\3\4' >good.zip
    tar cf - good.qcow2 | xz >good.tar.xz; xz -k good.qcow2; gzip -k good.qcow2.xz
    head -c 200 good.qcow2.xz >cut.xz; printf BZh9 >cut.bz2
    # a boot record with one partition that ends far beyond the end of the file
    { head -c 446 /dev/zero; printf '\0\0\0\0\x83\0\0\0\x01\0\0\0\0\0\x10\0'; head -c 48 /dev/zero; printf '\x55\xaa'; } >cut.img
    mkdir folder; mkfifo pipe; ln -s nowhere dangling.qcow2; ln -s loop loop
"#;

#[test]
fn unusable_images_are_refused() {
    let host = Host::with(|lab| {
        sh(lab, IMAGES);
    });
    let with = |image: &str, code, says: &[&str]| {
        host.refuses(
            &["vm", "create", "bad", "--user", "debian", "--ssh-key", "dev", &format!("--image={image}")],
            code,
            says,
        );
    };
    let file = |name: &str, code, says: &[&str]| with(&host.path(name), code, says);
    let missing = "No such file or directory";
    for (name, code, says) in [
        ("missing.qcow2", NOT_FOUND, missing),
        ("dangling.qcow2", NOT_FOUND, missing),
        ("good.qcow2/x", INVALID, "Not a directory"),
        ("loop", TOOL_FAILED, "Too many levels of symbolic links"),
        ("folder", INVALID, "is not a regular file"),
        ("pipe", INVALID, "is not a regular file"),
        ("empty.qcow2", INVALID, "empty.qcow2` is empty"),
        ("page.qcow2", INVALID, "page.qcow2` is a web page, not a disk image"),
        ("page2.img", INVALID, "page2.img` is a web page, not a disk image"),
        ("answer.qcow2", INVALID, "answer.qcow2` is a web page, not a disk image"),
        ("cut.qcow2", INVALID, "cut.qcow2` is damaged or truncated"),
        ("head.qcow2", INVALID, "head.qcow2` is not a valid qcow2 file"),
        ("cut.img", INVALID, "cut.img` is truncated: its partitions end at byte 536871424"),
        ("zero.img", INVALID, "it is not qcow2 and has no boot record"),
        ("garbage.img", INVALID, "it is not qcow2 and has no boot record"),
        ("backing.qcow2", INVALID, "has a backing file (`/etc/passwd`), which a guest could read"),
        ("json.qcow2", INVALID, "has a backing file (`json:{"),
        ("nbd.qcow2", INVALID, "has a backing file (`nbd://127.0.0.1:1/x`)"),
        ("external.qcow2", INVALID, "has its content in another file (`"),
        ("locked.qcow2", INVALID, "locked.qcow2` is encrypted"),
        ("deep.qcow2", INVALID, "/backing.qcow2`), which a guest could read"),
        ("text.vmdk", INVALID, "is a VMDK descriptor without the content, which is in other files"),
        ("embedded.vmdk", INVALID, "is a VMDK descriptor without the content, which is in other files"),
        ("old.qcow", INVALID, "is a qcow image of version 1"),
        ("good.tar", INVALID, "is a tar archive, not a disk image"),
        ("good.tar.xz", INVALID, "is a tar archive, not a disk image"),
        ("good.zip", INVALID, "is a zip archive, not a disk image"),
        ("good.qcow2.xz.gz", INVALID, "is compressed twice"),
        ("cut.xz", INVALID, "cut.xz`: the file is damaged or truncated"),
        ("cut.bz2", INVALID, "cut.bz2`: the file is damaged or truncated"),
    ] {
        file(name, code, &[says]);
    }
    for (given, code, says) in [
        ("", NOT_FOUND, "Use a name, a path or a URL"),
        ("debian-12", NOT_FOUND, "similar: `debian:12`"),
        ("Debian:12", NOT_FOUND, "Use a name, a path or a URL"),
        ("/dev/zero", INVALID, "is not a regular file"),
        ("/dev/null", INVALID, "is not a regular file"),
        ("json:{\"driver\":\"null-co\"}", NOT_FOUND, missing),
        ("nbd:127.0.0.1:1", NOT_FOUND, missing),
        ("a\nb\u{1b}[31m", NOT_FOUND, "cannot read the image `a\\nb\\u{1b}[31m`"),
        ("javascript:alert(1)", NOT_FOUND, missing),
        ("javascript://alert(1)", INVALID, "the scheme `javascript` is not supported"),
        ("ftp://example.org/x.qcow2", INVALID, "the scheme `ftp` is not supported"),
        ("ssh://example.org/x.qcow2", INVALID, "the scheme `ssh` is not supported"),
        ("FILE:///missing.qcow2", NOT_FOUND, missing),
        ("file://missing.qcow2", INVALID, "it is not a path on this machine"),
        ("http://", INVALID, "invalid image URL `http://`: it cannot be parsed"),
        ("https://[::1", INVALID, "invalid image URL `https://[::1`: it cannot be parsed"),
        ("http://a b/", INVALID, "invalid image URL `http://a b/`: it cannot be parsed"),
        ("http://127.0.0.1:1/x.qcow2", UNREACHABLE, "Connection refused"),
    ] {
        with(given, code, &[says]);
    }
    let unknown = "no default login user is known for `";
    host.refuses(
        &["vm", "create", "bad", "--image", &host.path("good.qcow2")],
        INVALID,
        &[unknown, "Name the login user: --user"],
    );
    // lifecycle.rs tests that unmanaged volumes are not overwritten.
    let says = "require an image with cloud-init";
    host.refuses(&["vm", "create", "bad", "--ssh-key", "dev"], INVALID, &[says]);
    host.refuses(&["vm", "create", "bad", "--user", "debian"], INVALID, &[says]);
}

/// Starts a server that sends `response` to every request; returns the URL of an image on it.
fn serve(response: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 2048];
            if stream.read(&mut request).is_ok() {
                // The client may have closed the connection.
                drop(stream.write_all(response));
            }
        }
    });
    format!("http://{address}/debian-12.qcow2")
}

#[test]
fn unusable_http_responses_are_refused() {
    // The server is outside the lab's network namespace, so this test uses `test:///default`, which needs no daemon.
    for (response, code, says) in [
        (&b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"[..], NOT_FOUND, "HTTP status 404"),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", 6, "Use a URL that requires no login"),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", UNREACHABLE, "HTTP status 500"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", INVALID, "` is empty"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<!DOCTYPE html>", INVALID, "is a web page, not a disk image"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nconnection: close\r\n\r\nQFI",
            UNREACHABLE,
            "ended after 3 of 1000 bytes",
        ),
        (
            b"HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\ncontent-length: 0\r\n\r\n",
            UNREACHABLE,
            "cannot fetch",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", UNREACHABLE, "cannot fetch"),
    ] {
        let url = serve(response);
        let home = tempfile::tempdir().unwrap();
        let mut vmprov = Command::new(env!("CARGO_BIN_EXE_vmprov"));
        vmprov.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home.path()).current_dir(home.path());
        // Far longer than a server on the loopback takes, even on a busy machine.
        vmprov.env("VMPROV_STALL_TIMEOUT", "5s");
        let ran = vmprov.args(["-c", "test:///default", "vm", "create", "bad", "--image", &url]).output().unwrap();
        let stderr = String::from_utf8(ran.stderr).unwrap();
        assert_eq!((ran.status.code(), ran.stdout.len()), (Some(code), 0), "{url}: {stderr}");
        assert!(stderr.contains(says) && stderr.contains(&url), "stderr lacks `{says}` or `{url}`: {stderr}");
        // If the search for checksums fails, too, vmprov gives no warning about TLS.
        let checksum_search_fails = says.contains("500")
            || says.contains("ended after")
            || response.starts_with(b"SSH")
            || says == "cannot fetch";
        assert_eq!(stderr.contains("is not protected by TLS"), !checksum_search_fails, "{stderr}");
        let leftovers: Vec<_> = std::fs::read_dir(home.path().join(".cache/vmprov/downloads")).unwrap().collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
    }
}

#[test]
fn unusable_installers_are_refused() {
    let host = Host::with(|lab| sh(lab, ": >empty.iso; mkdir folder; mkfifo pipe; : >x.iso; echo x >x.iso"));
    for (name, code, says) in [
        ("missing.iso", NOT_FOUND, "No such file or directory"),
        ("empty.iso", INVALID, "it must be a regular file that is not empty"),
        ("folder", INVALID, "it must be a regular file that is not empty"),
        ("pipe", INVALID, "it must be a regular file that is not empty"),
    ] {
        host.refuses(&["vm", "create", "bad", "--iso", &host.path(name)], code, &[says]);
    }
    host.refuses(&["vm", "create", "bad", "--iso", ""], NOT_FOUND, &["cannot read the installer ``"]);
    host.refuses(&["vm", "create", "bad", "--iso", "/dev/zero"], INVALID, &["it must be a regular file"]);
    let iso = host.path("x.iso");
    host.refuses(
        &["vm", "create", "bad", "--iso", &iso, "--ssh-key", "dev"],
        INVALID,
        &["no default login user is known", "--user"],
    );
    host.refuses(&["vm", "create", "bad", "--iso", &iso, "--wait"], INVALID, &["cannot wait for ssh without an image"]);
}
