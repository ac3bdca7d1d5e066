//! [`Quotas`]: enforces the quotas of clients.
//!
//! The resources that a client owns are counted for each request. What running operations will create is reserved here,
//! so that concurrent operations together stay within the quota.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::{Service, blocking, client::Client};
use crate::{
    api::{self, Operation, Resource},
    error::{Code, Error, Result},
    model::{
        change::Change,
        key::NewKey,
        size::{DiskSize, Memory, human},
        vm::NewVm,
    },
    ops::{Allowance, Host, doctor, image, key, vm},
};

/// Held while one request counts and reserves, so that the next request sees the reservation.
static RESERVING: Semaphore = Semaphore::const_new(1);

/// The permits of counts: one, because [`RESERVING`] allows no more at a time.
static COUNT_PERMITS: Semaphore = Semaphore::const_new(1);

/// How much one item uses of each resource; memory in MiB, disk in bytes.
type Usage = BTreeMap<Resource, u64>;

/// The usage of a client's items.
type Usages = BTreeMap<Item, Usage>;

/// An item that counts: its kind, as in the details of an error, and its name.
type Item = (&'static str, String);

const VMS: &str = "vms";
const IMAGES: &str = "images";
const KEYS: &str = "keys";
const VOLUMES: &str = "volumes";

/// The reservations of running operations, and of those that ended while another one of the same client was running.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quotas(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug, Clone)]
struct Entry {
    id: uuid::Uuid,
    client: String,
    usages: Usages,
    /// Whether the operation has succeeded. A count that started before may have missed what it created.
    is_ended: bool,
}

/// The resources that are reserved for an operation until it ends. The operation may reserve more.
#[derive(Debug)]
pub(crate) struct Reservation {
    quotas: Quotas,
    id: uuid::Uuid,
    client: Arc<Client>,
    /// What the client owned when the reservation was made.
    owned: Usages,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl Reservation {
    /// Ends the reservation. What a successful operation created is counted from now on.
    pub(crate) fn end(&self, has_succeeded: bool) {
        let mut entries = self.quotas.lock();
        for entry in entries.iter_mut().filter(|entry| entry.id == self.id && has_succeeded) {
            entry.is_ended = true;
        }
        entries.retain(|entry| entry.id != self.id || entry.is_ended);
        let client = &self.client.name;
        if !entries.iter().any(|entry| entry.client == *client && !entry.is_ended) {
            entries.retain(|entry| entry.client != *client);
        }
    }

    /// Reserves an item in place of the reserved items that `replaces` matches.
    fn take(&self, item: Item, usage: Usage, replaces: impl Fn(&Item) -> bool) -> Result<()> {
        let mut entries = self.quotas.lock();
        let before = total(&merge(&self.owned, &entries, &self.client.name));
        let Some(at) = entries.iter().position(|entry| entry.id == self.id) else { return Ok(()) };
        let mut usages = entries[at].usages.clone();
        usages.retain(|item, _| !replaces(item));
        usages.insert(item, usage);
        let earlier = std::mem::replace(&mut entries[at].usages, usages);
        let checked = require_within_quota(&self.client, &before, &merge(&self.owned, &entries, &self.client.name));
        if checked.is_err() {
            entries[at].usages = earlier;
        }
        checked
    }
}

impl Allowance for Reservation {
    fn take_image(&self, manifest: &str, bytes: u64) -> Result<()> {
        let usage = Usage::from([(Resource::Images, 1), (Resource::Disk, bytes)]);
        self.take((IMAGES, manifest.to_owned()), usage, |(kind, _)| *kind == IMAGES)
    }

    fn take_volume(&self, name: &str, bytes: u64) -> Result<()> {
        self.take((VOLUMES, name.to_owned()), Usage::from([(Resource::Disk, bytes)]), |_| false)
    }
}

impl Quotas {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves what an operation will create. Returns none if the client's quota limits none of it.
    pub(crate) async fn reserve(
        service: &Arc<Service>,
        client: &Arc<Client>,
        operation: &'static Operation,
        request: &Value,
    ) -> Result<Option<Arc<Reservation>>> {
        let limited = |resource: &Resource| operation.may_take(*resource) && client.quota.limit(*resource).is_some();
        let limited: Vec<_> = Resource::ALL.into_iter().filter(limited).collect();
        if limited.is_empty() {
            return Ok(None);
        }
        let _reserving =
            RESERVING.acquire().await.map_err(|error| Error::internal("the semaphore is closed").because(error))?;
        // Copied before counting: what an operation creates after this exists when it is counted.
        let mut active = service.quotas.lock().clone();
        active.retain(|entry| !entry.is_ended);
        let owned = count_owned(service, client, limited).await?;
        let mut usages = merge(&owned.usages, &active, &client.name);
        let before = total(&usages);
        let requested = requested(operation, request, &owned.vms, &usages)?;
        usages.extend(requested.clone());
        require_within_quota(client, &before, &usages)?;
        Ok(Some(Arc::new(service.quotas.add(client, owned.usages, requested))))
    }

    fn add(&self, client: &Arc<Client>, owned: Usages, usages: Usages) -> Reservation {
        let id = uuid::Uuid::new_v4();
        self.lock().push(Entry { id, client: client.name.clone(), usages, is_ended: false });
        Reservation { quotas: self.clone(), id, client: client.clone(), owned }
    }
}

/// Returns what a request is known to create. What an operation learns only while it runs, it reserves through its
/// [`Allowance`].
fn requested(operation: &Operation, request: &Value, owned: &[vm::OwnedVm], usages: &Usages) -> Result<Usages> {
    let request = || request.clone();
    let one = |kind, name: String, usage: Usage| Usages::from([((kind, name), usage)]);
    Ok(match operation.name {
        "vm_create" => {
            let new: NewVm = api::reread(request())?;
            one(
                VMS,
                new.name.to_string(),
                usage(1, new.vcpus, new.memory.mib(), new.disk_size.bytes() + vm::SEED_AND_CONSOLE_BYTES),
            )
        }
        "vm_set" => {
            let change: Change = api::reread(request())?;
            let is_same = |vm: &&vm::OwnedVm| vm.name == change.vm || vm.uuid.to_string() == change.vm;
            let name = owned.iter().find(is_same).map_or(&change.vm, |vm| &vm.name);
            // A VM of another owner does not count.
            let Some(mut usage) = usages.get(&(VMS, name.clone())).cloned() else { return Ok(Usages::new()) };
            let changed = [
                (Resource::Vcpus, change.vcpus.map(u64::from)),
                (Resource::Memory, change.memory.map(Memory::mib)),
                (Resource::Disk, change.disk_size.map(|size| DiskSize::bytes(size) + vm::SEED_AND_CONSOLE_BYTES)),
            ];
            usage.extend(changed.into_iter().filter_map(|(resource, amount)| Some((resource, amount?))));
            one(VMS, name.clone(), usage)
        }
        "ssh_key_generate" => {
            let new: NewKey = api::reread(request())?;
            one(KEYS, new.name.to_string(), Usage::from([(Resource::Keys, 1)]))
        }
        // These operations reserve their image before they upload it.
        "vm_commit" | "image_pull" | "image_import" => Usages::new(),
        other => return Err(Error::internal(format!("the resources that {other} uses are not declared"))),
    })
}

fn usage(vms: u64, vcpus: u32, memory_mib: u64, disk_bytes: u64) -> Usage {
    use Resource::{Disk, Memory, Vcpus, Vms};
    Usage::from([(Vms, vms), (Vcpus, vcpus.into()), (Memory, memory_mib), (Disk, disk_bytes)])
}

/// The VMs that a client owns, and the usage of all its items.
#[derive(Default)]
struct Owned {
    vms: Vec<vm::OwnedVm>,
    usages: Usages,
}

async fn count_owned(service: &Service, client: &Client, limited: Vec<Resource>) -> Result<Owned> {
    let (host, owner) = (service.host_for_read(client), client.name.clone());
    let count = move || owned(&host, &owner, &limited).map_err(|error| doctor::explain(&host, error));
    blocking::run(&COUNT_PERMITS, count).await
}

/// Returns what an owner has of the limited resources.
fn owned(host: &Host, owner: &str, limited: &[Resource]) -> Result<Owned> {
    let is_limited = |resources: &[Resource]| resources.iter().any(|resource| limited.contains(resource));
    let mut found = Owned::default();
    if is_limited(&[Resource::Vms, Resource::Vcpus, Resource::Memory, Resource::Disk]) {
        found.vms = vm::owned(host, owner)?;
        found.usages.extend(found.vms.iter().map(of_vm));
    }
    if is_limited(&[Resource::Images, Resource::Disk]) {
        let usage = |bytes| Usage::from([(Resource::Images, 1), (Resource::Disk, bytes)]);
        let images = image::owned(host, owner)?.into_iter();
        found.usages.extend(images.map(|image| ((IMAGES, image.manifest), usage(image.bytes))));
    }
    if is_limited(&[Resource::Keys]) {
        let keys = key::list(host)?.keys.into_iter();
        found.usages.extend(keys.map(|key| ((KEYS, key.name.to_string()), Usage::from([(Resource::Keys, 1)]))));
    }
    Ok(found)
}

fn of_vm(vm: &vm::OwnedVm) -> (Item, Usage) {
    ((VMS, vm.name.clone()), usage(1, vm.vcpus, vm.memory_mib, vm.disk_bytes))
}

/// Returns the usage of a client including its reservations. An item that is in both counts once, with the larger
/// usage.
fn merge(owned: &Usages, active: &[Entry], client: &str) -> Usages {
    let mut usages = owned.clone();
    let reserved = active.iter().filter(|entry| entry.client == client);
    for (item, usage) in reserved.flat_map(|entry| &entry.usages) {
        let merged = usages.entry(item.clone()).or_default();
        for (resource, amount) in usage {
            let largest = merged.entry(*resource).or_default();
            *largest = (*largest).max(*amount);
        }
    }
    usages
}

fn total(usages: &Usages) -> Usage {
    let mut total = Usage::new();
    for (resource, amount) in usages.values().flatten() {
        let sum = total.entry(*resource).or_default();
        *sum = sum.saturating_add(*amount);
    }
    total
}

/// Refuses a usage that exceeds the quota. A usage that is not higher than before is allowed, so that a client can get
/// back below a lowered quota.
fn require_within_quota(client: &Client, before: &Usage, usages: &Usages) -> Result<()> {
    let after = total(usages);
    for (resource, wanted) in after {
        let used = before.get(&resource).copied().unwrap_or_default();
        let limit = client.quota.limit(resource).filter(|limit| wanted > *limit && wanted > used);
        let Some(limit) = limit else { continue };
        let text = |number: u64| match resource {
            Resource::Memory => human(number << 20),
            Resource::Disk => human(number),
            _ => number.to_string(),
        };
        let name = resource.to_string();
        let mut details = Map::new();
        for (kind, item) in usages.iter().filter(|(_, usage)| usage.contains_key(&resource)).map(|(item, _)| item) {
            let names = details.entry(*kind).or_insert_with(|| json!([]));
            names.as_array_mut().into_iter().for_each(|names| names.push(json!(item)));
        }
        let counted: Vec<_> = details.iter().map(|(kind, names)| format!("{kind} {names}")).collect();
        details.extend([
            ("resource".to_owned(), json!(name)),
            ("used".to_owned(), json!(used)),
            ("wanted".to_owned(), json!(wanted)),
            ("limit".to_owned(), json!(limit)),
        ]);
        return Err(Error::new(Code::QuotaExceeded, format!("quota exceeded for {}", client.title()))
            .because(format!("{name} would be {}, limit {}", text(wanted), text(limit)))
            .hint(format!("Delete something or request less (counted: {})", counted.join("; ")))
            .details(Value::Object(details)));
    }
    Ok(())
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
