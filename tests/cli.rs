//! The command line with libvirt's in-memory driver: output in each format, messages, and exit statuses.
#![expect(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[path = "cli/settings.rs"]
mod settings;

use std::time::Duration;

use serde_json::json;
use support::{TestHost, within};

/// The UUID of the in-memory driver's only domain.
const UUID: &str = "6695eb01-f6a4-8304-79aa-97f2502e193f";

/// An unused name that is too different from all others to be similar.
const UNKNOWN: &str = "zzzzzzzz";

#[test]
fn vm_list_prints_every_format() {
    let host = TestHost::new();
    host.run("vm list").prints(
        "NAME  STATE    MEMORY  VCPUS  AUTOSTART  MANAGED  IMAGE  ADDRESSES\n\
         test  running  2G      2      no         no\n",
    );
    host.run("vm ls --brief").prints(
        "NAME  STATE    MEMORY  VCPUS  AUTOSTART\n\
         test  running  2G      2      no\n",
    );
    let brief = format!(
        "vms:\n- name: test\n  uuid: {UUID}\n  state: running\n  memory: 2048\n  vcpus: 2\n  autostart: false\n"
    );
    host.run("vm list --brief -o yaml").prints(&brief);
    host.run("vm list -oyaml").prints(&format!(
        "{brief}  managed: false\n  incomplete: false\n  image: null\n  imageVerification: null\n  user: null\n\
         \x20 expires: null\n  protected: false\n  owner: null\n  addresses: []\n  sshPort: null\n"
    ));
    host.run("-o name vm list").prints("test\n");
    host.run("vm list --brief --output=name").prints("test\n");
    let brief =
        json!({"name": "test", "uuid": UUID, "state": "running", "memory": 2048, "vcpus": 2, "autostart": false});
    assert_eq!(host.run("vm list --brief -o json").succeeds().json(), json!({"vms": [brief]}));
    let full = host.run("vm list -o json").succeeds().json();
    let members: Vec<_> = full["vms"][0].as_object().unwrap().keys().map(String::as_str).collect();
    let brief_members = ["name", "uuid", "state", "memory", "vcpus", "autostart"];
    assert_eq!(
        members,
        [
            &brief_members[..],
            &[
                "managed",
                "incomplete",
                "image",
                "imageVerification",
                "user",
                "expires",
                "protected",
                "owner",
                "addresses",
                "sshPort"
            ]
        ]
        .concat()
    );
}

#[test]
fn vm_info_prints_every_format() {
    let host = TestHost::new();
    let table = format!(
        "name         test\nuuid         {UUID}\nstate        running\nmemory       2G (up to 8G without a restart)\nvcpus        2\n\
         autostart    no\nmanaged      no\naccelerator  test\nmachine      i686\naddresses    192.168.122.3\n\
         agent        no\ndisks        vda /guest/diskimage1\ninterfaces   aa:bb:cc:dd:ee:ff on default\n"
    );
    host.run("vm info test").prints(&table);
    // A VM is also found by its UUID, in lower or upper case.
    host.args(&["vm", "show", UUID]).prints(&table);
    host.args(&["vm", "info", &UUID.to_uppercase()]).prints(&table);
    host.run("vm info test -o name").prints("test\n");
    let info = host.run("vm info test -o json").succeeds().json();
    assert_eq!(info["disks"], json!([{"target": "vda", "device": "disk", "source": "/guest/diskimage1"}]));
    assert_eq!(info["interfaces"], json!([{"mac": "aa:bb:cc:dd:ee:ff", "type": "network", "source": "default"}]));
    assert_eq!((&info["machine"], &info["sshKeys"], &info["volumes"]), (&json!(null), &json!([]), &json!([])));
    let yaml = host.run("vm info test -o yaml").succeeds().stdout;
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with([' ', '-', '{', '}']));
        lines.map(|line| line.split(':').next().unwrap().to_owned()).collect()
    };
    let members: Vec<_> = info.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names(&yaml), members, "YAML and JSON have the same members");
    host.run("vm ip test").prints("192.168.122.3\n");
    host.run("vm ip test --all")
        .prints("ADDRESS        MAC                SOURCE  EXPIRES\n192.168.122.3  aa:bb:cc:dd:ee:ff  lease\n");
}

