//! `inject`: a key into a VM that exists already.
//!
//! Live through the guest agent where one answers; else through a new seed with a new instance-id, upon which
//! cloud-init goes through its work again at the next start. The seed gets the key either way, so that whatever
//! makes the guest anew from it knows every key.

use std::{fmt, time::Duration};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{
    super::{Host, key, undo::undoing},
    create::{check_user, injected_key},
    find, lock, look_up, power, require_whole, seed,
    wait::wait_with,
};
use crate::{
    cloud_init::Seed,
    error::{Code, Error, Result},
    model::{
        key::Key,
        name::Name,
        vm::{State, WaitFor},
    },
    tools::{
        scratch::Scratch,
        virsh::{DiskDevice, Domain, Listed, Metadata, OwnedVolume, Role},
    },
};

/// Describes the key to inject
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewInjection {
    /// VM to inject into, by name or UUID
    pub vm: String,

    /// Key of the key store
    pub key: Name,

    /// User that the key logs in as [default: the VM's]
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    pub user: Option<String>,

    /// How to do it
    #[arg(long, value_enum, default_value_t = Method::Auto)]
    #[serde(default)]
    pub method: Method,

    /// Restart the VM where that is needed, and prove the key by logging in
    #[arg(long)]
    #[serde(default)]
    pub restart: bool,
}

/// How a key gets into a VM
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The guest agent where it answers, else cloud-init
    #[default]
    Auto,
    /// The guest agent of a running VM: at once
    Agent,
    /// A new seed for cloud-init: at the next start
    CloudInit,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Agent => "agent",
            Self::CloudInit => "cloud-init",
        })
    }
}

/// What came of injecting a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Injected {
    /// `injected`.
    pub status: &'static str,
    /// The VM's name.
    pub vm: String,
    /// The key's name.
    pub key: String,
    /// The user that it logs in as.
    pub user: String,
    /// `agent` or `cloud-init`.
    pub method: Method,
    /// Whether the VM's seed has the key, too.
    pub kept_in_seed: bool,
    /// Whether the VM must be restarted before the key lets anybody in.
    pub restart_needed: bool,
    /// Whether the key has been proven by logging in with it.
    pub verified: bool,
    /// What the operator should know although nothing failed.
    pub warnings: Vec<String>,
}

/// Injects a key into a VM; `limit` bounds the restart and the login that prove it.
pub fn inject(host: &Host, request: &NewInjection, limit: Duration) -> Result<Injected> {
    let NewInjection { vm, key: key_name, user, method, restart } = request;
    let key = key::get(host, key_name)?;
    let lock = lock(host, &find(host, vm)?.name)?;
    // What another vmprov did to it before we had the lock counts.
    let (listed, domain) = look_up(host, vm)?;
    require_whole(&domain)?;
    let seed_user = domain.metadata.as_ref().and_then(|metadata| metadata.user.as_deref());
    let user = user.as_deref().or(seed_user).ok_or_else(|| {
        Error::invalid(format!("nobody knows which user the VM `{}` logs in as", listed.name))
            .hint("Name one with --user NAME.")
    })?;
    check_user(user)?;
    let mut report = Injected {
        status: "injected",
        vm: listed.name.clone(),
        key: key_name.to_string(),
        user: user.to_owned(),
        method: *method,
        kept_in_seed: false,
        restart_needed: false,
        verified: false,
        warnings: Vec::new(),
    };
    // A VM that has a seed keeps every key in it; another can only be reached through its agent.
    let seeded = domain.metadata.as_ref().filter(|metadata| metadata.has_seed());
    report.method = choose(host, &domain, &listed, *method, seeded.is_some(), &mut report.warnings)?;
    if report.method == Method::Agent {
        match through_agent(host, &domain, user, &key) {
            Err(error) if *method == Method::Auto && seeded.is_some() && error.code != Code::NotFound => {
                host.warn(
                    &mut report.warnings,
                    format!("the guest agent did not take the key ({error}); cloud-init will"),
                );
                report.method = Method::CloudInit;
            }
            result => result?,
        }
    }
    if let Some(metadata) = seeded {
        let renew = report.method == Method::CloudInit;
        report.kept_in_seed = reseed(host, &listed, metadata, &key, user, renew, &mut report.warnings)?;
    }
    drop(lock);
    report.restart_needed = report.method == Method::CloudInit && listed.state.is_active();
    if *restart && report.method == Method::CloudInit {
        power::restart_listed(host, &listed, Some(limit), false)?;
        report.restart_needed = false;
    }
    if *restart {
        prove(host, &listed, &key, user, limit, &mut report)?;
    }
    Ok(report)
}

