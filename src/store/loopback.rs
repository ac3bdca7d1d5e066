//! The host's loopback: ports of it that lead to guests.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, TcpListener},
};

/// The address that ports are forwarded from: nobody else can reach it.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The ports that are given out. They lie below those that the kernel takes for outgoing connections
/// (`net.ipv4.ip_local_port_range`, 32768 and up), so that they are still free at the VM's next start.
const PORTS: std::ops::Range<u16> = 22_000..32_000;

/// A port that nobody listens at and that is not `taken`.
pub fn free_port(taken: &[u16]) -> Option<u16> {
    let is_free = |port: &u16| !taken.contains(port) && TcpListener::bind((ADDRESS, *port)).is_ok();
    // Not always the lowest: two that look at the same time mostly find different ones.
    let random = getrandom::u32().unwrap_or_default();
    let first = PORTS.start + u16::try_from(random % u32::from(PORTS.end - PORTS.start)).unwrap_or_default();
    (first..PORTS.end).chain(PORTS.start..first).find(is_free)
}

/// Whether this host has a way into other networks: a default route in the kernel's tables (`man 5 proc`).
pub fn has_way_out() -> bool {
    let has = |file: &str, is_default: fn(&[&str]) -> bool| {
        let table = fs::read_to_string(file).unwrap_or_default();
        table.lines().any(|line| is_default(&line.split_whitespace().collect::<Vec<_>>()))
    };
    // Interface and destination; an IPv6 default over the loopback is how the kernel says that there is none.
    has("/proc/net/route", |row| row.get(1) == Some(&"00000000") && row.get(7) == Some(&"00000000"))
        || has("/proc/net/ipv6_route", |row| {
            row.first().is_some_and(|to| to.bytes().all(|byte| byte == b'0'))
                && row.get(1) == Some(&"00")
                && row.last() != Some(&"lo")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_and_nobodys() {
        let port = free_port(&[]).unwrap();
        assert!(PORTS.contains(&port));
        let taken: Vec<_> = PORTS.filter(|other| *other != port).collect();
        assert_eq!(free_port(&taken), Some(port));
        let _listener = TcpListener::bind((ADDRESS, port)).unwrap();
        assert_eq!(free_port(&taken), None);
    }
}
