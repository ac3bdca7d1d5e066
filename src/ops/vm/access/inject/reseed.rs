//! A key into the seed of a VM: a new seed in the place of the old one.

use crate::{
    cloud_init::Seed,
    error::{Error, Result},
    model::{
        key::Key,
        record::{OwnedVolume, VmRecord, VolumeRole},
    },
    ops::{
        Host,
        undo::undoing,
        vm::{lifecycle::create::injected_key, lifecycle::seed},
    },
    tools::virsh::{DiskDevice, DomainSummary},
};

/// A key on its way into a VM's seed.
pub(super) struct Reseed<'a> {
    pub(super) host: &'a Host,
    pub(super) listed: &'a DomainSummary,
    pub(super) metadata: &'a VmRecord,
    pub(super) key: &'a Key,
}

/// The seed that a VM will start with next.
struct Attached {
    volume: OwnedVolume,
    /// The guest's name for the disk that it is.
    target: String,
    path: String,
}

impl Reseed<'_> {
    /// Puts the key into the seed of `user`. With `renew` the guest takes the seed for a new instance's and reads it at
    /// its next start; without, it is for later. The user that the seed is for instead, where it is another.
    pub(super) fn run(&self, user: &str, renew: bool) -> Result<Option<String>> {
        self.host.step("writing a new seed");
        let attached = self.attached()?;
        let mut seed = seed::read(self.host, &attached.volume)?;
        if seed.user != user {
            if renew {
                let name = &self.listed.name;
                let message = format!("the seed of the VM `{name}` is for the user `{}`, not `{user}`", seed.user);
                return Err(
                    Error::conflict(message).hint("Leave out --user, or inject while the VM runs with a guest agent.")
                );
            }
            self.note_key(self.metadata.clone())?;
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

    /// Finds the seed by what is attached: an inject that was killed has noted one that may not be there.
    fn attached(&self) -> Result<Attached> {
        let Self { host, listed, metadata, .. } = self;
        let domain = host.virsh.persistent_domain(listed.uuid)?;
        let seeds: Vec<_> = metadata.volumes.iter().filter(|volume| volume.role == VolumeRole::Seed).collect();
        let attached = domain.disks.into_iter().find_map(|disk| {
            let path = disk.source?;
            let volume = seeds.iter().find(|volume| path.rsplit('/').next() == Some(&volume.name))?;
            Some(Attached { volume: (*volume).clone(), target: disk.target, path })
        });
        attached
            .ok_or_else(|| Error::conflict(format!("the seed of the VM `{}` is not attached any more", listed.name)))
    }

    /// Puts a new seed in the place of the present one. The order makes a VM that is whole at every moment: the new
    /// volume is noted before it is there, and the old one goes last, or at the next start when the VM runs with it.
    fn replace(&self, attached: &Attached, seed: &Seed) -> Result<()> {
        let Self { host, listed, metadata, .. } = *self;
        let (uuid, live) = (listed.uuid, listed.state.is_active());
        let volume = seed::volume(host, &listed.name);
        let pool = host.virsh.pool(&volume.pool)?;
        let pool = pool.ok_or_else(|| Error::not_found(format!("the storage pool `{}` is gone", volume.pool)))?;
        let device = |path: &str| DiskDevice::Seed(path.to_owned()).to_xml_at(&attached.target);
        let (there, back) = (device(&pool.path_of(&volume.name))?, device(&attached.path)?);
        let mut noted = metadata.clone();
        noted.volumes.push(volume.clone());
        undoing(|undo| {
            let (undoer, before) = (host.uncancellable(), metadata.clone());
            undo.push("the note of the new seed", move || undoer.virsh.set_metadata(uuid, &before, live));
            host.virsh.set_metadata(uuid, &noted, live)?;
            seed::writer(host, &volume, &seed::make(host, seed)?, undo)()?;
            noted.instance_id = Some(seed.instance_id.clone());
            let undoer = host.uncancellable();
            undo.push("the VM's new seed", move || undoer.virsh.replace_disk(uuid, &back));
            host.virsh.replace_disk(uuid, &there)?;
            self.note_key(noted.clone())
        })?;
        if live { Ok(()) } else { self.drop_others(noted, &volume) }
    }

    /// Deletes every other seed of a VM that does not run.
    fn drop_others(&self, mut metadata: VmRecord, kept: &OwnedVolume) -> Result<()> {
        let is_old = |volume: &OwnedVolume| volume.role == VolumeRole::Seed && volume.name != kept.name;
        for volume in metadata.volumes.iter().filter(|volume| is_old(volume)) {
            self.host.virsh.delete_volume(&volume.pool, &volume.name)?;
        }
        metadata.volumes.retain(|volume| !is_old(volume));
        self.note_key(metadata)
    }

    /// Notes that the VM has the key.
    fn note_key(&self, mut metadata: VmRecord) -> Result<()> {
        metadata.keys.retain(|other| other.fingerprint != self.key.fingerprint);
        metadata.keys.push(injected_key(self.key));
        self.host.virsh.set_metadata(self.listed.uuid, &metadata, self.listed.state.is_active())
    }
}