fn choose(
    host: &Host,
    domain: &Domain,
    listed: &Listed,
    method: Method,
    seeded: bool,
    warnings: &mut Vec<String>,
) -> Result<Method> {
    let name = &listed.name;
    let running = listed.state == State::Running;
    let no_seed = || {
        Error::conflict(format!("the VM `{name}` has no cloud-init seed of vmprov's to put the key into"))
            .hint("A seed is made when a VM is created from an image. A VM without one takes keys while it runs with a guest agent.")
    };
    match method {
        Method::Agent if !running => {
            Err(Error::conflict(format!("the VM `{name}` is {}, so no guest agent answers", listed.state))
                .hint("Start it, or use --method cloud-init."))
        }
        Method::Agent if !domain.agent_connected => {
            Err(Error::conflict(format!("no guest agent answers in the VM `{name}`"))
                .hint("Install qemu-guest-agent in the guest, or use --method cloud-init."))
        }
        Method::Agent => Ok(Method::Agent),
        Method::Auto if running && domain.agent_connected => Ok(Method::Agent),
        Method::Auto | Method::CloudInit if !seeded => Err(no_seed()),
        Method::Auto | Method::CloudInit => {
            if host.virsh.has_managed_save(listed.uuid)? {
                host.warn(warnings, format!(
                    "the VM `{name}` has a saved state, from which it goes on without reading its new seed: drop that with `virsh managedsave-remove`, or restart the VM once more"
                ));
            }
            Ok(Method::CloudInit)
        }
    }
}

fn through_agent(host: &Host, domain: &Domain, user: &str, key: &Key) -> Result<()> {
    host.step("adding the key through the guest agent");
    // The file that the agent writes ends without a line break, so the key's own is all there is.
    let file = Scratch::memory(format!("{}\n", key.public_key).as_bytes())?;
    host.virsh.set_user_sshkeys(domain.uuid, user, file.path().as_str()).map_err(|error| {
        if error.code == Code::NotFound {
            return Error::not_found(format!("the VM `{}` has no user `{user}`", domain.name))
                .because(error.cause.unwrap_or(error.message))
                .hint("Name one that it has with --user.");
        }
        error
    })
}

/// Writes a new seed that has the key, and puts it in the old one's place. With `renew` the guest takes it for a new
/// instance and reads it; without, it is for later. True when the seed has the key.
fn reseed(
    host: &Host,
    listed: &Listed,
    metadata: &Metadata,
    key: &Key,
    user: &str,
    renew: bool,
    warnings: &mut Vec<String>,
) -> Result<bool> {
    host.step("writing a new seed");
    let attached = attached_seed(host, listed, metadata)?;
    let mut seed = seed::read(host, &attached.volume)?;
    if seed.user != user {
        if renew {
            return Err(Error::conflict(format!(
                "the seed of the VM `{}` is for the user `{}`, not `{user}`",
                listed.name, seed.user
            ))
            .hint("Leave out --user, or inject while the VM runs with a guest agent."));
        }
        host.warn(warnings, format!("the key is not kept in the seed, which is for the user `{}`", seed.user));
        note_key(host, listed, metadata.clone(), key)?;
        return Ok(false);
    }
    if !seed.authorized_keys.contains(&key.public_key) {
        seed.authorized_keys.push(key.public_key.clone());
    }
    if renew {
        seed.instance_id = seed::instance_id(&listed.name);
    }
    replace(host, listed, metadata, &attached, &seed, key)?;
    Ok(true)
}

