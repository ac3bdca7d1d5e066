//! Which keys can be imported, and which are refused.

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use camino::Utf8PathBuf;
use vmprov::error::Code;

use crate::{Folder, mode, name, openssh::assert_openssh_agrees, run};

#[test]
fn every_kind_of_private_key_is_imported_unchanged() {
    let folder = Folder::new();
    let kinds = [
        ["-t", "rsa", "-b", "2048"],
        ["-t", "ed25519", "-b", "256"],
        ["-t", "ecdsa", "-b", "256"],
        ["-t", "ecdsa", "-b", "384"],
    ];
    // Every second of these keys has a secret scalar with leading zeros, which OpenSSH omits.
    let short = [["-t", "ecdsa", "-b", "521"]; 8];
    for (index, options) in kinds.iter().chain(&short).enumerate() {
        let name = name(&format!("k{index}"));
        let options = [&options[..], &["-N", "", "-C", "a b"]].concat();
        let source = folder.ssh_keygen(name.as_str(), &options);
        let public = fs::read_to_string(format!("{source}.pub")).unwrap();
        let key = folder.store().import(&name, &source).unwrap();
        let private = key.private_key_path.as_ref().unwrap();
        assert_eq!(key.public_key, public.trim_end());
        assert_eq!(fs::read(private).unwrap(), fs::read(&source).unwrap());
        assert_eq!(mode(private), 0o600);
        assert_openssh_agrees(&key);
        assert_eq!(folder.store().get(&name).unwrap().public_key, key.public_key);
    }
}

#[test]
fn windows_line_endings_are_converted() {
    let folder = Folder::new();
    let source = folder.ssh_keygen("source", &["-t", "ed25519", "-N", ""]);
    let text = fs::read_to_string(&source).unwrap();
    let windows = folder.file("windows", &text.replace('\n', "\r\n"));
    let key = folder.store().import(&name("k"), &windows).unwrap();
    assert_eq!(fs::read_to_string(key.private_key_path.as_ref().unwrap()).unwrap(), text);
    assert_openssh_agrees(&key);
}

#[test]
fn an_encrypted_key_is_imported_unchanged() {
    let folder = Folder::new();
    let source = folder.ssh_keygen("locked", &["-t", "ed25519", "-N", "secret", "-C", "hidden"]);
    let key = folder.store().import(&name("k"), &source).unwrap();
    assert_eq!(key.comment, "k");
    let private = key.private_key_path.as_ref().unwrap();
    assert_eq!(fs::read(private).unwrap(), fs::read(&source).unwrap());
    let public = run("ssh-keygen", &["-y", "-P", "secret", "-f", private.as_str()]);
    assert_eq!(public, key.public_key.replace(" k", " hidden"));
}

