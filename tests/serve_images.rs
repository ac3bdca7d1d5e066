//! Images of several clients: an image is private to the client that made it until it is shared, and counts toward that
//! client's quota.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

use http::{Response, Service};
use lab::{Lab, Running, Snapshot};
use mirror::Mirror;
use serde_json::{Value, json};

/// A service with tokens, and a mirror with an image.
struct Site {
    service: Service<Running>,
    mirror: Mirror,
    before: Snapshot,
    lab: Lab,
}

fn token(name: &str, scope: &str, more: &str) -> String {
    let sha256 = vmprov::model::digest::of(secret(name).as_bytes());
    format!("[[token]]\nname = '{name}'\nscope = '{scope}'\nsha256 = '{sha256}'\n{more}\n")
}

fn secret(name: &str) -> String {
    format!("{name}-0123456789abcdef")
}

impl Site {
    fn new(quota: &str) -> Self {
        let lab = Lab::warm();
        lab.run(&["vm", "delete", "a1-vm", "a2-vm", "--yes", "--ignore-missing"]).succeeded();
        lab.run(&["image", "prune", "--all"]).succeeded();
        lab.fake("virt-sysprep", "exit 0");
        let mirror = Mirror::inside(&lab.network());
        let file = lab.image("debian-12.qcow2", "10M");
        mirror.put("debian-12.qcow2", std::fs::read(&file).unwrap());
        std::fs::remove_file(file).unwrap();
        let agent = |name: &str| token(name, "operate", quota);
        let tokens = [token("boss", "admin", ""), agent("agent1"), agent("agent2"), agent("agent3")];
        let tokens = lab.write("tokens.toml", tokens.concat());
        let before = lab.snapshot();
        let service = Service::new(lab.serve(&["--tokens", &tokens]), Running::signal, lab.socket());
        Self { service, mirror, before, lab }
    }

    #[track_caller]
    fn send(&self, who: &str, method: &str, path: &str, body: &Value) -> Response {
        let authorization = format!("Authorization: Bearer {}", secret(who));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.service.client.send(method, path, &["Content-Type: application/json", &authorization], &body)
    }

    #[track_caller]
    fn get(&self, who: &str, path: &str) -> Response {
        self.send(who, "GET", path, &Value::Null)
    }

    /// Returns the body of a request to create a VM from the mirror's image.
    fn new_vm(&self, name: &str) -> Value {
        let url = self.mirror.url("debian-12.qcow2");
        json!({"name": name, "imageUrl": url, "user": "u", "memory": 64, "diskSize": 1, "start": false})
    }

    /// Returns the names of the images that a client sees, each with its owner and visibility.
    #[track_caller]
    fn images(&self, who: &str) -> Vec<String> {
        let images = self.get(who, "/api/images").is(200).value();
        let shown = |image: &Value| {
            let text = |member: &str| image[member].as_str().unwrap_or("-").to_owned();
            format!("{} {} {}", image["names"], text("owner"), text("visibility"))
        };
        let mut shown: Vec<_> = images["images"].as_array().unwrap().iter().map(shown).collect();
        shown.sort();
        shown
    }

    /// Deletes everything that the test created, and checks that everything is as it was before.
    fn clean_up_and_check(self, vms: &[&str]) {
        for vm in vms {
            self.send("boss", "DELETE", &format!("/api/vms/{vm}"), &Value::Null).is(200);
        }
        self.send("boss", "POST", "/api/images/prune", &json!({"all": true})).is(200);
        self.service.end().end().succeeded();
        self.lab.settles(&self.before, "at the end");
    }
}

#[test]
fn a_private_image_does_not_exist_for_other_clients() {
    let site = Site::new("");
    let url = site.mirror.url("debian-12.qcow2");
    site.send("agent1", "POST", "/api/vms", &site.new_vm("a1-vm")).is(201);
    let made = site.send("agent1", "POST", "/api/vms/a1-vm/commit", &json!({"image": "golden"}));
    let made = made.is(201).value();
    let seen = site.get("agent2", "/api/images").text();
    assert!(!seen.contains("golden"), "{seen}");
    assert_eq!((&made["owner"], &made["visibility"]), (&json!("agent1"), &json!("private")), "{made}");
    let expected = [format!("[\"{url}\"] agent1 private"), "[\"golden\"] agent1 private".to_owned()];
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!((site.images("agent1"), site.images("boss")), (expected.clone(), expected));

    // To another client, it looks like an image that never existed. No error about a similar name suggests it either.
    assert_eq!(site.images("agent2"), [""; 0]);
    let id = made["id"].as_str().unwrap();
    for (method, path, body) in [
        ("GET", "/api/images/NAME", Value::Null),
        ("PATCH", "/api/images/NAME", json!({"visibility": "shared"})),
        ("POST", "/api/images", json!({"image": "NAME"})),
        ("POST", "/api/vms", json!({"name": "a2-vm", "image": "NAME", "user": "u", "diskSize": 1, "start": false})),
    ] {
        let answer = |name: &str| {
            let body = serde_json::from_str(&body.to_string().replace("NAME", name)).unwrap();
            let answer = site.send("agent2", method, &path.replace("NAME", name), &body);
            (answer.status, answer.text().replace(name, "NAME"))
        };
        let absent = answer("zzzzzz");
        assert_eq!(absent.0, 404, "{method} {path}: {}", absent.1);
        for name in ["golden", "goldem", id] {
            assert_eq!(answer(name), absent, "{method} {path} {name}");
        }
    }

    // Another client gets its own image with the same name and content, even if the pool already has the volume.
    site.send("agent2", "POST", "/api/vms", &site.new_vm("a2-vm")).is(201);
    assert_eq!(site.images("agent2"), [format!("[\"{url}\"] agent2 private")]);
    let made = site.send("agent2", "POST", "/api/vms/a2-vm/commit", &json!({"image": "golden"}));
    assert_eq!(made.is(201).value()["owner"], "agent2");
    assert_eq!(site.images("agent2").len(), 2);
    assert_eq!(site.images("agent3"), [""; 0]);

    // Its owner shares it. A client that has its own image with that name keeps using its own.
    let shared = site.send("agent1", "PATCH", "/api/images/golden", &json!({"visibility": "shared"})).is(200).value();
    assert_eq!((&shared["owner"], &shared["visibility"]), (&json!("agent1"), &json!("shared")), "{shared}");
    assert_eq!(site.images("agent3"), ["[\"golden\"] agent1 shared"]);
    assert_eq!(site.get("agent2", "/api/images/golden").is(200).value()["owner"], "agent2");
    let refused = site.send("agent3", "PATCH", "/api/images/golden", &json!({"visibility": "private"}));
    assert_eq!(refused.is(403).value()["code"], "forbidden");

    // The operator deletes only the shared name, even if another client's name refers to the same content.
    for vm in ["a1-vm", "a2-vm"] {
        site.send("boss", "DELETE", &format!("/api/vms/{vm}"), &Value::Null).is(200);
    }
    site.send("boss", "DELETE", "/api/images/golden", &Value::Null).is(200);
    assert_eq!(site.images("agent3"), [""; 0]);
    assert_eq!(site.get("agent2", "/api/images/golden").is(200).value()["owner"], "agent2");
    // The operator's images are shared with every client.
    site.send("boss", "POST", "/api/images/import", &json!({"file": url, "name": "silver", "user": "u"})).is(201);
    assert_eq!(site.images("agent3"), ["[\"silver\"] boss shared"]);
    site.clean_up_and_check(&[]);
}

