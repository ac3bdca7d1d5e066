//! The network `default`: whether it is started, has addresses that nothing else uses, and passes packet filters.

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

pub(super) fn active(context: &Context) -> Result<Finding> {
    let Some(network) = context.host.virsh.network(DEFAULT_NETWORK)? else {
        let observed = "the network `default` does not exist yet; creating the first VM creates it";
        return Ok(Finding::ok(observed));
    };
    if !network.active {
        return Ok(inactive(context, DEFAULT_NETWORK));
    }
    if !network.autostart {
        let command = context.virsh(&["net-autostart", "--network", DEFAULT_NETWORK]);
        let observed = "the network `default` is started but does not start with the host";
        return Ok(Finding::warn(observed).fix_by(command, |host| {
            host.virsh.autostart_network(DEFAULT_NETWORK)?;
            Ok("enabled autostart of the network `default`".to_owned())
        }));
    }
    let kind = network.forward.as_deref().unwrap_or("isolated");
    let addresses = network.addresses.iter().map(|(address, prefix)| format!(" {address}/{prefix}"));
    let bridge = network.bridge.as_deref().unwrap_or("no bridge");
    Ok(Finding::ok(format!("`default` ({kind}){} on {bridge}", addresses.collect::<String>())))
}

/// Returns the finding that a network is not started.
pub(super) fn inactive(context: &Context, name: &str) -> Finding {
    let command = context.virsh(&["net-start", "--network", name]);
    let name = name.to_owned();
    Finding::warn(format!("the network `{name}` is not started")).fix_by(command, move |host| {
        host.virsh.start_network(&name)?;
        Ok(format!("started the network `{name}`"))
    })
}

pub(super) fn dnsmasq(context: &Context) -> Result<Finding> {
    tools::program(context, "dnsmasq", None)
}

/// Returns the network and its bridge; a finding if it is not started or has no bridge.
fn running(context: &Context) -> Result<Result<(Network, String), Finding>> {
    let Some(network) = context.host.virsh.network(DEFAULT_NETWORK)? else {
        return Ok(Err(Finding::skip("the network `default` does not exist yet")));
    };
    Ok(match network.bridge.clone() {
        _ if !network.active => Err(Finding::skip("the network `default` is not started")),
        None => Err(Finding::skip("the network `default` has no bridge")),
        Some(bridge) => Ok((network, bridge)),
    })
}

pub(super) fn subnet(context: &Context) -> Result<Finding> {
    let Some(network) = context.host.virsh.network(DEFAULT_NETWORK)? else {
        return Ok(Finding::skip("the network `default` does not exist yet; it will get free addresses"));
    };
    let failed = |error| Error::io("read this machine's routes", &error);
    let bridge = network.bridge.as_deref().unwrap_or_default();
    let routes = system::routes().map_err(failed)?;
    for (address, prefix) in &network.addresses {
        let clash = routes.iter().find(|route| route.interface != bridge && route.overlaps(*address, *prefix));
        let Some(route) = clash else { continue };
        let observed = format!(
            "the network `default` uses {address}/{prefix}, but {} already routes {}/{}",
            route.interface, route.address, route.prefix
        );
        // libvirt does not start a network whose addresses are in use. A running one was started before they were,
        // and keeps their packets from the other interface.
        let finding = if network.active { Finding::warn(observed) } else { Finding::fail(Code::Conflict, observed) };
        return Ok(finding.fix(context.virsh(&["net-edit", "--network", DEFAULT_NETWORK])));
    }
    let ranges: Vec<_> = network.addresses.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect();
    Ok(Finding::ok(match &ranges[..] {
        [] => "the network `default` has no IPv4 addresses".to_owned(),
        ranges => format!("no other interface uses {}", ranges.join(", ")),
    }))
}

pub(super) fn forwarding(context: &Context) -> Result<Finding> {
    const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
    let network = match running(context)? {
        Ok((network, _)) => network,
        Err(finding) => return Ok(finding),
    };
    if !matches!(network.forward.as_deref(), Some("nat" | "route" | "open")) {
        return Ok(Finding::skip("the network `default` needs no packet forwarding"));
    }
    Ok(match system::fact(FORWARD).as_deref() {
        Some("0") => {
            let observed = "the kernel does not forward IPv4 packets: this was disabled after libvirt enabled it";
            Finding::warn(observed).fix("sudo sysctl -w net.ipv4.ip_forward=1")
        }
        Some(_) => Finding::ok("the kernel forwards IPv4 packets"),
        None => Finding::skip(format!("cannot read {FORWARD}")),
    })
}

pub(super) fn firewall(context: &Context) -> Result<Finding> {
    let bridge = match running(context)? {
        Ok((_, bridge)) => bridge,
        Err(finding) => return Ok(finding),
    };
    let mut ruleset = nft::ruleset(&context.host.runner)?;
    // The kernel lists the tables of legacy iptables, and only those that are in use.
    if system::fact("/proc/net/ip_tables_names").is_some_and(|names| names.lines().any(|name| name == "filter")) {
        ruleset.chains.extend(iptables::ruleset(&context.host.runner)?.chains);
    }
    let chains = ruleset.blocking(&bridge);
    if chains.is_empty() {
        return Ok(Finding::ok(format!("no chain drops packets from or to {bridge}")));
    }
    let names: Vec<_> = chains.iter().map(|chain| format!("{} {}", chain.table, chain.name)).collect();
    let mut commands: Vec<_> = chains.iter().flat_map(|chain| openings(&ruleset, chain, &bridge)).collect();
    commands.dedup();
    let owner = owner(&ruleset, &chains);
    let observed = format!("{} drops packets from or to {bridge}{owner}", names.join(" and "));
    Ok(Finding::warn(observed).fix(commands.join(" && ")))
}

/// Returns which program owns the chains, if their tables show it.
fn owner(ruleset: &Ruleset, chains: &[&Chain]) -> &'static str {
    let has = |prefix: &str| chains.iter().any(|chain| ruleset.has_chain(&chain.table, prefix));
    match () {
        () if has("ufw-") => " (a chain of ufw)",
        () if has("DOCKER") => " (a chain of Docker)",
        () => "",
    }
}

/// Returns the commands that accept a bridge's packets in a chain, with the tool of the program that owns it.
fn openings(ruleset: &Ruleset, chain: &Chain, bridge: &str) -> Vec<String> {
    let forwards = chain.hook == Some(Hook::Forward);
    let both = |command: &dyn Fn(&str, &str) -> String| {
        let out = forwards.then(|| command("o", "out"));
        std::iter::once(command("i", "in")).chain(out).collect()
    };
    if ruleset.has_chain(&chain.table, "ufw-") {
        let route = if forwards { "route " } else { "" };
        return both(&|_, direction| format!("sudo ufw {route}allow {direction} on {bridge}"));
    }
    let program = if chain.legacy { "iptables-legacy" } else { "iptables" };
    if forwards && ruleset.has_chain(&chain.table, "DOCKER-USER") {
        // Docker recreates its other chains.
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
    fn each_packet_filter_is_opened_with_its_own_tool() {
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
