//! Adding a key to the seed of a VM, by replacing the seed.

use crate::{
    cloud_init::Seed,
    error::{Error, Hint, Result},
    model::{
        key::Key,
        record::{InjectedKey, OwnedVolume, VmRecord, VolumeRole},
    },
    ops::{Host, undo::undoing, vm::lifecycle::seed},
    tools::virsh::{DiskDevice, DomainSummary},
};

/// A key to add to a VM's seed.
pub(super) struct Reseed<'a> {
    pub(super) host: &'a Host,
    pub(super) listed: &'a DomainSummary,
    pub(super) metadata: &'a VmRecord,
    pub(super) key: &'a Key,
}

/// The seed that a VM will use at its next start.
struct Attached {
    volume: OwnedVolume,
    /// The disk's target name in the domain.
    target: String,
    path: String,
}

impl Reseed<'_> {
    /// Adds the key to the seed if the seed is for `user`. `renew` also sets a new instance ID, so that cloud-init runs
    /// again at the next start. Returns the seed's user if it is another one.
    pub(super) fn run(&self, user: &str, renew: bool) -> Result<Option<String>> {
        self.host.step("writing a new seed");
        let attached = self.attached()?;
        let mut seed = seed::read(self.host, &attached.volume)?;
        if seed.user != user {
            if renew {
                let name = &self.listed.name;
                let message = format!("the seed of VM `{name}` is for user `{}`, not `{user}`", seed.user);
                return Err(Error::conflict(message)
                    .hint(Hint::set_to("Inject for that user", "user", seed.user))
                    .hint("Inject while the VM is running with a guest agent"));
            }
            self.record_key(self.metadata.clone())?;
            return Ok(Some(seed.user));
        }
        if !seed.authorized_keys.contains(&self.key.public_key) {
            seed.authorized_keys.push(self.key.public_key.clone());
        }
        if renew {
            seed.instance_id = seed::instance_id(&self.listed.name);
        }
        self.replace(&attached, &seed)?;
        Ok(None)
    }

    /// Finds the seed that is attached. An interrupted inject may have recorded a seed that does not exist.
    fn attached(&self) -> Result<Attached> {
        let Self { host, listed, metadata, .. } = self;
        let domain = host.virsh.persistent_domain(listed.uuid)?;
        let seeds: Vec<_> = metadata.volumes.iter().filter(|volume| volume.role == VolumeRole::Seed).collect();
        let attached = domain.disks.into_iter().find_map(|disk| {
            let path = disk.source?;
            let volume = seeds.iter().find(|volume| path.rsplit('/').next() == Some(&volume.name))?;
            Some(Attached { volume: (*volume).clone(), target: disk.target, path })
        });
        attached.ok_or_else(|| Error::conflict(format!("the seed of VM `{}` is no longer attached", listed.name)))
    }

    /// Replaces the seed. The order keeps the VM consistent at every moment: the new volume is recorded before it is
    /// created. The old volume is deleted last, or at the next start if the VM is running with it.
    fn replace(&self, attached: &Attached, seed: &Seed) -> Result<()> {
        let Self { host, listed, metadata, .. } = *self;
        let (uuid, live) = (listed.uuid, listed.state.is_active());
        let volume = seed::volume(host, &listed.name);
        let pool = host.virsh.pool(&volume.pool)?;
        let pool = pool.ok_or_else(|| Error::not_found(format!("storage pool `{}` does not exist", volume.pool)))?;
        let device = |path: &str| DiskDevice::Seed(path.to_owned()).to_xml_at(&attached.target);
        let (new_disk, old_disk) = (device(&pool.path_of(&volume.name))?, device(&attached.path)?);
        let mut record = metadata.clone();
        record.volumes.push(volume.clone());
        undoing(|undo| {
            let (undoer, before) = (host.uncancellable(), metadata.clone());
            undo.push("the record of the new seed", move || undoer.virsh.set_metadata(uuid, &before, live));
            host.virsh.set_metadata(uuid, &record, live)?;
            seed::writer(host, &volume, &seed::make(host, seed)?, undo)()?;
            record.instance_id = Some(seed.instance_id.clone());
            let undoer = host.uncancellable();
            undo.push("the VM's new seed", move || undoer.virsh.replace_disk(uuid, &old_disk));
            host.virsh.replace_disk(uuid, &new_disk)?;
            self.record_key(record.clone())
        })?;
        if live { Ok(()) } else { self.delete_other_seeds(record, &volume) }
    }

    /// Deletes every other seed of a VM that is not running.
    fn delete_other_seeds(&self, mut metadata: VmRecord, kept: &OwnedVolume) -> Result<()> {
        let is_old = |volume: &OwnedVolume| volume.role == VolumeRole::Seed && volume.name != kept.name;
        for volume in metadata.volumes.iter().filter(|volume| is_old(volume)) {
            self.host.virsh.delete_volume(&volume.pool, &volume.name)?;
        }
        metadata.volumes.retain(|volume| !is_old(volume));
        self.record_key(metadata)
    }

    /// Records the key in the VM's metadata.
    fn record_key(&self, mut metadata: VmRecord) -> Result<()> {
        metadata.keys.retain(|other| other.fingerprint != self.key.fingerprint);
        metadata.keys.push(InjectedKey::from(self.key));
        self.host.virsh.set_metadata(self.listed.uuid, &metadata, self.listed.state.is_active())
    }
}
