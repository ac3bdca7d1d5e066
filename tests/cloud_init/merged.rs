//! The merged configuration contains the operator's settings and everything that vmprov needs.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vmprov::cloud_init::{Seed, UserData};

use crate::{
    cases::{self, Case, USERS},
    support::{DEFAULT_USER, Seeds, VMPROV_KEY, seed},
};

/// Members that vmprov always sets. It has refused user data with conflicting values before the merge.
const SET_BY_VMPROV: [&str; 6] = ["hostname", "fqdn", "preserve_hostname", "disable_root", "ssh_keys", "growpart"];

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_array().map_or_else(|| value.as_str().into_iter().collect(), |list| list.iter().flat_map(keys).collect())
}

fn assert_vmprov_settings(name: &str, seed: &Seed, merged: &Value) {
    let user = seed.user.as_str();
    assert_eq!(merged["hostname"], "web", "{name}");
    assert_eq!(merged["instance"], seed.instance_id.as_str(), "{name}");
    assert_eq!(merged["config"]["preserve_hostname"], false, "{name}");
    assert!(["auto", "growpart"].map(Value::from).contains(&merged["config"]["growpart"]["mode"]), "{name}");
    assert_eq!(merged["config"]["growpart"]["devices"][0], "/", "{name}");
    assert!([json!(true), json!("noblock")].contains(&merged["config"]["resize_rootfs"]), "{name}");
    assert_eq!(merged["config"]["ssh_deletekeys"], true, "{name}");

    let files = seed.host_keys.iter().flat_map(|key| {
        let file = format!("ssh_host_{}_key", key.algorithm);
        [(format!("{file}.pub"), json!(key.public)), (file, json!(key.private))]
    });
    assert_eq!(merged["hostKeys"], Value::Object(files.collect()), "{name}");
    assert_eq!(merged["keygen"], json!([]), "{name}");

    let authorized: Vec<&Value> =
        merged["authorized"].as_array().unwrap().iter().filter(|entry| entry["user"] == user).collect();
    assert!(authorized.iter().all(|entry| entry["options"] == ""), "{name}: {user} has options: {authorized:?}");
    let actual: BTreeSet<&str> = authorized.iter().flat_map(|entry| keys(&entry["keys"])).collect();
    for key in &seed.authorized_keys {
        assert!(actual.contains(key.as_str()), "{name}: {user} lacks {key:?}, has {actual:?}");
    }
    let has_own_sudo = name == "the same user";
    if user != "root" && !has_own_sudo {
        assert!(!merged["users"][user]["rules"].is_null(), "{name}: {user} cannot use sudo: {}", merged["users"]);
    }

    let interface = &merged["interfaces"][0];
    assert_eq!(interface["name"], "eth0", "{name}");
    assert_eq!(interface["mac_address"], "52:54:00:ab:cd:ef", "{name}");
    assert_eq!(interface["subnets"][0]["type"], "dhcp4", "{name}");
}

fn assert_operator_settings(name: &str, user: &str, opaque: bool, alone: &Value, merged: &Value) {
    for what in ["scripts", "boothooks", "handled"] {
        assert_eq!(merged[what], alone[what], "{name}: {what}");
    }
    let operator = alone["config"].as_object().unwrap();
    for (member, value) in operator {
        // vmprov overrides these members, except `growpart` in user data that it could check.
        let is_overridden = SET_BY_VMPROV.contains(&member.as_str()) && (opaque || member != "growpart");
        if member != "users" && !is_overridden {
            assert_eq!(&merged["config"][member], value, "{name}: {member}");
        }
    }
    let default = json!(["default"]);
    let listed = operator.get("users").unwrap_or(&default).as_array().unwrap();
    assert_eq!(&merged["config"]["users"].as_array().unwrap()[1..], listed, "{name}: users");
    for (name_of_user, settings) in alone["users"].as_object().unwrap() {
        for (member, value) in settings.as_object().unwrap() {
            let actual = &merged["users"][name_of_user][member];
            if name_of_user == user && member == "ssh_authorized_keys" {
                assert!(keys(actual).is_superset(&keys(value)), "{name}: {name_of_user}'s keys");
            } else {
                assert_eq!(actual, value, "{name}: {name_of_user}'s {member}");
            }
        }
    }
    for entry in alone["authorized"].as_array().unwrap() {
        let matches = |other: &&Value| {
            other["user"] == entry["user"]
                && (other["options"] == entry["options"] || user == "root")
                && keys(&other["keys"]).is_superset(&keys(&entry["keys"]))
        };
        assert!(merged["authorized"].as_array().unwrap().iter().any(|other| matches(&other)), "{name}: {entry}");
    }
    assert_eq!(merged["warnings"], alone["warnings"], "{name}");
}

