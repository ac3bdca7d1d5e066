//! The human-readable reports, and the names in them.

mod doctor;
mod edit;
mod guest;
mod image;
mod lifetime;

use std::net::SocketAddr;

use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::{
    output::{Show, plain},
    settings::Resolved,
};
use crate::{
    model::{
        key::Key,
        size::human,
        vm::{Address, Known, Vm, VmInfo, Vms},
    },
    ops::{
        gc::Collected,
        key::{DeletedKey, Keys},
        vm::{Addresses, Changed, Created, Deleted, Injected, Reached, Renamed},
    },
};

/// Returns a table without lines, whose columns are padded with spaces.
fn table<R: IntoIterator<Item = String>>(header: &[&str], rows: impl IntoIterator<Item = R>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.into_iter().map(|cell| plain(&cell).replace('\n', "\\n")));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Returns name and value pairs, one per line, without those whose value is unknown.
fn pairs(pairs: &[(&str, String)]) -> String {
    let known = || pairs.iter().filter(|(_, value)| !value.is_empty());
    let width = known().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {}", plain(value));
    known().map(line).collect::<Vec<_>>().join("\n")
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

/// Returns the current value, with the maximum for the running VM if that is more.
fn up_to(now: String, maximum: &str) -> String {
    if now == maximum { now } else { format!("{now} (up to {maximum} without a restart)") }
}

impl Show for Vms {
    fn table(&self) -> String {
        let expires = self.vms.iter().any(|vm| vm.known.as_ref().is_some_and(|known| known.expires.is_some()));
        let row = |vm: &Vm| {
            let mut row =
                vec![vm.name.clone(), state(vm), human(vm.memory << 20), vm.vcpus.to_string(), yes(vm.autostart)];
            if let Some(known) = &vm.known {
                if expires {
                    row.push(known.expires.map(|expires| expires.to_string()).unwrap_or_default());
                }
                row.push(yes(known.managed));
                row.push(known.image.as_deref().map(file_name).unwrap_or_default());
                row.push(reached_at(known));
            }
            row
        };
        let mut header = vec!["NAME", "STATE", "MEMORY", "VCPUS", "AUTOSTART"];
        if self.vms.iter().all(|vm| vm.known.is_some()) {
            header.extend(expires.then_some("EXPIRES"));
            header.extend(["MANAGED", "IMAGE", "ADDRESSES"]);
        }
        table(&header, self.vms.iter().map(row))
    }

    fn names(&self) -> Vec<String> {
        self.vms.iter().map(|vm| vm.name.clone()).collect()
    }
}

fn state(vm: &Vm) -> String {
    match &vm.known {
        Some(known) if known.incomplete => format!("{} (incomplete)", vm.state),
        _ => vm.state.to_string(),
    }
}

fn file_name(source: &str) -> String {
    source.rsplit('/').next().unwrap_or(source).to_owned()
}

/// Returns a VM's addresses, with the SSH port if it is forwarded.
fn reached_at(known: &Known) -> String {
    match known.ssh_port {
        Some(port) => known.addresses.iter().map(|&address| SocketAddr::new(address, port).to_string()).collect(),
        None => join(&known.addresses),
    }
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Show for VmInfo {
    fn table(&self) -> String {
        let vm = &self.vm;
        let known = vm.known.as_ref();
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let image_verification = known.and_then(|known| known.image_verification);
        let image_verification = image_verification.map(|how| how.to_string()).unwrap_or_default();
        let expires = known.and_then(|known| known.expires);
        let keys: Vec<_> = self.ssh_keys.iter().map(|key| format!("{} ({})", key.name, key.fingerprint)).collect();
        let disks: Vec<_> = self
            .disks
            .iter()
            .map(|disk| format!("{} {}", disk.target, disk.source.as_deref().unwrap_or("(empty)")))
            .collect();
        let interfaces: Vec<_> = self
            .interfaces
            .iter()
            .map(|interface| format!("{} on {}", interface.mac, interface.source.as_deref().unwrap_or(&interface.kind)))
            .collect();
        pairs(&[
            ("name", vm.name.clone()),
            ("uuid", vm.uuid.to_string()),
            ("state", state(vm)),
            ("description", or_empty(&self.description)),
            ("memory", up_to(human(vm.memory << 20), &human(self.max_memory << 20))),
            ("vcpus", up_to(vm.vcpus.to_string(), &self.max_vcpus.to_string())),
            ("autostart", yes(vm.autostart)),
            ("managed", known.map(|known| yes(known.managed)).unwrap_or_default()),
            ("accelerator", self.accelerator.clone()),
            ("machine", self.machine.iter().chain([&self.arch]).cloned().collect::<Vec<_>>().join(" ")),
            ("addresses", known.map(reached_at).unwrap_or_default()),
            ("agent", if vm.state.is_active() { yes(self.agent) } else { String::new() }),
            ("user", known.and_then(|known| known.user.clone()).unwrap_or_default()),
            ("ssh keys", keys.join(", ")),
            ("image", known.and_then(|known| known.image.clone()).unwrap_or_default()),
            ("sha256", or_empty(&self.image_sha256)),
            ("verified by", image_verification),
            ("created", or_empty(&self.created)),
            ("expires", expires.map(|expires| expires.to_string()).unwrap_or_default()),
            ("protected", known.filter(|known| known.protected).map(|_| yes(true)).unwrap_or_default()),
            ("owner", known.and_then(|known| known.owner.clone()).unwrap_or_default()),
            ("instance-id", or_empty(&self.instance_id)),
            ("disks", disks.join(", ")),
            ("interfaces", interfaces.join(", ")),
            ("volumes", self.volumes.join(", ")),
        ])
    }

    fn names(&self) -> Vec<String> {
        vec![self.vm.name.clone()]
    }
}

impl Show for Created {
    fn table(&self) -> String {
        let vm = &self.vm;
        let addresses = vm.known.as_ref().map(reached_at).unwrap_or_default();
        pairs(&[
            ("name", vm.name.clone()),
            ("uuid", vm.uuid.to_string()),
            ("state", vm.state.to_string()),
            ("addresses", addresses),
            ("changed", if self.changed { String::new() } else { yes(false) }),
        ])
    }

    fn names(&self) -> Vec<String> {
        vec![self.vm.name.clone()]
    }
}

/// The commands that a dry run would run, and its warnings.
#[derive(Debug, Serialize)]
pub(super) struct DryRun {
    pub(super) commands: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Show for DryRun {
    fn table(&self) -> String {
        self.commands.join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.commands.clone()
    }
}

/// The reports on several VMs, images or keys.
#[derive(Debug, Serialize)]
pub(super) struct Results<T> {
    pub(super) results: Vec<T>,
}

impl Show for Results<Changed> {
    fn table(&self) -> String {
        let line = |report: &Changed| {
            let Changed { status, vm, state, changed, forced } = report;
            let (already, how) = match (changed, forced) {
                (false, _) => ("already ", ""),
                (true, true) => ("", " by force"),
                (true, false) => ("", ""),
            };
            format!("{vm}: {already}{status}{how} ({state})")
        };
        self.results.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.results.iter().map(|report| report.vm.clone()).collect()
    }
}

impl Show for Renamed {
    fn table(&self) -> String {
        let Self { vm, old_name, .. } = self;
        if self.changed { format!("{old_name}: renamed to {vm}") } else { format!("{vm}: already has this name") }
    }

    fn names(&self) -> Vec<String> {
        vec![self.vm.clone()]
    }
}

impl Show for Results<DeletedKey> {
    fn table(&self) -> String {
        self.results.iter().map(|report| format!("{}: {}", report.key, report.status)).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.results.iter().map(|report| report.key.to_string()).collect()
    }
}

impl Show for Results<Deleted> {
    fn table(&self) -> String {
        let line = |report: &Deleted| {
            let Deleted { status, vm, deleted, kept } = report;
            let list = |word: &str, items: &[String]| {
                if items.is_empty() { String::new() } else { format!("{word} {}", items.join(", ")) }
            };
            format!("{vm}: {status}{}{}", list(", including", deleted), list("; kept", kept))
        };
        self.results.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.results.iter().map(|report| report.vm.clone()).collect()
    }
}

impl Show for Reached {
    fn table(&self) -> String {
        let at = if self.addresses.is_empty() { String::new() } else { format!(" at {}", join(&self.addresses)) };
        format!("{}: {}{at} after {} s", self.vm, self.reached, self.seconds)
    }

    fn names(&self) -> Vec<String> {
        vec![self.vm.clone()]
    }
}

impl Show for Injected {
    fn table(&self) -> String {
        let Self { vm, key, user, method, .. } = self;
        if self.restart_needed {
            let restart = format!("vmprov vm restart {}", shell_words::quote(vm));
            return format!("{vm}: key {key} takes effect for user {user} (by {method}) after a restart: {restart}");
        }
        let verified = if self.verified { ", verified by a login" } else { "" };
        format!("{vm}: added key {key} for user {user} (by {method}){verified}")
    }

    fn names(&self) -> Vec<String> {
        vec![self.vm.clone()]
    }
}

/// The addresses of a VM: the best one for a login, or all of them.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    #[serde(flatten)]
    pub(super) found: Addresses,
    /// Whether the table has all addresses.
    #[serde(skip)]
    pub(super) all: bool,
}

impl Show for Found {
    fn table(&self) -> String {
        if !self.all {
            return self.found.addresses.first().map(ToString::to_string).unwrap_or_default();
        }
        let row = |address: &Address| {
            let expires = address.expires.map(|time| time.to_string()).unwrap_or_default();
            [address.to_string(), address.mac.clone(), address.source.to_string(), expires]
        };
        table(&["ADDRESS", "MAC", "SOURCE", "EXPIRES"], self.found.addresses.iter().map(row))
    }

    fn names(&self) -> Vec<String> {
        self.found.addresses.iter().map(ToString::to_string).collect()
    }
}

impl Show for Collected {
    fn table(&self) -> String {
        let mut lines: Vec<_> = self.vms.iter().map(|vm| format!("removed the VM {vm}")).collect();
        lines.extend(self.volumes.iter().map(|volume| format!("removed the volume {volume}")));
        lines.extend(self.skipped.iter().map(|skipped| format!("skipped {}: {}", skipped.vm, skipped.reason)));
        let orphan = |volume| {
            format!("kept the orphaned overlay {volume}: its backing file is missing; delete it: vmprov gc --orphans")
        };
        lines.extend(self.orphans.iter().map(orphan));
        if lines.is_empty() {
            lines.push("nothing to clean up".to_owned());
        }
        lines.join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.vms.clone()
    }
}

impl Show for Keys {
    fn table(&self) -> String {
        let row = |key: &Key| {
            let private = if key.private_key_path.is_some() { "yes" } else { "no" };
            [
                key.name.to_string(),
                key.kind.clone(),
                key.bits.to_string(),
                key.fingerprint.clone(),
                private.to_owned(),
                key.comment.clone(),
            ]
        };
        table(&["NAME", "TYPE", "BITS", "FINGERPRINT", "PRIVATE", "COMMENT"], self.keys.iter().map(row))
    }

    fn names(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.name.to_string()).collect()
    }
}

impl Show for Key {
    fn table(&self) -> String {
        pairs(&[
            ("name", self.name.to_string()),
            ("type", format!("{} {}", self.kind, self.bits)),
            ("fingerprint", self.fingerprint.clone()),
            ("public key", self.public_key_path.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("private key", self.private_key_path.as_ref().map(ToString::to_string).unwrap_or_default()),
        ])
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.to_string()]
    }
}

impl Show for Resolved {
    fn table(&self) -> String {
        table(
            &["SETTING", "VALUE", "ORIGIN"],
            self.settings.iter().map(|s| [s.name.to_owned(), s.value.clone(), s.origin.clone()]),
        )
    }

    fn names(&self) -> Vec<String> {
        self.settings.iter().map(|setting| setting.name.to_owned()).collect()
    }
}