#[test]
fn start_wait_and_gc_report_their_results() {
    let host = TestHost::new();
    host.run("vm start test").prints("test: already started (running)\n");
    let results = json!({"results": [
        {"status": "started", "vm": "test", "state": "running", "changed": false, "forced": false}
    ]});
    assert_eq!(host.run("vm start test -o json").succeeds().json(), results);
    host.run("vm wait test --for running -o name").prints("test\n");
    host.run("gc").prints("nothing to clean up\n");
    assert_eq!(
        host.run("gc -o json").succeeds().json(),
        json!({"vms": [], "volumes": [], "skipped": [], "orphans": []})
    );
}

#[test]
fn keys_are_generated_listed_imported_and_deleted() {
    let host = TestHost::new();
    let empty = "NAME  TYPE  BITS  FINGERPRINT  PRIVATE  COMMENT\n";
    host.run("key list").prints(empty);
    let status = host.run("key generate dev --type ed25519 --comment").code();
    assert_eq!(status, 2);
    let generated = host.args(&["key", "generate", "dev", "--type", "ed25519", "--comment", "me@desk"]).succeeds();
    let fingerprint = generated.stdout.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap().to_owned();
    generated.prints(&format!(
        "name         dev\ntype         ed25519 256\nfingerprint  {fingerprint}\n\
         public key   ~/.local/share/vmprov/keys/dev.pub\nprivate key  ~/.local/share/vmprov/keys/dev\n"
    ));
    let line = host.run("key show dev").succeeds().stdout;
    assert_eq!(line.split(' ').next(), Some("ssh-ed25519"));
    assert!(line.ends_with(" me@desk\n") && line.lines().count() == 1, "{line}");
    host.run("key list -o name").prints("dev\n");
    let listed = host.run("key list -o json").succeeds().json();
    assert_eq!(listed["keys"][0]["publicKey"], line.trim_end());
    assert_eq!(listed["keys"][0], host.run("key show dev -o json").succeeds().json());
    let public = host.path(".local/share/vmprov/keys/dev.pub");
    host.args(&["key", "import", "other", public.to_str().unwrap(), "-o", "name"]).prints("other\n");
    host.run("key list").succeeds().prints(&format!(
        "NAME   TYPE     BITS  FINGERPRINT{pad}PRIVATE  COMMENT\n\
         dev    ed25519  256   {fingerprint}  yes      me@desk\n\
         other  ed25519  256   {fingerprint}  no       me@desk\n",
        pad = " ".repeat(fingerprint.len() - "FINGERPRINT".len() + 2),
    ));
    host.run("key delete dev").prints("dev: deleted\n");
    let deleted = host.run("key rm other -o json").succeeds().json();
    assert_eq!(deleted, json!({"results": [{"status": "deleted", "key": "other"}]}));
    host.run("key list").prints(empty);
    assert!(host.files().values().all(|(mode, _)| mode & 0o170_000 == 0o040_000), "leftover files: {:?}", host.files());
}

