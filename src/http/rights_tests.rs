//! Tests of authentication and authorization over the routes.

use std::{fs, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, header},
};
use camino::Utf8PathBuf;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Access, authentication::Authenticator, mcp_transport::Mcp, routes};
use crate::{
    api::{self, Scope},
    model::{
        digest,
        proxy::Proxies,
        source_policy::{Limits, SourcePolicy},
    },
    ops::Settings,
    service::{Options, Service},
};

/// The state of libvirt's test driver: a VM with the token `agent1` as owner, and another VM.
const NODE: &str = "<node><pool type='dir'><name>p</name><target><path>/p</path></target></pool>
  <domain type='test'><name>a1-old</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e1931</uuid>
    <metadata><v:vm xmlns:v='urn:vmprov:vm:1' phase='ready' created='2026-11-23T03:00:00Z' by='0.1.0' owner='agent1'/></metadata>
    <memory>1048576</memory><vcpu>2</vcpu><os><type>hvm</type></os></domain>
  <domain type='test'><name>secret-of-others</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e1932</uuid>
    <memory>1048576</memory><vcpu>2</vcpu><os><type>hvm</type></os></domain></node>";

struct Site {
    folder: tempfile::TempDir,
    service: Arc<Service>,
    authenticator: Arc<Authenticator>,
    routes: Router,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    fn text(&self) -> String {
        format!("{:?}\n{}", self.headers, String::from_utf8_lossy(&self.bytes))
    }
}

fn token(name: &str, scope: &str, more: &str) -> String {
    let sha256 = digest::of(secret(name).as_bytes());
    format!("[[token]]\nname = '{name}'\nscope = '{scope}'\nsha256 = '{sha256}'\n{more}\n")
}