#[test]
fn a_merge_keeps_the_operators_and_vmprovs_settings() {
    let cases: Vec<Case> = [cases::forms(), cases::guest_evaluated_forms(), cases::users(), cases::settings()]
        .into_iter()
        .flatten()
        .collect();
    let mut seeds = Seeds::new();
    let mut runs = Vec::new();
    for case in &cases {
        let data = UserData::parse(&case.data).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let alone = case.equivalent.as_ref().unwrap_or(&case.data);
        let alone = seeds.add(&[("user-data", alone.clone())], case.included);
        for user in case.users {
            let seed = seed(user, Some(data.clone()));
            let warnings = data.check(&seed.hostname, user).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            assert_eq!(!warnings.is_empty(), case.warns, "{}: {warnings:?}", case.name);
            let merged = seeds.add_seed(&seed, case.included);
            runs.push((case, seed, alone, merged));
        }
    }
    let results = seeds.merge();
    for (case, seed, alone, merged) in runs {
        let (alone, merged) = (&results[alone], &results[merged]);
        let name = case.name;
        assert_vmprov_settings(name, &seed, merged);
        assert_operator_settings(name, &seed.user, case.warns, alone, merged);
        for (pointer, value) in &case.expected {
            assert_eq!(merged.pointer(pointer), Some(value), "{name}: {pointer} for {}", seed.user);
        }
    }
}

#[test]
fn a_seed_is_read_back_and_reused_for_the_next_instance() {
    let mut seeds = Seeds::new();
    let first: Vec<Seed> = USERS.iter().map(|user| seed(user, None)).collect();
    for seed in &first {
        seeds.add_seed(seed, &[]);
        // As `inject` does: read the seed back, add a key, and make it a new instance.
        let files = seed.files();
        let (_, json) = files.iter().find(|(name, _)| *name == "vmprov.json").unwrap();
        let mut next = Seed::from_json(json).unwrap();
        assert_eq!(&next, seed);
        next.instance_id = "web-2".to_owned();
        next.authorized_keys.push("ssh-ed25519 AAAAinjected".to_owned());
        seeds.add_seed(&next, &[]);
    }
    let results = seeds.merge();
    for (seed, pair) in first.iter().zip(results.chunks(2)) {
        assert_vmprov_settings("first", seed, &pair[0]);
        let mut next = seed.clone();
        next.instance_id = "web-2".to_owned();
        next.authorized_keys.push("ssh-ed25519 AAAAinjected".to_owned());
        assert_vmprov_settings("next", &next, &pair[1]);
        assert_eq!(pair[0]["hostKeys"], pair[1]["hostKeys"]);
        assert_eq!(pair[0]["warnings"], json!([]));
        assert!(pair[0]["users"].get(DEFAULT_USER).is_some(), "the image's default user is missing");
        assert!(keys(&pair[0]["authorized"][0]["keys"]).contains(VMPROV_KEY));
    }
}

/// A seed without host keys lets the guest generate its own, as an unmanaged guest does.
#[test]
fn without_host_keys_the_guest_generates_them() {
    let mut seed = seed(DEFAULT_USER, None);
    seed.host_keys.clear();
    let mut seeds = Seeds::new();
    seeds.add_seed(&seed, &[]);
    assert_ne!(seeds.merge()[0]["keygen"], json!([]));
}