#[test]
fn an_unknown_name_suggests_similar_ones() {
    let host = TestHost::new();
    let list = "hint: List the VMs: vmprov vm list\n";
    host.run("vm info tset")
        .fails(3, &format!("error: VM `tset` does not exist\nhint: Check the name; similar: `test`\n{list}"));
    let other = UUID.replace('9', "0");
    for verb in ["info", "start", "stop", "restart", "ip", "wait", "ssh", "console", "delete --yes"] {
        for (name, shown) in [(UNKNOWN, UNKNOWN), (&other, &other), ("-x", "-x"), ("a\u{1b}[31m", "a\\u{1b}[31m")] {
            let args = [&["vm"], &verb.split(' ').collect::<Vec<_>>()[..], &["--", name]].concat();
            let ran = host.args(&args);
            // For ssh, `--` precedes the remote command, not the VM's name.
            if verb == "ssh" && ran.code() == 2 {
                continue;
            }
            let stderr = ran.stderr.replace('\u{1b}', "ESC");
            assert_eq!((ran.code(), ran.stdout.as_str()), (3, ""), "{verb} {name}: {ran:?}");
            assert!(stderr.ends_with(&format!("error: VM `{shown}` does not exist\n{list}")), "{verb}: {stderr}");
        }
    }
    host.run("key generate laptop --type ed25519").succeeds();
    let create = |key| format!("hint: Generate it: vmprov key generate {key}\n");
    let similar = "hint: Check the name; similar: `laptop`\n";
    host.run("key show labtop").fails(3, &format!("error: key `labtop` does not exist\n{similar}{}", create("labtop")));
    host.run("inject test nokey").fails(3, &format!("error: key `nokey` does not exist\n{}", create("nokey")));
    host.run("key delete nokey other laptop").says(&["key `nokey` does not exist", "key `other` does not exist"]);
    host.run("key list -o name").prints("");
}

#[test]
fn each_kind_of_failure_has_its_exit_status() {
    let host = TestHost::new();
    host.run("key generate k --type ed25519").succeeds();
    let image = host.image("debian-12.qcow2");
    for (line, status, code) in [
        ("vm info", 2, "invalid_input"),
        ("vm create -bad", 2, "invalid_input"),
        ("vm create Bad", 2, "invalid_input"),
        ("vm delete test", 2, "invalid_input"),
        ("vm info nosuch-vm", 3, "not_found"),
        ("key show nosuch-key", 3, "not_found"),
        ("key generate k", 4, "already_exists"),
        ("vm create test", 4, "already_exists"),
        ("vm delete test --yes", 4, "conflict"),
        ("vm ssh test", 4, "conflict"),
        ("inject test k --user root", 4, "conflict"),
        ("inject test k --user root --method agent", 4, "conflict"),
        ("vm list -c test:///nosuch", 9, "unreachable"),
        ("vm list -c nonsense", 9, "unreachable"),
        ("vm wait test --for ssh --timeout 0", 4, "conflict"),
        ("vm wait test --for stopped --timeout 0", 10, "timeout"),
        ("key list --key-dir /proc/1/mem", 4, "conflict"),
        (&format!("vm create x --image {image} --network nosuch-net"), 3, "not_found"),
    ] {
        let ran = host.run(&format!("{line} -o json"));
        let error = ran.error();
        assert_eq!((ran.code(), ran.stdout.as_str(), &error["code"]), (status, "", &json!(code)), "{line}: {ran:?}");
        assert_eq!(error["exitStatus"], status, "{line}");
        let members: Vec<_> = error.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["error", "code", "exitStatus", "cause", "hint", "retryable", "details"], "{line}");
        assert!(!error["error"].as_str().unwrap().contains('\n'), "{line}: {error}");
        // Text output has the same status.
        let text = host.run(line);
        assert_eq!((text.code(), text.stdout.as_str()), (status, ""), "{line}: {text:?}");
        assert!(text.stderr.contains("error: "), "{line}: {text:?}");
    }
}

#[test]
fn usage_errors_respect_the_json_format() {
    let host = TestHost::new();
    for line in [
        "vm lst -o json",
        "-ojson vm lst",
        "--output=json vm lst",
        "vm lst --output json",
        "-qo json vm lst",
        "-o yaml vm lst -o=json",
    ] {
        let ran = host.run(line);
        assert_eq!((ran.code(), ran.stdout.as_str()), (2, ""), "{ran:?}");
        let error = ran.error();
        assert_eq!(
            (&error["error"], &error["code"]),
            (&json!("unrecognized subcommand 'lst'"), &json!("invalid_input"))
        );
        assert!(error["hint"].as_str().unwrap().contains("'list'"), "{error}");
    }
    let missing = host.run("-o json vm create").error();
    assert_eq!(missing["error"], "the following required arguments were not provided: <NAME>");
    let none = host.run("-o json vm").error();
    assert_eq!(none["error"], "a command is missing");
    assert!(none["hint"].as_str().unwrap().contains("commands: create, list, info"), "{none}");
    let name = host.run("-o json vm create A").error();
    assert_eq!(name["error"], "invalid name `A`: it contains `A`");
    // Text output has clap's own message, which omits hidden commands.
    host.run("vm lst").fails_saying(2, &["error: unrecognized subcommand 'lst'", "Usage: vmprov vm"]);
    host.run("-q").fails(
        2,
        "error: a command is missing\nhint: Usage: vmprov [OPTIONS] <COMMAND>; commands: vm, inject, ssh-config, image, key, serve, mcp, tools, doctor, gc, reap, config, help\n",
    );
    host.run("").fails_saying(2, &["Usage: vmprov [OPTIONS] <COMMAND>", "Remove leftovers"]);
    host.run("-q -v vm list").fails_saying(2, &["cannot be used with"]);
}