/// Returns the token of a client.
fn secret(name: &str) -> String {
    format!("{name}-0123456789abcdef")
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| Utf8PathBuf::from_path_buf(folder.path().join(name)).unwrap();
        fs::write(path("node.xml"), NODE).unwrap();
        let tokens = [
            token("boss", "admin", ""),
            token("viewer", "read", ""),
            token("agent1", "operate", "prefix = 'a1-'\nquota = {vms = 1}\nimage-hosts = []"),
            token("agent2", "operate", "prefix = 'a2-'"),
            token("lab", "operate", "networks = ['lab', 'user']"),
            token("elsewhere", "operate", "pools = ['q']"),
        ];
        fs::write(path("tokens.toml"), tokens.concat()).unwrap();
        let settings = Settings {
            uri: format!("test://{}", path("node.xml")),
            pool: "p".to_owned(),
            pool_path: "/p".into(),
            key_dir: path("keys"),
            data_dir: path("data"),
            cache_dir: path("cache"),
            mirrors: Vec::new(),
            // Nothing is fetched from the internet.
            proxies: Proxies::read(|_| Some("http://127.0.0.1:9".to_owned())).unwrap(),
            require_verified: false,
            stall_limit: Duration::from_secs(2),
            catalogue_files: Vec::new(),
            sources: SourcePolicy::Any,
        };
        let options =
            Options { settings, images: Limits::default(), audit_log: Some(path("audit.log")), audit_required: false };
        let service = Arc::new(Service::new(options).unwrap());
        let access = Access { tokens: Some(path("tokens.toml")), ..Access::default() };
        let authenticator = Arc::new(Authenticator::new(access, "p".to_owned()).unwrap());
        Self {
            routes: routes::router(service.clone(), authenticator.clone(), Mcp::new(service.clone())),
            service,
            authenticator,
            folder,
        }
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    async fn send(&self, who: &str, method: &str, path: &str, body: &Value) -> Answer {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        let request = if who.is_empty() {
            request
        } else {
            request.header(header::AUTHORIZATION, format!("Bearer {}", secret(who)))
        };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = request.header(header::CONTENT_LENGTH, body.len()).body(Body::from(body)).unwrap();
        let answer = self.routes.clone().oneshot(request).await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, bytes: to_bytes(answer.into_body(), usize::MAX).await.unwrap().to_vec() }
    }

    async fn get(&self, who: &str, path: &str) -> Answer {
        self.send(who, "GET", path, &Value::Null).await
    }

    async fn post(&self, who: &str, path: &str, body: Value) -> Answer {
        self.send(who, "POST", path, &body).await
    }

    /// Sends the example request of an operation as a client.
    async fn example(&self, who: &str, operation: &api::Operation) -> Answer {
        let mut body = operation.example.clone();
        let mut path = operation.path.to_owned();
        for member in operation.path_members() {
            let value = body.as_object_mut().unwrap().shift_remove(member).unwrap();
            path = path.replace(&format!("{{{member}}}"), &api::segment(value.as_str().unwrap()));
        }
        let has_body = !matches!(operation.method, "GET" | "DELETE");
        self.send(who, operation.method, &path, &if has_body { body } else { Value::Null }).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_valid_token_are_refused_except_on_public_routes() {
    let site = Site::new();
    for operation in api::operations() {
        let answer = site.example("", operation).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{}", operation.name);
        assert!(answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer "));
    }
    for path in ["/api/operations", "/api/events", "/metrics", "/nowhere"] {
        assert_eq!(site.get("", path).await.status, 401, "{path}");
    }
    assert_eq!(site.get("stranger", "/api/vms").await.status, 401);
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs/", "/docs/swagger-ui.css"] {
        assert_eq!(site.get("", path).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_public_and_the_checks_are_only_for_authenticated_clients() {
    let site = Site::new();
    for who in ["", "stranger"] {
        assert_eq!(site.get(who, "/readyz").await.json(), json!({"ready": true}), "{who}");
    }
    let known = site.get("viewer", "/readyz").await;
    assert!(known.json()["checks"][0]["observed"].is_string(), "{}", known.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_checks_are_public_and_their_details_are_only_for_authenticated_clients() {
    let site = Site::new();
    fs::write(site.folder.path().join("node.xml"), "<node").unwrap();
    let path = site.folder.path().to_str().unwrap();
    let unknown = site.get("", "/readyz").await;
    assert_eq!(unknown.status, 503, "{}", unknown.text());
    let checks = &unknown.json()["details"]["checks"];
    assert!(checks.as_array().unwrap().contains(&json!({"id": "daemon.reachable"})), "{checks}");
    assert!(checks.as_array().unwrap().iter().all(|check| check.as_object().unwrap().len() == 1), "{checks}");
    assert!(!unknown.text().contains(path), "{}", unknown.text());
    let known = site.get("viewer", "/readyz").await;
    assert!(known.status == 503 && known.text().contains(path), "{}", known.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_requires_its_scope_and_the_error_names_it() {
    let site = Site::new();
    for operation in api::operations().iter().filter(|operation| operation.scope > Scope::Read) {
        let answer = site.example("viewer", operation).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{}", operation.name);
        let output = answer.json()["detail"].to_string();
        assert!(output.contains("`viewer`") && output.contains(operation.scope.name()), "{output}");
    }
    assert_eq!(site.get("viewer", "/api/vms").await.status, 200);
    let id = "/api/operations/6695eb01-f6a4-8304-79aa-97f2502e1931";
    assert_eq!(site.send("viewer", "DELETE", id, &Value::Null).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_hides_the_vms_and_keys_of_others() {
    let site = Site::new();
    for (who, name) in [("boss", "secret-key"), ("agent1", "a1-key")] {
        let made = site.post(who, "/api/ssh-keys", json!({"name": name, "type": "ed25519"})).await;
        assert_eq!(made.status, 201, "{}", made.text());
    }
    let names = |answer: &Answer, list: &str| -> Vec<String> {
        let list = answer.json()[list].as_array().unwrap().clone();
        list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&site.get("agent1", "/api/vms").await, "vms"), ["a1-old"]);
    assert_eq!(names(&site.get("agent1", "/api/ssh-keys").await, "keys"), ["a1-key"]);
    assert_eq!(names(&site.get("boss", "/api/vms").await, "vms"), ["a1-old", "secret-of-others"]);
    assert_eq!(names(&site.get("agent2", "/api/vms").await, "vms"), [""; 0]);
    assert_eq!(site.get("agent1", "/api/vms/a1-old").await.json()["owner"], "agent1");
    for path in [
        "/api/vms/secret-of-others",
        "/api/vms/6695eb01-f6a4-8304-79aa-97f2502e1932",
        "/api/vms/6695eb01-f6a4-8304-79aa-97f2502e1931",
        "/api/vms/a1-ol",
        "/api/ssh-keys/secret-key",
        "/api/ssh-keys/a1-secret-key",
        "/api/ssh-config?vm=secret-of-others",
    ] {
        let answer = site.get("agent1", path).await;
        assert_eq!(answer.status, 404, "{path}");
        // The response may repeat the requested name, and nothing else.
        assert!(
            !answer.text().replace(path.rsplit(['/', '=']).next().unwrap(), "").contains("secret"),
            "{}",
            answer.text()
        );
    }
    for (path, name) in [("/api/vms", "web"), ("/api/ssh-keys", "dev")] {
        let answer = site.post("agent1", path, json!({"name": name})).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"));
        assert!(answer.text().contains("a1-"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_error_lists_the_usage_and_operations_are_visible_to_their_owner() {
    let site = Site::new();
    let answer = site.post("agent1", "/api/vms", json!({"name": "a1-new"})).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "quota_exceeded"), "{}", answer.text());
    let expected = json!({"resource": "vms", "used": 1, "wanted": 2, "limit": 1, "vms": ["a1-new", "a1-old"]});
    assert_eq!(answer.json()["details"], expected);
    let made = site.post("agent1", "/api/ssh-keys", json!({"name": "a1-key", "type": "ed25519"})).await;
    let id = made.headers["x-operation-id"].to_str().unwrap().to_owned();
    let path = format!("/api/operations/{id}");
    for (who, status) in [("agent1", 200), ("boss", 200), ("agent2", 404), ("viewer", 404)] {
        assert_eq!(site.get(who, &path).await.status, status, "{who}");
        assert_eq!(site.get(who, "/api/operations").await.text().contains(&id), status == 200, "{who}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_can_use_only_its_listed_networks_and_pools() {
    let site = Site::new();
    for (who, network, allowed) in [
        ("agent2", "mgmt", json!(["default"])),
        ("agent2", "user", json!(["default"])),
        ("boss", "mgmt", json!(["default"])),
        ("lab", "default", json!(["lab", "user"])),
    ] {
        let answer = site.post(who, "/api/vms", json!({"name": "a2-new", "network": network})).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{who} {network}: {}", answer.text());
        let body = answer.json();
        let message = format!("cannot use the network `{network}`: the token `{who}` is not authorized for it");
        assert_eq!((&body["error"], &body["details"]["networks"]), (&json!(message), &allowed), "{}", answer.text());
    }
    // Listed networks are allowed: these requests fail later, because the test driver has no such network.
    for (who, network) in [("lab", "lab"), ("lab", "user"), ("agent2", "default")] {
        let answer = site.post(who, "/api/vms", json!({"name": "a2-new", "network": network})).await;
        assert_ne!(answer.code(), "forbidden", "{who} {network}: {}", answer.text());
    }
    for (path, body) in [
        ("/api/vms", json!({"name": "x"})),
        ("/api/vms/a1-old/commit", json!({"image": "golden"})),
        ("/api/images", json!({"image": "debian:12"})),
    ] {
        let answer = site.post("elsewhere", path, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{path}: {}", answer.text());
        assert_eq!(answer.json()["details"], json!({"pools": ["q"]}), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_reloaded_and_an_invalid_file_changes_nothing() {
    let site = Site::new();
    let path = site.folder.path().join("tokens.toml");
    fs::write(&path, "[[token]]\nname=").unwrap();
    site.service.reload();
    site.authenticator.reload();
    assert_eq!(site.get("viewer", "/api/vms").await.status, 200);
    fs::write(&path, token("new", "read", "")).unwrap();
    site.service.reload();
    site.authenticator.reload();
    assert_eq!(site.get("viewer", "/api/vms").await.status, 401);
    assert_eq!(site.get("new", "/api/vms").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_response_and_no_log_contains_private_keys_or_tokens() {
    let site = Site::new();
    for kind in ["ed25519", "rsa"] {
        let made = site.post("boss", "/api/ssh-keys", json!({"name": kind, "type": kind})).await;
        assert_eq!(made.status, 201, "{}", made.text());
    }
    let keys = site.get("boss", "/api/ssh-keys").await;
    assert!(keys.json()["keys"].as_array().unwrap().len() >= 2, "{}", keys.text());
    let kept =
        fs::read_dir(site.folder.path().join("keys")).unwrap().map(|file| fs::read_to_string(file.unwrap().path()));
    let private: Vec<_> = kept.map(Result::unwrap).filter(|text| text.contains("PRIVATE KEY")).collect();
    assert!(private.len() >= 2);
    let mut output = String::new();
    for operation in api::operations() {
        output += &site.example("boss", operation).await.text();
    }
    for path in [
        "/api/operations",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/readyz",
        "/api/events?limit=0",
        "/api/ssh-keys/ed25519",
    ] {
        if !path.starts_with("/api/events") {
            output += &site.get("boss", path).await.text();
        }
    }
    site.service.audit.flush().await;
    output += &site.file("audit.log");
    assert!(!output.contains("PRIVATE KEY") && output.len() > 4096);
    for line in private.iter().flat_map(|text| text.lines()).filter(|line| line.len() > 40 && !line.contains("PRIVATE"))
    {
        // The first lines of the OpenSSH format contain only its name and the public key.
        assert!(!output.contains(line), "{line}");
    }
    for who in ["boss", "viewer"] {
        assert!(!output.contains(&secret(who)) && !output.contains(&digest::of(secret(who).as_bytes())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_records_client_operation_target_and_status() {
    let site = Site::new();
    site.get("viewer", "/api/vms/a1-old").await;
    site.get("", "/api/vms").await;
    site.get("viewer", "/healthz").await;
    let made = site.post("agent1", "/api/ssh-keys", json!({"name": "a1-key", "type": "ed25519"})).await;
    site.post(
        "boss",
        "/api/vms",
        json!({"name": "x", "userData": "password: hidden", "image": "https://u:hidden@h/x"}),
    )
    .await;
    site.service.audit.flush().await;
    let log = site.file("audit.log");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |line: &Value| {
        let text = |member: &str| line[member].as_str().unwrap_or("-").to_owned();
        let [event, client, operation, code] = ["event", "client", "operation", "code"].map(text);
        format!("{event} {client} {operation} {} {} {code}", line["target"], line["status"])
    };
    let records: Vec<_> = lines.iter().map(of).collect();
    assert_eq!(
        records[..4],
        [
            "request viewer vm_info [\"vm/a1-old\"] 200 -",
            "request - - [] 401 unauthenticated",
            "operation agent1 ssh_key_generate [\"key/a1-key\"] 201 -",
            "request agent1 ssh_key_generate [\"key/a1-key\"] 201 -",
        ]
    );
    assert_eq!(lines[3]["operationId"], made.headers["x-operation-id"].to_str().unwrap());
    assert_eq!((&lines[0]["route"], &lines[0]["method"]), (&"/api/vms/{vm}".into(), &"GET".into()));
    assert!(records[4..].iter().any(|line| line.contains("vm_create [\"vm/x\",\"network/default\"]")), "{records:?}");
    assert!(!log.contains("hidden"), "{log}");
}
