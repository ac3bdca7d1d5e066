//! Authorizes requests: checks the client's scope, and the names in the request.

use serde_json::{Value, json};
use uuid::Uuid;

use super::client::Client;
use crate::{
    api::{Kind, Operation, Reference, Resource, Scope},
    error::{Code, Error, Result},
    model::image::ImageName,
};

/// Returns every name in a request, with its reference.
fn references<'r>(operation: &Operation, request: &'r Value) -> Vec<(Reference, &'r str)> {
    let references = operation.references.iter();
    references.flat_map(|reference| reference.names(request).map(move |name| (*reference, name))).collect()
}

/// Returns the names in a request, as `kind/name`. URLs and paths are left out, because they may contain secrets.
pub(crate) fn targets(operation: &Operation, request: &Value) -> Vec<String> {
    let names = references(operation, request).into_iter().map(|(reference, name)| (reference.kind, name));
    let is_name = |kind: Kind, name: &str| kind != Kind::Image || name.parse::<ImageName>().is_ok();
    let names = names.filter(|(kind, name)| is_name(*kind, name));
    names.map(|(kind, name)| format!("{}/{name}", kind.word())).collect()
}

/// Refuses an operation that requires a higher scope than the client's.
pub(crate) fn require_scope(client: &Client, operation: &Operation) -> Result<()> {
    client.require(operation.scope, &format!("call {}", operation.name))
}

/// Refuses a request that names resources the client may not use. `pool` is where operations create volumes.
pub(crate) fn authorize(client: &Client, operation: &Operation, request: &Value, pool: &str) -> Result<()> {
    for (member, does) in &operation.admin_switches {
        if request[*member] == Value::Bool(true) {
            client.require(Scope::Admin, does)?;
        }
    }
    if let Some(does) = operation.whole_host {
        client.require_unrestricted(does)?;
    }
    if operation.may_take(Resource::Disk) {
        require_listed(client, Kind::Pool, pool, client.pools.as_deref())?;
    }
    for (reference, name) in references(operation, request) {
        match reference.kind {
            Kind::Vm | Kind::Key => require_prefix(client, reference, name)?,
            Kind::Network => require_listed(client, Kind::Network, name, client.networks.as_deref())?,
            Kind::Pool => require_listed(client, Kind::Pool, name, client.pools.as_deref())?,
            // The operation checks the image's owner.
            Kind::Image => {}
        }
    }
    Ok(())
}

/// Refuses a network or a pool that is not listed for the client.
fn require_listed(client: &Client, kind: Kind, name: &str, allowed: Option<&[String]>) -> Result<()> {
    let Some(allowed) = allowed.filter(|allowed| !allowed.iter().any(|allowed| allowed == name)) else { return Ok(()) };
    let (noun, title) = (kind.noun(), client.title());
    let hint = match allowed {
        [] => format!("Ask the operator to list a {noun} for {title}"),
        allowed => format!("Use one of the {noun}s that are listed for {title}: {}", allowed.join(", ")),
    };
    let message = format!("cannot use the {noun} `{}`: {title} is not authorized for it", name.escape_debug());
    Err(Error::new(Code::Forbidden, message).hint(hint).details(json!({format!("{noun}s"): allowed})))
}

