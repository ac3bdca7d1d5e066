//! The host's loopback interface, whose ports are forwarded to guests.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, TcpListener},
};

/// The address that ports are forwarded from. Other hosts cannot reach it.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The ports that are assigned to VMs. They are below those that the kernel uses for outgoing connections
/// (`net.ipv4.ip_local_port_range`, 32768 and up), so that they are still free at the VM's next start.
const PORTS: std::ops::Range<u16> = 22_000..32_000;

/// Returns a port that no program listens on and that is not `taken`.
pub fn free_port(taken: &[u16]) -> Option<u16> {
    let is_free = |port: &u16| !taken.contains(port) && TcpListener::bind((ADDRESS, *port)).is_ok();
    // The search starts at a random port, so that two processes at the same time usually find different ones.
    let random = getrandom::u32().unwrap_or_default();
    let start = PORTS.start + u16::try_from(random % u32::from(PORTS.end - PORTS.start)).unwrap_or_default();
    (start..PORTS.end).chain(PORTS.start..start).find(is_free)
}

/// Returns whether this host has a default route, according to the kernel's tables (`man 5 proc`).
pub fn has_way_out() -> bool {
    let has_default = |file: &str, is_default: fn(&[&str]) -> bool| {
        let table = fs::read_to_string(file).unwrap_or_default();
        table.lines().any(|line| is_default(&line.split_whitespace().collect::<Vec<_>>()))
    };
    // In the IPv4 table, columns 1 and 7 are destination and mask. Without an IPv6 default route, the kernel lists one
    // over the loopback interface.
    has_default("/proc/net/route", |row| row.get(1) == Some(&"00000000") && row.get(7) == Some(&"00000000"))
        || has_default("/proc/net/ipv6_route", |row| {
            row.first().is_some_and(|to| to.bytes().all(|byte| byte == b'0'))
                && row.get(1) == Some(&"00")
                && row.last() != Some(&"lo")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_neither_taken_nor_in_use() {
        let port = free_port(&[]).unwrap();
        assert!(PORTS.contains(&port));
        let taken: Vec<_> = PORTS.filter(|other| *other != port).collect();
        assert_eq!(free_port(&taken), Some(port));
        let _listener = TcpListener::bind((ADDRESS, port)).unwrap();
        assert_eq!(free_port(&taken), None);
    }
}
