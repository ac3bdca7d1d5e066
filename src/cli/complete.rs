//! Shell completion with the names of VMs, images, keys, checks and catalogue entries. A failure completes nothing.

use std::{ffi::OsStr, sync::Arc};

use clap::{Command, FromArgMatches};
use clap_complete::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, engine::ValueCompleter,
};

use super::{Cli, settings};
use crate::{
    cancel::Cancel,
    model::vm::Vm,
    ops::{
        Host, doctor, image, key,
        vm::{self, ListOptions},
    },
};

/// Adds the completers to the grammar of the command line.
pub(super) fn add_to(command: Command) -> Command {
    let vms = |arg: clap::Arg| arg.add(ArgValueCandidates::new(vm_names));
    let keys = |arg: clap::Arg| arg.add(ArgValueCandidates::new(key_names));
    let images = |arg: clap::Arg| arg.add(ArgValueCandidates::new(image_names));
    let published = |arg: clap::Arg| arg.add(ArgValueCompleter::new(image_or_file));
    let paths = |arg: clap::Arg| arg.add(ArgValueCompleter::new(vm_or_file));
    let verbs = [
        "info",
        "start",
        "stop",
        "restart",
        "delete",
        "set",
        "ttl",
        "protect",
        "unprotect",
        "commit",
        "ip",
        "wait",
        "ssh",
        "ssh-command",
        "exec",
        "console",
        "logs",
        "screenshot",
        "events",
    ];
    command
        .mut_subcommand("vm", |vm| {
            let vm = vm.mut_subcommand("create", |create| create.mut_arg("ssh_keys", keys).mut_arg("image", published));
            let vm = vm.mut_subcommand("cp", |cp| cp.mut_arg("paths", paths));
            verbs.into_iter().fold(vm, |vm, verb| vm.mut_subcommand(verb, |verb| verb.mut_arg("vm", vms)))
        })
        .mut_subcommand("image", |image| {
            let image = image.mut_subcommand("pull", |pull| pull.mut_arg("image", published));
            ["info", "export", "set", "delete"]
                .into_iter()
                .fold(image, |image, verb| image.mut_subcommand(verb, |verb| verb.mut_arg("image", images)))
        })
        .mut_subcommand("key", |key| {
            ["show", "delete"]
                .into_iter()
                .fold(key, |key, verb| key.mut_subcommand(verb, |verb| verb.mut_arg("name", keys)))
        })
        .mut_subcommand("ssh-config", |config| config.mut_arg("vm", vms))
        .mut_subcommand("doctor", |doctor| doctor.mut_arg("checks", |arg| arg.add(ArgValueCandidates::new(check_ids))))
        .mut_subcommand("inject", |inject| inject.mut_arg("vm", vms).mut_arg("key", keys))
}

/// Returns a host with the settings of the environment and the configuration files. A completer does not know the flags
/// earlier on the command line.
fn host() -> Option<Host> {
    let matches = <Cli as clap::CommandFactory>::command().try_get_matches_from(["vmprov", "config"]).ok()?;
    let cli = Cli::from_arg_matches(&matches).ok()?;
    let settings = settings::resolve(&cli.flags).ok()?.settings();
    Some(Host::new(settings, Cancel::default(), Arc::new(())))
}

fn vm_names() -> Vec<CompletionCandidate> {
    vms().iter().map(|vm| CompletionCandidate::new(&vm.name)).collect()
}

fn vms() -> Vec<Vm> {
    let listed = host().and_then(|host| vm::list(&host, ListOptions { brief: true }).ok());
    listed.map(|listed| listed.vms).unwrap_or_default()
}

/// Completes a VM's name followed by a colon, or a path.
fn vm_or_file(prefix: &OsStr) -> Vec<CompletionCandidate> {
    let text = prefix.to_string_lossy();
    let mut all: Vec<_> = vms().iter().map(|vm| CompletionCandidate::new(format!("{}:", vm.name))).collect();
    all.retain(|candidate| candidate.get_value().to_string_lossy().starts_with(&*text));
    all.extend(PathCompleter::any().complete(prefix));
    all
}

/// Returns the names of the images in the pool. A replaced image has lost its name, so its ID stands for it.
fn image_names() -> Vec<CompletionCandidate> {
    let images = host().and_then(|host| image::list(&host).ok()).map(|listing| listing.images).unwrap_or_default();
    let name = |image: &image::Image| if image.current { image.name.clone() } else { image.id.clone() };
    images.iter().map(name).map(CompletionCandidate::new).collect()
}

/// Completes a name from the catalogue or the pool, or a file.
fn image_or_file(prefix: &OsStr) -> Vec<CompletionCandidate> {
    let text = prefix.to_string_lossy();
    let published = host().and_then(|host| image::names(&host).ok()).unwrap_or_default();
    let mut all: Vec<_> = published.into_iter().map(CompletionCandidate::new).chain(image_names()).collect();
    all.retain(|candidate| candidate.get_value().to_string_lossy().starts_with(&*text));
    all.extend(PathCompleter::file().complete(prefix));
    all
}

/// Completes the ID of a check, with its description.
fn check_ids() -> Vec<CompletionCandidate> {
    let candidate = |check: &doctor::Check| CompletionCandidate::new(check.id).help(Some(check.about.into()));
    doctor::CHECKS.iter().map(candidate).collect()
}

fn key_names() -> Vec<CompletionCandidate> {
    let keys = host().and_then(|host| key::list(&host).ok()).map(|listing| listing.keys).unwrap_or_default();
    keys.iter().map(|key| CompletionCandidate::new(key.name.as_str())).collect()
}
