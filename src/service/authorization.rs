//! What a client may ask of an operation, by what the request names.

use serde_json::{Value, json};
use uuid::Uuid;

use super::client::Client;
use crate::{
    api::{Kind, Operation, Reference, Resource, Scope},
    error::{Code, Error, Result},
    model::image::ImageName,
};

/// Returns every name in a request, and what it names.
pub(crate) fn named<'r>(operation: &Operation, request: &'r Value) -> Vec<(Reference, &'r str)> {
    let references = operation.references.iter();
    references.flat_map(|reference| reference.names(request).map(move |name| (*reference, name))).collect()
}

/// Returns the names of what a request is about, as `kind/name`. A URL or a path is none: it may hold a secret.
pub(crate) fn targets(operation: &Operation, asked: &Value) -> Vec<String> {
    let named = named(operation, asked).into_iter().map(|(reference, name)| (reference.kind, name));
    let is_name = |kind: Kind, name: &str| kind != Kind::Image || name.parse::<ImageName>().is_ok();
    let named = named.filter(|(kind, name)| is_name(*kind, name));
    named.map(|(kind, name)| format!("{}/{name}", kind.word())).collect()
}

/// Refuses an operation that needs another scope.
pub(crate) fn scope(client: &Client, operation: &Operation) -> Result<()> {
    client.require(operation.scope, &format!("ask for {}", operation.name))
}

/// Refuses a request for what is not the client's. `pool` is where the operations create volumes.
pub(crate) fn request(client: &Client, operation: &Operation, request: &Value, pool: &str) -> Result<()> {
    if operation.name == "vm_delete" && request["unmanaged"] == Value::Bool(true) {
        client.require(Scope::Admin, "delete VMs that vmprov did not make")?;
    }
    if operation.command == "doctor" {
        client.require_whole("look at the whole host")?;
    }
    if operation.may_take(Resource::Disk) {
        listed(client, Kind::Pool, pool, client.pools.as_deref())?;
    }
    for (reference, name) in named(operation, request) {
        match reference.kind {
            Kind::Vm | Kind::Key => within_prefix(client, reference, name)?,
            Kind::Network => listed(client, Kind::Network, name, client.networks.as_deref())?,
            Kind::Pool => listed(client, Kind::Pool, name, client.pools.as_deref())?,
            // Whether it is there for the client depends on its owner, which the operation reads.
            Kind::Image => {}
        }
    }
    Ok(())
}

/// Refuses a network or a pool that is not listed for the client.
fn listed(client: &Client, kind: Kind, name: &str, allowed: Option<&[String]>) -> Result<()> {
    let Some(allowed) = allowed.filter(|allowed| !allowed.iter().any(|allowed| allowed == name)) else { return Ok(()) };
    let (noun, title) = (kind.noun(), client.title());
    let hint = match allowed {
        [] => format!("Ask the operator: no {noun} is listed for {title}."),
        allowed => format!("Use one of the {noun}s that are listed for {title}: {}.", allowed.join(", ")),
    };
    let message = format!("cannot use the {noun} `{}`: {title} is not authorized for it", name.escape_debug());
    Err(Error::new(Code::Forbidden, message).hint(hint).details(json!({format!("{noun}s"): allowed})))
}

