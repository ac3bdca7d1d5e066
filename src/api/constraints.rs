//! Constraints between the members of a request, as JSON Schema. The operations check the same constraints themselves;
//! these schemas show them to clients.

use serde_json::{Value, json};

/// Requires a member that is not null.
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

/// Returns the constraints of creating a VM: at most one image, and one if other members require it.
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

/// Returns the constraint of changing a VM: at least one change.
pub(super) fn set() -> Value {
    json!([any_given(&["memory", "vcpus", "diskSize", "autostart", "description"])])
}

/// Returns the constraint of generating a key: only the size of an RSA key can be chosen.
pub(super) fn key() -> Value {
    json!([when(&is("type", &json!("ed25519")), &json!({"not": given("bits")}))])
}
