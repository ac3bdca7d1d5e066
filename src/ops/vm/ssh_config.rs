//! `ssh-config`: what `~/.ssh/config` needs, so that ssh, rsync and editors find the VMs by name, with strict host keys.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::Host,
    address::{self, best_first},
    find,
    login::Login,
};
use crate::{error::Result, model::vm::Address, store::known_hosts, tools::virsh::Domain};

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

/// Puts together what ssh needs for the VMs named, or for all. The host keys of all are written to a file of vmprov's.
pub fn ssh_config(host: &Host, options: &SshConfigOptions) -> Result<SshConfig> {
    let wanted = options.vm.iter().map(|name| Ok(find(host, name)?.uuid)).collect::<Result<Vec<_>>>()?;
    let listed = host.virsh.domains()?;
    let asked: Vec<_> = listed.iter().map(|domain| (domain.uuid, true)).collect();
    let mut described = host.virsh.describe(&asked)?;
    let domains = listed.iter().filter_map(|listed| Some((listed, described.remove(&listed.uuid)?.domain?)));
    let domains: Vec<_> = domains.collect();
    let keys =
        domains.iter().filter_map(|(_, domain)| Some((domain.uuid.to_string(), &domain.metadata.as_ref()?.host_keys)));
    let file = known_hosts::write(&host.settings.data_dir, &host.settings.uri, keys)?;
    let leases = host.virsh.leases()?;
    let mut config = SshConfig { hosts: Vec::new(), left_out: Vec::new() };
    for (listed, domain) in &domains {
        let is_named = wanted.contains(&domain.uuid);
        if !host.caller.sees(&domain.name) {
            continue;
        }
        // Of VMs that vmprov did not make there is nothing to say unless somebody asks.
        if !is_named && (!wanted.is_empty() || domain.metadata.is_none()) {
            continue;
        }
        let reach = if listed.state.is_active() {
            reach(host, domain, best_first(domain, leases.clone()).into_iter().next(), file.as_str())
        } else {
            Err(format!("it is {}", listed.state))
        };
        match reach {
            Ok(reached) => config.hosts.push(reached),
            Err(reason) => {
                host.progress.warn(&format!("`{}` is left out: {reason}", domain.name));
                config.left_out.push(LeftOut { vm: domain.name.clone(), reason });
            }
        }
    }
    Ok(config)
}

fn reach(host: &Host, domain: &Domain, leased: Option<Address>, file: &str) -> Result<SshHost, String> {
    let login = Login::of(host, domain, None).map_err(|error| error.message)?;
    // What is in no lease is asked for by itself.
    let others = || address::of(host, domain).map(|known| known.into_iter().next());
    let address = leased.map_or_else(others, |leased| Ok(Some(leased))).map_err(|error| error.message)?;
    let target = login.at(&address.ok_or("it has no address yet")?);
    Ok(SshHost {
        host: domain.name.clone(),
        host_name: target.address.to_string(),
        port: target.port,
        user: target.user,
        identity_files: target.identities.iter().map(ToString::to_string).collect(),
        host_key_alias: target.alias,
        user_known_hosts_file: file.to_owned(),
    })
}