/// Refuses the name of a VM or a key that does not begin with the client's prefix. A resource without the prefix is
/// reported as missing, so that the client cannot find out whether it exists.
fn require_prefix(client: &Client, reference: Reference, name: &str) -> Result<()> {
    let Some(prefix) = &client.prefix else { return Ok(()) };
    if name.starts_with(prefix.as_str()) && Uuid::parse_str(name).is_err() {
        return Ok(());
    }
    let (noun, name) = (reference.kind.noun(), name.escape_debug());
    let hint = format!("Use names that begin with `{prefix}`: {} is restricted to them", client.title());
    Err(if reference.is_new {
        Error::new(Code::Forbidden, format!("the {noun} name `{name}` is not allowed")).hint(hint)
    } else {
        Error::not_found(format!("{noun} `{name}` does not exist")).hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::client::Identity, *};
    use crate::api;

    fn agent(scope: Scope) -> Client {
        Client {
            scope,
            prefix: Some("a1-".to_owned()),
            name: "agent1".to_owned(),
            identity: Identity::Token,
            ..Client::anonymous()
        }
    }

    fn refused(operation: &Operation, request: &Value) -> Option<u16> {
        authorize(&agent(Scope::Operate), operation, request, "default").err().map(|error| error.code.http_status())
    }

    /// Members that hold free text and name no resource, as `operation.member`. A new text member must be declared
    /// here, or as a reference in the operation's row.
    const TEXT: &[&str] = &[
        "vm_create.imageUrl",
        "vm_create.checksum",
        "vm_create.iso",
        "vm_create.memory",
        "vm_create.diskSize",
        "vm_create.user",
        "vm_create.userData",
        "vm_create.ttl",
        "vm_create.timeout",
        "vm_set.memory",
        "vm_set.diskSize",
        "vm_set.description",
        "vm_stop.timeout",
        "vm_restart.timeout",
        "vm_ttl.ttl",
        "vm_inject_ssh_key.user",
        "vm_inject_ssh_key.timeout",
        "vm_wait.timeout",
        "vm_exec.command",
        "vm_exec.user",
        "vm_exec.timeout",
        "vm_exec.stdin",
        "image_search.term",
        "image_pull.checksum",
        "image_import.file",
        "image_import.checksum",
        "image_import.user",
        "ssh_key_generate.comment",
        "doctor.checks",
        "doctor_fix.checks",
    ];

    /// Returns whether a schema accepts free text at any depth. A choice of fixed words names no resource.
    fn takes_text(schema: &Value) -> bool {
        if schema.get("enum").is_some() || schema.get("const").is_some() {
            return false;
        }
        let kind = &schema["type"];
        let is_text = kind == "string" || kind.as_array().is_some_and(|kinds| kinds.contains(&json!("string")));
        let parts = ["oneOf", "anyOf", "allOf"].iter().filter_map(|parts| schema[*parts].as_array()).flatten();
        let members = schema["properties"].as_object().into_iter().flatten().map(|(_, member)| member);
        let inner = ["items", "additionalProperties"].iter().filter_map(|inner| schema.get(*inner));
        is_text || parts.chain(members).chain(inner).any(takes_text)
    }

    #[test]
    fn each_member_that_takes_text_is_a_reference_or_declared_as_text() {
        let (mut undeclared, mut declared) = (Vec::new(), TEXT.to_vec());
        for operation in api::operations() {
            let members = operation.complete["properties"].as_object().cloned().unwrap_or_default();
            for (member, _) in members.iter().filter(|(_, schema)| takes_text(schema)) {
                let name = format!("{}.{member}", operation.name);
                let is_reference = operation.references.iter().any(|reference| reference.member == member);
                let is_text = TEXT.contains(&name.as_str());
                declared.retain(|text| *text != name);
                if is_reference == is_text {
                    undeclared.push(name);
                }
            }
            for reference in &operation.references {
                assert!(members.contains_key(reference.member), "{}: {}", operation.name, reference.member);
            }
        }
        assert_eq!((undeclared, declared), (Vec::<String>::new(), Vec::new()), "undeclared or unknown members");
    }

    #[test]
    fn no_operation_accepts_a_vm_or_key_name_without_the_tokens_prefix() {
        let mut guarded = 0;
        for operation in api::operations() {
            let references = operation.references.iter();
            for reference in references.filter(|reference| matches!(reference.kind, Kind::Vm | Kind::Key)) {
                for foreign in ["web", "a1", "a10-web", "6695eb01-f6a4-8304-79aa-97f2502e193f", ""] {
                    for value in [json!(foreign), json!(["a1-web", foreign])] {
                        let mut request = operation.example.clone();
                        request[reference.member] = value;
                        let member = reference.member;
                        assert!(refused(operation, &request).is_some(), "{}: {member}: {foreign}", operation.name);
                        guarded += 1;
                    }
                }
            }
        }
        assert!(guarded > 200, "{guarded}");
    }

    #[test]
    fn no_operation_uses_an_unlisted_network_or_pool() {
        let client = Client { networks: Some(vec![]), pools: Some(vec![]), ..agent(Scope::Operate) };
        let (mut networks, mut pools) = (0, 0);
        for operation in api::operations() {
            let request = operation.read(operation.example.clone()).unwrap();
            let names_network = operation.references.iter().any(|reference| reference.kind == Kind::Network);
            let uses_pool = operation.may_take(Resource::Disk);
            if uses_pool || names_network {
                let error = authorize(&client, operation, &request, "default").unwrap_err();
                assert_eq!(error.code, Code::Forbidden, "{}", operation.name);
                (networks, pools) = (networks + usize::from(names_network), pools + usize::from(uses_pool));
            }
        }
        assert_eq!((networks, pools), (1, 5));
    }

    #[test]
    fn a_new_name_without_the_prefix_is_forbidden_and_an_existing_one_is_not_found() {
        let find = |name| api::find(name).unwrap();
        assert_eq!(refused(find("vm_create"), &json!({"name": "web"})), Some(403));
        assert_eq!(refused(find("ssh_key_generate"), &json!({"name": "dev"})), Some(403));
        assert_eq!(refused(find("vm_info"), &json!({"vm": "web"})), Some(404));
        assert_eq!(refused(find("ssh_config"), &json!({"vm": ["a1-web", "web"]})), Some(404));
        assert_eq!(refused(find("vm_commit"), &json!({"vm": "web", "image": "x"})), Some(404));
        assert_eq!(refused(find("vm_commit"), &json!({"vm": "a1-web", "image": "x"})), None);
        assert_eq!(refused(find("vm_create"), &json!({"name": "a1-web", "sshKeys": ["a1-dev"]})), None);
        assert_eq!(refused(find("vm_rename"), &json!({"vm": "web", "newName": "a1-www"})), Some(404));
        assert_eq!(refused(find("vm_rename"), &json!({"vm": "a1-web", "newName": "www"})), Some(403));
        assert_eq!(refused(find("vm_rename"), &json!({"vm": "a1-web", "newName": "a1-www"})), None);
    }

    #[test]
    fn only_admins_delete_unmanaged_vms() {
        let delete = api::find("vm_delete").unwrap();
        let request = json!({"vm": "a1-web", "unmanaged": true});
        assert_eq!(refused(delete, &request), Some(403));
        assert!(authorize(&Client::anonymous(), delete, &request, "default").is_ok());
    }

    #[test]
    fn each_scope_includes_the_lower_ones() {
        for operation in api::operations() {
            for has in [Scope::Read, Scope::Operate, Scope::Admin] {
                let authorized = require_scope(&agent(has), operation);
                assert_eq!(authorized.is_ok(), has >= operation.scope, "{}", operation.name);
            }
        }
    }
}
