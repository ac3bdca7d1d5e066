//! Images from URLs, served on the lab's own loopback: fetched once, and never taken for what they are not.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use lab::{Held, Lab, Ran};

/// Serves files as they are; `cut-…` promises more than it sends, `moved-…` redirects, `stuck` is refused.
const SERVER: &str = r#"
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.lstrip("/").split("?")[0]
        if name.startswith("moved-"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("moved-", ""))
            self.end_headers()
            return
        path = os.path.join(sys.argv[1], name.removeprefix("cut-"))
        if not os.path.exists(path):
            self.send_error(403 if name == "secret" else 404)
            return
        body = open(path, "rb").read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:len(body) // 2] if name.startswith("cut-") else body)
http.server.ThreadingHTTPServer(("127.0.0.1", 8791), Handler).serve_forever()
"#;

fn serve(lab: &Lab) -> Held {
    let server = lab.start_inside("python3", &["-c", SERVER, lab.file("").to_str().unwrap()]);
    lab::wait_until("the server", || create(lab, "probe", "missing").stderr.contains("404"));
    server
}

/// A URL that no earlier run of this test has fetched.
fn url(file: &str) -> String {
    format!("http://127.0.0.1:8791/{file}?{}", std::process::id())
}

fn create(lab: &Lab, vm: &str, file: &str) -> Ran {
    lab.run(&["vm", "create", vm, "--image", &url(file), "--user", "u", "--no-start", "-o", "json"])
}

fn delete(lab: &Lab, vm: &str) {
    lab.run(&["vm", "delete", vm, "--yes"]).succeeded();
}

#[test]
fn an_image_from_a_url_is_fetched_once_and_its_damage_changes_nothing() {
    let lab = Lab::qemu();
    // Pool, network and the verdict on KVM are there from here on.
    let warm = lab.image("warm.qcow2", "10M");
    lab.run(&["vm", "create", "fetch-warm", "--image", &warm, "--user", "u", "--no-start"]).succeeded();
    delete(&lab, "fetch-warm");
    lab.image("disk.qcow2", "12M");
    std::fs::write(lab.file("page.qcow2"), "<!DOCTYPE html><html>Sign in</html>").unwrap();
    std::fs::write(lab.file("nothing.qcow2"), "").unwrap();
    let server = serve(&lab);
    let before = lab.snapshot();

    for (file, code, word) in [
        ("missing.qcow2", 3, "404"),
        ("secret", 6, "403"),
        ("cut-disk.qcow2", 9, "broke off after"),
        ("page.qcow2", 2, "web page"),
        ("nothing.qcow2", 2, "is empty"),
    ] {
        let refused = create(&lab, "fetched", file).failed_with(code);
        assert!(refused.stderr.contains(word), "{file}: {refused}");
        lab.settles(&before, file);
    }
    let plan = lab.run(&["vm", "create", "fetched", "--image", &url("disk.qcow2"), "--user", "u", "--dry-run"]);
    assert!(plan.succeeded().stdout.contains(&format!("# fetch {}", url("disk.qcow2"))));
    lab.settles(&before, "a dry run");

    let created = create(&lab, "fetched", "moved-disk.qcow2").succeeded();
    assert!(created.json()["warnings"].to_string().contains("without TLS"), "{created}");
    delete(&lab, "fetched");
    // The second needs neither the server nor a copy: the same base, and the companion that leads to it.
    drop(server);
    create(&lab, "fetched", "moved-disk.qcow2").succeeded();
    let info = lab.run(&["vm", "info", "fetched", "-o", "json"]).succeeded().json();
    assert_eq!(info["image"], url("moved-disk.qcow2"), "{info}");
    assert_eq!(info["user"], "u", "{info}");
    delete(&lab, "fetched");
    create(&lab, "fetched", "disk.qcow2").failed_with(9);
    lab.settles_without(
        &before,
        |line| line.contains("base-") || line.contains("source-") || line.contains("python3"),
        "at the end",
    );
}
