//! The parsers on real output of several versions of the programs (`fixtures/`), whole and spoilt.
//!
//! `fixtures/replay` plays the programs, so that whole methods are tested. It must come first in `PATH`, which a test
//! cannot set in its own process. So such a test runs itself again.

use std::{env, fs, path::PathBuf};

use camino::Utf8Path;

use super::{
    Runner, Tool, genisoimage, iptables, nft,
    qemu_img::{self, Format},
};
use crate::{
    error::Code,
    model::firewall::{Hook, Rule, Verdict},
};

/// How the output is spoilt: cut off, with control characters and invalid UTF-8, deeply nested, with huge numbers.
pub(super) const SPOILT: [&str; 9] =
    ["cut-0", "cut-300", "cut-600", "cut-990", "control-100", "control-600", "nested-100", "nested-700", "huge"];

/// A command in a manifest.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) command: String,
    pub(super) output: Option<String>,
    pub(super) status: i32,
    pub(super) stderr: String,
}

pub(super) fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Returns the folders of a program, one for each captured version.
pub(super) fn folders(program: &str) -> Vec<String> {
    let names = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut folders: Vec<_> =
        names.filter(|name| name.strip_prefix(program).is_some_and(|rest| rest.starts_with('-'))).collect();
    folders.sort();
    folders
}

/// Reads the manifest of a folder.
pub(super) fn manifest(folder: &str) -> Vec<Captured> {
    let text = fs::read_to_string(fixtures().join(folder).join("COMMANDS")).unwrap();
    let entry = |block: &str| {
        let values = |key: &'static str| block.lines().filter_map(move |line| line.strip_prefix(key));
        let one = |key| values(key).next().unwrap().to_owned();
        Captured {
            command: one("command: "),
            output: Some(one("output: ")).filter(|output| output != "-"),
            status: one("status: ").parse().unwrap(),
            stderr: values("error: ").flat_map(|line| [line, "\n"]).collect(),
        }
    };
    text.split("\n\n").skip(1).map(entry).collect()
}

/// Runs the test `name` again, with the programs of `fixtures/replay`. Returns whether this is that second run.
pub(super) fn is_replay(name: &str) -> bool {
    run_replay(name, &[])
}

