//! The network `default`: started, alone with its addresses, and let through.

use super::{context::Context, finding::Finding, tools};
use crate::{
    error::{Code, Error, Result},
    model::{
        firewall::{Chain, Hook, Ruleset},
        vm::DEFAULT_NETWORK,
    },
    store::system,
    tools::{iptables, nft, virsh::Network},
};

pub(super) fn active(look: &Context) -> Result<Finding> {
    let Some(network) = look.host.virsh.network(DEFAULT_NETWORK)? else {
        let saw = "there is no network `default` yet: the first `vm create` makes it";
        return Ok(Finding::ok(saw));
    };
    if !network.active {
        return Ok(inactive(look, DEFAULT_NETWORK));
    }
    if !network.autostart {
        let command = look.virsh(&["net-autostart", "--network", DEFAULT_NETWORK]);
        let saw = "the network `default` is started and does not start with the host";
        return Ok(Finding::warn(saw).mend_by(command, |host| {
            host.virsh.autostart_network(DEFAULT_NETWORK)?;
            Ok("made the network `default` start with the host".to_owned())
        }));
    }
    let kind = network.forward.as_deref().unwrap_or("isolated");
    let addresses = network.addresses.iter().map(|(address, prefix)| format!(" {address}/{prefix}"));
    let bridge = network.bridge.as_deref().unwrap_or("no bridge of its own");
    Ok(Finding::ok(format!("`default` ({kind}){} on {bridge}", addresses.collect::<String>())))
}

/// That a network is not started.
pub(super) fn inactive(look: &Context, name: &str) -> Finding {
    let command = look.virsh(&["net-start", "--network", name]);
    let name = name.to_owned();
    Finding::warn(format!("the network `{name}` is not started")).mend_by(command, move |host| {
        host.virsh.start_network(&name)?;
        Ok(format!("started the network `{name}`"))
    })
}

pub(super) fn dnsmasq(look: &Context) -> Result<Finding> {
    tools::program(look, "dnsmasq", None)
}

/// The network, where it is started and has a bridge.
fn running(look: &Context) -> Result<Result<(Network, String), Finding>> {
    let Some(network) = look.host.virsh.network(DEFAULT_NETWORK)? else {
        return Ok(Err(Finding::skip("there is no network `default` yet")));
    };
    Ok(match network.bridge.clone() {
        _ if !network.active => Err(Finding::skip("the network `default` is not started")),
        None => Err(Finding::skip("the network `default` has no bridge of its own")),
        Some(bridge) => Ok((network, bridge)),
    })
}

pub(super) fn subnet(look: &Context) -> Result<Finding> {
    let Some(network) = look.host.virsh.network(DEFAULT_NETWORK)? else {
        return Ok(Finding::skip("there is no network `default` yet: `vm create` takes addresses that are free"));
    };
    let failed = |error| Error::io("read this machine's routes", &error);
    let bridge = network.bridge.as_deref().unwrap_or_default();
    let routes = system::routes().map_err(failed)?;
    for (address, prefix) in &network.addresses {
        let clash = routes.iter().find(|route| route.interface != bridge && route.overlaps(*address, *prefix));
        let Some(route) = clash else { continue };
        let saw = format!(
            "the network `default` has {address}/{prefix}, and {} leads to {}/{} already",
            route.interface, route.address, route.prefix
        );
        // libvirt starts none whose addresses are in use; one that runs was first, and takes them from the other.
        let finding = if network.active { Finding::warn(saw) } else { Finding::fail(Code::Conflict, saw) };
        return Ok(finding.mend(look.virsh(&["net-edit", "--network", DEFAULT_NETWORK])));
    }
    let ranges: Vec<_> = network.addresses.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect();
    Ok(Finding::ok(match &ranges[..] {
        [] => "the network `default` has no IPv4 addresses of its own".to_owned(),
        ranges => format!("no other interface has {}", ranges.join(", ")),
    }))
}

pub(super) fn forwarding(look: &Context) -> Result<Finding> {
    const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
    let network = match running(look)? {
        Ok((network, _)) => network,
        Err(finding) => return Ok(finding),
    };
    if !matches!(network.forward.as_deref(), Some("nat" | "route" | "open")) {
        return Ok(Finding::skip("the network `default` leads nowhere that is forwarded to"));
    }
    Ok(match system::fact(FORWARD).as_deref() {
        Some("0") => {
            let saw = "the kernel forwards no IPv4 packets: somebody switched it off after libvirt had switched it on";
            Finding::warn(saw).mend("sudo sysctl -w net.ipv4.ip_forward=1")
        }
        Some(_) => Finding::ok("the kernel forwards IPv4 packets"),
        None => Finding::skip(format!("{FORWARD} cannot be read")),
    })
}