/// Returns the bytes of a fully allocated image.
fn full_image(lab: &Lab, name: &str, size: &str) -> Vec<u8> {
    let file = lab.file(name);
    let mut create = std::process::Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-o", "preallocation=full"]).arg(&file).arg(size);
    assert!(create.status().unwrap().success());
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(file).unwrap();
    bytes
}

#[test]
fn the_space_of_images_counts_toward_the_quota() {
    let site = Site::new("quota = {disk = '29M'}");
    let mut new_vm = site.new_vm("a1-vm");
    new_vm["diskSize"] = "16M".into();
    site.send("agent1", "POST", "/api/vms", &new_vm).is(201);
    // A little more than 25 MiB is used, and each of these images needs a little more than 2 MiB.
    let pull = |name: &str, size: &str| {
        site.mirror.put(name, full_image(&site.lab, name, size));
        json!({"image": site.mirror.url(name)})
    };
    let both = [pull("one.qcow2", "2M"), pull("two.qcow2", "2112K")];
    let send = |body| site.send("agent1", "POST", "/api/images", body);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = both.iter().map(|body| scope.spawn(move || send(body))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403], "{} {}", answers[0], answers[1]);
    let refused = answers.iter().find(|answer| answer.status == 403).unwrap().value();
    assert_eq!((&refused["code"], &refused["details"]["resource"]), (&json!("quota_exceeded"), &json!("disk")));
    assert_eq!(site.images("agent1").len(), 2);
    // A refused image leaves nothing behind, neither in the pool nor among the downloads.
    let left = site.lab.snapshot();
    let again = &both[answers.iter().position(|answer| answer.status == 403).unwrap()];
    site.send("agent1", "POST", "/api/images", again).is(403);
    site.lab.settles(&left, "after a refusal");

    // Committed images count too, and a VM counts together with its console log and seed.
    assert_eq!(site.send("agent1", "PATCH", "/api/vms/a1-vm", &json!({"diskSize": "18M"})).status, 403);
    let commit = |name: &str| site.send("agent1", "POST", "/api/vms/a1-vm/commit", &json!({"image": name}));
    let mut made = 0;
    let refused = loop {
        let answer = commit(&format!("golden:{made}"));
        if answer.status != 201 {
            break answer;
        }
        made += 1;
        assert!(made < 20, "the quota never refuses a commit");
    };
    assert_eq!((refused.status, &refused.value()["code"]), (403, &json!("quota_exceeded")), "{refused}");
    assert!(made > 0);
    site.clean_up_and_check(&["a1-vm"]);
}

#[test]
fn the_quota_limits_the_number_of_images_and_keys() {
    let site = Site::new("quota = {images = 2, keys = 1}");
    site.send("agent1", "POST", "/api/vms", &site.new_vm("a1-vm")).is(201);
    let commit = |name: &str| site.send("agent1", "POST", "/api/vms/a1-vm/commit", &json!({"image": name}));
    commit("golden").is(201);
    let refused = commit("silver").is(403).value();
    assert_eq!((&refused["details"]["resource"], &refused["details"]["used"]), (&json!("images"), &json!(2)));
    assert_eq!(site.images("agent1").len(), 2);
    let key = |name: &str| site.send("agent1", "POST", "/api/ssh-keys", &json!({"name": name, "type": "ed25519"}));
    key("dev").is(201);
    assert_eq!(key("ops").is(403).value()["details"]["keys"], json!(["dev", "ops"]));
    site.send("agent1", "DELETE", "/api/ssh-keys/dev", &Value::Null).is(200);
    site.clean_up_and_check(&["a1-vm"]);
}
