//! Writes `user-data`: the operator's first and unchanged, then vmprov's, merged so that both take effect.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::Seed;
use super::parts::{Content, Part, is_mime};

/// Keeps the value of a member that exists already.
///
/// The merge directives are read by `mergers/m_dict.py` and `m_list.py`. Each part declares how it is merged itself.
/// The directives of other parts do not matter (`_extract_mergers` in `handlers/cloud_config.py`).
const IF_ABSENT: &str = "dict(no_replace)";
/// Puts lists in front of existing ones. `str()` makes a list replace a string.
const PREPEND: &str = "dict(no_replace,recurse_list)+list(prepend)+str()";
/// Replaces existing values.
const REPLACE: &str = "dict(replace)";

/// Writes a value as JSON that is also YAML.
///
/// YAML folds or refuses some characters in quotes: the line separators, DEL, C1 controls and the byte order mark. So
/// everything that is not ASCII is escaped, in YAML's way. JSON's surrogate pairs for characters beyond `\uffff` would
/// be two characters to a YAML parser.
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
    let mut enforced = enforced(seed, parts);
    let Some(theirs) = &seed.user_data else {
        enforced["users"] = json!([user, "default"]);
        return cloud_config(&enforced).into_bytes();
    };
    enforced["merge_how"] = json!(REPLACE);
    let ours = [
        // If the operator's data has no users, the image's default user is created, as without vmprov.
        ("vmprov-default-user", json!({"merge_how": IF_ABSENT, "users": ["default"]})),
        // First in the list: of two entries with the same name, the first wins, and cloud-init skips the entries after
        // one that fails (`config/cc_users_groups.py`).
        ("vmprov-user", json!({"merge_how": PREPEND, "users": [user]})),
        ("vmprov-held", enforced),
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

/// Returns vmprov's entry in `users`. The top-level `ssh_authorized_keys` would be for the image's default user.
///
/// For a user that the operator describes too, and for root, only the keys are added. The password is locked by
/// default, and `lock_passwd` is not set, because newer versions take `false` as an order to unlock (`create_user` in
/// `distros/__init__.py`).
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

/// Returns the strings in a string, a list or a mapping. `create_user` accepts keys in all three forms.
fn texts(value: &yaml_serde::Value) -> Vec<&str> {
    match value {
        yaml_serde::Value::Sequence(list) => list.iter().filter_map(|item| item.as_str()).collect(),
        yaml_serde::Value::Mapping(members) => members.values().filter_map(|item| item.as_str()).collect(),
        text => text.as_str().into_iter().collect(),
    }
}

/// Returns the settings that override all others. The operator's settings for the disk and for old host keys have
/// passed the check, so they are left as they are.
fn enforced(seed: &Seed, parts: &[Part]) -> Value {
    let theirs = |member: &str| configs(parts).filter_map(|config| config.get(member)).last();
    // cloud-init also accepts a `hostname` with a domain as the fqdn (`get_hostname_fqdn` in `util.py`).
    let fqdn = theirs("fqdn").or(theirs("hostname")).and_then(|name| name.as_str());
    let mut enforced = json!({
        "hostname": seed.hostname,
        // Without it, content that was not checked could rename the guest on distributions that prefer the fqdn.
        "fqdn": fqdn.unwrap_or(seed.hostname.as_str()),
        "preserve_hostname": false,
    });
    let unless_theirs = [
        ("growpart", json!({"mode": "auto", "devices": ["/"]})),
        ("resize_rootfs", json!(true)),
        // Removes the image's host keys. vmprov's are written afterwards and none are generated, also with a new
        // instance-id (`handle` in `config/cc_ssh.py`). So the guest's host keys never change.
        ("ssh_deletekeys", json!(true)),
    ];
    for (member, ours) in unless_theirs {
        if theirs(member).is_none() {
            enforced[member] = ours;
        }
    }
    if !seed.host_keys.is_empty() {
        let keys = seed.host_keys.iter().flat_map(|key| {
            [("private", &key.private), ("public", &key.public)]
                .map(|(half, value)| (format!("{}_{half}", key.algorithm), json!(value)))
        });
        enforced["ssh_keys"] = Value::Object(keys.collect());
    }
    if seed.user == "root" {
        // Otherwise root logins are told to use the default user (`apply_credentials` in `config/cc_ssh.py`).
        enforced["disable_root"] = json!(false);
    }
    enforced
}

fn configs(parts: &[Part]) -> impl Iterator<Item = &yaml_serde::Mapping> {
    parts.iter().filter_map(|part| match &part.content {
        Content::Config(members) => Some(members),
        _ => None,
    })
}

/// Returns the operator's data as a MIME entity. A MIME message is one already. Anything else is declared `text/plain`,
/// for which cloud-init detects the form from the content (`TYPE_NEEDED` in `user_data.py`).
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