#[test]
fn each_of_several_vms_has_its_own_result() {
    let host = TestHost::new();
    let ran = host.run("vm start nosuch-a test nosuch-b -o json");
    assert_eq!(ran.code(), 3);
    assert_eq!(ran.json()["results"][0]["vm"], "test");
    let errors = ran.messages();
    let texts: Vec<_> = errors.iter().map(|error| error["error"].as_str().unwrap()).collect();
    assert_eq!(texts, ["VM `nosuch-a` does not exist", "VM `nosuch-b` does not exist"]);
    // The first failure determines the exit status; each error keeps its own code.
    let ran = host.run("vm delete nosuch-a test --yes -o json");
    let codes: Vec<_> = ran.messages().iter().map(|error| error["code"].clone()).collect();
    assert_eq!((ran.code(), ran.stdout.as_str(), codes), (3, "", vec![json!("not_found"), json!("conflict")]));
}

#[test]
fn delete_asks_for_confirmation_only_on_a_terminal() {
    let host = TestHost::new();
    let no_yes = "error: confirmation required but stdin is not a terminal\nhint: Confirm the deletion: --yes\n";
    host.run("vm delete test").fails(2, no_yes);
    host.with_input(&["vm", "delete", "test"], "yes\n").fails(2, no_yes);
    host.run("vm delete test --yes").fails(
        4,
        "error: VM `test` is not managed by vmprov\n\
         hint: Delete it but keep its disks: vmprov vm delete test --unmanaged\n",
    );
    host.run("vm delete test -y --unmanaged").prints("test: deleted; kept /guest/diskimage1\n");
    let missing = host.args(&["vm", "delete", UNKNOWN, "--yes", "--ignore-missing", "-o", "json"]).succeeds().json();
    assert_eq!(missing, json!({"results": [{"status": "missing", "vm": UNKNOWN, "deleted": [], "kept": []}]}));
    let host = host.with_env("NO_COLOR", "1");
    let question = "warning: this deletes test and all owned volumes. Type yes to continue:";
    for (typed, code, end) in [
        ("yes\n", 0, "test: deleted; kept /guest/diskimage1\n"),
        ("y\n", 0, "test: deleted; kept /guest/diskimage1\n"),
        ("no\n", 0, "note: nothing was deleted\n"),
        ("\n", 0, "note: nothing was deleted\n"),
        ("\u{4}", 0, "note: nothing was deleted\n"),
        ("\u{3}", 130, "error: interrupted\n"),
    ] {
        let ran = host.on_terminal("vm delete test --unmanaged", question, typed);
        assert!(ran.stdout.contains(question) && ran.stdout.ends_with(end), "{typed:?}: {ran:?}");
        assert_eq!(ran.code(), code, "{typed:?}: {ran:?}");
    }
}

#[test]
fn quiet_prints_only_errors() {
    let host = TestHost::new().with_env("LIBVIRT_STORAGE_POOL", "default-pool");
    let loud = host.run("vm create web --dry-run").succeeds().says(&["warning: no image given: the disk is blank"]);
    let messages = host.run("-o json vm create web --dry-run").succeeds().messages();
    assert_eq!(messages, [json!({"warning": "no image given: the disk is blank and not bootable"})]);
    let quiet = host.run("-q vm create web --dry-run").succeeds();
    assert_eq!(quiet.stderr, "");
    assert!(!loud.stdout.is_empty() && !quiet.stdout.is_empty());
    host.run("-q vm info nosuch-vm").fails_saying(3, &["error: VM `nosuch-vm` does not exist"]);
}

