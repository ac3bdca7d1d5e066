//! Plans a VM against the state of the host, and creates what the VM requires.

use uuid::Uuid;

use super::{existing::Old, link::Attachment, request::Request};
use crate::{
    catalogue::Firmware,
    cloud_init::{HostKey, Seed},
    error::{Code, Error, Hint, Result},
    model::{
        record::{InjectedKey, OwnedVolume, Phase, Provenance, VmRecord, VolumeRole},
        size::{DiskSize, human},
        specification::IfExists,
        user::check_user,
        vm::NewVm,
    },
    ops::{
        Host, SourcePolicy, accelerator, image, prepare,
        vm::{
            incomplete,
            inspect::{console::log_name, list::known},
            lifecycle::host_limits::check_host_limits,
            lifecycle::seed,
            remove,
        },
    },
    store::{host_keys, local_file::LocalFile, lock::Lock},
    tools::{
        scratch::Scratch,
        virsh::{Capabilities, DiskDevice, HostInventory, Limits, NewDomain, NewInterface, Pool},
    },
};

/// Everything that is needed to build the VM.
pub(super) struct Plan {
    pub(super) uuid: Uuid,
    mac: String,
    pub(super) attachment: Attachment,
    pool: Pool,
    capabilities: Capabilities,
    pub(super) base: Option<image::Base>,
    /// Prevents the removal of the base image.
    pub(super) held: Option<Lock>,
    pub(super) disk: OwnedVolume,
    /// The volume where libvirt logs the serial console.
    pub(super) console: OwnedVolume,
    pub(super) seed: Option<(OwnedVolume, Seed)>,
    /// The installer and, if it must be uploaded, the volume for it.
    pub(super) installer: Option<(LocalFile, Option<OwnedVolume>)>,
    pub(super) metadata: VmRecord,
}

/// Validates the request against the host, and creates what the VM requires: network, pool and base image. Afterwards,
/// no VM of the requested name exists, except the one to replace.
pub(super) fn plan(
    host: &Host,
    new: &NewVm,
    request: &Request,
    old: Option<&Old>,
    warnings: &mut Vec<String>,
) -> Result<Plan> {
    let uuid = Uuid::new_v4();
    let [mut disk, mut console, mut iso] = volumes(host, new.name.as_str());
    let names = request.image.as_ref().map(|source| source.manifests(&host.caller)).unwrap_or_default();
    let mut manifests = names.iter().map(|_| Scratch::memory(b"")).collect::<Result<Vec<_>>>()?;
    let paths = manifests.iter().map(|file| file.path().to_string()).collect::<Vec<_>>();
    let downloads: Vec<_> = names.into_iter().zip(paths).collect();
    let virttype = accelerator::virttype(host);
    let inventory = host.virsh.inventory(&disk.pool, &[&disk.name, &iso.name, &console.name], &downloads, virttype)?;
    let removed = check_name(host, new, old, &inventory)?;
    if are_taken(host, old.map(|old| &old.metadata).or(removed.as_ref()), &inventory)? {
        let unique = uuid.simple().to_string();
        [disk, console, iso] = volumes(host, &format!("{}-{}", new.name, &unique[..8]));
    }
    let limits = Limits { vcpus: inventory.capabilities.max_vcpus, memory_mib: inventory.memory_mib };
    check_host_limits(host, Some(new.vcpus), Some(new.memory), limits, warnings)?;
    prepare::check_network(host, &new.network, &inventory)?;
    let known = |source| image::Base::first_of(&host.caller, source, &mut manifests);
    let known = request.image.as_ref().map(known).transpose()?.flatten();
    if let (Some(source), None) = (&request.image, &known) {
        image::refuse_unknown(host, source)?;
    }
    let user = user(new, request, known.as_ref())?;
    if let (Some(data), Some(user)) = (&request.user_data, &user) {
        data.check(&new.name, user)?.into_iter().for_each(|warning| host.warn(warnings, warning));
    }
    check_against_catalogue(host, new, request, warnings)?;
    let policy = image::ImagePolicy {
        checksum: new.checksum.as_ref(),
        verified: new.require_verified || host.settings.require_verified,
        pull: new.pull,
    };
    let find = |source| image::find(host, source, known.as_ref(), policy, inventory.pool.as_ref(), warnings);
    let found = request.image.as_ref().map(find).transpose()?;
    check_disk_size(new, found.as_ref().map(image::Found::virtual_size))?;
    let installer = match &request.installer {
        // An installer that is a libvirt volume is attached in place; any other is uploaded for this VM. If requests
        // may name only some files, every installer is uploaded: libvirt opens a volume by its path at each start of
        // the VM, and the target of that path may change.
        Some(file)
            if host.settings.sources == SourcePolicy::Any
                && host.virsh.is_local()
                && host.virsh.volume_at(file.path().as_str())? =>
        {
            Some((file.clone(), None))
        }
        Some(file) => Some((file.clone(), Some(iso))),
        None => None,
    };
    let pool = prepare::pool(host, inventory.pool.as_ref())?;
    let attachment = Attachment::choose(host, new, &inventory, &inventory.capabilities)?;
    let capabilities = accelerator::accelerator(host, virttype, inventory.capabilities, warnings)?;
    let base = match (found, &request.image) {
        (Some(found), Some(source)) => Some(image::store(host, &pool, source, found, user.as_deref())?),
        _ => None,
    };
    let held = base.as_ref().filter(|_| !host.is_dry_run()).map(|base| image::hold(host, &pool, base)).transpose()?;
    let mac = random_mac();
    let seed = match user {
        Some(user) => Some((seed::volume(host, new.name.as_str()), plan_seed(new, user, &mac, request)?)),
        None => None,
    };
    let metadata = VmRecord { owner: host.caller.owner.clone(), ..VmRecord::new(crate::store::system::host_name()) };
    let mut plan =
        Plan { uuid, mac, attachment, pool, capabilities, base, held, disk, console, seed, installer, metadata };
    plan.fill_record(new, request);
    Ok(plan)
}

