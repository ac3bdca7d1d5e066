//! [`Quotas`]: how much a client may have. What there is, is looked at each time; what is under way is reserved here, so that
//! many operations at once take no more than one after the other would.

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

/// One look at what there is at a time: the next one must see what this one reserves.
static TURN: Semaphore = Semaphore::const_new(1);

/// How many looks there are at a time: one, as [`TURN`] has it.
static ROOM: Semaphore = Semaphore::const_new(1);

/// What one thing takes of each resource: MiB of memory, bytes of disk.
type Share = BTreeMap<Resource, u64>;

/// What a client has, by kind and name.
type Shares = BTreeMap<Thing, Share>;

/// What counts: the kind, as the details of an error have it, and the name.
type Thing = (&'static str, String);

const VMS: &str = "vms";
const IMAGES: &str = "images";
const KEYS: &str = "keys";
const VOLUMES: &str = "volumes";

/// What is under way, or ended while something else was under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quotas(Arc<Mutex<Vec<Reserved>>>);

#[derive(Debug, Clone)]
struct Reserved {
    id: uuid::Uuid,
    client: String,
    shares: Shares,
    /// Whether it has ended, and what it made is there. An older look may not have seen that.
    is_ended: bool,
}

/// What is reserved for an operation until it ends. The operation may ask it for more.
#[derive(Debug)]
pub(crate) struct Reservation {
    quotas: Quotas,
    id: uuid::Uuid,
    client: Arc<Client>,
    /// What the client had when it was reserved.
    owned: Shares,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl Reservation {
    /// Ends it: what was made is counted where it is from now on, and what failed is not there.
    pub(crate) fn end(&self, has_made: bool) {
        let mut known = self.quotas.lock();
        for reserved in known.iter_mut().filter(|reserved| reserved.id == self.id && has_made) {
            reserved.is_ended = true;
        }
        known.retain(|reserved| reserved.id != self.id || reserved.is_ended);
        let client = &self.client.name;
        if !known.iter().any(|reserved| reserved.client == *client && !reserved.is_ended) {
            known.retain(|reserved| reserved.client != *client);
        }
    }

    /// Reserves more, in place of what `replaces` of it.
    fn take(&self, thing: Thing, share: Share, replaces: impl Fn(&Thing) -> bool) -> Result<()> {
        let mut known = self.quotas.lock();
        let before = total(&merged(&self.owned, &known, &self.client.name));
        let Some(at) = known.iter().position(|reserved| reserved.id == self.id) else { return Ok(()) };
        let mut shares = known[at].shares.clone();
        shares.retain(|thing, _| !replaces(thing));
        shares.insert(thing, share);
        let earlier = std::mem::replace(&mut known[at].shares, shares);
        let refused = require_room(&self.client, &before, &merged(&self.owned, &known, &self.client.name));
        if refused.is_err() {
            known[at].shares = earlier;
        }
        refused
    }
}

impl Allowance for Reservation {
    fn take_image(&self, companion: &str, bytes: u64) -> Result<()> {
        let share = Share::from([(Resource::Images, 1), (Resource::Disk, bytes)]);
        self.take((IMAGES, companion.to_owned()), share, |(kind, _)| *kind == IMAGES)
    }

    fn take_volume(&self, name: &str, bytes: u64) -> Result<()> {
        self.take((VOLUMES, name.to_owned()), Share::from([(Resource::Disk, bytes)]), |_| false)
    }
}

impl Quotas {
    fn lock(&self) -> MutexGuard<'_, Vec<Reserved>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves what an operation will take; none where nothing that it takes is limited.
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
        let _turn = TURN.acquire().await.map_err(|error| Error::internal("the quotas are closed").because(error))?;
        // These come first: what ends after that is there by the time that is looked at.
        let mut under_way = service.quotas.lock().clone();
        under_way.retain(|reserved| !reserved.is_ended);
        let owned = look(service, client, limited).await?;
        let mut shares = merged(&owned.shares, &under_way, &client.name);
        let before = total(&shares);
        let wanted = wanted(operation, request, &owned.vms, &shares)?;
        shares.extend(wanted.clone());
        require_room(client, &before, &shares)?;
        Ok(Some(Arc::new(service.quotas.hold(client, owned.shares, wanted))))
    }

    fn hold(&self, client: &Arc<Client>, owned: Shares, shares: Shares) -> Reservation {
        let id = uuid::Uuid::new_v4();
        self.lock().push(Reserved { id, client: client.name.clone(), shares, is_ended: false });
        Reservation { quotas: self.clone(), id, client: client.clone(), owned }
    }
}

/// Returns what a request is known to take. What an operation learns only on its way, it asks its [`Allowance`] for.
fn wanted(operation: &Operation, request: &Value, owned: &[vm::OwnedVm], shares: &Shares) -> Result<Shares> {
    let request = || request.clone();
    let one = |kind, name: String, share: Share| Shares::from([((kind, name), share)]);
    Ok(match operation.name {
        "vm_create" => {
            let new: NewVm = api::again(request())?;
            one(
                VMS,
                new.name.to_string(),
                share(1, new.vcpus, new.memory.mib(), new.disk_size.bytes() + vm::BESIDE_DISK),
            )
        }
        "vm_set" => {
            let change: Change = api::again(request())?;
            let is_meant = |vm: &&vm::OwnedVm| vm.name == change.vm || vm.uuid.to_string() == change.vm;
            let name = owned.iter().find(is_meant).map_or(&change.vm, |vm| &vm.name);
            // One that is not the client's own does not count.
            let Some(mut share) = shares.get(&(VMS, name.clone())).cloned() else { return Ok(Shares::new()) };
            let changed = [
                (Resource::Vcpus, change.vcpus.map(u64::from)),
                (Resource::Memory, change.memory.map(Memory::mib)),
                (Resource::Disk, change.disk_size.map(|size| DiskSize::bytes(size) + vm::BESIDE_DISK)),
            ];
            share.extend(changed.into_iter().filter_map(|(resource, amount)| Some((resource, amount?))));
            one(VMS, name.clone(), share)
        }
        "ssh_key_generate" => {
            let new: NewKey = api::again(request())?;
            one(KEYS, new.name.to_string(), Share::from([(Resource::Keys, 1)]))
        }
        // Their one image is asked for before it is uploaded.
        "vm_commit" | "image_pull" | "image_import" => Shares::new(),
        other => return Err(Error::internal(format!("nobody has said how much {other} takes"))),
    })
}

fn share(vms: u64, vcpus: u32, memory_mib: u64, disk_bytes: u64) -> Share {
    use Resource::{Disk, Memory, Vcpus, Vms};
    Share::from([(Vms, vms), (Vcpus, vcpus.into()), (Memory, memory_mib), (Disk, disk_bytes)])
}

/// What a client has.
#[derive(Default)]
struct Counted {
    vms: Vec<vm::OwnedVm>,
    shares: Shares,
}

async fn look(service: &Service, client: &Client, limited: Vec<Resource>) -> Result<Counted> {
    let (host, owner) = (service.host_for_look(client), client.name.clone());
    blocking::run(&ROOM, move || owned(&host, &owner, &limited).map_err(|error| doctor::explain(&host, error))).await
}

/// Looks at what somebody has of the resources that are limited.
fn owned(host: &Host, owner: &str, limited: &[Resource]) -> Result<Counted> {
    let is_limited = |resources: &[Resource]| resources.iter().any(|resource| limited.contains(resource));
    let mut found = Counted::default();
    if is_limited(&[Resource::Vms, Resource::Vcpus, Resource::Memory, Resource::Disk]) {
        found.vms = vm::owned(host, owner)?;
        found.shares.extend(found.vms.iter().map(of_vm));
    }
    if is_limited(&[Resource::Images, Resource::Disk]) {
        let share = |bytes| Share::from([(Resource::Images, 1), (Resource::Disk, bytes)]);
        let images = image::owned(host, owner)?.into_iter();
        found.shares.extend(images.map(|image| ((IMAGES, image.companion), share(image.bytes))));
    }
    if is_limited(&[Resource::Keys]) {
        let keys = key::list(host)?.keys.into_iter();
        found.shares.extend(keys.map(|key| ((KEYS, key.name.to_string()), Share::from([(Resource::Keys, 1)]))));
    }
    Ok(found)
}

fn of_vm(vm: &vm::OwnedVm) -> (Thing, Share) {
    ((VMS, vm.name.clone()), share(1, vm.vcpus, vm.memory_mib, vm.disk_bytes))
}

/// Returns what a client has, with what is under way. What is in both counts once, as the larger one.
fn merged(owned: &Shares, under_way: &[Reserved], client: &str) -> Shares {
    let mut shares = owned.clone();
    let theirs = under_way.iter().filter(|reserved| reserved.client == client);
    for (thing, share) in theirs.flat_map(|reserved| &reserved.shares) {
        let merged = shares.entry(thing.clone()).or_default();
        for (resource, amount) in share {
            let known = merged.entry(*resource).or_default();
            *known = (*known).max(*amount);
        }
    }
    shares
}

fn total(shares: &Shares) -> Share {
    let mut total = Share::new();
    for (resource, amount) in shares.values().flatten() {
        let sum = total.entry(*resource).or_default();
        *sum = sum.saturating_add(*amount);
    }
    total
}

/// Refuses what exceeds the quota. What takes no more than before is let through, so that a lowered quota can be come back to.
fn require_room(client: &Client, before: &Share, shares: &Shares) -> Result<()> {
    let after = total(shares);
    for (resource, wanted) in after {
        let used = before.get(&resource).copied().unwrap_or_default();
        let limit = client.quota.limit(resource).filter(|limit| wanted > *limit && wanted > used);
        let Some(limit) = limit else { continue };
        let text = |number: u64| match resource {
            Resource::Memory => human(number << 20),
            Resource::Disk => human(number),
            _ => number.to_string(),
        };
        let name = resource.name();
        let mut details = Map::new();
        for (kind, thing) in shares.iter().filter(|(_, share)| share.contains_key(&resource)).map(|(thing, _)| thing) {
            let names = details.entry(*kind).or_insert_with(|| json!([]));
            names.as_array_mut().into_iter().for_each(|names| names.push(json!(thing)));
        }
        let counted: Vec<_> = details.iter().map(|(kind, names)| format!("{kind} {names}")).collect();
        details.extend([
            ("resource".to_owned(), json!(name)),
            ("used".to_owned(), json!(used)),
            ("wanted".to_owned(), json!(wanted)),
            ("limit".to_owned(), json!(limit)),
        ]);
        return Err(Error::new(
            Code::QuotaExceeded,
            format!("the quota of {} does not suffice: {name}", client.title()),
        )
        .because(format!("with this it would be {}, and {} is the most", text(wanted), text(limit)))
        .hint(format!("Delete something, or ask for less. What counts, with this: {}.", counted.join("; ")))
        .details(Value::Object(details)));
    }
    Ok(())
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