#[test]
fn verbose_shows_commands_that_can_be_pasted() {
    let host = TestHost::new();
    // `-v` does not show commands that only read.
    let table = host.run("vm list --brief").succeeds().stdout;
    host.run("-v vm list --brief").prints(&table);
    let ran = host.run("-vv vm list --brief").succeeds();
    assert_eq!(ran.stdout, table);
    let is_shown = |line: &str| line.starts_with("virsh -q -c test:///default ") && line.ends_with(" ms");
    assert!(ran.stderr.lines().count() > 0 && ran.stderr.lines().all(is_shown), "{ran:?}");
    let pasted = host.shell(&ran.stderr).succeeds();
    assert!(pasted.stdout.contains(UUID) && pasted.stdout.contains("state.state=1"), "{pasted:?}");
    // `-v` shows commands that change something.
    let ran = host.run("-v vm delete test --yes --unmanaged").succeeds();
    let shown: Vec<_> = ran.stderr.lines().collect();
    assert!(shown[0].starts_with(&format!("virsh -q -c test:///default destroy --domain {UUID} # ")), "{ran:?}");
    host.shell(shown[0]).succeeds();
}

#[test]
fn colors_appear_only_on_terminals_that_support_them() {
    let red = "\u{1b}[1;31merror:\u{1b}[0m VM `nosuch-vm`";
    let host = TestHost::new();
    let ran = host.on_terminal("vm info nosuch-vm", "does not exist", "");
    assert!(ran.stdout.contains(red), "{ran:?}");
    assert!(!host.run("vm info nosuch-vm").stderr.contains('\u{1b}'));
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let ran = TestHost::new().with_env(name, value).on_terminal("vm info nosuch-vm", "does not exist", "");
        assert!(
            ran.stdout.contains("error: VM `nosuch-vm`") && !ran.stdout.contains("\u{1b}[1;31m"),
            "{name}: {ran:?}"
        );
        let ran = TestHost::new().with_env(name, value).on_terminal("vm lst", "try '", "");
        assert!(ran.stdout.contains("error: ") && !ran.stdout.contains('\u{1b}'), "{name}: {ran:?}");
    }
}

#[test]
fn a_closed_output_pipe_is_not_an_error() {
    let host = TestHost::new();
    for line in ["vm list", "vm list -o json", "config", "--help", "vm create --help", "--version"] {
        // The reader closes the pipe before vmprov writes to it.
        let ran = host.shell(&format!("exec 3> >(exec <&-; exec sleep 0); wait $!; vmprov {line} >&3; echo $? >&2"));
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "0\n"), "{line}: {ran:?}");
    }
    let full = host.shell("vmprov vm list >/dev/full");
    full.fails(8, "error: cannot write to standard output\n  why: No space left on device (os error 28)\n");
}

