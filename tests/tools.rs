//! The definitions of the tools: they keep the names and parameters of the first tool server, every model API accepts
//! their schemas, and the schemas accept exactly what the tools accept.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{collections::BTreeSet, process::Command};

use proptest::{prelude::*, sample::select};
use serde_json::{Map, Value, json};
use vmprov::{
    agents::{self, Format, Tool},
    api::Effect,
};

/// A parameter and its default. A required parameter has no default.
type Parameter = (&'static str, Option<&'static str>);

/// The tools of the first tool server.
const FIRST: &[(&str, &[Parameter])] = &[
    ("vm_list", &[]),
    (
        "vm_create",
        &[
            ("name", None),
            ("memory", Some("2048")),
            ("vcpus", Some("2")),
            ("diskSize", Some("20")),
            ("network", Some("\"default\"")),
            ("imageUrl", Some("null")),
        ],
    ),
    ("vm_start", &[("name", None)]),
    ("vm_stop", &[("name", None)]),
    ("vm_delete", &[("name", None)]),
    ("vm_inject_ssh_key", &[("vmName", None), ("keyName", None)]),
    ("ssh_key_generate", &[("name", None), ("comment", Some("null"))]),
    ("ssh_key_list", &[]),
];

fn tool(name: &str) -> &'static Tool {
    agents::find(name).unwrap()
}

#[test]
fn the_tools_of_the_first_server_keep_their_names_and_parameters() {
    for (name, parameters) in FIRST {
        let tool = tool(name);
        let required: BTreeSet<_> =
            tool.arguments().map(|(name, _)| name.as_str()).filter(|name| tool.requires(name)).collect();
        let expected: BTreeSet<_> =
            parameters.iter().filter(|(_, default)| default.is_none()).map(|(name, _)| *name).collect();
        assert_eq!(required, expected, "{name}");
        for (parameter, default) in *parameters {
            let (_, schema) = tool.arguments().find(|(known, _)| known == parameter).unwrap();
            if let Some(default) = default {
                assert_eq!(schema["default"].to_string(), *default, "{name} {parameter}");
            }
        }
    }
}

#[test]
fn kfuncdb_definitions_have_the_members_of_the_first_server() {
    let definitions = agents::definitions(Format::Kfuncdb);
    let definitions = definitions.as_array().unwrap();
    assert_eq!(definitions.len(), agents::tools().len());
    for definition in definitions {
        let members: Vec<_> = definition.as_object().unwrap().keys().map(String::as_str).collect();
        let known =
            ["name", "description", "shortDescription", "longDescription", "parameters", "paramsSpec", "pluginId"];
        assert_eq!(members, known);
        let tool = tool(definition["name"].as_str().unwrap());
        let schema: Value = serde_json::from_str(definition["paramsSpec"].as_str().unwrap()).unwrap();
        assert_eq!(schema, tool.input);
        let parameters = definition["parameters"].as_array().unwrap();
        assert_eq!(parameters.len(), tool.arguments().count());
        for parameter in parameters {
            let members: Vec<_> = parameter.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(members, ["name", "type", "required", "description"]);
            assert!(
                ["string", "integer", "boolean", "array"].contains(&parameter["type"].as_str().unwrap()),
                "{parameter}"
            );
            assert!(!parameter["description"].as_str().unwrap().is_empty(), "{} {parameter}", tool.name);
        }
    }
}

/// Collects every object in a schema, with its path.
fn objects<'v>(value: &'v Value, place: &str, found: &mut Vec<(String, &'v Map<String, Value>)>) {
    match value {
        Value::Object(members) => {
            found.push((place.to_owned(), members));
            for (name, value) in members {
                objects(value, &format!("{place}/{name}"), found);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| objects(item, &format!("{place}/{at}"), found));
        }
        _ => {}
    }
}

#[test]
fn every_model_api_accepts_the_schemas() {
    for tool in agents::tools() {
        for (kind, schema) in [("input", &tool.input), ("output", &tool.output)] {
            if schema.is_null() {
                assert_eq!(
                    (tool.name, kind),
                    ("vm_screenshot", "output"),
                    "only the screenshot has no structured output"
                );
                continue;
            }
            jsonschema::draft202012::meta::validate(schema).unwrap();
            assert_eq!(schema["type"], "object", "{} {kind}", tool.name);
            let mut found = Vec::new();
            objects(schema, kind, &mut found);
            for (place, members) in found {
                assert!(!members.get("type").is_some_and(Value::is_array), "{} {place}: a list of types", tool.name);
                assert!(kind == "output" || !members.contains_key("$ref"), "{} {place}: a reference", tool.name);
            }
        }
        // The APIs of Anthropic and OpenAI refuse these keywords at the top level.
        for keyword in ["allOf", "anyOf", "oneOf", "not", "enum", "if"] {
            assert!(tool.input.get(keyword).is_none(), "{}: {keyword} at the top level", tool.name);
        }
        assert_eq!(tool.input["additionalProperties"], false, "{}", tool.name);
        for (name, schema) in tool.arguments() {
            let text = schema["description"].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{} {name}: {schema}", tool.name);
            assert!(!text.contains("`vmprov ") && !text.contains(" --"), "{} {name}: {text}", tool.name);
        }
    }
}

