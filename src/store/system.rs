//! What the kernel and the machine's own files say of it. Nothing here is kept or changed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    net::Ipv4Addr,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    time::SystemTime,
};

use camino::Utf8Path;

/// A file of the kernel's, without white space around it; none where it is not there or not to be read.
pub fn fact(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// What this machine or container is called.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What stands against using a device: that it is not there, is none, or may not be opened.
pub fn open_device(path: &str) -> io::Result<()> {
    if !fs::metadata(path)?.file_type().is_char_device() {
        return Err(io::Error::other("it is no device"));
    }
    OpenOptions::new().read(true).write(true).open(path).map(drop)
}

/// Whether somebody listens on a socket; nobody waits for an answer.
pub fn connect(path: &Utf8Path) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path.as_std_path())?) {
        // Somebody does, and has many to talk to.
        Err(rustix::io::Errno::AGAIN) => Ok(()),
        result => Ok(result?),
    }
}

/// The number of a file's group; none where nobody may look.
pub fn group_of(path: &Utf8Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.gid())
}

/// Whether a program of the system's is installed, as only root needs them.
pub fn has_program(name: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin"].iter().any(|folder| Utf8Path::new(folder).join(name).exists())
}

/// Which of these the processor says of itself, from `/proc/cpuinfo`.
pub fn cpu_flags(wanted: &[&'static str]) -> Vec<&'static str> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags_in(&text, wanted)
}

fn flags_in(text: &str, wanted: &[&'static str]) -> Vec<&'static str> {
    let line = text.lines().find(|line| line.starts_with("flags"));
    let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
    wanted.iter().copied().filter(|flag| words.contains(flag)).collect()
}

/// How many groups of devices the IOMMU keeps apart.
pub fn iommu_groups() -> usize {
    fs::read_dir("/sys/kernel/iommu_groups").map_or(0, Iterator::count)
}

/// When this program was put on this machine: no clock that is right shows an earlier time.
pub fn program_installed() -> Option<SystemTime> {
    fs::metadata("/proc/self/exe").and_then(|metadata| metadata.modified()).ok()
}

/// A range of IPv4 addresses that an interface leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The interface.
    pub interface: String,
    /// Its first address.
    pub address: Ipv4Addr,
    /// How many bits of it stand for all.
    pub prefix: u32,
}

impl Route {
    /// Whether it has addresses in common with another range.
    pub fn overlaps(&self, address: Ipv4Addr, prefix: u32) -> bool {
        let shorter = self.prefix.min(prefix);
        let mask = u32::MAX.checked_shl(32 - shorter).unwrap_or(0);
        shorter > 0 && self.address.to_bits() & mask == address.to_bits() & mask
    }
}

/// The routes of this machine, from `/proc/net/route`.
pub fn routes() -> io::Result<Vec<Route>> {
    Ok(routes_in(&fs::read_to_string("/proc/net/route")?))
}

/// Reads the kernel's table: interface, destination, and eighth the mask, as hexadecimal numbers in the processor's own
/// order of bytes.
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

/// The last refusals of AppArmor's and SELinux's that had to do with libvirt's guests, from the kernel's log.
pub fn denials() -> io::Result<Vec<String>> {
    /// One record of the log is no larger (`CONSOLE_EXT_LOG_MAX`).
    const RECORD: usize = 8 << 10;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut log = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg")?;
    let (mut denials, mut record) = (Vec::new(), vec![0; RECORD]);
    loop {
        match next_record(&mut log, &mut record) {
            Ok(text) if is_denial(&text) => denials.push(text),
            Ok(_) => {}
            // The log went on over the record that was to be read.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(denials),
            Err(error) => return Err(error),
        }
    }
}

/// A record without what stands before its `;`; the end of a file is the log's.
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
    fn the_processors_flags_are_whole_words() {
        let text = "processor\t: 0\nflags\t\t: fpu vmx_x hypervisor svm\n";
        assert_eq!(flags_in(text, &["vmx", "svm", "hypervisor"]), ["svm", "hypervisor"]);
        assert!(flags_in("", &["vmx"]).is_empty());
    }

    #[test]
    fn routes_are_ranges_and_the_default_is_none() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t007AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nhalf\t00\n";
        if cfg!(target_endian = "little") {
            let routes = routes_in(text);
            assert_eq!(routes.len(), 2);
            assert_eq!((routes[1].address, routes[1].prefix), (Ipv4Addr::new(192, 168, 122, 0), 24));
            let clashes = |address, prefix| routes.iter().any(|route| route.overlaps(address, prefix));
            assert!(clashes(Ipv4Addr::new(192, 168, 122, 1), 24));
            assert!(clashes(Ipv4Addr::new(192, 168, 0, 1), 16));
            assert!(!clashes(Ipv4Addr::new(192, 168, 123, 1), 24));
        }
    }

    #[test]
    fn only_refusals_of_guests_count() {
        let apparmor =
            "audit: type=1400 audit(1): apparmor=\"DENIED\" operation=\"open\" profile=\"libvirt-5d0a\" name=\"/x\"";
        let selinux = "audit: type=1400 audit(1): avc:  denied  { read } scontext=system_u:system_r:svirt_t:s0:c1,c2";
        assert!(is_denial(apparmor) && is_denial(selinux));
        assert!(!is_denial(&apparmor.replace("libvirt-5d0a", "/usr/bin/man")));
        assert!(!is_denial("apparmor=\"STATUS\" profile=\"libvirt-5d0a\""));
    }
}
