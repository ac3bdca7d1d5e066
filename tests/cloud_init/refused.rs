//! User data that conflicts with vmprov's settings, or that a guest would ignore, is refused with the reason. User data
//! that vmprov cannot check gives a warning.

use std::io::Write;

use vmprov::{
    cloud_init::UserData,
    error::{Code, Error},
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn check(data: &[u8], user: &str) -> Result<Vec<String>, Error> {
    UserData::parse(data)?.check(&"web".parse().unwrap(), user)
}

/// Returns the error and the hint of refused user data in one line.
fn reason(data: &[u8], user: &str) -> String {
    let error = match check(data, user) {
        Err(error) => error,
        Ok(warnings) => panic!("{:?} is accepted, with the warnings {warnings:?}", String::from_utf8_lossy(data)),
    };
    assert_eq!(error.code, Code::InvalidInput, "{error}");
    let hint = error.hint_text(vmprov::api::as_command).unwrap_or_else(|| panic!("no hint: {error}"));
    format!("{error}. {hint}")
}

#[test]
fn user_data_that_a_guest_would_ignore_is_refused() {
    let cases: [(&[u8], &str); 22] = [
        (b"", "the user data is empty"),
        (b"\n \n", "the user data is empty"),
        (b"\xef\xbb\xbf", "the user data is empty"),
        (b"packages: [nginx]\n", "lacks its first line"),
        (b"# cloud-config\npackages: [nginx]\n", "lacks its first line"),
        (b"echo hello\n", "has no form that cloud-init supports: its first line is `echo hello`"),
        (b"ssh-ed25519 AAAA me@here\n", "is an SSH key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "is an SSH key"),
        (b"<!DOCTYPE html>\n<html>", "is a web page"),
        (b"Content-Type: text/cloud-config\n\npackages: []\n", "without `MIME-Version`"),
        (b"\xff\xfe#\0!\0", "is UTF-16"),
        (b"CD001\0\0", "is a binary file"),
        (b"#!/bin/sh\necho \xe9\n", "is not UTF-8, in line 2"),
        (b"\x1f\x8b\x08broken", "cannot decompress the user data as gzip"),
        (b"#cloud-config\n", "is an empty cloud-config"),
        (b"#cloud-config\n- nginx\n", "is a cloud-config, but not a mapping"),
        (b"#cloud-config\npackages: [nginx\n", "is not valid YAML: did not find expected ',' or ']' at line"),
        (b"#cloud-config\na: 1\na: 2\n", "duplicate entry with key \"a\""),
        (b"#cloud-config\na: [{b: !vault c}]\n", "has the tag `!vault`, so cloud-init would ignore all of it"),
        (b"#cloud-config\n? [a]\n: b\n", "has a list or mapping as the name of a member"),
        (b"#cloud-config-archive\nnginx: 1\n", "is a cloud-config archive, but not a list"),
        (b"#cloud-config-archive\n- type: text/x-shellscript\n", "entry 1 of the user data has no text as `content`"),
    ];
    for (data, expected) in cases {
        let reason = reason(data, "alice");
        assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
    }
    let sizes = [
        (gzip(b"#!/bin/sh\n")[..18].to_vec(), "cannot decompress the user data as gzip"),
        (gzip(&gzip(b"#!/bin/sh\n")), "is a binary file"),
        (gzip(&vec![b'#'; 17 << 20]), "has more than 16777216 bytes when decompressed"),
        (vec![b'#'; 2 << 20], "has 2097152 bytes, the limit is 1048576"),
    ];
    for (data, expected) in sizes {
        let reason = reason(&data, "alice");
        assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
    }
}

#[test]
fn messages_that_a_guest_would_ignore_are_refused() {
    let base64 = "Content-Transfer-Encoding: base64\n\nIyHp\n--b--";
    let cases = [
        ("multipart/mixed; boundary=b\n\n--b\n\n#!/bin/sh\n", "the boundary `b` does not begin and end its parts"),
        ("multipart/mixed; boundary=b\n\n#!/bin/sh\n", "the boundary `b` does not begin and end its parts"),
        ("multipart/mixed\n\n--b\n", "no boundary is declared"),
        (
            "multipart/mixed; boundary=b\n\n--b\n\n#!/bin/sh\n--b--x\n--b\nContent-Type: text/cloud-config\n\nusers: a\n--b--",
            "the user data has the line `--b--x`, which begins like a boundary",
        ),
        (
            "multipart/mixed; boundary=b\n\n--b\n\n#!/bin/sh\r--b\r\rusers: a\n--b--",
            "it has carriage returns without line feeds",
        ),
        (
            "multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\n\nusers: a\n--b--",
            "part 1 of the user data is a nested message",
        ),
        ("text/cloud-config\nContent-Transfer-Encoding: base64\n\na\n", "cannot decode part 1 of the user data"),
        ("text/html\n\n<p>", "no part has a type that cloud-init handles"),
        ("text/cloud-config\n\na: ü\n", "has non-ASCII characters, which cloud-init would garble"),
        (
            "multipart/mixed; boundary=b\n\n--b\nContent-Type: text/cloud-config\n\n- a\n--b--",
            "part 1 of the user data is a cloud-config, but not a mapping",
        ),
        (
            &format!("multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n{base64}"),
            "no part has a type that cloud-init handles",
        ),
        (
            &format!("multipart/mixed; boundary=b\n\n--b\nContent-Type: text/x-shellscript\n{base64}"),
            "part 1 of the user data is not UTF-8",
        ),
    ];
    for (message, expected) in cases {
        let reason = reason(format!("MIME-Version: 1.0\nContent-Type: {message}").as_bytes(), "alice");
        assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
    }
}

#[test]
fn settings_that_conflict_with_vmprov_are_refused() {
    let cases = [
        ("hostname: other", "`hostname` must be the VM's name, `web`"),
        ("hostname:", "`hostname` must be the VM's name"),
        ("fqdn: other.example.org", "`fqdn` must be the VM's name, `web`, or `web` with a domain"),
        ("preserve_hostname: yes", "`preserve_hostname` would keep the image's host name"),
        ("ssh_keys: {rsa_private: a}", "`ssh_keys` sets the host keys"),
        ("users: bob", "`users` is not a list"),
        ("users: {bob: true}", "`users` is not a list"),
        ("users: [5]", "`users[0]` is neither a name nor a mapping, so cloud-init would stop creating users"),
        ("groups:", "`groups` is neither a list of names nor a mapping"),
        ("groups: [a, 5]", "`groups` is neither a list of names nor a mapping"),
        ("groups: [{a: 5}]", "`groups` is neither a list of names nor a mapping"),
        ("user: {name: bob, ssh_authorized_keys: [a]}", "`user` has keys for the image's default user"),
        ("user: {name: bob, system: true}", "`user` creates `default` with `system` and with keys"),
        ("users: [{name: default, ssh-authorized-keys: [a]}]", "`users[0]` has keys for the image's default user"),
        ("users: [{gecos: a, ssh_authorized_keys: [a]}]", "`users[0]` has keys for the image's default user"),
        ("users: [default, {name: alice, ssh-authorized-keys: [a]}]", "`users[1]` uses `ssh-authorized-keys`"),
        ("users: [{name: alice, system: true}]", "`users[0]` creates `alice` with `system` and with keys"),
        ("users: [{name: alice, no-create-home: true}]", "creates `alice` with `no-create-home`"),
        ("users: [{name: alice, ssh_redirect_user: true}]", "creates `alice` with `ssh_redirect_user`"),
        ("users: [{name: svc, system: true, ssh_authorized_keys: [a]}]", "creates `svc` with `system` and with keys"),
        ("growpart: {mode: off}", "`growpart` would leave the file system at the image's size"),
        ("growpart: {mode: 'false'}", "`growpart` would leave the file system at the image's size"),
        ("growpart: off", "`growpart` would leave the file system at the image's size"),
        ("resize_rootfs: false", "`resize_rootfs` would leave the file system at the image's size"),
        (
            "cloud_init_modules: [growpart, resizefs, ssh]",
            "lacks modules that vmprov needs: users_groups, set_hostname",
        ),
        (
            "cloud_init_modules: none",
            "lacks modules that vmprov needs: growpart, resizefs, users_groups, ssh, set_hostname",
        ),
        ("datasource_list: [Ec2, None]", "`datasource_list` lacks NoCloud"),
    ];
    for (members, expected) in cases {
        // The check covers plain user data, archives and parts of messages.
        let plain = format!("#cloud-config\n{members}\n");
        let archived = format!("#cloud-config-archive\n- content: |\n    #cloud-config\n    {members}\n");
        let part = format!(
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\n#!/bin/sh\n\
             --b\nContent-Type: text\n\n{plain}--b--\n"
        );
        for (data, label) in [
            (plain.as_bytes(), "the user data: "),
            (archived.as_bytes(), "entry 1 of the user data: "),
            (part.as_bytes(), "part 2 of the user data: "),
            (&gzip(part.as_bytes()), "part 2 of the user data: "),
        ] {
            let reason = reason(data, "alice");
            assert!(reason.starts_with(label) && reason.contains(expected), "{reason:?} lacks {expected:?}");
        }
    }
    let root = reason(b"#cloud-config\ndisable_root: true\n", "root");
    assert!(root.contains("`disable_root` would lock out root"), "{root}");
    check(b"#cloud-config\ndisable_root: true\n", "alice").unwrap();
}

#[test]
fn user_data_that_cannot_be_checked_gives_a_warning() {
    let message = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\n#!/bin/sh\n--b\n";
    let cases = [
        ("#include\nhttp://example.org/\n", "the user data includes URLs that only the guest fetches"),
        ("#include-once http://example.org/\n", "cloud-init drops all user data, including vmprov's"),
        ("#part-handler\n", "is a part handler: if it handles `text/cloud-config`"),
        (
            "## template: jinja\n#cloud-config\nhostname: {{ v1.region }}\n",
            "is evaluated by the guest, so it was not checked",
        ),
        ("#cloud-config-jsonp\n[]\n", "is evaluated by the guest, so it was not checked"),
        ("#cloud-config\ngrowpart: {devices: [/dev/vdb]}\n", "`growpart` does not name `/`"),
        ("#cloud-config\nmanual_cache_clean: true\n", "keeps the guest from reading a later seed"),
        ("#cloud-config\nnetwork: {version: 2}\n", "`network` is ignored"),
        ("#cloud-config-archive\n- |\n  #include http://example.org/\n", "an include or an archive inside an archive"),
        (&format!("{message}Content-Type: text/x-thing\n\nthing\n--b--\n"), "part 2 of the user data is text/x-thing"),
    ];
    for (data, expected) in cases {
        let warnings = check(data.as_bytes(), "alice").unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{warnings:?} lacks {expected:?}");
    }
}

/// A password in user data must not appear in a log.
#[test]
fn debug_output_hides_the_user_data() {
    let data = UserData::parse(b"#cloud-config\npassword: secret\n").unwrap();
    assert_eq!(format!("{data:?}"), "UserData(31 bytes, 1 parts)");
}
