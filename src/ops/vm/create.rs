//! `create`: from an image to a VM, whole or not at all.
//!
//! Everything that can be refused is refused before anything is changed. Then the domain is defined first, marked as
//! being created and naming the volumes that it will own: libvirt refuses a second domain of that name, and whatever
//! happens later, the domain says what there may be to remove.

use std::time::Duration;

use camino::Utf8Path;
use serde::Serialize;
use uuid::Uuid;

use super::{
    super::{Host, image, key, prepare, undo::Undo, undo::undoing},
    incomplete, lock, remove, seed, wait,
};
use crate::{
    cloud_init::{HostKey, Seed, UserData},
    error::{Code, Error, Result},
    model::{
        key::Key,
        size::human,
        vm::{Known, NewVm, State, Vm, WaitFor},
    },
    store::host_keys,
    tools::{
        scratch::Scratch,
        virsh::{
            DiskDevice, InjectedKey, Metadata, NewDomain, NewVolume, OwnedVolume, Phase, Pool, Provenance, Role, Survey,
        },
    },
};

/// A VM that was created.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// The VM, as the list has it.
    #[serde(flatten)]
    pub vm: Vm,
    /// What the operator should know although nothing failed.
    pub warnings: Vec<String>,
}

/// Creates a VM and starts it, unless that is not wanted. With `wait`, goes on until the guest is so far; a VM that
/// does not get there is kept, because it shows why.
pub fn create(host: &Host, new: &NewVm, wait: Option<(WaitFor, Duration)>) -> Result<Created> {
    let mut warnings = Vec::new();
    let request = Request::check(host, new, wait, &mut warnings)?;
    let _lock = lock(host, new.name.as_str())?;
    let plan = plan(host, new, request, &mut warnings)?;
    let uuid = build(host, new, &plan)?;
    let state = if new.start { State::Running } else { State::ShutOff };
    let mut addresses = Vec::new();
    if let Some((goal, limit)) = wait.filter(|_| !host.is_dry_run()) {
        addresses = wait::wait_for(host, uuid, goal, limit)?.addresses;
    }
    let known = Known {
        managed: true,
        incomplete: false,
        image: plan.metadata.image.map(|image| image.source),
        user: plan.metadata.user,
        addresses,
    };
    let vm = Vm {
        name: new.name.to_string(),
        uuid,
        state,
        memory: new.memory.mib(),
        vcpus: new.vcpus,
        autostart: new.autostart,
        known: Some(known),
    };
    Ok(Created { vm, warnings })
}

/// A request that makes sense by itself; the host has not been looked at.
struct Request {
    image: Option<image::ImageSource>,
    installer: Option<camino::Utf8PathBuf>,
    keys: Vec<Key>,
    /// The user to log in as, where a seed will tell the guest of one.
    user: Option<String>,
    user_data: Option<UserData>,
}

impl Request {
    fn check(host: &Host, new: &NewVm, wait: Option<(WaitFor, Duration)>, warnings: &mut Vec<String>) -> Result<Self> {
        let given = match (&new.image, &new.image_url) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("an image is given twice").hint("Give either image or imageUrl."));
            }
            (image, url) => image.as_ref().or(url.as_ref()),
        };
        let image = given.map(|given| image::ImageSource::parse(given)).transpose()?;
        let installer = new.iso.as_deref().map(installer).transpose()?;
        let keys = new.ssh_keys.iter().map(|name| key::get(host, name)).collect::<Result<Vec<_>>>()?;
        let seeded = image.is_some() || installer.is_some() && (!keys.is_empty() || new.user_data.is_some());
        if !seeded && (!keys.is_empty() || new.user_data.is_some() || new.user.is_some()) {
            return Err(Error::invalid("a key, a user or user data is given, but no image that would read it")
                .hint("Give the cloud image with --image PATH or --image URL."));
        }
        if image.is_none() && installer.is_none() {
            host.warn(warnings, "no image is given: the disk is blank, and nothing will boot from it");
        }
        let user = if seeded { Some(login_user(new, given.map(String::as_str))?) } else { None };
        let user_data = new.user_data.as_ref().map(|data| UserData::parse(&data.0)).transpose()?;
        if let (Some(data), Some(user)) = (&user_data, &user) {
            for warning in data.check(&new.name, user)? {
                host.warn(warnings, warning);
            }
        }
        if image.is_some() && keys.is_empty() && user_data.is_none() {
            let name = &new.name;
            host.warn(
                warnings,
                format!("no key is given, so nobody can log in until one is injected: vmprov inject {name} KEY"),
            );
        }
        check_goal(new, wait, image.is_some())?;
        Ok(Self { image, installer, keys, user, user_data })
    }
}

