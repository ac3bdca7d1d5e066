//! Invalid input is refused with a clear message and the right exit status, and changes nothing. The tests use a real
//! libvirtd with QEMU, and name a pool that does not exist and must not be created.
#![expect(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

#[path = "bad_input/images.rs"]
mod images;

use std::process::Command;

use lab::{Lab, Snapshot};

/// A pool that does not exist. A create that passes validation by mistake would create it.
const POOL: &str = "bad-input-pool";

const INVALID: i32 = 2;
const NOT_FOUND: i32 = 3;
const TAKEN: i32 = 4;
const TOOL_FAILED: i32 = 8;
const UNREACHABLE: i32 = 9;
const TIMEOUT: i32 = 10;

/// The lab, with a snapshot of it before the test.
struct Host {
    lab: Lab,
    before: Snapshot,
}

impl Host {
    /// Creates a host with the key `dev`, on which `prepare` creates the files for the test.
    fn with(prepare: impl FnOnce(&Lab)) -> Self {
        let lab = Lab::qemu();
        // Leftovers of a failed test must not fail this one.
        for (list, remove) in [("--name", "pool-destroy"), ("--all", "pool-undefine")] {
            if lab.virsh(&["pool-list", list]).split_whitespace().any(|word| word == POOL) {
                lab.virsh(&[remove, POOL]);
            }
        }
        lab.run(&["key", "generate", "dev", "--type", "ed25519"]).succeeded();
        prepare(&lab);
        let before = lab.snapshot();
        Self { lab, before }
    }

    /// Asserts that a command fails with `code`, has all of `says` on standard error, and changes nothing.
    #[track_caller]
    fn refuses(&self, args: &[&str], code: i32, says: &[&str]) {
        let ran = self.lab.run(&[&["--pool", POOL], args].concat());
        let command = args.join(" ");
        assert_eq!((ran.code(), ran.stdout.as_str()), (Some(code), ""), "{command}: {ran}");
        for text in says {
            assert!(ran.stderr.contains(text), "{command}: stderr lacks `{text}`: {ran}");
        }
        let is_text = |c: char| c == '\n' || !c.is_control();
        assert!(ran.stderr.chars().all(is_text), "{command}: stderr has control characters: {ran}");
        self.lab.settles(&self.before, &command);
    }

    /// Asserts that `vm create` with a valid image and these further arguments is refused.
    #[track_caller]
    fn refuses_create(&self, args: &[&str], code: i32, says: &[&str]) {
        let image = self.path("good.qcow2");
        let create = ["vm", "create", "bad", "--image", &image, "--user", "debian", "--ssh-key", "dev"];
        self.refuses(&[&create, args].concat(), code, says);
    }

    fn path(&self, name: &str) -> String {
        self.lab.file(name).to_str().unwrap().to_owned()
    }
}

