//! Facts about this machine, read from the kernel and from system files. Nothing is changed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    net::Ipv4Addr,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    time::SystemTime,
};

use camino::Utf8Path;

/// Returns the trimmed content of a kernel file, or `None` if it cannot be read.
pub fn fact(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Returns the host name of this machine or container.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Checks that a character device exists and can be opened for reading and writing.
pub fn open_device(path: &str) -> io::Result<()> {
    if !fs::metadata(path)?.file_type().is_char_device() {
        return Err(io::Error::other("it is not a character device"));
    }
    OpenOptions::new().read(true).write(true).open(path).map(drop)
}

/// Checks that a program listens on a Unix socket. Does not wait until it accepts the connection.
pub fn connect(path: &Utf8Path) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path.as_std_path())?) {
        // A program listens, but its backlog is full.
        Err(rustix::io::Errno::AGAIN) => Ok(()),
        result => Ok(result?),
    }
}

/// Returns the group id of a file, or `None` if its metadata cannot be read.
pub fn group_of(path: &Utf8Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.gid())
}

/// Returns whether a system program is installed. It may be in a folder that is only in root's PATH.
pub fn has_program(name: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin"].iter().any(|folder| Utf8Path::new(folder).join(name).exists())
}

/// Returns which of the wanted flags the processor has, from `/proc/cpuinfo`.
pub fn cpu_flags(wanted: &[&'static str]) -> Vec<&'static str> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags_in(&text, wanted)
}

fn flags_in(text: &str, wanted: &[&'static str]) -> Vec<&'static str> {
    let line = text.lines().find(|line| line.starts_with("flags"));
    let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
    wanted.iter().copied().filter(|flag| words.contains(flag)).collect()
}

/// Returns whether this kernel's KVM is PVM (module `kvm_pvm`) alone. It offers `/dev/kvm` without the processor's
/// virtualization, and runs firmware, but only kernels that are built for it: others stop with a KVM internal error.
pub fn has_only_pvm() -> bool {
    let has = |module: &str| Utf8Path::new("/sys/module").join(module).exists();
    has("kvm_pvm") && !has("kvm_intel") && !has("kvm_amd")
}

/// Returns the number of IOMMU groups.
pub fn iommu_groups() -> usize {
    fs::read_dir("/sys/kernel/iommu_groups").map_or(0, Iterator::count)
}

/// Returns when this program was installed. A clock that shows an earlier time is wrong.
pub fn program_installed() -> Option<SystemTime> {
    fs::metadata("/proc/self/exe").and_then(|metadata| metadata.modified()).ok()
}

/// A route to a range of IPv4 addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The interface.
    pub interface: String,
    /// The first address.
    pub address: Ipv4Addr,
    /// The length of the prefix, in bits.
    pub prefix: u32,
}

impl Route {
    /// Returns whether it overlaps with another range. The default route overlaps with none.
    pub fn overlaps(&self, address: Ipv4Addr, prefix: u32) -> bool {
        let shorter = self.prefix.min(prefix);
        let mask = u32::MAX.checked_shl(32 - shorter).unwrap_or(0);
        shorter > 0 && self.address.to_bits() & mask == address.to_bits() & mask
    }
}

/// Returns the IPv4 routes of this machine, from `/proc/net/route`.
pub fn routes() -> io::Result<Vec<Route>> {
    Ok(routes_in(&fs::read_to_string("/proc/net/route")?))
}

/// Parses the kernel's table. The first column is the interface, the second the destination, the eighth the mask. Both
/// numbers are hexadecimal, in the processor's byte order.
fn routes_in(text: &str) -> Vec<Route> {
    let route = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(columns.get(at)?, 16).ok().map(u32::from_be);
        Some(Route {
            interface: (*columns.first()?).to_owned(),
            address: Ipv4Addr::from_bits(number(1)?),
            prefix: number(7)?.count_ones(),
        })
    };
    text.lines().skip(1).filter_map(route).collect()
}

/// Returns the latest denials by AppArmor and SELinux that affected libvirt guests, from the kernel's log.
pub fn denials() -> io::Result<Vec<String>> {
    /// The largest size of a log record (`CONSOLE_EXT_LOG_MAX`).
    const RECORD: usize = 8 << 10;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut log = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg")?;
    let (mut denials, mut record) = (Vec::new(), vec![0; RECORD]);
    loop {
        match next_record(&mut log, &mut record) {
            Ok(text) if is_denial(&text) => denials.push(text),
            Ok(_) => {}
            // The record was overwritten before it was read.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(denials),
            Err(error) => return Err(error),
        }
    }
}

/// Returns the message of the next record, which follows its first `;`. The end of a file is the end of the log.
fn next_record(log: &mut File, record: &mut [u8]) -> io::Result<String> {
    let length = log.read(record)?;
    if length == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let text = String::from_utf8_lossy(&record[..length]);
    let (_, message) = text.split_once(';').unwrap_or(("", &text));
    Ok(message.lines().next().unwrap_or_default().to_owned())
}

fn is_denial(text: &str) -> bool {
    (text.contains("apparmor=\"DENIED\"") && text.contains("\"libvirt-"))
        || (text.contains("avc:  denied") && text.contains(":svirt_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_flags_are_whole_words() {
        let text = "processor\t: 0\nflags\t\t: fpu vmx_x hypervisor svm\n";
        assert_eq!(flags_in(text, &["vmx", "svm", "hypervisor"]), ["svm", "hypervisor"]);
        assert!(flags_in("", &["vmx"]).is_empty());
    }

    #[test]
    fn the_default_route_overlaps_with_nothing() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t007AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nhalf\t00\n";
        if cfg!(target_endian = "little") {
            let routes = routes_in(text);
            assert_eq!(routes.len(), 2);
            assert_eq!((routes[1].address, routes[1].prefix), (Ipv4Addr::new(192, 168, 122, 0), 24));
            let overlaps = |address, prefix| routes.iter().any(|route| route.overlaps(address, prefix));
            assert!(overlaps(Ipv4Addr::new(192, 168, 122, 1), 24));
            assert!(overlaps(Ipv4Addr::new(192, 168, 0, 1), 16));
            assert!(!overlaps(Ipv4Addr::new(192, 168, 123, 1), 24));
        }
    }

    #[test]
    fn only_denials_of_guests_count() {
        let apparmor =
            "audit: type=1400 audit(1): apparmor=\"DENIED\" operation=\"open\" profile=\"libvirt-5d0a\" name=\"/x\"";
        let selinux = "audit: type=1400 audit(1): avc:  denied  { read } scontext=system_u:system_r:svirt_t:s0:c1,c2";
        assert!(is_denial(apparmor) && is_denial(selinux));
        assert!(!is_denial(&apparmor.replace("libvirt-5d0a", "/usr/bin/man")));
        assert!(!is_denial("apparmor=\"STATUS\" profile=\"libvirt-5d0a\""));
    }
}
