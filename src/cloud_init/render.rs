//! Writes `user-data`: the operator's first and unchanged, vmprov's last, merged so that both hold.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::Seed;
use super::parts::{Content, Part, is_mime};

/// Merge directives, read by `mergers/m_dict.py` and `m_list.py`. Each part says how it is merged itself; what other
/// parts said of themselves does not matter (`_extract_mergers` in `handlers/cloud_config.py`).
///
/// Of a member that is there already, the old value stays.
const IF_ABSENT: &str = "dict(no_replace)";
/// Lists are put in front of those that are there; `str()` has a mere string make way.
const PREPEND: &str = "dict(no_replace,recurse_list)+list(prepend)+str()";
/// The new value replaces what is there.
const REPLACE: &str = "dict(replace)";

/// JSON is YAML, apart from the characters that YAML folds or refuses in quotes (the line separators, DEL, C1 controls,
/// the byte order mark). So everything that is not ASCII is escaped, in YAML's way: JSON's pairs of surrogates
/// for what is beyond `\uffff` are two characters to a YAML parser.
pub(super) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    for c in format!("{value:#}\n").chars() {
        // Writing to a `String` cannot fail.
        let _ = match u32::from(c) {
            0x0a | 0x20..=0x7e => text.write_char(c),
            code @ ..=0xffff => write!(text, "\\u{code:04x}"),
            code => write!(text, "\\U{code:08x}"),
        };
    }
    text
}

pub(super) fn user_data(seed: &Seed) -> Vec<u8> {
    let parts = seed.user_data.as_ref().map_or(&[][..], |data| data.parts());
    let user = user(seed, parts);
    let mut held = held(seed, parts);
    let Some(theirs) = &seed.user_data else {
        held["users"] = json!([user, "default"]);
        return cloud_config(&held).into_bytes();
    };
    held["merge_how"] = json!(REPLACE);
    let ours = [
        // Who says nothing about users gets the image's default one, as without vmprov.
        ("vmprov-default-user", json!({"merge_how": IF_ABSENT, "users": ["default"]})),
        // First in the list, because of two entries of one name the first wins, and because an entry that cloud-init
        // cannot carry out keeps it from making those behind it (`config/cc_users_groups.py`).
        ("vmprov-user", json!({"merge_how": PREPEND, "users": [user]})),
        ("vmprov-held", held),
    ];
    let mut entities = vec![entity(theirs.text())];
    for (name, config) in ours {
        entities.push(format!(
            "Content-Type: text/cloud-config\nContent-Disposition: attachment; filename=\"{name}\"\n\n{}",
            cloud_config(&config)
        ));
    }
    multipart(&entities).into_bytes()
}

fn cloud_config(config: &Value) -> String {
    format!("#cloud-config\n{}", yaml(config))
}

/// vmprov's entry in `users`: one there, because the top-level `ssh_authorized_keys` is for the image's default user.
///
/// Of a user that the operator describes too, nothing but the keys is added, and of root, who is there already, neither.
/// The password is locked by default, and `lock_passwd` is left at that: newer versions take `false` as an order to
/// unlock (`create_user` in `distros/__init__.py`).
fn user(seed: &Seed, parts: &[Part]) -> Value {
    let described: Vec<&yaml_serde::Value> = configs(parts)
        .filter_map(|config| config.get("users")?.as_sequence())
        .flatten()
        .filter(|entry| entry.get("name").and_then(|name| name.as_str()) == Some(&seed.user))
        .collect();
    let mut keys: Vec<&str> = seed.authorized_keys.iter().map(String::as_str).collect();
    for key in described.iter().filter_map(|entry| entry.get("ssh_authorized_keys")).flat_map(texts) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let mut user = json!({"name": seed.user});
    if !keys.is_empty() {
        user["ssh_authorized_keys"] = json!(keys);
    }
    if described.is_empty() && seed.user != "root" {
        user["sudo"] = json!("ALL=(ALL) NOPASSWD:ALL");
        user["shell"] = json!("/bin/bash");
    }
    user
}

/// The texts in what may be a text, a list of them or a mapping to them, as `create_user` takes keys.
fn texts(value: &yaml_serde::Value) -> Vec<&str> {
    match value {
        yaml_serde::Value::Sequence(list) => list.iter().filter_map(|item| item.as_str()).collect(),
        yaml_serde::Value::Mapping(members) => members.values().filter_map(|item| item.as_str()).collect(),
        text => text.as_str().into_iter().collect(),
    }
}

/// What must hold whatever comes before it. What the operator says of the disk and of old keys has passed the check,
/// and stays as it was merged.
fn held(seed: &Seed, parts: &[Part]) -> Value {
    let theirs = |member: &str| configs(parts).filter_map(|config| config.get(member)).last();
    // A host name with a domain is cloud-init's other way of writing an fqdn (`get_hostname_fqdn` in `util.py`).
    let fqdn = theirs("fqdn").or(theirs("hostname")).and_then(|name| name.as_str());
    let mut held = json!({
        "hostname": seed.hostname,
        // Without it, content that is not visible here could still rename the guests of distributions that prefer it.
        "fqdn": fqdn.unwrap_or(seed.hostname.as_str()),
        "preserve_hostname": false,
    });
    let unless_theirs = [
        ("growpart", json!({"mode": "auto", "devices": ["/"]})),
        ("resize_rootfs", json!(true)),
        // Removes the keys that the image came with. vmprov's are written afterwards and none are generated, at every
        // new instance-id alike (`handle` in `config/cc_ssh.py`), so the guest's never change.
        ("ssh_deletekeys", json!(true)),
    ];
    for (member, ours) in unless_theirs {
        if theirs(member).is_none() {
            held[member] = ours;
        }
    }
    if !seed.host_keys.is_empty() {
        let keys = seed.host_keys.iter().flat_map(|key| {
            [("private", &key.private), ("public", &key.public)]
                .map(|(half, value)| (format!("{}_{half}", key.algorithm), json!(value)))
        });
        held["ssh_keys"] = Value::Object(keys.collect());
    }
    if seed.user == "root" {
        // Else whoever logs in is told to use the default user (`apply_credentials` in `config/cc_ssh.py`).
        held["disable_root"] = json!(false);
    }
    held
}

fn configs(parts: &[Part]) -> impl Iterator<Item = &yaml_serde::Mapping> {
    parts.iter().filter_map(|part| match &part.content {
        Content::Config(members) => Some(members),
        _ => None,
    })
}

/// The operator's data as a MIME entity: a message is one already. Anything else is declared `text/plain`, on which
/// cloud-init finds out the form as it does without a message (`TYPE_NEEDED` in `user_data.py`).
fn entity(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| matches!(byte, b'\t' | b'\n' | b' '..=b'~'));
    if is_mime(text) {
        text.to_owned()
    } else if is_plain {
        format!("Content-Type: text/plain\n\n{text}")
    } else {
        let lines: Vec<String> = STANDARD
            .encode(text)
            .as_bytes()
            .chunks(76)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        format!("Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n{}", lines.join("\n"))
    }
}

fn multipart(entities: &[String]) -> String {
    let mut boundary = "vmprov".to_owned();
    while entities.iter().any(|entity| entity.contains(&format!("--{boundary}"))) {
        boundary.push('-');
    }
    let body = entities.join(&format!("\n--{boundary}\n"));
    format!(
        "Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n\
         --{boundary}\n{body}\n--{boundary}--\n"
    )
}