/// A field of a public key: the length and the bytes.
fn field(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

fn public_line(algorithm: &str, fields: &[u8]) -> String {
    let data = [&field(algorithm), fields].concat();
    format!("{algorithm} {} comment\n", BASE64.encode(data))
}

/// Returns the public line of a key on a hardware token. No token is needed: the line is an ordinary key's, with the
/// token's algorithm and an additional application field.
fn token_line(line: &str, algorithm: &str) -> String {
    let (ordinary, rest) = line.split_once(' ').unwrap();
    let data = BASE64.decode(rest.split(' ').next().unwrap()).unwrap();
    let fields = [&data[field(ordinary).len()..], &field("ssh:")].concat();
    public_line(algorithm, &fields)
}

/// A file that is refused, a part of the error, and a part of the hint.
type Refused = (Utf8PathBuf, &'static str, &'static str);

fn foreign(folder: &Folder) -> Vec<Refused> {
    let weak = folder.ssh_keygen("weak", &["-t", "rsa", "-b", "1024", "-N", ""]);
    let dsa = public_line("ssh-dss", &["p", "q", "g", "y"].map(field).concat());
    let pem = folder.ssh_keygen("pem", &["-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM"]);
    let pkcs8 = folder.ssh_keygen("pkcs8", &["-t", "ecdsa", "-N", "", "-m", "PKCS8"]);
    let rfc4716 = run("ssh-keygen", &["-e", "-f", pem.as_str()]);
    let authority = folder.ssh_keygen("ca", &["-t", "ed25519", "-N", ""]);
    run("ssh-keygen", &["-q", "-s", authority.as_str(), "-I", "me", "-n", "root", pem.as_str()]);
    vec![
        (weak.clone(), "1024 bits", "key generate"),
        (format!("{weak}.pub").into(), "1024 bits", "key generate"),
        (folder.file("dsa", &dsa), "ssh-dss", "key generate"),
        (pem.clone(), "PEM", "ssh-keygen -p -f"),
        (pkcs8, "PEM", "ssh-keygen -p -f"),
        (folder.file("rfc4716", &rfc4716), "RFC 4716", "ssh-keygen -i -f"),
        (folder.file("ppk", "PuTTY-User-Key-File-3: ssh-rsa\n"), "PuTTY", "puttygen"),
        (format!("{pem}-cert.pub").into(), "unknown key type", ""),
    ]
}

fn damaged(folder: &Folder) -> Vec<Refused> {
    let good = folder.ssh_keygen("good", &["-t", "ed25519", "-N", ""]);
    let private = fs::read_to_string(&good).unwrap();
    let line = fs::read_to_string(format!("{good}.pub")).unwrap();
    let cases = [
        (format!("no-pty,command=\"ls\" {line}"), "a key type", "options"),
        (format!("no-pty {line}"), "a key type", "options"),
        (format!("{line}{line}"), "more than one line", ""),
        (format!("{private}{private}"), "more than one key", ""),
        (private[..private.len() / 2].to_owned(), "cannot use", ""),
        (line[..40].to_owned(), "cannot use", ""),
        (line.replacen("ssh-ed25519", "ssh-rsa", 1), "cannot use", ""),
        (format!("{} \x1b[2J\n", line.trim_end()), "control character", ""),
        (" \n".to_owned(), "empty", ""),
        ("hello\n".to_owned(), "neither", ""),
        ("\0\0\0\0".to_owned(), "neither", ""),
        ("x".repeat(70_000), "longer", ""),
    ];
    let write = |(index, (content, why, hint)): (usize, (String, _, _))| {
        (folder.file(&format!("damaged{index}"), &content), why, hint)
    };
    cases.into_iter().enumerate().map(write).collect()
}

#[test]
fn every_kind_of_public_key_is_imported_without_a_private_half() {
    let folder = Folder::new();
    let mut lines = Vec::new();
    for (kind, bits) in [("rsa", "2048"), ("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521")] {
        let path = folder.ssh_keygen(&format!("{kind}{bits}"), &["-t", kind, "-b", bits, "-N", "", "-C", "a  b"]);
        lines.push((kind, fs::read_to_string(format!("{path}.pub")).unwrap()));
    }
    lines.push(("ed25519-sk", token_line(&lines[1].1, "sk-ssh-ed25519@openssh.com")));
    lines.push(("ecdsa-sk", token_line(&lines[2].1, "sk-ecdsa-sha2-nistp256@openssh.com")));
    for (index, (kind, line)) in lines.iter().enumerate() {
        let file = folder.file("line", &format!("# from my laptop\n\n{line}\n"));
        let key = folder.store().import(&name(&format!("k{index}")), &file).unwrap();
        assert_eq!(key.public_key, line.trim_end());
        assert_eq!((key.kind.as_str(), &key.private_key_path), (*kind, &None));
        let error = folder.store().private_key_path(&key.name).unwrap_err();
        assert_eq!(error.code, Code::Conflict);
        let listed = run("ssh-keygen", &["-l", "-f", key.public_key_path.as_ref().unwrap().as_str()]);
        assert!(listed.starts_with(&format!("{} {} ", key.bits, key.fingerprint)), "{listed}");
    }
    let file = folder.file("line", lines[1].1.rsplit_once(" a").unwrap().0);
    assert_eq!(folder.store().import(&name("bare"), &file).unwrap().comment, "bare");
}

#[test]
fn an_unusable_key_is_refused_with_the_reason() {
    let folder = Folder::new();
    for (file, why, hint) in foreign(&folder).into_iter().chain(damaged(&folder)) {
        let error = folder.store().import(&name("k"), &file).unwrap_err();
        assert_eq!(error.code, Code::InvalidInput, "{file}: {error}");
        assert!(error.to_string().contains(why), "{file}: {error}");
        assert!(
            error.hint_text(vmprov::api::as_command).unwrap_or_default().contains(hint),
            "{file}: {:?}",
            error.hints
        );
    }
    let error = folder.store().import(&name("k"), &folder.path.join("nowhere")).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(folder.store().import(&name("k"), &folder.path).is_err());
    assert!(!folder.keys().exists());
}
