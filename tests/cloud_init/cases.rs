//! User data that vmprov accepts.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::DEFAULT_USER;

/// User data with the expected results of its merge.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) data: Vec<u8>,
    /// Equivalent user data for the comparison, if cloud-init cannot read `data` without vmprov's conversion.
    pub(crate) equivalent: Option<Vec<u8>>,
    /// The users that get vmprov's keys, one seed each.
    pub(crate) users: &'static [&'static str],
    pub(crate) included: &'static [(&'static str, &'static str)],
    /// Values in the merged result, by JSON pointer.
    pub(crate) expected: Vec<(&'static str, Value)>,
    /// Whether vmprov warns that it cannot check the user data.
    pub(crate) warns: bool,
}

/// The image's default user, a user that the image does not have, and a user that exists in every image.
pub(crate) const USERS: &[&str] = &[DEFAULT_USER, "alice", "root"];

fn case(name: &'static str, data: impl Into<Vec<u8>>, expected: &[(&'static str, Value)]) -> Case {
    Case {
        name,
        data: data.into(),
        equivalent: None,
        users: USERS,
        included: &[],
        expected: expected.to_vec(),
        warns: false,
    }
}

fn config(name: &'static str, members: &str, expected: &[(&'static str, Value)]) -> Case {
    case(name, format!("#cloud-config\n{members}"), expected)
}

