//! Recognizes known faults in the error output of libvirt, QEMU and qemu-img.

use crate::error::Fault;

/// The error that virsh prints when it has no connection.
pub(super) const NO_CONNECTION: &str = "failed to connect to the hypervisor";

/// Builds a fault from the error output that matches it.
type Find = fn(&str) -> Fault;

/// Texts that libvirt and QEMU print for a known fault. A row matches if the output contains all its texts. The first
/// row that matches counts.
const FAULTS: &[(&[&str], Find)] = &[
    (&[NO_CONNECTION], |_| Fault::NoConnection),
    (&["virtlogd-sock"], |_| Fault::NoLogDaemon),
    (&["Cannot access storage file '", "Permission denied"], |text| file_access(text, "storage file '")),
    (&["Could not open '", "Permission denied"], |text| file_access(text, "Could not open '")),
    (&["network '", "' is not active"], |text| {
        Fault::NetworkInactive(quoted(text, "network '").unwrap_or_default().to_owned())
    }),
    (&["Network is already in use by interface"], |_| Fault::SubnetInUse),
    (&["dnsmasq"], |_| Fault::Dnsmasq),
    (&["No space left on device"], |_| Fault::DiskFull),
    (&["Could not access KVM kernel module"], |_| Fault::KvmAccess),
    (&["Could not set up host forwarding rule"], |_| Fault::PortInUse),
    (&["Failed to bind port"], |_| Fault::PortInUse),
    (&["Failed to bind any port"], |_| Fault::PortInUse),
    (&["passt"], |_| Fault::Passt),
];

/// Returns the fault that error output describes.
pub(super) fn of(stderr: &str) -> Option<Fault> {
    let (_, fault) = FAULTS.iter().find(|(texts, _)| texts.iter().all(|text| stderr.contains(text)))?;
    Some(fault(stderr))
}

fn file_access(text: &str, before: &str) -> Fault {
    Fault::FileAccess(quoted(text, before).unwrap_or_default().into())
}

/// Returns the text between `before`, which ends in a quote, and the next quote.
fn quoted<'c>(text: &'c str, before: &str) -> Option<&'c str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once('\'').map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_extracted_from_libvirts_error() {
        let text = "Failed to start domain 'web': Cannot access storage file '/srv/x y/web.qcow2' (as uid:64055, gid:993): Permission denied";
        assert_eq!(of(text), Some(Fault::FileAccess("/srv/x y/web.qcow2".into())));
        assert_eq!(quoted("storage file 'half", "storage file '"), None);
    }
}
