//! What completes a word: the VMs, keys and networks that are there now. Whatever fails completes nothing.

use std::sync::Arc;

use clap::{Command, FromArgMatches};
use clap_complete::{ArgValueCandidates, CompletionCandidate};

use super::{Cli, settings};
use crate::{
    cancel::Cancel,
    ops::{Host, key, vm},
};

/// Adds the completers to the grammar.
pub(super) fn add_to(command: Command) -> Command {
    let vms = |arg: clap::Arg| arg.add(ArgValueCandidates::new(vm_names));
    let keys = |arg: clap::Arg| arg.add(ArgValueCandidates::new(key_names));
    let verbs = ["info", "start", "stop", "restart", "delete", "ip", "wait", "ssh", "console"];
    command
        .mut_subcommand("vm", |vm| {
            let vm = vm.mut_subcommand("create", |create| create.mut_arg("ssh_keys", keys));
            verbs.into_iter().fold(vm, |vm, verb| vm.mut_subcommand(verb, |verb| verb.mut_arg("vm", vms)))
        })
        .mut_subcommand("key", |key| {
            ["show", "delete"]
                .into_iter()
                .fold(key, |key, verb| key.mut_subcommand(verb, |verb| verb.mut_arg("name", keys)))
        })
        .mut_subcommand("inject", |inject| inject.mut_arg("vm", vms).mut_arg("key", keys))
}

/// A host with the settings of the environment and the files: flags typed earlier on the line are not known here.
fn host() -> Option<Host> {
    let matches = <Cli as clap::CommandFactory>::command().try_get_matches_from(["vmprov", "config"]).ok()?;
    let cli = Cli::from_arg_matches(&matches).ok()?;
    let settings = settings::resolve(&cli.flags).ok()?.settings();
    Some(Host::new(settings, Cancel::default(), Arc::new(())))
}

fn vm_names() -> Vec<CompletionCandidate> {
    let vms = host().and_then(|host| vm::list(&host, true).ok()).unwrap_or_default();
    vms.iter().map(|vm| CompletionCandidate::new(&vm.name)).collect()
}

fn key_names() -> Vec<CompletionCandidate> {
    let keys = host().and_then(|host| key::list(&host).ok()).map(|listing| listing.keys).unwrap_or_default();
    keys.iter().map(|key| CompletionCandidate::new(key.name.as_str())).collect()
}