/// Refuses a name of a VM or a key that does not begin with the client's prefix.
fn within_prefix(client: &Client, reference: Reference, name: &str) -> Result<()> {
    let Some(prefix) = &client.prefix else { return Ok(()) };
    if name.starts_with(prefix.as_str()) && Uuid::parse_str(name).is_err() {
        return Ok(());
    }
    let what = reference.kind.noun();
    let said = format!("All names of {} begin with `{prefix}`.", client.title());
    Err(if reference.is_new {
        Error::new(Code::Forbidden, format!("the {what} may not be called `{}`", name.escape_debug())).hint(said)
    } else {
        Error::not_found(format!("there is no {what} `{}`", name.escape_debug())).hint(said)
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
            standing: Identity::Token,
            ..Client::anonymous()
        }
    }

    fn refused(operation: &Operation, asked: &Value) -> Option<u16> {
        request(&agent(Scope::Operate), operation, asked, "default").err().map(|error| error.code.http_status())
    }

    /// Members that hold free text and name no resource, as `operation.member`. A new member that holds text has to be
    /// declared: here, or as a reference in the operation's row.
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

    /// Whether a schema takes text of the client's own, at any depth. A choice of fixed words names no resource.
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
        assert_eq!((undeclared, declared), (Vec::<String>::new(), Vec::new()), "what do these name?");
    }

    #[test]
    fn no_operation_lets_a_prefixed_token_name_a_vm_or_key_of_others() {
        let mut guarded = 0;
        for operation in api::operations() {
            let references = operation.references.iter();
            for reference in references.filter(|reference| matches!(reference.kind, Kind::Vm | Kind::Key)) {
                for foreign in ["web", "a1", "a10-web", "6695eb01-f6a4-8304-79aa-97f2502e193f", ""] {
                    for value in [json!(foreign), json!(["a1-web", foreign])] {
                        let mut asked = operation.example.clone();
                        asked[reference.member] = value;
                        let member = reference.member;
                        assert!(refused(operation, &asked).is_some(), "{}: {member}: {foreign}", operation.name);
                        guarded += 1;
                    }
                }
            }
        }
        assert!(guarded > 200, "{guarded}");
    }

    #[test]
    fn no_operation_names_or_fills_what_is_not_listed() {
        let client = Client { networks: Some(vec![]), pools: Some(vec![]), ..agent(Scope::Operate) };
        let (mut networks, mut pools) = (0, 0);
        for operation in api::operations() {
            let asked = operation.read(operation.example.clone()).unwrap();
            let names_network = operation.references.iter().any(|reference| reference.kind == Kind::Network);
            let fills = operation.may_take(Resource::Disk);
            if fills || names_network {
                let error = request(&client, operation, &asked, "default").unwrap_err();
                assert_eq!(error.code, Code::Forbidden, "{}", operation.name);
                (networks, pools) = (networks + usize::from(names_network), pools + usize::from(fills));
            }
        }
        assert_eq!((networks, pools), (1, 5));
    }

    #[test]
    fn what_is_made_is_told_the_prefix_and_what_is_looked_for_is_not_there() {
        let find = |name| api::find(name).unwrap();
        assert_eq!(refused(find("vm_create"), &json!({"name": "web"})), Some(403));
        assert_eq!(refused(find("ssh_key_generate"), &json!({"name": "dev"})), Some(403));
        assert_eq!(refused(find("vm_info"), &json!({"vm": "web"})), Some(404));
        assert_eq!(refused(find("ssh_config"), &json!({"vm": ["a1-web", "web"]})), Some(404));
        assert_eq!(refused(find("vm_commit"), &json!({"vm": "web", "image": "x"})), Some(404));
        assert_eq!(refused(find("vm_commit"), &json!({"vm": "a1-web", "image": "x"})), None);
        assert_eq!(refused(find("vm_create"), &json!({"name": "a1-web", "sshKeys": ["a1-dev"]})), None);
    }

    #[test]
    fn vms_that_vmprov_did_not_make_are_deleted_by_admins_alone() {
        let delete = api::find("vm_delete").unwrap();
        let asked = json!({"vm": "a1-web", "unmanaged": true});
        assert_eq!(refused(delete, &asked), Some(403));
        assert!(request(&Client::anonymous(), delete, &asked, "default").is_ok());
    }

    #[test]
    fn each_scope_includes_those_before_it() {
        for operation in api::operations() {
            for has in [Scope::Read, Scope::Operate, Scope::Admin] {
                assert_eq!(scope(&agent(has), operation).is_ok(), has >= operation.scope, "{}", operation.name);
            }
        }
    }
}