/// Refuses to wait for what cannot come.
fn check_goal(new: &NewVm, wait: Option<(WaitFor, Duration)>, has_image: bool) -> Result<()> {
    match wait {
        Some((goal, _)) if !new.start => {
            Err(Error::invalid(format!("waiting for {goal} contradicts leaving the VM stopped"))
                .hint("Leave out one of the two."))
        }
        Some((goal @ (WaitFor::Ip | WaitFor::Ssh | WaitFor::CloudInit | WaitFor::Agent), _)) if !has_image => {
            Err(Error::invalid(format!("without an image there will be no {goal} to wait for")))
        }
        Some((goal @ (WaitFor::Ssh | WaitFor::CloudInit), _)) if new.ssh_keys.is_empty() => {
            Err(Error::invalid(format!("waiting for {goal} needs a key to log in with"))
                .hint("Give one with --ssh-key."))
        }
        _ => Ok(()),
    }
}

fn login_user(new: &NewVm, image: Option<&str>) -> Result<String> {
    let user = match (&new.user, image) {
        (Some(user), _) => user.as_str(),
        (None, Some(image)) => image::default_user(image).ok_or_else(|| {
            Error::invalid(format!("nobody knows which user `{image}` logs in as")).hint("Name one with --user NAME.")
        })?,
        (None, None) => return Err(Error::invalid("no user is given to log in as").hint("Name one with --user NAME.")),
    };
    check_user(user)?;
    Ok(user.to_owned())
}

/// Refuses what no Linux takes for a user's name (`useradd` of shadow 4.13).
pub(super) fn check_user(user: &str) -> Result<()> {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    let rest = |c: char| first(c) || c.is_ascii_digit() || c == '-';
    if user.len() > 32 || !user.starts_with(first) || !user.chars().all(rest) {
        return Err(Error::invalid(format!("`{}` cannot be a user's name", user.escape_debug()))
            .hint("A user's name is up to 32 lower-case letters, digits, - and _, and begins with a letter or _."));
    }
    Ok(())
}

fn installer(given: &str) -> Result<camino::Utf8PathBuf> {
    let failed = |error: std::io::Error| Error::io(format!("read the installer `{}`", given.escape_debug()), &error);
    let path = Utf8Path::new(given).canonicalize_utf8().map_err(failed)?;
    let metadata = std::fs::metadata(&path).map_err(failed)?;
    std::fs::File::open(&path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(Error::invalid(format!("the installer `{path}` is empty or no regular file")));
    }
    Ok(path)
}

/// Everything that is needed to build the VM.
struct Plan {
    uuid: Uuid,
    mac: String,
    pool: Pool,
    capabilities: crate::tools::virsh::Capabilities,
    base: Option<image::Base>,
    disk: OwnedVolume,
    seed: Option<(OwnedVolume, Seed)>,
    installer: Option<(camino::Utf8PathBuf, Option<OwnedVolume>)>,
    metadata: Metadata,
}

/// Looks at the host, refuses what cannot be done, and makes what must be there first.
fn plan(host: &Host, new: &NewVm, request: Request, warnings: &mut Vec<String>) -> Result<Plan> {
    let disk = OwnedVolume { pool: host.settings.pool.clone(), name: format!("{}.qcow2", new.name), role: Role::Disk };
    let (survey, base) = match &request.image {
        Some(source) => {
            let mut scratch = Scratch::memory(b"")?;
            let downloads = [(source.companion(), scratch.path().to_string())];
            let survey = host.virsh.survey(&disk.pool, &[&disk.name], &downloads)?;
            let known = image::Base::from_companion(source, &scratch.content()?);
            // Somebody may have deleted the base by hand; it is then made again.
            let is_there = |base: &image::Base| Ok::<_, Error>(host.virsh.volume(&disk.pool, &base.volume)?.is_some());
            let base = match known {
                Some(base) if is_there(&base)? => Some(base),
                _ => None,
            };
            (survey, base)
        }
        None => (host.virsh.survey(&disk.pool, &[&disk.name], &[])?, None),
    };
    check_name(host, new, &survey, &disk)?;
    check_figures(host, new, &survey, warnings)?;
    let (base, examined) = match (&request.image, base) {
        (Some(source), None) => (None, Some(image::examine(host, source, warnings)?)),
        (_, base) => (base, None),
    };
    let virtual_size =
        base.as_ref().map(|base| base.virtual_size).or(examined.as_ref().map(image::Examined::virtual_size));
    if let Some(least) = virtual_size.filter(|&least| least > new.disk_size.bytes()) {
        return Err(Error::invalid(format!(
            "a disk of {} ({} bytes) is smaller than the image, which needs {} ({least} bytes)",
            new.disk_size,
            new.disk_size.bytes(),
            human(least)
        ))
        .hint(format!("Give at least --disk-size {}", human(least.next_multiple_of(1 << 30)))));
    }
    prepare::check_network(&new.network, &survey)?;
    let pool = prepare::pool(host, survey.pool.as_ref())?;
    prepare::network(host, &new.network, &survey)?;
    let capabilities = prepare::accelerator(host, survey.capabilities, warnings)?;
    let base = match examined {
        Some(examined) => Some(image::store(host, &pool, &examined)?),
        None => base,
    };
    let installer = request.installer.map(|path| plan_installer(host, new, path)).transpose()?;
    let mac = random_mac();
    let seed = match request.user {
        Some(user) => {
            Some((seed::volume(host, new.name.as_str()), plan_seed(new, user, &mac, &request.keys, request.user_data)?))
        }
        None => None,
    };
    let mut plan =
        Plan { uuid: Uuid::new_v4(), mac, pool, capabilities, base, disk, seed, installer, metadata: Metadata::new() };
    plan.note(&request.keys);
    Ok(plan)
}