/// Refuses a disk that is too small for the image, before anything is fetched. Warns about too little memory.
fn check_against_catalogue(host: &Host, new: &NewVm, request: &Request, warnings: &mut Vec<String>) -> Result<()> {
    let Some(entry) = request.image.as_ref().and_then(image::ImageSource::entry) else { return Ok(()) };
    check_disk_size(new, entry.min_disk.map(DiskSize::bytes))?;
    if let Some(least) = entry.min_memory.filter(|&least| least > new.memory) {
        let text = format!("`{}` needs at least {least} of memory; {} given", entry.name, new.memory);
        host.warn(warnings, text);
    }
    Ok(())
}

/// Returns the login user, if the VM gets a seed.
fn user(new: &NewVm, request: &Request, base: Option<&image::Base>) -> Result<Option<String>> {
    if !request.seeded {
        return Ok(None);
    }
    let source = request.image.as_ref();
    let user = (new.user.as_deref()).or_else(|| base?.user.as_deref()).or_else(|| source?.user()).ok_or_else(|| {
        let what = source.map_or_else(|| "the installed system".to_owned(), |source| format!("`{}`", source.given()));
        Error::invalid(format!("no default login user is known for {what}"))
            .hint(Hint::set("Name the login user", "user"))
    })?;
    check_user(user)?;
    Ok(Some(user.to_owned()))
}

fn check_disk_size(new: &NewVm, least: Option<u64>) -> Result<()> {
    match least {
        Some(least) if least > new.disk_size.bytes() => Err(Error::invalid(format!(
            "a disk of {} ({} bytes) is smaller than the image, which needs {} ({least} bytes)",
            new.disk_size,
            new.disk_size.bytes(),
            human(least)
        ))
        .hint(Hint::set_to("Use a larger disk", "diskSize", human(least.next_multiple_of(1 << 30))))),
        _ => Ok(()),
    }
}

/// Returns the volumes for a new VM whose names begin with `stem`: its disk, its console log, and an installer.
fn volumes(host: &Host, stem: &str) -> [OwnedVolume; 3] {
    let volume = |name, role| OwnedVolume { pool: host.settings.pool.clone(), name, role };
    [
        volume(format!("{stem}.qcow2"), VolumeRole::Disk),
        volume(log_name(stem), VolumeRole::Console),
        volume(format!("{stem}-installer.iso"), VolumeRole::Installer),
    ]
}

/// Refuses a name that is taken. Removes the leftovers of an interrupted create of that name first, and returns their
/// record.
fn check_name(host: &Host, new: &NewVm, old: Option<&Old>, inventory: &HostInventory) -> Result<Option<VmRecord>> {
    let mut others = inventory.domains.iter().filter(|(uuid, _)| old.is_none_or(|old| old.uuid != *uuid));
    if let Some((uuid, name)) = others.find(|(_, name)| name == new.name.as_str()) {
        let described = host.virsh.describe(&[(*uuid, false)])?.remove(uuid);
        match described.and_then(|known| known.metadata) {
            // This operation holds the lease, so no other operation works on that VM.
            Some(metadata) if is_leftover(new, &metadata) => {
                host.progress.note(&format!("removed leftovers of an interrupted create or delete of `{name}`"));
                remove(host, *uuid, Some(&metadata))?;
                return Ok(Some(metadata));
            }
            Some(metadata) if metadata.is_incomplete() => return Err(incomplete(name)),
            _ => {
                return Err(Error::new(Code::AlreadyExists, format!("VM `{name}` already exists"))
                    .hint("Choose another name")
                    .hint(Hint::call_on_vm("Delete the existing VM", "vm_delete", name)));
            }
        }
    }
    Ok(None)
}

