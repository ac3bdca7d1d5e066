//! What a client may ask of an operation, by what the request names.

use serde_json::Value;
use uuid::Uuid;

use super::client::Client;
use crate::{
    api::{Operation, Scope},
    error::{Code, Error, Result},
    model::image::ImageName,
};

/// What a member of a request is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// A VM.
    Vm,
    /// A key.
    Key,
    /// An image.
    Image,
}

/// What a member of a request is the name of; none where it is no name.
pub(crate) fn names(operation: &Operation, member: &str) -> Option<Names> {
    match member {
        "vm" => Some(Names::Vm),
        "name" if operation.name == "vm_create" => Some(Names::Vm),
        "name" if operation.path.starts_with("/api/ssh-keys") => Some(Names::Key),
        "key" | "sshKeys" => Some(Names::Key),
        "image" => Some(Names::Image),
        "name" if operation.path.starts_with("/api/images") => Some(Names::Image),
        _ => None,
    }
}

/// Every name in a request, and what it is the name of.
pub(crate) fn named<'r>(operation: &Operation, request: &'r Value) -> Vec<(Names, &'r str)> {
    let members = request.as_object().into_iter().flatten();
    let known = members.filter_map(|(member, value)| Some((names(operation, member)?, value)));
    known
        .flat_map(|(kind, value)| {
            let one = value.as_str().into_iter();
            let several = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            one.chain(several).map(move |name| (kind, name))
        })
        .collect()
}

/// The names of what a request is about. A URL or a path is none: it may hold a secret.
pub(crate) fn targets(operation: &Operation, asked: &Value) -> Vec<String> {
    let named = named(operation, asked).into_iter();
    let is_name = |kind: Names, name: &str| kind != Names::Image || name.parse::<ImageName>().is_ok();
    named.filter(|(kind, name)| is_name(*kind, name)).map(|(_, name)| name.to_owned()).collect()
}

/// Refuses an operation that needs another scope.
pub(crate) fn scope(client: &Client, operation: &Operation) -> Result<()> {
    client.require(operation.scope, &format!("ask for {}", operation.name))
}

/// Refuses a request for what is not the client's.
pub(crate) fn request(client: &Client, operation: &Operation, request: &Value) -> Result<()> {
    if operation.name == "vm_delete" && request["unmanaged"] == Value::Bool(true) {
        client.require(Scope::Admin, "delete VMs that vmprov did not make")?;
    }
    if operation.command == "doctor" {
        client.require_whole("look at the whole host")?;
    }
    let Some(prefix) = &client.prefix else { return Ok(()) };
    for (kind, name) in named(operation, request) {
        let what = match kind {
            Names::Vm => "VM",
            Names::Key => "key",
            Names::Image => continue,
        };
        let is_theirs = name.starts_with(prefix.as_str()) && Uuid::parse_str(name).is_err();
        if is_theirs {
            continue;
        }
        let said = format!("All names of {} begin with `{prefix}`.", client.title());
        if operation.status == 201 && operation.path_members().all(|member| request[member] != name) {
            let error = Error::new(Code::Forbidden, format!("the {what} may not be called `{}`", name.escape_debug()));
            return Err(error.hint(said));
        }
        return Err(Error::not_found(format!("there is no {what} `{}`", name.escape_debug())).hint(said));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::client::Standing, *};
    use crate::api;

    fn agent(scope: Scope) -> Client {
        Client {
            scope,
            prefix: Some("a1-".to_owned()),
            name: "agent1".to_owned(),
            standing: Standing::Token,
            ..Client::anonymous()
        }
    }

    fn refused(operation: &Operation, asked: &Value) -> Option<u16> {
        request(&agent(Scope::Operate), operation, asked).err().map(|error| error.code.http_status())
    }

    /// Members that hold text and name neither a VM nor a key. A new one has to be put here, or into [`names`].
    const OTHERS: &[&str] = &[
        "checksum",
        "checks",
        "command",
        "comment",
        "description",
        "diskSize",
        "file",
        "for",
        "goal",
        "ifExists",
        "imageUrl",
        "iso",
        "memory",
        "method",
        "network",
        "stdin",
        "term",
        "timeout",
        "ttl",
        "type",
        "user",
        "userData",
        "via",
        "wait",
        "arch",
        "kind",
    ];

    #[test]
    fn no_operation_lets_a_prefixed_token_name_a_vm_or_key_of_others() {
        let (mut guarded, mut untold) = (0, Vec::new());
        for operation in api::operations() {
            for (member, schema) in operation.members() {
                let kind = names(operation, member);
                if matches!(kind, Some(Names::Vm | Names::Key)) {
                    for foreign in ["web", "a1", "a10-web", "6695eb01-f6a4-8304-79aa-97f2502e193f", ""] {
                        for value in [json!(foreign), json!(["a1-web", foreign])] {
                            let mut asked = operation.example.clone();
                            asked[member] = value;
                            assert!(refused(operation, &asked).is_some(), "{}: {member}: {foreign}", operation.name);
                            guarded += 1;
                        }
                    }
                } else if schema.to_string().contains("\"string\"") || schema.to_string().contains("$ref") {
                    let is_known = OTHERS.contains(&member.as_str()) || kind == Some(Names::Image);
                    untold.extend((!is_known).then(|| format!("{}: {member}", operation.name)));
                }
            }
        }
        assert_eq!(untold, [""; 0], "what are these the names of?");
        assert!(guarded > 200, "{guarded}");
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
        assert!(request(&Client::anonymous(), delete, &asked).is_ok());
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
