//! Shell completion with the names of VMs, images, keys, checks and catalogue entries. A failure completes nothing.

use std::{ffi::OsStr, sync::Arc};

use clap::{Arg, Command, FromArgMatches};
use clap_complete::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, engine::ValueCompleter,
};

use super::{Cli, settings};
use crate::{
    api::{self, Kind, Reference, Resource},
    cancel::Cancel,
    model::vm::Vm,
    ops::{
        Host, doctor, image, key,
        vm::{self, ListOptions},
    },
};

/// Adds the completers to the grammar of the command line.
pub(super) fn add_to(root: Command) -> Command {
    add_below(root, "")
}

/// Adds the completers to the commands below a command, which is given by its words.
fn add_below(command: Command, words: &str) -> Command {
    let names: Vec<_> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    names.iter().fold(command, |command, name| {
        let words = format!("{words} {name}").trim_start().to_owned();
        command.mut_subcommand(name, |below| add_below(below, &words).mut_args(|arg| with_completer(arg, &words)))
    })
}

/// Adds the completer to an argument. The row of the command's operation tells what it names.
fn with_completer(arg: Arg, command: &str) -> Arg {
    let operation = api::operations().iter().find(|operation| operation.command == command);
    let Some(operation) = operation else { return with_completer_by_name(arg) };
    let is_arg = |reference: &&Reference| reference.member.to_lowercase() == arg.get_id().as_str().replace('_', "");
    match operation.references.iter().find(is_arg) {
        None if arg.get_id() == "checks" => arg.add(ArgValueCandidates::new(check_ids)),
        None => arg,
        Some(reference) if reference.is_new => arg,
        Some(reference) => match reference.kind {
            Kind::Vm => arg.add(ArgValueCandidates::new(vm_names)),
            Kind::Key => arg.add(ArgValueCandidates::new(key_names)),
            Kind::Image if operation.may_take(Resource::Images) => arg.add(ArgValueCompleter::new(image_or_file)),
            Kind::Image => arg.add(ArgValueCandidates::new(image_names)),
            Kind::Network | Kind::Pool => arg,
        },
    }
}

/// Adds the completer to an argument of a command that is not an operation.
fn with_completer_by_name(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "vm" => arg.add(ArgValueCandidates::new(vm_names)),
        "image" => arg.add(ArgValueCandidates::new(image_names)),
        "paths" => arg.add(ArgValueCompleter::new(vm_or_file)),
        _ => arg,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise, an argument that has another name than its member would silently not be completed.
    #[test]
    fn every_argument_that_names_a_vm_key_or_image_is_completed() {
        let root = add_to(<Cli as clap::CommandFactory>::command());
        for operation in api::operations() {
            let command = operation.command.split(' ').fold(&root, |at, word| at.find_subcommand(word).unwrap());
            let is_completed =
                |arg: &&Arg| arg.get::<ArgValueCandidates>().is_some() || arg.get::<ArgValueCompleter>().is_some();
            let completed = command.get_arguments().filter(is_completed).count();
            let names = operation
                .references
                .iter()
                .filter(|reference| !reference.is_new && matches!(reference.kind, Kind::Vm | Kind::Key | Kind::Image));
            assert!(completed >= names.count(), "{}", operation.name);
        }
    }
}
