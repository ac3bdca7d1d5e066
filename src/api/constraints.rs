//! What the members of a request must be together, which their types alone do not say. The operations refuse the same; here it
//! is said to whoever reads a schema.

use serde_json::{Value, json};

/// A member that is there and no null.
fn given(member: &str) -> Value {
    json!({"required": [member], "properties": {member: {"not": {"type": "null"}}}})
}

fn any_given(members: &[&str]) -> Value {
    json!({"anyOf": members.iter().map(|member| given(member)).collect::<Vec<_>>()})
}

fn is(member: &str, value: &Value) -> Value {
    json!({"required": [member], "properties": {member: {"const": value}}})
}

fn when(condition: &Value, then: &Value) -> Value {
    json!({"if": condition, "then": then})
}

/// A VM is made of one image; what an image is needed for needs one.
pub(super) fn create() -> Value {
    let image = any_given(&["image", "imageUrl"]);
    let source = any_given(&["image", "imageUrl", "iso"]);
    let some_keys = json!({"required": ["sshKeys"], "properties": {"sshKeys": {"type": "array", "minItems": 1}}});
    let waits_for = |goals: &[&str]| json!({"required": ["wait"], "properties": {"wait": {"enum": goals}}});
    json!([
        {"not": {"allOf": [given("image"), given("imageUrl")]}},
        {"properties": {"user": {"not": {"const": "default"}}}},
        when(&any_given(&["checksum"]), &image),
        when(&is("requireVerified", &json!(true)), &image),
        when(&is("pull", &json!(true)), &image),
        when(&some_keys, &source),
        when(&any_given(&["user", "userData"]), &source),
        when(&given("wait"), &json!({"not": is("start", &json!(false))})),
        when(&waits_for(&["ip", "ssh", "cloud-init", "agent"]), &image),
        when(&waits_for(&["ssh", "cloud-init"]), &some_keys),
    ])
}

/// Something is said of what to change.
pub(super) fn set() -> Value {
    json!([any_given(&["memory", "vcpus", "diskSize", "autostart", "description"])])
}

/// Only an RSA key has a choice of bits.
pub(super) fn key() -> Value {
    json!([when(&is("type", &json!("ed25519")), &json!({"not": given("bits")}))])
}