#[test]
fn a_dry_run_prints_the_commands_without_running_them() {
    let host = TestHost::new().with_env("LIBVIRT_STORAGE_POOL", "default-pool");
    host.run("key generate k --type ed25519").succeeds();
    let image = host.image("debian-12.qcow2");
    let before = host.files();
    let data = "#cloud-config\nbootcmd:\n- |\n  cat > /x <<'EOF'\n  y\nEOF\n# still data\n";
    host.write("data.yaml", data.replace("\nEOF\n", "\n  EOF\n"));
    let args = ["vm", "create", "web", "--image", &image, "--ssh-key", "k", "--user-data", "data.yaml", "--dry-run"];
    let ran = host.args(&args).succeeds();
    let private = String::from_utf8(before[".local/share/vmprov/keys/k"].1.clone()).unwrap();
    let secret = private.lines().nth(1).unwrap();
    assert!(!ran.stdout.contains(secret) && !ran.stdout.contains("PRIVATE KEY"), "{ran:?}");
    let json = host.args(&[&args[..], &["-o", "json"]].concat()).succeeds().json();
    assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), ["commands", "warnings"]);
    assert!(json["commands"].as_array().unwrap().len() > 5, "{json}");
    // The output is a valid shell script with these commands.
    host.write("plan.sh", &ran.stdout);
    host.tool("sh", &["-n", "plan.sh"]);
    for word in
        ["virsh -q -c test:///default define /dev/stdin <<'EOF'", "genisoimage -quiet", "cat > user-data <<'EOF'"]
    {
        assert!(ran.stdout.contains(word), "no `{word}`: {ran:?}");
    }
    let created: Vec<_> = host.files().into_keys().filter(|file| !before.contains_key(file)).collect();
    assert_eq!(created, ["data.yaml", "plan.sh"]);
    host.run("vm list -o name").prints("test\n");
}

#[test]
fn completion_offers_existing_names() {
    let host = TestHost::new();
    host.run("key generate laptop --type ed25519").succeeds();
    let bash = |line: &str| {
        let last = line.split(' ').count() - 1;
        let script = format!(
            "COMPLETE=bash _CLAP_IFS=$'\\n' _CLAP_COMPLETE_INDEX={last} _CLAP_COMPLETE_COMP_TYPE=9 _CLAP_COMPLETE_SPACE=true \
             vmprov -- {}",
            line.replace("  ", " '' ").trim_end().to_owned() + if line.ends_with(' ') { " ''" } else { "" }
        );
        let ran = host.shell(&script).succeeds();
        assert_eq!(ran.stderr, "", "{line}");
        ran.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for verb in ["info", "start", "stop", "restart", "delete", "ip", "wait", "ssh", "console"] {
        assert_eq!(bash(&format!("vmprov vm {verb} t")), ["test"], "{verb}");
    }
    assert_eq!(bash("vmprov inject t"), ["test"]);
    assert_eq!(bash("vmprov inject test l"), ["laptop"]);
    assert_eq!(bash("vmprov key show l"), ["laptop"]);
    assert_eq!(bash("vmprov vm create x --ssh-key l"), ["laptop"]);
    assert_eq!(bash("vmprov vm cr"), ["create"]);
    assert_eq!(bash("vmprov doctor iommu pool.s"), ["pool.space"]);
    assert_eq!(bash("vmprov vm list -o js"), ["json"]);
    // Without a connection to libvirt, completion offers nothing and prints no error.
    let host = TestHost::new().with_env("LIBVIRT_URI", "test:///nosuch");
    let script = "COMPLETE=bash _CLAP_IFS=$'\\n' _CLAP_COMPLETE_INDEX=3 vmprov -- vmprov vm info t";
    assert_eq!(host.shell(script).succeeds().stdout, "");
    // The completion script is valid bash.
    host.shell("COMPLETE=bash vmprov | bash -n").prints("");
}

#[test]
fn a_signal_ends_a_wait() {
    use rustix::process::Signal;
    let host = TestHost::new();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let running = host.start(&["-vv", "vm", "wait", "test", "--for", "stopped"], "");
        assert!(within(Duration::from_mins(1), || running.stderr().contains("dumpxml")), "{}", running.stderr());
        running.signal(signal);
        let ran = running.end();
        assert_eq!((ran.code(), ran.stdout.as_str()), (130, ""), "{ran:?}");
        assert!(ran.stderr.ends_with("error: interrupted\n"), "{ran:?}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let host = TestHost::bare();
    host.run("--version").prints(&format!("vmprov {}\n", env!("CARGO_PKG_VERSION")));
    for line in ["--help", "-h", "vm --help", "vm create -h", "key generate --help"] {
        let ran = host.run(line).succeeds();
        assert!(ran.stdout.contains("Usage: vmprov") && ran.stderr.is_empty(), "{line}: {ran:?}");
        assert!(ran.stdout.lines().all(|line| line.chars().count() <= 100), "{line}: {ran:?}");
    }
}