/// Notes that a VM has a key.
fn note_key(host: &Host, listed: &Listed, mut metadata: Metadata, key: &Key) -> Result<Metadata> {
    metadata.keys.retain(|other| other.fingerprint != key.fingerprint && other.name != key.name.as_str());
    metadata.keys.push(injected_key(key));
    host.virsh.set_metadata(listed.uuid, &metadata, listed.state.is_active())?;
    Ok(metadata)
}

/// Puts a new seed in the place of the VM's present one. The order makes a VM that is whole at every moment: the new
/// volume is noted before it is there, and the old one goes last, or at the next start when the VM runs with it.
fn replace(
    host: &Host,
    listed: &Listed,
    metadata: &Metadata,
    attached: &AttachedSeed,
    seed: &Seed,
    key: &Key,
) -> Result<()> {
    let old = metadata.volumes.clone();
    let volume = seed::volume(host, &listed.name);
    let live = listed.state.is_active();
    let pool = host
        .virsh
        .pool(&volume.pool)?
        .ok_or_else(|| Error::not_found(format!("the storage pool `{}` is gone", volume.pool)))?;
    let device = |path: &str| DiskDevice::Seed(path.to_owned()).to_xml_at(&attached.target);
    let back = device(&attached.path)?;
    let mut noted = metadata.clone();
    noted.volumes.push(volume.clone());
    undoing(|undo| {
        let (undoer, before, uuid) = (host.uncancellable(), metadata.clone(), listed.uuid);
        undo.push("the note of the new seed", move || undoer.virsh.set_metadata(uuid, &before, live));
        host.virsh.set_metadata(listed.uuid, &noted, live)?;
        seed::put(host, &volume, &seed::make(host, seed)?, undo)?;
        noted.instance_id = Some(seed.instance_id.clone());
        let (undoer, uuid) = (host.uncancellable(), listed.uuid);
        undo.push("the VM's new seed", move || undoer.virsh.replace_disk(uuid, &back));
        host.virsh.replace_disk(listed.uuid, &device(&pool.path_of(&volume.name))?)?;
        note_key(host, listed, noted.clone(), key)
    })?;
    if !live {
        // Nothing uses the old seeds any more.
        let is_old = |other: &&OwnedVolume| other.role == Role::Seed;
        for volume in old.iter().filter(is_old) {
            host.virsh.delete_volume(&volume.pool, &volume.name)?;
        }
        let mut metadata = noted;
        metadata.volumes.retain(|other| other.role != Role::Seed || other.name == volume.name);
        note_key(host, listed, metadata, key)?;
    }
    Ok(())
}

/// The seed that a VM will start with next.
struct AttachedSeed {
    volume: OwnedVolume,
    /// The guest's name for the disk that it is.
    target: String,
    path: String,
}

/// Finds it by what is attached: an inject that was killed has noted a seed that may not be there.
fn attached_seed(host: &Host, listed: &Listed, metadata: &Metadata) -> Result<AttachedSeed> {
    let domain = host.virsh.persistent_domain(listed.uuid)?;
    let seeds: Vec<_> = metadata.volumes.iter().filter(|volume| volume.role == Role::Seed).collect();
    let attached = domain.disks.into_iter().find_map(|disk| {
        let path = disk.source?;
        let volume = seeds.iter().find(|volume| path.rsplit('/').next() == Some(&volume.name))?;
        Some(AttachedSeed { volume: (*volume).clone(), target: disk.target, path })
    });
    attached.ok_or_else(|| Error::conflict(format!("the seed of the VM `{}` is not attached any more", listed.name)))
}

/// Logs in with the key alone.
fn prove(host: &Host, listed: &Listed, key: &Key, user: &str, limit: Duration, report: &mut Injected) -> Result<()> {
    let Some(identity) = &key.private_key_path else {
        host.warn(&mut report.warnings, "the key's private half is not in the key store, so the login was not tried");
        return Ok(());
    };
    host.step("logging in with the key");
    wait_with(host, listed.uuid, WaitFor::Ssh, limit, Some((identity, user)))?;
    report.verified = true;
    Ok(())
}