fn run_replay(name: &str, variables: &[(&'static str, &str)]) -> bool {
    const MARK: &str = "VMPROV_TEST_REPLAY";
    if env::var_os(MARK).is_some() {
        return true;
    }
    let path = format!("{}:{}", fixtures().join("replay").display(), env::var("PATH").unwrap());
    let mut words = vec!["--".to_owned(), format!("PATH={path}"), format!("{MARK}=1")];
    words.extend(variables.iter().map(|(key, value)| format!("{key}={value}")));
    words.push(env::current_exe().unwrap().into_os_string().into_string().unwrap());
    words.extend([name, "--exact", "--nocapture"].map(str::to_owned));
    let finished = Tool::new("env").args(words).read(&Runner::default()).unwrap();
    let stdout = String::from_utf8_lossy(&finished.stdout);
    let passed = finished.status.success() && stdout.contains("1 passed");
    assert!(passed, "{variables:?}:\n{stdout}\n{}", finished.stderr);
    false
}

fn at(folder: &str, variant: &str, path: &str) -> String {
    format!("/@{folder}@{variant}@{path}")
}

#[test]
fn every_manifest_names_the_files_of_its_folder() {
    for program in ["libvirt", "qemu", "genisoimage", "nftables"] {
        let folders = folders(program);
        assert!(!folders.is_empty(), "{program}");
        for folder in folders {
            let mut named: Vec<_> = manifest(&folder).into_iter().filter_map(|entry| entry.output).collect();
            named.push("COMMANDS".to_owned());
            named.sort();
            let files = fs::read_dir(fixtures().join(&folder)).unwrap();
            let mut files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            files.sort();
            assert_eq!(named, files, "{folder}");
        }
    }
}

#[test]
fn qemu_img_is_parsed_in_every_version() {
    if !is_replay("tools::fixture_tests::qemu_img_is_parsed_in_every_version") {
        return;
    }
    let runner = Runner::default();
    let folders = folders("qemu");
    assert!(folders.len() >= 3, "{folders:?}");
    for folder in folders {
        let info = |format: Format, name: &str| {
            qemu_img::info(&runner, format, Utf8Path::new(&at(&folder, "whole", &format!("srv/images/{name}"))))
        };
        for format in [Format::Raw, Format::Vmdk, Format::Vhdx, Format::Vdi, Format::Vpc] {
            let parsed = info(format, &format!("disk.{format}")).unwrap();
            assert_eq!((parsed.format, parsed.backing_filename.as_deref()), (format, None), "{folder}");
            // VPC rounds up to its geometry of cylinders.
            let size = if format == Format::Vpc { 1_079_296 } else { 1 << 20 };
            assert!(parsed.virtual_size == size || format == Format::Vpc, "{folder} {format:?} {parsed:?}");
            assert!(!parsed.is_encrypted() && parsed.data_file().is_none(), "{folder}");
        }
        let facts = |name| {
            let parsed = info(Format::Qcow2, name).unwrap();
            let backing = parsed.backing_filename.clone();
            (parsed.virtual_size, backing, parsed.data_file().map(str::to_owned), parsed.is_encrypted())
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(facts("base.qcow2"), (1 << 20, None, None, false), "{folder}");
        assert_eq!(facts("middle.qcow2"), (1 << 20, text("base.qcow2"), None, false), "{folder}");
        assert_eq!(facts("data.qcow2"), (1 << 20, None, text("/srv/images/data.raw"), false), "{folder}");
        assert_eq!(facts("luks.qcow2"), (1 << 20, None, None, true), "{folder}");
        let wrong = info(Format::Qcow2, "disk.raw").unwrap_err();
        assert_eq!(wrong.code, Code::InvalidInput, "{folder}: {wrong}");
        assert!(wrong.to_string().contains("Image is not in qcow2 format"), "{folder}: {wrong}");

        let chain = |format, name: &str| {
            qemu_img::chain(&runner, format, Utf8Path::new(&at(&folder, "whole", &format!("srv/images/{name}"))))
        };
        let (top, middle, base) = ("/srv/images/top é.qcow2", "/srv/images/middle.qcow2", "/srv/images/base.qcow2");
        assert_eq!(
            chain(Some("qcow2"), "top é.qcow2").unwrap(),
            [top, middle, middle, middle, base, "base.qcow2", base],
            "{folder}"
        );
        assert_eq!(chain(Some("raw"), "disk.raw").unwrap(), ["/srv/images/disk.raw"], "{folder}");
        assert_eq!(chain(None, "base.qcow2").unwrap(), [base], "{folder}");
        let orphan = chain(Some("qcow2"), "orphan.qcow2").unwrap_err();
        assert!(orphan.to_string().contains("/srv/images/nosuch.qcow2"), "{folder}: {orphan}");

        let check =
            |name: &str| qemu_img::check(&runner, Utf8Path::new(&at(&folder, "whole", &format!("srv/images/{name}"))));
        check("base.qcow2").unwrap();
        assert_eq!(check("cut.qcow2").unwrap_err().code, Code::InvalidInput, "{folder}");
    }
}

#[test]
fn spoilt_json_of_qemu_img_is_an_error() {
    if !is_replay("tools::fixture_tests::spoilt_json_of_qemu_img_is_an_error") {
        return;
    }
    let runner = Runner::default();
    for folder in folders("qemu") {
        for variant in SPOILT {
            let path = |name: &str| at(&folder, variant, &format!("srv/images/{name}"));
            let info = qemu_img::info(&runner, Format::Qcow2, Utf8Path::new(&path("luks.qcow2")));
            let chain = qemu_img::chain(&runner, Some("qcow2"), Utf8Path::new(&path("top é.qcow2")));
            // What is inserted may be a part of a string, and the chain contains no numbers.
            let may_parse = variant.starts_with("nested") || variant == "huge";
            assert!(info.is_err() && chain.is_err() || may_parse, "{folder} {variant}: {info:?} {chain:?}");
        }
    }
}

#[test]
fn isoinfo_is_parsed_in_every_version() {
    if !is_replay("tools::fixture_tests::isoinfo_is_parsed_in_every_version") {
        return;
    }
    let runner = Runner::default();
    for folder in folders("genisoimage") {
        let read = |variant, name| {
            let iso = at(&folder, variant, "var/lib/libvirt/images/web-seed-1.iso");
            genisoimage::read_file(&runner, Utf8Path::new(&iso), name)
        };
        assert_eq!(read("whole", "user-data").unwrap(), b"#cloud-config\nhostname: web\nmanage_etc_hosts: true\n");
        assert_eq!(read("whole", "meta-data").unwrap(), b"instance-id: i-fixture\nlocal-hostname: web\n");
        assert_eq!(read("whole", "vmprov.json").unwrap(), b"{\"version\":1}\n");
        assert_eq!(read("whole", "nosuch").unwrap_err().code, Code::NotFound, "{folder}");
        assert_eq!(read("cut-0", "user-data").unwrap_err().code, Code::NotFound, "{folder}");
        let missing = format!("/@{folder}@whole@nosuch.iso");
        genisoimage::read_file(&runner, Utf8Path::new(&missing), "user-data").unwrap_err();
    }
}

#[test]
fn rules_of_libvirt_are_parsed_in_every_version_of_nft() {
    const NAME: &str = "tools::fixture_tests::rules_of_libvirt_are_parsed_in_every_version_of_nft";
    let folders = folders("nftables");
    for folder in &folders {
        for variant in ["whole"].into_iter().chain(SPOILT) {
            if run_replay(NAME, &[("REPLAY_FOLDER", folder), ("REPLAY_VARIANT", variant)]) {
                let (folder, variant) = (env::var("REPLAY_FOLDER").unwrap(), env::var("REPLAY_VARIANT").unwrap());
                return check_rules(&folder, &variant);
            }
        }
    }
}

fn check_rules(folder: &str, variant: &str) {
    let (nft, legacy) = (nft::ruleset(&Runner::default()), iptables::ruleset(&Runner::default()));
    if variant != "whole" {
        assert!(nft.is_err() || variant == "huge" || variant.starts_with("nested"), "{folder} {variant}: {nft:?}");
        return;
    }
    let ruleset = nft.unwrap();
    let tables: Vec<_> = ruleset.chains.iter().map(|chain| (chain.table.as_str(), chain.name.as_str())).collect();
    let hooks: Vec<_> = ruleset.chains.iter().filter_map(|chain| chain.hook).collect();
    assert!(hooks.contains(&Hook::Forward), "{folder}: {tables:?}");
    let rules: Vec<&Rule> = ruleset.chains.iter().flat_map(|chain| &chain.rules).collect();
    let of_bridge = |rule: &&&Rule| rule.from.as_deref() == Some("virbr0") || rule.to.as_deref() == Some("virbr0");
    assert!(rules.iter().filter(of_bridge).any(|rule| rule.verdict == Verdict::Accept), "{folder}: {rules:?}");
    assert!(ruleset.blocking("virbr0").is_empty(), "{folder}: {:?}", ruleset.blocking("virbr0"));
    let names: Vec<_> = legacy.unwrap().chains.into_iter().map(|chain| (chain.name, chain.drops)).collect();
    assert_eq!(names, ["INPUT", "FORWARD", "OUTPUT"].map(|name| (name.to_owned(), false)), "{folder}");
}