fn sh(lab: &Lab, script: &str) {
    let ran = Command::new("/bin/bash").args(["-euc", script]).current_dir(lab.file("")).output().unwrap();
    assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Names that are not DNS labels, each with the reason in the error.
fn invalid_names() -> Vec<(String, &'static str)> {
    let names = [
        ("", "it is empty"),
        ("-web", "it begins or ends with a hyphen"),
        ("--all", "it begins or ends with a hyphen"),
        ("web-", "it begins or ends with a hyphen"),
        ("Web", "it contains `W`"),
        ("a.b", "it contains `.`"),
        ("..", "it contains `.`"),
        ("../../etc/passwd", "it contains `.`"),
        ("a/b", "it contains `/`"),
        ("/", "it contains `/`"),
        ("a b", "it contains ` `"),
        ("a'b", "it contains `\\'`"),
        ("a\"b", "it contains `\\\"`"),
        ("a\nb", "it contains `\\n`"),
        ("a\u{1b}[31m", "it contains `\\u{1b}`"),
        ("<name>x</name>", "it contains `<`"),
        ("a&b", "it contains `&`"),
        ("$(reboot)", "it contains `$`"),
        ("a;reboot", "it contains `;`"),
        ("wéb", "it contains `é`"),
        ("a_b", "it contains `_`"),
    ];
    let long = ("a".repeat(64), "it has 64 bytes; the maximum is 63");
    names.into_iter().map(|(name, why)| (name.to_owned(), why)).chain([long]).collect()
}

#[test]
fn names_that_are_not_dns_labels_are_refused() {
    let host = Host::with(|lab| sh(lab, "cp .local/share/vmprov/keys/dev.pub a-key"));
    let hint = "Use 1 to 63 lower-case letters, digits and hyphens";
    for (name, why) in invalid_names() {
        for command in
            [&["vm", "create"][..], &["key", "generate"], &["key", "show"], &["key", "delete"], &["inject", "x"]]
        {
            let says = format!("invalid name `{}`: {why}\nhint: {hint}", name.escape_debug());
            host.refuses(&[command, &["--", &name]].concat(), INVALID, &[&says]);
        }
        host.refuses(&["key", "import", "--", &name, "a-key"], INVALID, &[why, hint]);
        host.refuses(&["vm", "create", "bad", &format!("--ssh-key={name}")], INVALID, &[why, hint]);
    }
    host.refuses(&["vm", "create", "-web"], INVALID, &["unexpected argument '-w' found"]);
    host.refuses(&["vm", "create"], INVALID, &["required arguments were not provided", "<NAME>"]);
}

#[test]
fn invalid_sizes_counts_and_durations_are_refused() {
    let host = Host::with(|lab| drop(lab.image("good.qcow2", "10M")));
    let number = "it must begin with a whole number";
    for (value, why) in [
        ("0", "the minimum is 64M"),
        ("63", "the minimum is 64M"),
        ("-1", number),
        ("", number),
        ("abc", number),
        ("NaN", number),
        ("0x400", "unknown unit `x400`"),
        ("1.5G", "unknown unit `.5g`"),
        ("1e9", "unknown unit `e9`"),
        ("2G;reboot", "unknown unit `g;reboot`"),
        ("17T", "the maximum is 16T"),
        ("999999999T", "the maximum is 16T"),
        ("9999999999999999999999", "the number is too large"),
    ] {
        host.refuses_create(
            &[&format!("--memory={value}")],
            INVALID,
            &[&format!("invalid memory size `{value}`: {why}")],
        );
    }
    for (value, why) in [
        ("0", "the minimum is 1M"),
        ("-1", number),
        ("", number),
        ("65T", "the maximum is 64T"),
        ("1.5G", "unknown unit `.5g`"),
        ("9999999999999999999999", "the number is too large"),
    ] {
        host.refuses_create(
            &[&format!("--disk-size={value}")],
            INVALID,
            &[&format!("invalid disk size `{value}`: {why}")],
        );
    }
    let smaller = "a disk of 9M (9437184 bytes) is smaller than the image, which needs 10M (10485760 bytes)\n\
                   hint: Use a larger disk: --disk-size 1G\n";
    host.refuses_create(&["--disk-size", "9M"], INVALID, &[smaller]);
    for value in ["", "-1", "abc", "1.5", "4294967296", "1;reboot"] {
        let why = format!("invalid number of virtual CPUs `{value}`\nhint: Use a whole number of at least 1\n");
        host.refuses_create(&[&format!("--vcpus={value}")], INVALID, &[&why]);
    }
    for (option, value, says) in [
        ("memory", "63", "invalid memory size `63`: the minimum is 64M"),
        ("memory", "", "invalid memory size ``: it must begin with a whole number"),
        ("vcpus", "0", "invalid number of virtual CPUs `0`"),
        ("vcpus", "1.5", "invalid number of virtual CPUs `1.5`"),
        ("disk-size", "65T", "invalid disk size `65T`: the maximum is 64T"),
        ("autostart", "yes", "invalid value 'yes' for '--autostart <BOOL>'"),
        ("description", "a\u{1b}[31m", "invalid description\n  why: it contains `\\u{1b}`"),
    ] {
        host.refuses(&["vm", "set", "nosuch", &format!("--{option}={value}")], INVALID, &[says]);
    }
    host.refuses(&["vm", "set", "nosuch"], INVALID, &["no changes requested", "--description"]);
    host.refuses_create(&["--vcpus", "0"], INVALID, &["invalid number of virtual CPUs `0`"]);
    host.refuses_create(
        &["--vcpus", "100000"],
        INVALID,
        &["100000 virtual CPUs exceed this host's maximum of ", " for a VM"],
    );
    for value in ["", "-5", "x", "25h", "5 parsecs", "1h;reboot"] {
        let hint = "hint: Use up to 24 hours, such as 90s, 5m or 1h30m; a number alone is seconds\n";
        let says = format!("invalid duration `{value}`\n{hint}");
        host.refuses_create(&["--wait", &format!("--timeout={value}")], INVALID, &[&says]);
        host.refuses(&["vm", "stop", "x", &format!("--timeout={value}")], INVALID, &[&says]);
    }
    for value in ["", "90", "59s", "0m", "-2h", "367d", "1mo", "x", "never", "2h;reboot"] {
        let hint = "hint: Use 1 minute to 366 days, such as 30m, 2h, 7d or 1h30m";
        let says = format!("invalid time to live `{value}`\n{hint}");
        host.refuses_create(&[&format!("--ttl={value}")], INVALID, &[&says]);
        if value != "never" {
            host.refuses(&["vm", "ttl", "x", "--", value], INVALID, &[&says, "Use never for no expiry"]);
        }
    }
    for value in ["0", "-1", "1", "1024", "2049", "100000", "x"] {
        host.refuses(&["key", "generate", "new", &format!("--bits={value}")], INVALID, &[value]);
    }
}

#[test]
fn memory_beyond_the_host_gives_a_warning() {
    let host = Host::with(|lab| drop(lab.image("good.qcow2", "10M")));
    let args = ["vm", "create", "bad", "--image", &host.path("good.qcow2"), "--user", "debian", "--memory", "15T"];
    let ran = host.lab.run(&[&args[..], &["--dry-run"]].concat()).succeeded();
    assert!(
        ran.stderr.contains("warning: 15T of memory exceeds the host's ") && ran.stderr.contains("may be killed"),
        "{ran}"
    );
    host.lab.settles(&host.before, "a dry run");
}

#[test]
fn unusable_user_data_is_refused() {
    let host = Host::with(|lab| {
        sh(
            lab,
            r"
            qemu-img create -q -f qcow2 good.qcow2 10M
            printf '#cloud-config\na: [\n' >broken; printf '#cloud-config\n- a\n' >list; printf 'packages: [a]\n' >headless
            : >empty; head -c 2000 /dev/zero >binary; head -c 2000000 /dev/zero | tr '\0' x >large
            printf '\x1f\x8bnothing' >packed; printf '#cloud-config\na: \xff\n' >latin; mkdir folder; mkfifo pipe
            printf '#cloud-config\nhostname: other\n' >hostname; printf '#cloud-config\nssh_keys: {}\n' >host-keys
            printf '#cloud-config\nusers: x\n' >users
            ",
        );
    });
    for (name, code, says) in [
        ("missing", NOT_FOUND, "No such file or directory"),
        ("folder", INVALID, "Is a directory"),
        ("pipe", INVALID, "the user data is empty"),
        ("empty", INVALID, "the user data is empty"),
        ("broken", INVALID, "the user data is not valid YAML\n  why: "),
        ("list", INVALID, "is a cloud-config, but not a mapping"),
        ("headless", INVALID, "lacks its first line, so cloud-init would ignore it"),
        ("binary", INVALID, "is a binary file"),
        ("good.qcow2", INVALID, "is a binary file"),
        ("large", INVALID, "must have at most 1048576 bytes"),
        ("packed", INVALID, "cannot decompress the user data as gzip"),
        ("latin", INVALID, "is not UTF-8, in line 2"),
        ("hostname", INVALID, "`hostname` must be the VM's name, `bad`"),
        ("host-keys", INVALID, "`ssh_keys` sets the host keys"),
        ("users", INVALID, "`users` is not a list"),
    ] {
        host.refuses_create(&["--user-data", &host.path(name)], code, &[says]);
    }
    host.refuses_create(&["--user-data", "/dev/zero"], INVALID, &["must have at most 1048576 bytes"]);
    host.refuses_create(&["--user-data", "-"], INVALID, &["the user data is empty"]);
    host.refuses(
        &["vm", "create", "bad", "--user-data", &host.path("list")],
        INVALID,
        &["is a cloud-config, but not a mapping"],
    );
}

#[test]
fn missing_networks_keys_and_vms_are_refused() {
    let host = Host::with(|lab| drop(lab.image("good.qcow2", "10M")));
    let networks = "List the networks: virsh net-list --all";
    for (name, shown) in [
        ("nosuch", "nosuch"),
        ("", ""),
        ("-x", "-x"),
        ("a\nb", "a\\nb"),
        ("a'b", "a\\'b"),
        ("<x/>", "<x/>"),
        ("x;list", "x;list"),
    ] {
        host.refuses_create(
            &[&format!("--network={name}")],
            NOT_FOUND,
            &[&format!("network `{shown}` does not exist\n"), networks],
        );
    }
    host.refuses_create(
        &["--ssh-key", "nosuch"],
        NOT_FOUND,
        &["key `nosuch` does not exist", "vmprov key generate nosuch"],
    );
    host.refuses_create(
        &["--ssh-key", "deb"],
        NOT_FOUND,
        &["key `deb` does not exist\nhint: Check the name; similar: `dev`\n"],
    );
    for args in [
        &["inject", "nosuch", "dev"][..],
        &["vm", "info", "nosuch"],
        &["vm", "delete", "nosuch", "-y"],
        &["vm", "start", "nosuch"],
        &["vm", "ttl", "nosuch", "2h"],
        &["vm", "set", "nosuch", "--vcpus", "1"],
        &["vm", "protect", "nosuch"],
        &["vm", "unprotect", "nosuch"],
    ] {
        host.refuses(args, NOT_FOUND, &["VM `nosuch` does not exist", "vmprov vm list"]);
    }
    host.refuses(&["key", "import", "new", "missing"], NOT_FOUND, &["cannot read `missing`"]);
    host.refuses(&["key", "import", "new", "/"], INVALID, &["Is a directory"]);
    host.refuses(&["key", "import", "new", &host.path("good.qcow2")], INVALID, &["good.qcow2"]);
    host.refuses(&["key", "generate", "dev"], TAKEN, &["key `dev` already exists"]);
}

#[test]
fn contradictory_options_are_refused() {
    let host = Host::with(|lab| drop(lab.image("good.qcow2", "10M")));
    host.refuses_create(
        &["--image-url", "https://example.org/x"],
        INVALID,
        &["'--image <NAME|PATH|URL>' cannot be used with '--image-url <URL>'"],
    );
    host.refuses_create(&["--no-start", "--wait"], INVALID, &["cannot wait for ssh without starting the VM"]);
    host.refuses_create(&["--no-start", "--wait=running"], INVALID, &["cannot wait for running without starting"]);
    host.refuses_create(
        &["--wait=nonsense"],
        INVALID,
        &["invalid value 'nonsense' for '--wait[=<FOR>]'", "cloud-init"],
    );
    host.refuses_create(
        &["--if-exists", "nonsense"],
        INVALID,
        &["invalid value 'nonsense' for '--if-exists <WHAT>'", "fail", "ok", "replace"],
    );
    host.refuses_create(&["--nonsense"], INVALID, &["unexpected argument '--nonsense'"]);
    host.refuses_create(&["another"], INVALID, &["unexpected argument 'another'"]);
    host.refuses(&["vm", "create", "bad", "--wait=ip"], INVALID, &["cannot wait for ip without an image"]);
    let image = host.path("good.qcow2");
    let keyless = ["vm", "create", "bad", "--image", &image, "--user", "debian", "--wait"];
    host.refuses(&keyless, INVALID, &["cannot wait for ssh without a key to log in"]);
    host.refuses(
        &["key", "generate", "new", "--type", "ed25519", "--bits", "4096"],
        INVALID,
        &["the size of an ed25519 key is fixed"],
    );
    host.refuses(&["key", "generate", "new", "--type", "dsa"], INVALID, &["invalid value 'dsa'", "rsa, ed25519"]);
    host.refuses(&["vm", "list", "-o", "xml"], INVALID, &["invalid value 'xml'", "table, json, yaml, name"]);
}

#[test]
fn hostile_text_is_refused_and_escaped() {
    let host = Host::with(|lab| drop(lab.image("good.qcow2", "10M")));
    for user in
        ["", "-oProxyCommand=reboot", "a;b", "a'b", "a b", "a\nb", "<x>", "Root", "../x", "$(id)", &"u".repeat(33)]
    {
        host.refuses_create(
            &[&format!("--user={user}")],
            INVALID,
            &[&format!("invalid user name `{}`\nhint: Use up to 32 lower-case letters", user.escape_debug())],
        );
        host.refuses(
            &["inject", "nosuch", "dev", &format!("--user={user}")],
            NOT_FOUND,
            &["VM `nosuch` does not exist"],
        );
    }
    for comment in ["a\nssh-rsa AAAA", "a\rb", "a\u{1b}[31m", &"c".repeat(256)] {
        let says = format!("invalid key comment `{}`\n  why: it ", comment.escape_debug());
        host.refuses(&["key", "generate", "new", &format!("--comment={comment}")], INVALID, &[&says]);
    }
    for pool in ["", "-x", "--all", "a\nb", "\u{1b}[31m"] {
        let ran = host.lab.run(&["vm", "create", "bad", &format!("--pool={pool}")]);
        assert_eq!((ran.code(), ran.stdout.as_str()), (Some(INVALID), ""), "{pool:?}: {ran}");
        assert!(ran.stderr.contains("` of the setting pool: must not "), "{ran}");
    }
    let ran = host.lab.run(&["vm", "create", "bad", "--pool=a/b", "--no-start"]);
    assert!(ran.code() == Some(INVALID) && ran.stderr.contains("name a/b cannot contain '/'"), "{ran}");
    host.lab.settles(&host.before, "pools");
    for uri in ["-x", "a\nb", ""] {
        host.refuses(&["vm", "list", &format!("--connect={uri}")], INVALID, &["of the setting connect: must not "]);
    }
    for uri in ["nonsense", "nonsense:///x", "$(id)", "a;b", "' '", "<x/>", "qemu:///nonsense"] {
        host.refuses(&["vm", "list", &format!("--connect={uri}")], UNREACHABLE, &["cannot reach libvirt at "]);
    }
    // Unmanaged domains may have any name. An error escapes the control characters of a name that does not exist.
    for vm in ["--all", "'", "a\nb", "\u{1b}[31m", "$(reboot)", "<x/>", "x; destroy y", "%s%n", &"v".repeat(5000)] {
        for verb in [&["vm", "info"][..], &["vm", "start"], &["vm", "delete", "--yes"], &["vm", "ip"]] {
            host.refuses(&[verb, &["--", vm]].concat(), NOT_FOUND, &["error: VM `", "` does not exist"]);
        }
    }
}

/// A failed creation of a pool leaves no partial pool behind.
#[test]
fn a_failed_pool_creation_leaves_nothing() {
    let host = Host::with(|_| ());
    for (path, says) in [("/etc/passwd", "Not a directory"), ("/proc/pool", "failed to create directory '/proc/pool'")]
    {
        host.refuses(
            &["vm", "create", "bad", "--no-start", "--pool-path", path],
            TOOL_FAILED,
            &["cannot ", POOL, says],
        );
    }
}

/// Domains with hostile names are found, shown and deleted by exactly that name.
#[test]
fn unmanaged_domains_with_hostile_names_work() {
    let host = Host::with(|_| ());
    let names =
        ["it's a \"name\" ", "--all", "6695eb01-f6a4-8304-79aa-97f2502e193f", "a;b $(id) `x` \\ &amp; <>", "ü", "7"];
    for name in names {
        let escaped = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let xml = format!(
            "<domain type='qemu'><name>{escaped}</name><memory>65536</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64'>hvm</type></os></domain>"
        );
        host.lab.virsh_with(&["define", "/dev/stdin"], &xml);
    }
    let mut listed: Vec<_> =
        host.lab.run(&["vm", "list", "-o", "name"]).succeeded().stdout.lines().map(str::to_owned).collect();
    listed.retain(|name| names.contains(&name.as_str()));
    assert_eq!(listed.len(), names.len(), "{listed:?}");
    for name in names {
        let info = host.lab.run(&["vm", "info", "-o", "json", "--", name]).succeeded().json();
        assert_eq!(info["name"], name);
        let started = host.lab.run(&["vm", "start", "--", name]).succeeded();
        assert!(started.stdout.ends_with(": started (running)\n"), "{started}");
        host.lab.run(&["vm", "stop", "--force", "--", name]).succeeded();
        host.lab.run(&["vm", "delete", "--yes", "--", name]).failed_with(TAKEN);
        host.lab.run(&["vm", "delete", "--yes", "--unmanaged", "--", name]).succeeded();
    }
    host.lab.settles(&host.before, "after the unmanaged domains were deleted");
}

#[test]
fn a_wait_ends_at_its_timeout() {
    let host = Host::with(|lab| {
        let xml = "<domain type='qemu'><name>waits</name><memory>65536</memory><vcpu>1</vcpu>\
                   <os><type arch='x86_64'>hvm</type></os></domain>";
        lab.virsh_with(&["create", "/dev/stdin"], xml);
    });
    for (goal, says) in [("ip", "no network"), ("stopped", "running"), ("agent", "agent")] {
        host.refuses(&["vm", "wait", "waits", "--for", goal, "--timeout", "1"], TIMEOUT, &["waits", says]);
    }
    host.refuses(
        &["vm", "stop", "waits", "--timeout", "1"],
        TIMEOUT,
        &["VM `waits` did not shut down within 1 s", "--force"],
    );
    host.refuses(&["vm", "ip", "waits"], NOT_FOUND, &["VM `waits` has no address yet"]);
    host.lab.virsh(&["destroy", "--domain", "waits"]);
}

/// Commands that access a guest refuse invalid arguments, and for a stopped VM the hint says how to start it.
#[test]
fn guest_access_is_refused_for_unreachable_vms() {
    let host = Host::with(|lab| {
        let image = lab.image("good.qcow2", "10M");
        let create = ["vm", "create", "off", "--image", &image, "--user", "debian", "--ssh-key", "dev", "--no-start"];
        lab.run(&[&create[..], &["--memory", "64M", "--disk-size", "1"]].concat()).succeeded();
        let foreign =
            "<domain type='qemu'><name>foreign</name><memory>65536</memory><os><type>hvm</type></os></domain>";
        lab.virsh_with(&["define", "/dev/stdin"], foreign);
    });
    for verb in [&["exec", "off", "--", "true"][..], &["cp", "off:x", "."], &["screenshot", "off"], &["console", "off"]]
    {
        host.refuses(&[&["vm"], verb].concat(), TAKEN, &["VM `off` is shut off", "vmprov vm start off"]);
    }
    host.refuses(
        &["vm", "exec", "of", "--", "true"],
        NOT_FOUND,
        &["VM `of` does not exist", "Check the name; similar: `off`"],
    );
    host.refuses(&["vm", "exec", "off", "--timeout", "0", "--", "true"], INVALID, &["invalid timeout `0s`"]);
    host.refuses(&["vm", "exec", "off", "--user", "A b", "--", "true"], INVALID, &["invalid user name `A b`"]);
    host.refuses(&["vm", "exec", "off"], INVALID, &["COMMAND"]);
    for paths in [&["a", "b"][..], &["off:a", "off:b"], &["off:a", "foreign:b", "c"], &[":a", "b"]] {
        host.refuses(&[&["vm", "cp"], paths].concat(), INVALID, &["web:/path"]);
    }
    // The VM has printed nothing yet; libvirt keeps no console log of an unmanaged one.
    assert_eq!(host.lab.run(&["vm", "logs", "off"]).succeeded().stdout, "");
    host.refuses(&["vm", "logs", "foreign"], TAKEN, &["libvirt keeps no console log of VM `foreign`"]);
    host.refuses(
        &["vm", "list", "-o", "x.png"],
        INVALID,
        &["invalid output format `x.png`", "table, json, yaml and name"],
    );
    host.refuses(&["vm", "list", "-o", "png"], INVALID, &["possible values: table, json, yaml, name"]);
    host.refuses(&["ssh-config", "nosuch"], NOT_FOUND, &["VM `nosuch` does not exist"]);
    host.refuses(&["vm", "events", "nosuch", "--timeout", "1"], NOT_FOUND, &["VM `nosuch` does not exist"]);
    host.lab.virsh(&["undefine", "foreign"]);
    // A missing log is an error, not an empty log.
    host.lab.virsh(&["vol-delete", "--pool", "default", "--vol", "off-console.log"]);
    let gone = host.lab.run(&["vm", "logs", "off"]).failed_with(NOT_FOUND);
    assert!(gone.stderr.contains("cannot read the console log"), "{gone}");
    host.lab.run(&["vm", "delete", "off", "--yes"]).succeeded();
}