pub(super) fn firewall(look: &Context) -> Result<Finding> {
    let bridge = match running(look)? {
        Ok((_, bridge)) => bridge,
        Err(finding) => return Ok(finding),
    };
    let mut ruleset = nft::ruleset(&look.host.runner)?;
    // The kernel lists the tables of the older kind, and only those that are in use.
    if system::fact("/proc/net/ip_tables_names").is_some_and(|names| names.lines().any(|name| name == "filter")) {
        ruleset.chains.extend(iptables::ruleset(&look.host.runner)?.chains);
    }
    let chains = ruleset.in_the_way(&bridge);
    if chains.is_empty() {
        return Ok(Finding::ok(format!("no chain drops what {bridge} sends or is sent")));
    }
    let names: Vec<_> = chains.iter().map(|chain| format!("{} {}", chain.table, chain.name)).collect();
    let mut commands: Vec<_> = chains.iter().flat_map(|chain| openings(&ruleset, chain, &bridge)).collect();
    commands.dedup();
    let whose = owner(&ruleset, &chains);
    let saw = format!("{} drops what {bridge} sends or is sent{whose}", names.join(" and "));
    Ok(Finding::warn(saw).mend(commands.join(" && ")))
}

/// Whose the chains are, as far as their tables show.
fn owner(ruleset: &Ruleset, chains: &[&Chain]) -> &'static str {
    let has = |prefix: &str| chains.iter().any(|chain| ruleset.has_chain(&chain.table, prefix));
    match () {
        () if has("ufw-") => ", which is ufw's doing",
        () if has("DOCKER") => ", which is Docker's doing",
        () => "",
    }
}

/// The commands that let a bridge's guests through a chain, in the way of the program whose it is.
fn openings(ruleset: &Ruleset, chain: &Chain, bridge: &str) -> Vec<String> {
    let forwards = chain.hook == Some(Hook::Forward);
    let both = |command: &dyn Fn(&str, &str) -> String| {
        let out = forwards.then(|| command("o", "out"));
        std::iter::once(command("i", "in")).chain(out).collect()
    };
    if ruleset.has_chain(&chain.table, "ufw-") {
        let route = if forwards { "route " } else { "" };
        return both(&|_, way| format!("sudo ufw {route}allow {way} on {bridge}"));
    }
    let program = if chain.legacy { "iptables-legacy" } else { "iptables" };
    if forwards && ruleset.has_chain(&chain.table, "DOCKER-USER") {
        // Docker makes its other chains anew.
        return both(&|side, _| format!("sudo {program} -I DOCKER-USER -{side} {bridge} -j ACCEPT"));
    }
    if chain.table == "ip filter" && matches!(chain.name.as_str(), "INPUT" | "FORWARD") {
        return both(&|side, _| format!("sudo {program} -I {} -{side} {bridge} -j ACCEPT", chain.name));
    }
    both(&|side, _| format!("sudo nft insert rule {} {} {side}ifname {bridge} accept", chain.table, chain.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, name: &str, hook: Option<Hook>) -> Chain {
        Chain { table: table.to_owned(), name: name.to_owned(), hook, drops: hook.is_some(), ..Chain::default() }
    }

    #[test]
    fn each_packet_filter_is_opened_in_its_own_way() {
        let forward = || chain("ip filter", "FORWARD", Some(Hook::Forward));
        for (chains, commands) in [
            (
                vec![forward()],
                "sudo iptables -I FORWARD -i virbr0 -j ACCEPT && sudo iptables -I FORWARD -o virbr0 -j ACCEPT",
            ),
            (
                vec![Chain { legacy: true, ..forward() }],
                "sudo iptables-legacy -I FORWARD -i virbr0 -j ACCEPT && sudo iptables-legacy -I FORWARD -o virbr0 -j ACCEPT",
            ),
            (
                vec![forward(), chain("ip filter", "DOCKER-USER", None)],
                "sudo iptables -I DOCKER-USER -i virbr0 -j ACCEPT && sudo iptables -I DOCKER-USER -o virbr0 -j ACCEPT",
            ),
            (
                vec![forward(), chain("ip filter", "ufw-before-forward", None)],
                "sudo ufw route allow in on virbr0 && sudo ufw route allow out on virbr0",
            ),
            (
                vec![chain("ip filter", "INPUT", Some(Hook::Input)), chain("ip filter", "ufw-user-input", None)],
                "sudo ufw allow in on virbr0",
            ),
            (
                vec![chain("inet own", "input", Some(Hook::Input))],
                "sudo nft insert rule inet own input iifname virbr0 accept",
            ),
        ] {
            let ruleset = Ruleset { chains };
            assert_eq!(openings(&ruleset, &ruleset.chains[0], "virbr0").join(" && "), commands);
        }
    }
}
