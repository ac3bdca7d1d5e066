//! `ssh-config`: what `~/.ssh/config` needs, so that ssh, rsync and editors find the VMs by name, with strict host keys.

use camino::Utf8PathBuf;
use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::Result,
    model::vm::Address,
    ops::{
        Host,
        vm::{
            access::address,
            access::{address::best_first, login::Login},
            find,
        },
    },
    store::known_hosts,
    tools::{ssh::Target, virsh::Domain},
};

/// Which VMs ssh is to reach
#[derive(Debug, Clone, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SshConfigOptions {
    /// VMs, by name or UUID; all that can be logged in to where none is named
    pub vm: Vec<String>,
}

/// How ssh reaches the VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshConfig {
    /// One for each VM that can be logged in to.
    pub hosts: Vec<SshHost>,
    /// The VMs that cannot, and why.
    pub left_out: Vec<LeftOut>,
}

/// How ssh reaches a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshHost {
    /// The VM's name.
    pub host: String,
    /// Its address.
    pub host_name: String,
    /// The port, where it is not ssh's own.
    pub port: Option<u16>,
    /// The user.
    pub user: String,
    /// The private keys, or the public halves of those in an ssh agent.
    pub identity_files: Vec<String>,
    /// The name that the host keys have in the file.
    pub host_key_alias: String,
    /// The file with the host keys.
    pub user_known_hosts_file: String,
}

/// A VM that ssh does not reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// Its name.
    pub vm: String,
    /// Why.
    pub reason: String,
}

/// How ssh reaches VMs, and the file with their host keys.
pub(in crate::ops) struct Targets {
    pub(in crate::ops) known_hosts: Utf8PathBuf,
    /// Each VM's name, and how it is reached or why not.
    pub(in crate::ops) vms: Vec<(String, Result<Target, String>)>,
}

/// Puts together what ssh needs for the VMs named, or for all. The host keys of all are written to a file of vmprov's.
pub fn ssh_config(host: &Host, options: &SshConfigOptions) -> Result<SshConfig> {
    let Targets { known_hosts, vms } = targets(host, &options.vm)?;
    let mut config = SshConfig { hosts: Vec::new(), left_out: Vec::new() };
    for (vm, target) in vms {
        match target {
            Ok(target) => config.hosts.push(SshHost {
                host: vm,
                host_name: target.address.to_string(),
                port: target.port,
                user: target.user,
                identity_files: target.identities.iter().map(ToString::to_string).collect(),
                host_key_alias: target.alias,
                user_known_hosts_file: known_hosts.to_string(),
            }),
            Err(reason) => {
                host.progress.warn(&format!("`{vm}` is left out: {reason}"));
                config.left_out.push(LeftOut { vm, reason });
            }
        }
    }
    Ok(config)
}

/// How ssh reaches the VMs named, or all that there is something to say of.
pub(in crate::ops) fn targets(host: &Host, named: &[String]) -> Result<Targets> {
    let wanted = named.iter().map(|name| Ok(find(host, name)?.uuid)).collect::<Result<Vec<_>>>()?;
    let listed = host.virsh.domains()?;
    let asked: Vec<_> = listed.iter().map(|domain| (domain.uuid, true)).collect();
    let mut described = host.virsh.describe(&asked)?;
    let domains = listed.iter().filter_map(|listed| Some((listed, described.remove(&listed.uuid)?.domain?)));
    let domains: Vec<_> = domains.collect();
    let keys =
        domains.iter().filter_map(|(_, domain)| Some((domain.uuid.to_string(), &domain.metadata.as_ref()?.host_keys)));
    let known_hosts = known_hosts::write(&host.settings.data_dir, &host.settings.uri, keys)?;
    let leases = host.virsh.leases()?;
    let mut vms = Vec::new();
    for (listed, domain) in &domains {
        let is_named = wanted.contains(&domain.uuid);
        if !host.caller.sees(&domain.name) {
            continue;
        }
        // Of VMs that vmprov did not make there is nothing to say unless somebody asks.
        if !is_named && (!wanted.is_empty() || domain.metadata.is_none()) {
            continue;
        }
        let target = if listed.state.is_active() {
            target(host, domain, best_first(domain, leases.clone()).into_iter().next())
        } else {
            Err(format!("it is {}", listed.state))
        };
        vms.push((domain.name.clone(), target));
    }
    Ok(Targets { known_hosts, vms })
}

fn target(host: &Host, domain: &Domain, leased: Option<Address>) -> Result<Target, String> {
    let login = Login::of(host, domain, None).map_err(|error| error.message)?;
    // What is in no lease is asked for by itself.
    let others = || address::of(host, domain).map(|known| known.into_iter().next());
    let address = leased.map_or_else(others, |leased| Ok(Some(leased))).map_err(|error| error.message)?;
    Ok(login.at(&address.ok_or("it has no address yet")?))
}