#[test]
fn annotations_describe_the_effect_of_each_tool() {
    let definitions = agents::definitions(Format::Mcp);
    for (definition, tool) in definitions["tools"].as_array().unwrap().iter().zip(agents::tools()) {
        let hints = &definition["annotations"];
        assert_eq!(hints["readOnlyHint"], tool.effect == Effect::Read, "{}", tool.name);
        let may_delete = ["vm_create", "vm_delete", "vm_exec"].contains(&tool.name);
        assert_eq!(hints["destructiveHint"], may_delete, "{}", tool.name);
        let must_confirm =
            definition["inputSchema"]["required"].as_array().is_some_and(|all| all.contains(&json!("confirm")));
        assert_eq!(must_confirm, tool.name == "vm_delete", "{}", tool.name);
    }
}

#[test]
fn the_command_line_prints_the_same_definitions_as_http() {
    for (format, word) in [
        (Format::Kfuncdb, "kfuncdb"),
        (Format::Openai, "openai"),
        (Format::Mcp, "mcp"),
        (Format::JsonSchema, "json-schema"),
    ] {
        let ran = Command::new(env!("CARGO_BIN_EXE_vmprov")).args(["tools", "--format", word]).output().unwrap();
        assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
        assert_eq!(serde_json::from_slice::<Value>(&ran.stdout).unwrap(), agents::definitions(format));
    }
    let ran = Command::new(env!("CARGO_BIN_EXE_vmprov")).args(["tools", "--format", "yaml"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(2), "{ran:?}");
}

/// Generates values of arguments, valid and invalid ones.
fn values() -> impl Strategy<Value = Value> {
    let texts = [
        "web",
        "Web",
        "",
        "-",
        "a b",
        "debian:12",
        "https://example.org/x.qcow2",
        "file:///etc/passwd",
        "/x",
        "2G",
        "64M",
        "63M",
        "16T",
        "17T",
        "20",
        "0",
        "30m",
        "2h",
        "never",
        "1h30m",
        "366d",
        "367d",
        "45s",
        "5m",
        "24h",
        "ssh",
        "running",
        "cloud-init",
        "agent",
        "stopped",
        "auto",
        "rsa",
        "ed25519",
        "fail",
        "keep",
        "replace",
        "default",
        "user",
        "root",
        "Root",
        "user@host",
        "x86_64",
        "aarch64",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "sha256:12",
        "a\u{0}b",
        "a\nb",
        "ü",
        "3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10",
        "true",
        "#cloud-config\n",
        "null",
    ];
    let numbers = prop_oneof![
        select(vec![
            0_i64, 1, 2, 45, 50, 51, 63, 64, 2048, 4096, 16384, 65536, 65537, 86400, 86401, 16_777_216, 16_777_217, -1
        ]),
        any::<i64>(),
    ];
    let leaf = prop_oneof![
        6 => select(texts.to_vec()).prop_map(Value::from),
        1 => "\\PC{0,12}".prop_map(Value::from),
        3 => numbers.prop_map(Value::from),
        1 => Just(json!(1.5)),
        1 => Just(json!(2048.0)),
        3 => any::<bool>().prop_map(Value::from),
        2 => Just(Value::Null),
        1 => Just(json!({})),
    ];
    prop_oneof![5 => leaf.clone(), 1 => proptest::collection::vec(leaf, 0..3).prop_map(Value::from)]
}

/// Generates arguments of a tool: nearly always the required ones, and some of the others.
fn arguments(tool: &'static Tool) -> impl Strategy<Value = Value> {
    let names: Vec<_> = tool.arguments().map(|(name, _)| name.clone()).chain(["nonsense".to_owned()]).collect();
    let example = tool.input["examples"][0].clone();
    let others = proptest::collection::vec((select(names), values()), 0..4);
    (prop::bool::weighted(0.9), others).prop_map(move |(has_example, others)| {
        let mut arguments = if has_example { example.as_object().cloned().unwrap() } else { Map::new() };
        arguments.extend(others);
        Value::Object(arguments)
    })
}

/// Returns whether `confirm` differs from `name`, which no schema can express.
fn has_wrong_confirmation(arguments: &Value) -> bool {
    arguments.get("confirm").is_some_and(|confirm| confirm.is_string() && *confirm != arguments["name"])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_schema_accepts_exactly_what_its_tool_accepts(
        (tool, arguments) in select(agents::tools().iter().collect::<Vec<_>>()).prop_flat_map(|tool| (Just(tool), arguments(tool)))
    ) {
        prop_assume!(!has_wrong_confirmation(&arguments));
        let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&tool.input).unwrap();
        let read = tool.read(arguments.clone());
        prop_assert_eq!(validator.is_valid(&arguments), read.is_ok(), "{} {}: {:?}", tool.name, arguments, read);
    }
}
