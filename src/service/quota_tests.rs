use serde_json::json;

use super::*;

fn client(quota: &str) -> Arc<Client> {
    Arc::new(Client { quota: toml::from_str(quota).unwrap(), name: "a".to_owned(), ..Client::anonymous() })
}

fn owned(name: &str, vcpus: u32) -> vm::OwnedVm {
    vm::OwnedVm { name: name.to_owned(), uuid: uuid::Uuid::nil(), vcpus, memory_mib: 1024, disk_bytes: 10 << 30 }
}

fn resource_of(error: &Error) -> String {
    assert_eq!(error.code, Code::QuotaExceeded);
    error.details.as_ref().unwrap()["resource"].as_str().unwrap().to_owned()
}

/// Returns the resource for which a request is refused.
fn refused(quota: &str, owned: &[vm::OwnedVm], active: &[Entry], name: &str, request: Value) -> Option<String> {
    let operation = api::find(name).unwrap();
    let request = operation.read(request).unwrap();
    let mut usages = merge(&owned.iter().map(of_vm).collect(), active, "a");
    let before = total(&usages);
    usages.extend(requested(operation, &request, owned, &usages).unwrap());
    require_within_quota(&client(quota), &before, &usages).err().map(|error| resource_of(&error))
}

#[test]
fn each_resource_has_its_limit() {
    let new = || json!({"name": "n", "vcpus": 2, "memory": 2048, "diskSize": 20});
    let two = [owned("x", 2), owned("y", 2)];
    let create = |quota: &str| refused(quota, &two, &[], "vm_create", new());
    for fine in ["vms=3", "vcpus=6", "memory='4G'", "disk='41G'", ""] {
        assert_eq!(create(fine), None, "{fine}");
    }
    // The console log and the seed use space in addition to the disk.
    for (short, resource) in [("vms=2", "vms"), ("vcpus=5", "vcpus"), ("memory=4095", "memory"), ("disk=40", "disk")] {
        assert_eq!(create(short).as_deref(), Some(resource));
    }
    let key = |quota: &str| refused(quota, &[], &[], "ssh_key_generate", json!({"name": "dev"}));
    assert_eq!((key("keys=1"), key("keys=0").as_deref()), (None, Some("keys")));
}

#[test]
fn each_operation_declares_the_resources_it_uses_and_how_much() {
    for operation in api::operations() {
        let Some(takes) = operation.takes else { panic!("{} does not declare what it creates", operation.name) };
        if takes.is_empty() {
            continue;
        }
        let request = operation.read(operation.example.clone()).unwrap();
        let vms = [owned("web", 1)];
        let usages = vms.iter().map(of_vm).collect();
        let counted = total(&requested(operation, &request, &vms, &usages).unwrap());
        // Whether there will be an image, and its size, is known only while the operation runs.
        let makes_image = takes.contains(&Resource::Images);
        let known =
            |resource: &&Resource| **resource != Resource::Images && (**resource != Resource::Disk || !makes_image);
        for resource in takes.iter().filter(known) {
            assert!(counted.get(resource).is_some_and(|amount| *amount > 0), "{}: {resource:?}", operation.name);
        }
    }
}

#[test]
fn reserved_and_replaced_items_count_once() {
    let quotas = Quotas::default();
    let vm = |name: &str| Usages::from([((VMS, name.to_owned()), usage(1, 2, 1024, 1))]);
    let first = quotas.add(&client(""), Usages::new(), vm("x"));
    let other = Arc::new(Client { name: "b".to_owned(), ..Client::anonymous() });
    let _others = quotas.add(&other, Usages::new(), vm("z"));
    let active = quotas.lock().clone();
    let new = |name: &str| json!({"name": name, "vcpus": 2});
    assert_eq!(refused("vcpus=4", &[], &active, "vm_create", new("n")), None);
    assert_eq!(refused("vcpus=3", &[], &active, "vm_create", new("n")).as_deref(), Some("vcpus"));
    assert_eq!(refused("vcpus=4", &[owned("x", 2)], &active, "vm_create", new("n")), None);
    assert_eq!(refused("vms=1", &[owned("x", 2)], &active, "vm_create", new("x")), None);
    drop(first);
    assert_eq!(quotas.lock().len(), 1);
}

#[test]
fn concurrently_created_images_stay_within_the_quota() {
    let quotas = Quotas::default();
    let client = client("disk='10M'\nimages=2");
    let begin = || quotas.add(&client, Usages::new(), Usages::new());
    let (one, two, three) = (begin(), begin(), begin());
    one.take_image("a", 4 << 20).unwrap();
    two.take_image("b", 6 << 20).unwrap();
    assert_eq!(resource_of(&two.take_image("b", (6 << 20) + 1).unwrap_err()), "disk");
    assert_eq!(resource_of(&three.take_image("c", 0).unwrap_err()), "images");
    // An image that was created after the others were counted still counts.
    one.end(true);
    assert_eq!(resource_of(&three.take_image("c", 0).unwrap_err()), "images");
    // A failed image is not counted any more; a smaller one counts with its new size.
    drop(two);
    three.take_image("c", 6 << 20).unwrap();
    three.take_image("d", 1 << 20).unwrap();
    three.take_volume("v", 5 << 20).unwrap();
    assert_eq!(resource_of(&three.take_volume("w", 1).unwrap_err()), "disk");
    drop((one, three));
    assert!(quotas.lock().is_empty());
}

#[test]
fn a_change_counts_with_the_new_size_of_the_vm() {
    let two = [owned("x", 2), owned("y", 2)];
    let set = |quota: &str, request| refused(quota, &two, &[], "vm_set", request);
    assert_eq!(set("vcpus=5", json!({"vm": "x", "vcpus": 3})), None);
    assert_eq!(set("vcpus=5", json!({"vm": "x", "vcpus": 4})).as_deref(), Some("vcpus"));
    // A decrease is always allowed, even if the result still exceeds the quota.
    assert_eq!(set("vcpus=1", json!({"vm": "x", "vcpus": 1})), None);
    assert_eq!(set("vcpus=1", json!({"vm": "somebody-elses", "vcpus": 9})), None);
    assert_eq!(set("disk=25", json!({"vm": "x", "diskSize": 16})).as_deref(), Some("disk"));
}
