//! `ssh-config`: the entries of `~/.ssh/config` by which ssh, rsync and editors reach the VMs by name, with strict host
//! key checking.

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

/// Selects the VMs
#[derive(Debug, Clone, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SshConfigOptions {
    /// VMs, by name or UUID [default: every VM with SSH access]
    pub vm: Vec<String>,
}

/// How ssh reaches the VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshConfig {
    /// One entry for each VM that SSH can reach.
    pub hosts: Vec<SshHost>,
    /// The VMs without an entry, and why.
    pub left_out: Vec<LeftOut>,
}

/// How ssh reaches a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshHost {
    /// The VM's name.
    pub host: String,
    /// The VM's address.
    pub host_name: String,
    /// The port, if it is not 22.
    pub port: Option<u16>,
    /// The login user.
    pub user: String,
    /// The private key files, or public key files for keys in an ssh agent.
    pub identity_files: Vec<String>,
    /// The name of the host keys in the known-hosts file.
    pub host_key_alias: String,
    /// The known-hosts file.
    pub user_known_hosts_file: String,
}

/// A VM that SSH cannot reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// The VM's name.
    pub vm: String,
    /// Why SSH cannot reach it.
    pub reason: String,
}

/// How ssh reaches VMs, and the file with their host keys.
pub(in crate::ops) struct Targets {
    pub(in crate::ops) known_hosts: Utf8PathBuf,
    /// Each VM's name, and how ssh reaches it or why it cannot.
    pub(in crate::ops) vms: Vec<(String, Result<Target, String>)>,
}

/// Returns how ssh reaches the named VMs, or all. Writes the host keys of all VMs to vmprov's known-hosts file.
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
                host.progress.warn(&format!("skipping `{vm}`: {reason}"));
                config.left_out.push(LeftOut { vm, reason });
            }
        }
    }
    Ok(config)
}

/// Returns how ssh reaches the named VMs, or all that vmprov created.
pub(in crate::ops) fn targets(host: &Host, named: &[String]) -> Result<Targets> {
    let wanted = named.iter().map(|name| Ok(find(host, name)?.uuid)).collect::<Result<Vec<_>>>()?;
    let listed = host.virsh.domains()?;
    let requested: Vec<_> = listed.iter().map(|domain| (domain.uuid, true)).collect();
    let mut described = host.virsh.describe(&requested)?;
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
        // A VM that vmprov did not create is included only by name.
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
    // An address that is in no lease needs a query for this VM alone.
    let query = || address::of(host, domain).map(|known| known.into_iter().next());
    let address = leased.map_or_else(query, |leased| Ok(Some(leased))).map_err(|error| error.message)?;
    Ok(login.at(&address.ok_or("it has no address yet")?))
}
