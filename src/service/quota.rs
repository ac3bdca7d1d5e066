//! [`Quotas`]: how much a token's VMs may take together. What libvirt has is asked of it each time; what is under way is
//! reserved here, so that many creates at once take no more than one after the other would.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{
    Service,
    client::{Client, Quota},
    pool,
};
use crate::{
    api::Operation,
    error::{Code, Error, Result},
    model::{
        change::Change,
        size::{DiskSize, Memory, human},
        vm::NewVm,
    },
    ops::{doctor, vm},
};

/// One look at what there is at a time: the next one must see what this one reserves.
static TURN: Semaphore = Semaphore::const_new(1);

/// What a VM takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    vms: u64,
    vcpus: u64,
    memory_mib: u64,
    disk_bytes: u64,
}

impl Share {
    fn with(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            vms: join(self.vms, other.vms),
            vcpus: join(self.vcpus, other.vcpus),
            memory_mib: join(self.memory_mib, other.memory_mib),
            disk_bytes: join(self.disk_bytes, other.disk_bytes),
        }
    }
}

/// What VMs take, by their names.
type Shares = BTreeMap<String, Share>;

/// What is under way and not in libvirt yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quotas(Arc<Mutex<Vec<Reserved>>>);

#[derive(Debug, Clone)]
struct Reserved {
    id: uuid::Uuid,
    client: String,
    vm: String,
    share: Share,
}

/// What is reserved for an operation until it ends.
#[derive(Debug)]
pub(crate) struct Reservation {
    quotas: Quotas,
    id: uuid::Uuid,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quotas.lock().retain(|reserved| reserved.id != self.id);
    }
}

impl Quotas {
    fn lock(&self) -> MutexGuard<'_, Vec<Reserved>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves what an operation will take; none where nothing is limited.
    pub(crate) async fn reserve(
        service: &Arc<Service>,
        client: &Arc<Client>,
        operation: &'static Operation,
        request: &Value,
    ) -> Result<Option<Reservation>> {
        if client.quota == Quota::default() {
            return Ok(None);
        }
        let Some(wanted) = Wanted::of(operation, request)? else { return Ok(None) };
        let _turn = TURN.acquire().await.map_err(|error| Error::internal("the quotas are closed").because(error))?;
        // These come first: what ends after that is in libvirt by the time that is asked.
        let under_way = service.quotas.lock().clone();
        let owned = look(service, client).await?;
        let mut shares = shares(&owned, &under_way, &client.name);
        let before = total(&shares);
        let Some((vm, share)) = wanted.share(&owned, &shares) else { return Ok(None) };
        shares.insert(vm.clone(), share);
        require_room(client, before, &shares)?;
        Ok(Some(service.quotas.take(&client.name, vm, share)))
    }

    fn take(&self, client: &str, vm: String, share: Share) -> Reservation {
        let id = uuid::Uuid::new_v4();
        self.lock().push(Reserved { id, client: client.to_owned(), vm, share });
        Reservation { quotas: self.clone(), id }
    }
}

/// What a request wants to have.
enum Wanted {
    Create(Box<NewVm>),
    Set(Change),
}

impl Wanted {
    fn of(operation: &Operation, request: &Value) -> Result<Option<Self>> {
        let again = |error| Error::internal("cannot read a request that was read before").because(error);
        Ok(match operation.name {
            "vm_create" => Some(Self::Create(serde_json::from_value(request.clone()).map_err(again)?)),
            "vm_set" => Some(Self::Set(serde_json::from_value(request.clone()).map_err(again)?)),
            _ => None,
        })
    }

    /// The VM, and what it will take. None where that is not the client's own: it does not count.
    fn share(&self, owned: &[vm::Owned], shares: &Shares) -> Option<(String, Share)> {
        match self {
            Self::Create(new) => {
                let share = Share {
                    vms: 1,
                    vcpus: new.vcpus.into(),
                    memory_mib: new.memory.mib(),
                    disk_bytes: new.disk_size.bytes(),
                };
                Some((new.name.to_string(), share))
            }
            Self::Set(change) => {
                let is_meant = |vm: &&vm::Owned| vm.name == change.vm || vm.uuid.to_string() == change.vm;
                let name = owned.iter().find(is_meant).map_or(&change.vm, |vm| &vm.name);
                let mut share = *shares.get(name)?;
                share.vcpus = change.vcpus.map_or(share.vcpus, u64::from);
                share.memory_mib = change.memory.map_or(share.memory_mib, Memory::mib);
                share.disk_bytes = change.disk_size.map_or(share.disk_bytes, DiskSize::bytes);
                Some((name.clone(), share))
            }
        }
    }
}

/// How many looks there are at a time: one, as [`TURN`] has it.
static ROOM: Semaphore = Semaphore::const_new(1);

async fn look(service: &Service, client: &Client) -> Result<Vec<vm::Owned>> {
    let (host, owner) = (service.host_for_look(client), client.name.clone());
    pool::run(&ROOM, move || vm::owned(&host, &owner).map_err(|error| doctor::explain(&host, error))).await
}

/// What a client's VMs take, with what is under way. A VM that is in both counts once, as the larger one.
fn shares(owned: &[vm::Owned], under_way: &[Reserved], client: &str) -> Shares {
    let share =
        |vm: &vm::Owned| Share { vms: 1, vcpus: vm.vcpus.into(), memory_mib: vm.memory_mib, disk_bytes: vm.disk_bytes };
    let mut shares: Shares = owned.iter().map(|vm| (vm.name.clone(), share(vm))).collect();
    for reserved in under_way.iter().filter(|reserved| reserved.client == client) {
        let share = shares.entry(reserved.vm.clone()).or_default();
        *share = share.with(reserved.share, u64::max);
    }
    shares
}

