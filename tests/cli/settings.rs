//! Settings and their origins.

use serde_json::json;

use super::support::TestHost;

#[test]
fn config_shows_the_origin_of_each_setting() {
    let host = TestHost::bare()
        .with_env("LIBVIRT_DEFAULT_URI", "test:///default")
        .with_env("LIBVIRT_STORAGE_POOL", "")
        .with_env("SSH_KEY_DIR", "keys");
    host.write(".config/vmprov/config.toml", "connect = 'xen:///'\npool = 'fast'\npool-path = '/srv/fast'\n");
    let settings = host.run("config").succeeds();
    assert_eq!(
        settings.cells(),
        [
            ["SETTING", "VALUE", "ORIGIN"],
            ["connect", "test:///default", "environment: LIBVIRT_DEFAULT_URI"],
            ["pool", "fast", "file: ~/.config/vmprov/config.toml"],
            ["pool-path", "/srv/fast", "file: ~/.config/vmprov/config.toml"],
            ["key-dir", "~/keys", "environment: SSH_KEY_DIR"],
            ["mirrors", "none", "default"],
            ["require-verified", "false", "default"],
            ["stall-timeout", "30s", "default"],
        ]
    );
    let host = host.with_env("LIBVIRT_URI", "qemu:///session");
    host.write("mine.toml", "key-dir = '/k'\n");
    let origins = host
        .run("config --config mine.toml --pool-path images --mirror https://h/a/=http://m -o yaml")
        .succeeds()
        .stdout;
    assert_eq!(
        origins,
        "settings:\n- name: connect\n  value: qemu:///session\n  origin: 'environment: LIBVIRT_URI'\n\
         - name: pool\n  value: default\n  origin: default\n\
         - name: pool-path\n  value: ~/images\n  origin: 'flag: --pool-path'\n\
         - name: key-dir\n  value: ~/keys\n  origin: 'environment: SSH_KEY_DIR'\n\
         - name: mirrors\n  value: https://h/a=http://m\n  origin: 'flag: --mirror'\n\
         - name: require-verified\n  value: 'false'\n  origin: default\n\
         - name: stall-timeout\n  value: 30s\n  origin: default\n"
    );
    // The last flag wins, before or after the subcommand.
    let last = host.run("-c a:/// config --connect b:/// -o json").succeeds().json();
    assert_eq!(last["settings"][0], json!({"name": "connect", "value": "b:///", "origin": "flag: --connect"}));
    let defaults = TestHost::bare().run("config").succeeds();
    assert_eq!(
        defaults.cells()[1..],
        [
            ["connect", "qemu:///system", "default"],
            ["pool", "default", "default"],
            ["pool-path", "/var/lib/libvirt/images", "default"],
            ["key-dir", "~/.local/share/vmprov/keys", "default"],
            ["mirrors", "none", "default"],
            ["require-verified", "false", "default"],
            ["stall-timeout", "30s", "default"],
        ]
    );
}

#[test]
fn invalid_settings_are_rejected() {
    let host = TestHost::new();
    host.write(".config/vmprov/config.toml", "conect = 'test:///default'\n");
    host.run("vm list")
        .fails_saying(2, &["invalid configuration file `~/.config/vmprov/config.toml`", "`conect`", "`connect`"]);
    let host = TestHost::new();
    host.run("config --config no.toml").fails(
        3,
        "error: cannot read the configuration file `no.toml`\n  why: No such file or directory (os error 2)\n",
    );
    host.run("config --config .").fails_saying(2, &["Is a directory"]);
    host.write("binary.toml", b"\xff\xfe");
    host.run("config --config binary.toml").fails_saying(2, &["UTF-8"]);
    for (args, why) in [
        (
            ["--pool", ""],
            "error: invalid value `` of the setting pool: must not be empty\n\
             hint: Correct the setting at its origin (flag: --pool)\n",
        ),
        (["--connect", "-x"], ""),
        (
            ["--connect=-x", "-v"],
            "error: invalid value `-x` of the setting connect: must not begin with a hyphen\n\
             hint: Correct the setting at its origin (flag: --connect)\n",
        ),
        (
            ["--key-dir", "a\nb"],
            "error: invalid value `a\\nb` of the setting key-dir: must not contain control characters\n\
             hint: Correct the setting at its origin (flag: --key-dir)\n",
        ),
    ] {
        let ran = host.args(&[&["config"], &args[..]].concat());
        if why.is_empty() {
            ran.fails_saying(2, &["unexpected argument '-x'"]);
        } else {
            ran.fails(2, why);
        }
    }
    TestHost::new()
        .with_env("LIBVIRT_STORAGE_POOL", "-x")
        .run("vm list")
        .fails_saying(2, &["environment: LIBVIRT_STORAGE_POOL"]);
}