/// Returns whether other VMs own volumes with the usual names, because they once had the name of the new VM. Refuses
/// such volumes that no managed VM owns. The volumes of the VM that is replaced do not count.
fn are_taken(host: &Host, replaced: Option<&VmRecord>, inventory: &HostInventory) -> Result<bool> {
    let pool = &host.settings.pool;
    let is_taken = |volume: &&String| !replaced.is_some_and(|replaced| replaced.owns(pool, volume));
    let taken: Vec<_> = inventory.volumes.iter().filter(is_taken).collect();
    if taken.is_empty() {
        return Ok(false);
    }
    let vms = known(host)?;
    let Some(volume) = taken.iter().find(|volume| !vms.iter().any(|(_, record)| record.owns(pool, volume))) else {
        return Ok(true);
    };
    let message = format!("volume `{volume}` already exists in pool `{pool}` and belongs to no managed VM");
    let delete = format!("virsh vol-delete --pool {} --vol {volume}", shell_words::quote(pool));
    Err(Error::new(Code::AlreadyExists, message)
        .hint("Choose another name")
        .hint(Hint::run("Delete the volume", delete)))
}

/// Returns whether an existing VM is only a leftover of an interrupted create. The leftover of an interrupted delete
/// counts too, unless `ifExists` is `fail`.
fn is_leftover(new: &NewVm, metadata: &VmRecord) -> bool {
    let deleting = metadata.phase == Phase::Deleting && new.if_exists != IfExists::Fail;
    metadata.phase == Phase::Creating || deleting
}

fn plan_seed(new: &NewVm, user: String, mac: &str, request: &Request) -> Result<Seed> {
    let host_keys = host_keys::generate(new.name.as_str())?.into_iter().map(|key| HostKey {
        algorithm: key.algorithm.to_owned(),
        private: key.private.to_string(),
        public: key.public,
    });
    Ok(Seed {
        instance_id: seed::instance_id(new.name.as_str()),
        hostname: new.name.clone(),
        user,
        mac: mac.to_owned(),
        authorized_keys: request.keys.iter().map(|key| key.public_key.clone()).collect(),
        host_keys: host_keys.collect(),
        user_data: request.user_data.clone(),
    })
}

/// Returns a random MAC address of QEMU's range. It does not derive from the name: a VM that is created again must not
/// get its predecessor's DHCP lease.
fn random_mac() -> String {
    let random = Uuid::new_v4();
    let bytes = random.as_bytes();
    format!("52:54:00:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2])
}

impl Plan {
    /// Fills in the VM's record.
    fn fill_record(&mut self, new: &NewVm, request: &Request) {
        let metadata = &mut self.metadata;
        metadata.image = self.base.as_ref().map(|base| Provenance {
            source: base.source.clone(),
            sha256: base.sha256.clone(),
            base: base.volume.clone(),
            verification: Some(base.verification),
        });
        metadata.volumes.extend([self.disk.clone(), self.console.clone()]);
        if let Some((volume, seed)) = &self.seed {
            metadata.user = Some(seed.user.clone());
            metadata.instance_id = Some(seed.instance_id.clone());
            metadata.host_keys = seed.host_keys.iter().map(|key| key.public.clone()).collect();
            metadata.volumes.push(volume.clone());
        }
        metadata.volumes.extend(self.installer.iter().filter_map(|(_, volume)| volume.clone()));
        metadata.forward = self.attachment.forward();
        metadata.keys = request.keys.iter().map(InjectedKey::from).collect();
        metadata.specification = Some((&request.specification(new)).into());
    }

    /// Returns the domain XML, which names volumes that do not exist yet.
    pub(super) fn domain_xml(&self, new: &NewVm) -> Result<String> {
        let path = |volume: &OwnedVolume| self.pool.path_of(&volume.name);
        let mut disks = vec![DiskDevice::Disk(path(&self.disk))];
        disks.extend(self.seed.iter().map(|(volume, _)| DiskDevice::Seed(path(volume))));
        disks.extend(self.installer.iter().map(|(file, volume)| {
            DiskDevice::Installer(volume.as_ref().map_or_else(|| file.path().to_string(), path))
        }));
        NewDomain {
            name: new.name.as_str(),
            uuid: self.uuid,
            memory_mib: new.memory.mib(),
            vcpus: new.vcpus,
            capabilities: &self.capabilities,
            disks,
            interface: Some(NewInterface { mac: &self.mac, link: self.attachment.link(new) }),
            console_log: Some(&path(&self.console)),
            seeded: self.seed.is_some(),
            uefi: self.base.as_ref().is_some_and(|base| base.firmware == Some(Firmware::Uefi)),
            metadata: &self.metadata,
        }
        .to_xml()
    }
}