/// Refuses a name that is taken. What a killed create of that name left is removed first.
fn check_name(host: &Host, new: &NewVm, survey: &Survey, disk: &OwnedVolume) -> Result<()> {
    let mut removed = false;
    if let Some((uuid, name)) = survey.domains.iter().find(|(_, name)| name == new.name.as_str()) {
        let described = host.virsh.describe(&[(*uuid, false)])?;
        match described.get(uuid) {
            // We hold the lock, so whoever began it on this machine is not at it any more.
            Some((_, Some(metadata))) if metadata.phase == Phase::Creating && metadata.is_of_this_host() => {
                host.progress.note(&format!("removed what a create of `{name}` that was cut short had left"));
                remove(host, *uuid, Some(metadata))?;
                removed = true;
            }
            Some((_, Some(metadata))) if metadata.is_incomplete() => return Err(incomplete(name)),
            _ => {
                return Err(Error::new(Code::AlreadyExists, format!("there is a VM `{name}` already"))
                    .hint(format!("Choose another name, or remove it: vmprov vm delete {name}")));
            }
        }
    }
    if !removed && survey.volumes.contains(&disk.name) {
        let OwnedVolume { pool, name, .. } = disk;
        return Err(Error::new(
            Code::AlreadyExists,
            format!("the pool `{pool}` has a volume `{name}` already, which no VM of vmprov's owns"),
        )
        .hint(format!(
            "Choose another name, or delete it: virsh vol-delete --pool {} {name}",
            shell_words::quote(pool)
        )));
    }
    Ok(())
}

fn check_figures(host: &Host, new: &NewVm, survey: &Survey, warnings: &mut Vec<String>) -> Result<()> {
    if let Some(most) = survey.capabilities.max_vcpus.filter(|&most| new.vcpus > most) {
        return Err(Error::invalid(format!(
            "{} virtual CPUs are more than the {most} that this host can give a VM",
            new.vcpus
        )));
    }
    if let Some(most) = survey.memory_mib.filter(|&most| new.memory.mib() > most) {
        let memory = human(most << 20);
        host.warn(
            warnings,
            format!("{} of memory are more than the {memory} that the host has: the VM may be killed", new.memory),
        );
    }
    Ok(())
}

/// An installer that libvirt knows as a volume is used where it is; another is uploaded for this VM.
fn plan_installer(
    host: &Host,
    new: &NewVm,
    path: camino::Utf8PathBuf,
) -> Result<(camino::Utf8PathBuf, Option<OwnedVolume>)> {
    if host.virsh.is_local() && host.virsh.volume_at(path.as_str())? {
        return Ok((path, None));
    }
    let volume = OwnedVolume {
        pool: host.settings.pool.clone(),
        name: format!("{}-installer.iso", new.name),
        role: Role::Installer,
    };
    Ok((path, Some(volume)))
}

fn plan_seed(new: &NewVm, user: String, mac: &str, keys: &[Key], user_data: Option<UserData>) -> Result<Seed> {
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
        authorized_keys: keys.iter().map(|key| key.public_key.clone()).collect(),
        host_keys: host_keys.collect(),
        user_data,
    })
}