fn total(shares: &Shares) -> Share {
    shares.values().fold(Share::default(), |sum, share| sum.with(*share, u64::saturating_add))
}

/// How much there is of one resource.
struct Resource {
    name: &'static str,
    limit: Option<u64>,
    amount: fn(&Share) -> u64,
    text: fn(u64) -> String,
}

fn resources(quota: &Quota) -> [Resource; 4] {
    let plain = |number: u64| number.to_string();
    let mib = |number: u64| human(number << 20);
    [
        Resource { name: "vms", limit: quota.vms, amount: |share| share.vms, text: plain },
        Resource { name: "vcpus", limit: quota.vcpus, amount: |share| share.vcpus, text: plain },
        Resource { name: "memory", limit: quota.memory.map(Memory::mib), amount: |share| share.memory_mib, text: mib },
        Resource {
            name: "disk",
            limit: quota.disk.map(DiskSize::bytes),
            amount: |share| share.disk_bytes,
            text: human,
        },
    ]
}

/// Refuses what exceeds the quota. What takes no more than before is let through, so that a lowered quota can be come back to.
fn require_room(client: &Client, before: Share, shares: &Shares) -> Result<()> {
    let after = total(shares);
    for Resource { name, limit, amount, text } in resources(&client.quota) {
        let (used, wanted) = (amount(&before), amount(&after));
        let Some(limit) = limit.filter(|limit| wanted > *limit && wanted > used) else { continue };
        let vms: Vec<_> = shares.keys().map(String::as_str).collect();
        return Err(Error::new(
            Code::QuotaExceeded,
            format!("the quota of {} does not suffice: {name}", client.title()),
        )
        .because(format!("with this it would be {}, and {} is the most", text(wanted), text(limit)))
        .hint(format!("Delete one of its VMs, or ask for less. They are, with this one: {}.", vms.join(", ")))
        .details(json!({"resource": name, "used": used, "wanted": wanted, "limit": limit, "vms": vms})));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;

    fn client(quota: &str) -> Client {
        Client { quota: toml::from_str(quota).unwrap(), name: "a".to_owned(), ..Client::anonymous() }
    }

    fn owned(name: &str, vcpus: u32) -> vm::Owned {
        vm::Owned { name: name.to_owned(), uuid: uuid::Uuid::nil(), vcpus, memory_mib: 1024, disk_bytes: 10 << 30 }
    }

    /// What is refused of a request, by the resource that does not suffice.
    fn refused(quota: &str, owned: &[vm::Owned], under_way: &[Reserved], name: &str, request: Value) -> Option<String> {
        let operation = api::find(name).unwrap();
        let request = operation.read(request).unwrap();
        let mut shares = shares(owned, under_way, "a");
        let before = total(&shares);
        let (vm, share) = Wanted::of(operation, &request).unwrap().unwrap().share(owned, &shares)?;
        shares.insert(vm, share);
        let error = require_room(&client(quota), before, &shares).err()?;
        assert_eq!(error.code, Code::QuotaExceeded);
        error.message.rsplit_once(": ").map(|(_, resource)| resource.to_owned())
    }

    #[test]
    fn each_resource_has_its_limit() {
        let new = || json!({"name": "n", "vcpus": 2, "memory": 2048, "diskSize": 20});
        let two = [owned("x", 2), owned("y", 2)];
        let create = |quota: &str| refused(quota, &two, &[], "vm_create", new());
        for fine in ["vms=3", "vcpus=6", "memory='4G'", "disk=40", ""] {
            assert_eq!(create(fine), None, "{fine}");
        }
        for (short, resource) in
            [("vms=2", "vms"), ("vcpus=5", "vcpus"), ("memory=4095", "memory"), ("disk=39", "disk")]
        {
            assert_eq!(create(short).as_deref(), Some(resource));
        }
    }

    #[test]
    fn what_is_under_way_counts_once_and_what_is_replaced_not_twice() {
        let quotas = Quotas::default();
        let share = Share { vms: 1, vcpus: 2, memory_mib: 1024, disk_bytes: 1 };
        let first = quotas.take("a", "x".to_owned(), share);
        let _others = quotas.take("b", "z".to_owned(), share);
        let under_way = quotas.lock().clone();
        let new = |name: &str| json!({"name": name, "vcpus": 2});
        assert_eq!(refused("vcpus=4", &[], &under_way, "vm_create", new("n")), None);
        assert_eq!(refused("vcpus=3", &[], &under_way, "vm_create", new("n")).as_deref(), Some("vcpus"));
        assert_eq!(refused("vcpus=4", &[owned("x", 2)], &under_way, "vm_create", new("n")), None);
        assert_eq!(refused("vms=1", &[owned("x", 2)], &under_way, "vm_create", new("x")), None);
        drop(first);
        assert_eq!(quotas.lock().len(), 1);
    }

    #[test]
    fn a_change_counts_with_what_it_makes_of_the_vm() {
        let two = [owned("x", 2), owned("y", 2)];
        let set = |quota: &str, request| refused(quota, &two, &[], "vm_set", request);
        assert_eq!(set("vcpus=5", json!({"vm": "x", "vcpus": 3})), None);
        assert_eq!(set("vcpus=5", json!({"vm": "x", "vcpus": 4})).as_deref(), Some("vcpus"));
        // Less than before is always allowed, also where it is still too much.
        assert_eq!(set("vcpus=1", json!({"vm": "x", "vcpus": 1})), None);
        assert_eq!(set("vcpus=1", json!({"vm": "somebody-elses", "vcpus": 9})), None);
        assert_eq!(set("disk=25", json!({"vm": "x", "diskSize": 16})).as_deref(), Some("disk"));
    }
}