/// Returns a multipart MIME message. Each part is a content type, optionally with further headers, and a body.
fn mime(boundary: &str, parts: &[(&str, &str)]) -> String {
    let part = |(kind, body): &(&str, &str)| format!("--{boundary}\nContent-Type: {kind}\n\n{body}\n");
    let parts: Vec<String> = parts.iter().map(part).collect();
    let parts = parts.concat();
    format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n{parts}--{boundary}--\n")
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

const EVERYDAY: &str = "\
hostname: web
packages: [nginx, vim]
ssh_pwauth: no
timezone: Europe/Berlin
ssh_authorized_keys:
- ssh-ed25519 AAAAtop
groups:
- staff: [root]
- empty
users:
- default
- name: bob
  gecos: Bøb \u{1f511}
  groups: [staff]
  ssh_authorized_keys: [ssh-ed25519 AAAAbob]
write_files:
- path: /etc/motd
  permissions: '0644'
  content: |
    Grüße
- path: /etc/binary
  content: !!binary aGVsbG8=
runcmd:
- [sh, -c, 'echo \"$HOME\"']
- echo --vmprov
merge_how:
- {name: dict, settings: [replace]}
- name: list
  settings: [append]
";

const SCRIPT: &str =
    "#!/bin/sh\n--vmprov\n--vmprov--\nFrom here on\n.\n\techo \u{7} Grüße \u{1f511}\nContent-Type: text/none\n\n  \n";

const HANDLER: &str = "\
#part-handler
import os

def list_types():
    return ['text/x-thing']

def handle_part(data, ctype, filename, payload):
    if ctype == 'text/x-thing':
        os.makedirs('handled', exist_ok=True)
        open('handled/' + filename, 'w').write(payload)
";

pub(crate) fn forms() -> Vec<Case> {
    let nested = mime(
        "inner",
        &[
            ("text/cloud-config", "runcmd: [two]\nmerge_how: list(append)+dict(recurse_list)"),
            (
                "text/x-shellscript; charset=\"utf-8\"\nContent-Disposition: attachment; filename=\"second.sh\"",
                "#!/bin/sh\n2",
            ),
        ],
    );
    let several = mime(
        "vmprov",
        &[
            (
                "text/cloud-config\nContent-Disposition: attachment; filename=\"a.cfg\"",
                "runcmd: [one]\nusers:\n- name: bob",
            ),
            ("text/x-shellscript\nContent-Disposition: attachment; filename=\"first.sh\"", "#!/bin/sh\n1"),
        ],
    );
    let several = several.replace("--vmprov--", &format!("--vmprov\n{nested}\n--vmprov\n\n#!/bin/sh\n3\n--vmprov--"));
    let in_order = [
        ("/config/runcmd", json!(["one", "two"])),
        ("/scripts", json!({"first.sh": "#!/bin/sh\n1", "second.sh": "#!/bin/sh\n2", "part-005": "#!/bin/sh\n3"})),
    ];
    let mention = "final_message: 'MIME-Version: 1.0, Grüße'\n";
    let packages = [("/config/packages", json!(["nginx"]))];
    let base64 = "Content-Transfer-Encoding: base64\n\nI2Nsb3VkLWNvbmZpZwpwYWNrYWdlczogWyJuZ2lueCJdCg==";
    vec![
        config(
            "everyday",
            EVERYDAY,
            &[
                ("/config/packages", json!(["nginx", "vim"])),
                ("/config/write_files/0/content", json!("Grüße\n")),
                ("/config/ssh_pwauth", json!(false)),
                ("/users/bob/gecos", json!("Bøb \u{1f511}")),
            ],
        ),
        Case {
            // If this text is near the top, cloud-init takes the user data for a MIME message and garbles it.
            equivalent: Some(format!("#cloud-config\n#{}\n{mention}", " ".repeat(4096)).into()),
            ..config("mention of a message", mention, &[("/config/final_message", json!("MIME-Version: 1.0, Grüße"))])
        },
        case("script", SCRIPT, &[("/scripts/part-001", json!(SCRIPT))]),
        case("script without a line break", "#!/bin/sh\necho", &[("/scripts/part-001", json!("#!/bin/sh\necho"))]),
        case("CRLF script", "#!/bin/sh\r\necho\r\n", &[("/scripts/part-001", json!("#!/bin/sh\necho\n"))]),
        case("boot hook", "#cloud-boothook\n#!/bin/sh\n", &[("/boothooks/part-001", json!("#!/bin/sh\n"))]),
        case("blank lines first", "\n\n #Cloud-Config\npackages: [nginx]", &packages),
        case("CRLF", "#cloud-config\r\npackages:\r\n- nginx\r\n", &packages),
        Case {
            equivalent: Some("#cloud-config\npackages: [nginx]".into()),
            ..case("byte order mark", "\u{feff}#cloud-config\npackages: [nginx]", &packages)
        },
        case("gzip", gzip("#cloud-config\npackages: [nginx]"), &packages),
        case("gzip of a message", gzip(&several), &in_order),
        case("message", several.clone(), &in_order),
        case("message with CRLF", several.replace('\n', "\r\n"), &[("/config/runcmd", json!(["one", "two"]))]),
        case("message of base64", mime("b", &[(&format!("text/plain\n{base64}"), "")]), &packages),
        case("message of one part", format!("MIME-Version: 1.0\nContent-Type: text/cloud-config\n{base64}"), &packages),
        case(
            "archive",
            "#cloud-config-archive\n- |\n  #cloud-config\n  packages: [nginx]\n- type: text/x-shellscript\n  filename: greet.sh\n  content: |\n    #!/bin/sh\n    Grüße\n",
            &[("/config/packages", json!(["nginx"])), ("/scripts/greet.sh", json!("#!/bin/sh\nGrüße\n"))],
        ),
    ]
}

/// Forms that only the guest can evaluate.
pub(crate) fn guest_evaluated_forms() -> Vec<Case> {
    vec![
        Case {
            included: &[
                (
                    "a",
                    "#cloud-config\npackages: [nginx]\nusers: [bob]\nhostname: other\ngrowpart: {mode: 'off'}\nssh_keys: {rsa_private: theirs}\n",
                ),
                ("b", "#!/bin/sh\n"),
            ],
            warns: true,
            ..case(
                "include",
                "#include\nhttp://localhost/a\nhttp://localhost/b\n",
                &[("/config/packages", json!(["nginx"])), ("/scripts/part-002", json!("#!/bin/sh\n"))],
            )
        },
        Case {
            warns: true,
            ..case(
                "part handler",
                mime(
                    "b",
                    &[
                        ("text/part-handler", HANDLER),
                        ("text/x-thing\nContent-Disposition: attachment; filename=\"thing\"", "some thing"),
                    ],
                ),
                &[("/handled/thing", json!("some thing"))],
            )
        },
        Case {
            warns: true,
            ..case(
                "template",
                "## template: jinja\n#cloud-config\nregion: {{ v1.region }}\nusers: [bob, default]\n",
                &[("/config/region", json!("somewhere"))],
            )
        },
        Case {
            warns: true,
            ..case(
                "template of a script",
                "## template: jinja\n#!/bin/sh\n{{ v1.region }}\n",
                &[("/scripts/part-001", json!("#!/bin/sh\nsomewhere\n"))],
            )
        },
        Case {
            warns: true,
            ..case(
                "patch",
                mime(
                    "b",
                    &[
                        ("text/cloud-config", "packages: [vim]"),
                        (
                            "text/cloud-config-jsonp",
                            "[{\"op\": \"add\", \"path\": \"/packages/0\", \"value\": \"nginx\"}]",
                        ),
                    ],
                ),
                &[("/config/packages", json!(["nginx", "vim"]))],
            )
        },
    ]
}

pub(crate) fn users() -> Vec<Case> {
    let described = "- default\n- name: alice\n  gecos: Alice\n  shell: /bin/zsh\n  sudo: null\n  ssh_authorized_keys:\n  - ssh-ed25519 AAAAalice\n";
    vec![
        config(
            "no default user",
            "users:\n- name: bob\n- [carol, dave]\n- erin\n",
            &[("/users/erin/default", json!(false))],
        ),
        config("no users", "users: []\n", &[]),
        Case {
            users: &["alice"],
            ..config(
                "the same user",
                &format!("users:\n{described}"),
                &[("/users/alice/shell", json!("/bin/zsh")), ("/users/alice/sudo", json!(null))],
            )
        },
        Case {
            users: &[DEFAULT_USER],
            ..config(
                "the default user by name",
                "users:\n- default\n- name: debian\n  groups: [docker]\n  ssh_authorized_keys: ssh-rsa AAAAmore\n",
                &[
                    ("/users/debian/groups", json!("adm,docker,sudo")),
                    ("/users/debian/rules", json!(["ALL=(ALL) NOPASSWD:ALL"])),
                ],
            )
        },
        config("another default user", "user: bob\n", &[("/users/bob/rules", json!(["ALL=(ALL) NOPASSWD:ALL"]))]),
        config(
            "another default user, described",
            "user: {name: bob, shell: /bin/zsh}\nusers: [carol]\n",
            &[("/users/bob/shell", json!("/bin/zsh"))],
        ),
        config(
            "a system user",
            "users:\n- {name: svc, system: true}\n- default\n",
            &[("/users/svc/system", json!(true))],
        ),
        config("users of two parts", "users: [bob]\nmerge_how: dict(recurse_list)+list(prepend)\n", &[]),
    ]
}

pub(crate) fn settings() -> Vec<Case> {
    let modules = "cloud_init_modules: [bootcmd, growpart, resizefs, set-hostname, [users-groups, always], cc_ssh]\n";
    vec![
        config("a domain", "fqdn: web.example.org\n", &[("/fqdn", json!("web.example.org"))]),
        config("a domain in the host name", "hostname: web.example.org\n", &[("/fqdn", json!("web.example.org"))]),
        config(
            "disk",
            "growpart: {mode: growpart, devices: [/, /dev/vdb]}\nresize_rootfs: noblock\n",
            &[("/config/growpart/devices", json!(["/", "/dev/vdb"])), ("/config/resize_rootfs", json!("noblock"))],
        ),
        config("modules", modules, &[("/config/cloud_init_modules/1", json!("growpart"))]),
        case(
            "disk in two parts",
            mime(
                "b",
                &[
                    ("text/cloud-config", "growpart: {devices: [/]}"),
                    ("text/cloud-config", "growpart: {mode: growpart}\nmerge_how: dict(recurse_dict)"),
                ],
            ),
            &[("/config/growpart", json!({"devices": ["/"], "mode": "growpart"}))],
        ),
        config(
            "written for YAML 1.1",
            "ssh_deletekeys: on\nresize_rootfs: yes\n",
            &[("/config/ssh_deletekeys", json!(true)), ("/config/resize_rootfs", json!(true))],
        ),
    ]
}