/// A MAC address of QEMU's range. It is random, not made from the name: a VM that is created again must not be given
/// its predecessor's lease.
fn random_mac() -> String {
    let random = Uuid::new_v4();
    let bytes = random.as_bytes();
    format!("52:54:00:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2])
}

impl Plan {
    /// Fills in what is noted of the VM.
    fn note(&mut self, keys: &[Key]) {
        let metadata = &mut self.metadata;
        metadata.image = self.base.as_ref().map(|base| Provenance {
            source: base.source.clone(),
            sha256: base.sha256.clone(),
            base: base.volume.clone(),
        });
        metadata.volumes.push(self.disk.clone());
        if let Some((volume, seed)) = &self.seed {
            metadata.user = Some(seed.user.clone());
            metadata.instance_id = Some(seed.instance_id.clone());
            metadata.host_keys = seed.host_keys.iter().map(|key| key.public.clone()).collect();
            metadata.volumes.push(volume.clone());
        }
        metadata.volumes.extend(self.installer.iter().filter_map(|(_, volume)| volume.clone()));
        metadata.keys = keys.iter().map(injected_key).collect();
    }

    fn domain_xml(&self, new: &NewVm) -> Result<String> {
        let path = |volume: &OwnedVolume| self.pool.path_of(&volume.name);
        let mut disks = vec![DiskDevice::Disk(path(&self.disk))];
        disks.extend(self.seed.iter().map(|(volume, _)| DiskDevice::Seed(path(volume))));
        disks.extend(
            self.installer
                .iter()
                .map(|(file, volume)| DiskDevice::Installer(volume.as_ref().map_or_else(|| file.to_string(), path))),
        );
        NewDomain {
            name: new.name.as_str(),
            uuid: self.uuid,
            memory_mib: new.memory.mib(),
            vcpus: new.vcpus,
            capabilities: &self.capabilities,
            disks,
            interface: Some((&new.network, &self.mac)),
            seeded: self.seed.is_some(),
            metadata: &self.metadata,
        }
        .to_xml()
    }
}

/// What is noted of a key that a VM is given.
pub(super) fn injected_key(key: &Key) -> InjectedKey {
    InjectedKey { name: key.name.to_string(), fingerprint: key.fingerprint.clone() }
}

/// Builds the VM; a failure at any step undoes the ones before it.
fn build(host: &Host, new: &NewVm, plan: &Plan) -> Result<Uuid> {
    let uuid = plan.uuid;
    let xml = plan.domain_xml(new)?;
    undoing(|undo| {
        host.step("defining the VM");
        let undoer = host.uncancellable();
        undo.push(format!("VM `{}`", new.name), move || match undoer.virsh.undefine(uuid) {
            Err(error) if error.code == Code::NotFound => Ok(()),
            result => result,
        });
        host.virsh.define(&xml).map_err(|error| taken_meanwhile(error, new))?;
        host.step("making its disk");
        make_disk(host, new, plan, undo)?;
        if let Some((volume, seed)) = &plan.seed {
            host.step("making its seed");
            seed::write(host, volume, seed, undo)?;
        }
        if let Some((file, Some(volume))) = &plan.installer {
            host.step("uploading the installer");
            let size = std::fs::metadata(file)
                .map_err(|error| Error::io(format!("read the installer `{file}`"), &error))?
                .len();
            seed::create_volume(host, volume, &NewVolume::Content(size), undo)?;
            host.virsh.upload(&volume.pool, &volume.name, file)?;
        }
        if new.autostart {
            host.virsh.set_autostart(uuid)?;
        }
        if new.start {
            host.step("starting the VM");
            let undoer = host.uncancellable();
            undo.push(format!("running VM `{}`", new.name), move || match undoer.virsh.destroy(uuid) {
                Err(error) if matches!(error.code, Code::NotFound | Code::Conflict) => Ok(()),
                result => result,
            });
            host.virsh.start(uuid)?;
        }
        let ready = Metadata { phase: Phase::Ready, ..plan.metadata.clone() };
        host.virsh.set_metadata(uuid, &ready, new.start)?;
        Ok(uuid)
    })
}

fn taken_meanwhile(error: Error, new: &NewVm) -> Error {
    if error.code == Code::AlreadyExists {
        return Error { message: format!("there is a VM `{}` already", new.name), ..error }
            .hint("Choose another name.");
    }
    error
}

fn make_disk(host: &Host, new: &NewVm, plan: &Plan, undo: &mut Undo) -> Result<()> {
    let size = new.disk_size.bytes();
    let Some(base) = &plan.base else { return seed::create_volume(host, &plan.disk, &NewVolume::Blank(size), undo) };
    seed::create_volume(host, &plan.disk, &NewVolume::Overlay(size, &base.volume), undo)
}
