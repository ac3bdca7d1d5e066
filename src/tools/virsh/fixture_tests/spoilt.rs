//! The parsers on output that is cut, damaged or hostile: an error or a partial answer, never a panic.

use super::*;

/// Calls every method that parses output. Its results do not matter.
fn call_all(virsh: &Virsh) -> Vec<bool> {
    let done = |result: Result<()>| result.is_ok();
    let domain = Domain {
        uuid: WEB,
        kind: "qemu".to_owned(),
        arch: "x86_64".to_owned(),
        interfaces: vec![Interface {
            mac: MAC.to_owned(),
            kind: "network".to_owned(),
            source: Some("default".to_owned()),
        }],
        ..Domain::default()
    };
    let sh = ["-c".to_owned(), "echo out; echo err >&2; exit 3".to_owned()];
    let files = virsh.guest_open(WEB, "/etc/hostname", "/etc/shells");
    vec![
        done(virsh.versions().map(drop)),
        done(virsh.confinement().map(drop)),
        done(virsh.supported_devices().map(drop)),
        done(virsh.arch().map(drop)),
        done(virsh.hypervisor().map(drop)),
        done(virsh.network("default").map(drop)),
        done(virsh.inventory("default", &["web.qcow2"], &[], Some("qemu")).map(drop)),
        done(virsh.domains().map(drop)),
        done(virsh.state(WEB).map(drop)),
        done(virsh.describe(&[(WEB, false), (OFF, true)]).map(drop)),
        done(virsh.domain(WEB).map(drop)),
        done(virsh.guest_status(&domain).map(drop)),
        done(virsh.leases().map(drop)),
        done(virsh.stats("default").map(drop)),
        done(virsh.storage(false).map(drop)),
        done(virsh.pool("default").map(drop)),
        done(virsh.volume("default", "web.qcow2").map(drop)),
        done(virsh.volume_of(&format!("{POOL}/my disk (1).qcow2")).map(drop)),
        done(virsh.volumes_like("default", "base-").map(drop)),
        done(virsh.live_capacity(WEB, "vda").map(drop)),
        done(virsh.operation_leases().map(drop)),
        done(virsh.guest_exec(WEB, "/bin/sh", &sh, b"").map(drop)),
        done(files.and_then(|files| virsh.guest_progress(WEB, None, files)).map(drop)),
        done(virsh.events(None, None, || (), |_| Ok(ControlFlow::Continue(())))),
    ]
}

#[test]
fn spoilt_output_is_an_error_or_a_partial_answer() {
    replay("spoilt::spoilt_output_is_an_error_or_a_partial_answer", |folder, whole| {
        assert!(call_all(whole).into_iter().all(|succeeded| succeeded), "{folder}");
        for variant in SPOILT {
            let spoilt = virsh(folder, variant);
            // A panic fails the test. The XML of a VM is never taken for complete.
            call_all(&spoilt);
            let domain = spoilt.domain(WEB);
            let kept = domain.as_ref().is_ok_and(|domain| domain.metadata.is_some() && domain.disks.len() == 3);
            assert!(domain.is_err() || kept, "{folder} {variant}: {domain:?}");
            assert!(domain.is_err() || !variant.starts_with("cut"), "{folder} {variant}: {domain:?}");
        }
    });
}

fn parse_xml(text: &str) {
    drop(Domain::from_xml(text));
    drop(Capabilities::from_xml(text));
    drop(Pool::from_xml(text, true));
    drop(from_xml::<Volume>("volume", text));
    drop(VmRecord::from_domain_xml(text));
    drop(VmRecord::from_element(text));
    drop(metadata::is_stopping(text));
    drop(virsh("x", "x").remember_hypervisor(text));
}

fn parse_lines(text: &str) {
    drop(domain::names(text));
    drop(domain::statistics(text));
    let _ = host::total_memory(text);
    drop(complaints(text));
    drop(failure::explain("x", "u", text));
}

#[test]
fn no_parser_panics_on_any_part_of_any_file() {
    let deep = "<a>".repeat(2000) + &"</a>".repeat(2000);
    for folder in libvirts() {
        for entry in fs::read_dir(fixtures().join(&folder)).unwrap() {
            let path = entry.unwrap().path();
            let parse = if path.extension().is_some_and(|kind| kind == "xml") { parse_xml } else { parse_lines };
            let whole = fs::read_to_string(&path).unwrap();
            parse(&whole.replace(|character: char| character.is_ascii_digit(), "9999999999"));
            let parts = if whole.len() < 8192 { 16.min(whole.len()) } else { 6 };
            for part in 0..=parts {
                let (head, tail) = whole.split_at(whole.floor_char_boundary(whole.len() * part / parts));
                parse(head);
                parse(tail);
                if part == parts / 2 {
                    let invalid = ["\0\u{1}\u{1b}[31m\u{7f}\r", "\u{feff}\u{202e}", "&nosuch;&#0;", "<![CDATA["];
                    for middle in invalid.into_iter().chain([deep.as_str()]) {
                        parse(&[head, middle, tail].concat());
                    }
                }
            }
        }
    }
}

#[test]
fn a_cut_domain_or_list_is_never_taken_for_a_whole_one() {
    for folder in libvirts() {
        for name in ["dumpxml-running.xml", "dumpxml-off.xml", "dumpxml-foreign.xml"] {
            let xml = read(&folder, name);
            let end = xml.rfind("</domain>").unwrap();
            for at in (0..end).step_by(61).filter(|at| xml.is_char_boundary(*at)) {
                assert!(Domain::from_xml(&xml[..at]).is_err(), "{folder} {name} cut at {at}");
            }
        }
        let list = read(&folder, "list.txt");
        assert_eq!(domain::names(&list).unwrap().len(), 3, "{folder}");
        for at in (1..list.len()).filter(|at| list.is_char_boundary(*at)) {
            let names = domain::names(&list[..at]).map_or(0, |names| names.len());
            assert!(names <= list[..at].lines().count(), "{folder} cut at {at}");
        }
    }
}
