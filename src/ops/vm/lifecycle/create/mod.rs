//! `create`: from an image to a VM, whole or not at all.
//!
//! Everything that can be refused is refused before anything is changed. Then the domain is defined first, marked as
//! being created and naming the volumes that it will own: libvirt refuses a second domain of that name, and whatever
//! happens later, the domain says what there may be to remove.

mod existing;
mod link;
mod plan;
mod request;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::{Code, Error, Fault, Result},
    model::{
        record::{Phase, PortForward, VmRecord},
        vm::{Known, NewVm, State, Vm},
    },
    ops::{
        Host, image, side_by_side,
        undo::{Undo, undoing},
        vm::{lifecycle::expiry::expiry, lifecycle::seed, lock, wait::Watch},
    },
    tools::{scratch::Scratch, virsh::NewVolume},
};
use existing::{Existing, Old};
use plan::{Plan, plan};
use request::Request;

pub(in crate::ops) use plan::injected_key;

/// A VM that was created, or was there as it was asked for.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// The VM, as the list has it.
    #[serde(flatten)]
    pub vm: Vm,
    /// What became of it.
    pub status: Status,
    /// Whether anything had to be done.
    pub changed: bool,
    /// What the operator should know although nothing failed.
    pub warnings: Vec<String>,
}

/// What a create did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CreateStatus)]
pub enum Status {
    /// There was no VM of the name.
    Created,
    /// There was one, which is gone.
    Replaced,
    /// There was the one that is asked for.
    Unchanged,
}

/// Creates a VM and starts it, unless that is not wanted. With `wait`, goes on until the guest is so far; a VM that
/// does not get there is kept, because it shows why.
pub fn create(host: &Host, new: &NewVm) -> Result<Created> {
    let mut warnings = Vec::new();
    let request = Request::check(host, new, &mut warnings)?;
    // Who waits for a guest keeps nobody from stopping it: the lease ends here.
    let mut created = create_alone(&lock(host, new.name.as_str())?.host, new, &request, warnings)?;
    if let Some(goal) = new.wait.filter(|_| !host.is_dry_run()) {
        let kept = |error: Error| match error.code {
            Code::Interrupted => {
                error.hint(format!("The VM `{}` is there and stays; only the waiting ended.", new.name))
            }
            _ => error,
        };
        let watch = Watch::new(created.vm.uuid, goal, new.timeout.0, created.changed);
        let reached = watch.run(host).map_err(kept)?;
        if let Some(known) = created.vm.known.as_mut().filter(|_| !reached.addresses.is_empty()) {
            known.addresses = reached.addresses;
        }
    }
    Ok(created)
}

/// Creates a VM whose lease is held, and returns once it is there.
fn create_alone(host: &Host, new: &NewVm, request: &Request, warnings: Vec<String>) -> Result<Created> {
    match existing::look(host, new, &request.specification(new))? {
        Existing::Nothing => make(host, new, request, None, warnings),
        Existing::Old(old) => make(host, new, request, Some(&old), warnings),
        Existing::Same(listed) => existing::kept(host, new, &listed, warnings),
    }
}

/// Makes the VM, in the place of the `old` one where there is one. That is deleted last of all that comes before, when
/// everything that could be refused has been, and the image is there.
fn make(host: &Host, new: &NewVm, request: &Request, old: Option<&Old>, mut warnings: Vec<String>) -> Result<Created> {
    let planned = plan(host, new, request, old, &mut warnings)?;
    let name = new.name.as_str();
    old.map_or(Ok(()), |old| old.delete(host, name))?;
    let built = build_at_last(host, new, request, planned, &mut warnings);
    let (uuid, metadata) = built.map_err(|error| if old.is_some() { Old::is_gone(name, error) } else { error })?;
    let status = if old.is_some() { Status::Replaced } else { Status::Created };
    if let Some(PortForward { address, port }) = metadata.forward {
        let text = format!("`{name}` is in the network of your user: {address} port {port} leads to its ssh server");
        host.progress.note(&text);
    }
    Ok(Created { vm: report(new, uuid, metadata), status, changed: true, warnings })
}

/// How often another port is tried where one was taken before QEMU could have it.
const MOST_PORTS: usize = 5;

/// Builds the VM, and again where another way may lead to it; returns its UUID, and what is noted of it.
fn build_at_last(
    host: &Host,
    new: &NewVm,
    request: &Request,
    mut planned: Plan,
    warnings: &mut Vec<String>,
) -> Result<(Uuid, VmRecord)> {
    let mut is_base_new = false;
    let mut in_use = Vec::new();
    loop {
        let error = match build(host, new, &planned) {
            Ok(metadata) => return Ok((planned.uuid, metadata)),
            Err(error) => error,
        };
        if !is_base_new && error.code == Code::NotFound && is_base_gone(host, &planned)? {
            // The companion that led to the base outlived it: somebody deleted it by hand. It is made again.
            is_base_new = true;
            request.image.iter().zip(&planned.base).try_for_each(|(source, base)| image::forget(host, source, base))?;
            planned.held = None;
            planned = plan(host, new, request, None, &mut Vec::new())?;
        } else if let Some(forward) = planned.attachment.forward()
            && error.fault.as_deref() == Some(&Fault::PortInUse)
            && in_use.len() < MOST_PORTS
        {
            // Another process took the port between its choice and QEMU's start.
            in_use.push(forward.port);
            planned.attachment = planned.attachment.with_other_port(host, &in_use)?;
            planned.metadata.forward = planned.attachment.forward();
        } else if planned.attachment.is_passt() && error.fault.as_deref() == Some(&Fault::Passt) {
            // It has reasons of its own to end: a profile of AppArmor's, namespaces that are not allowed.
            planned.attachment = planned.attachment.without_passt();
            let why = error.cause.unwrap_or(error.message);
            host.warn(warnings, format!("QEMU's own user-mode network is used, because passt failed: {why}"));
        } else {
            return Err(error);
        }
    }
}

/// What there is of a VM that has just been made.
fn report(new: &NewVm, uuid: Uuid, metadata: VmRecord) -> Vm {
    let known = Known {
        managed: true,
        incomplete: false,
        image_verification: metadata.image.as_ref().and_then(|image| image.verification),
        image: metadata.image.map(|image| image.source),
        user: metadata.user,
        expires: metadata.expires,
        protected: metadata.protected,
        owner: metadata.owner,
        addresses: Vec::new(),
        ssh_port: metadata.forward.map(|forward| forward.port),
    };
    Vm {
        name: new.name.to_string(),
        uuid,
        state: if new.start { State::Running } else { State::ShutOff },
        memory: new.memory.mib(),
        vcpus: new.vcpus,
        autostart: new.autostart,
        known: Some(known),
    }
}

fn is_base_gone(host: &Host, plan: &Plan) -> Result<bool> {
    match &plan.base {
        Some(base) => Ok(host.virsh.volume(&plan.disk.pool, &base.volume)?.is_none()),
        None => Ok(false),
    }
}

/// Builds the VM and returns what is noted of it; a failure at any step undoes the ones before it.
fn build(host: &Host, new: &NewVm, plan: &Plan) -> Result<VmRecord> {
    let uuid = plan.uuid;
    let xml = plan.domain_xml(new)?;
    undoing(|undo| {
        host.step("defining the VM");
        undo.push(format!("VM `{}`", new.name), {
            let host = host.uncancellable();
            move || absent_is_fine(host.virsh.undefine(uuid))
        });
        // Making the seed changes nothing that anybody sees, so it need not wait for the name.
        let make_seed = || plan.seed.as_ref().map(|(_, seed)| seed::make(host, seed)).transpose();
        let define = || host.virsh.define(&xml).map_err(|error| taken_meanwhile(error, new));
        let (seed, ()) = side_by_side(host, make_seed, define)?;
        host.step("making its volumes");
        make_volumes(host, new, plan, seed.as_ref(), undo)?;
        if new.autostart {
            host.virsh.set_autostart(uuid, true)?;
        }
        // Its time begins when it is there, however long its image took.
        let expires = new.ttl.map(expiry).transpose()?;
        let ready = VmRecord { phase: Phase::Ready, expires, ..plan.metadata.clone() };
        if !new.start {
            host.virsh.set_metadata(uuid, &ready, false)?;
            return Ok(ready);
        }
        host.step("starting the VM");
        undo.push(format!("running VM `{}`", new.name), {
            let host = host.uncancellable();
            move || absent_is_fine(host.virsh.destroy(uuid))
        });
        host.virsh.start_and_note(uuid, &ready)?;
        Ok(ready)
    })
}

/// Undoing what was not done is no failure.
fn absent_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(error.code, Code::NotFound | Code::Conflict) => Ok(()),
        result => result,
    }
}

fn taken_meanwhile(error: Error, new: &NewVm) -> Error {
    if error.code == Code::AlreadyExists {
        return Error { message: format!("there is a VM `{}` already", new.name), ..error }
            .hint("Choose another name.");
    }
    error
}

/// Makes the disk beside the seed and the console's log, and then the installer.
fn make_volumes(host: &Host, new: &NewVm, plan: &Plan, iso: Option<&Scratch>, undo: &mut Undo) -> Result<()> {
    let size = new.disk_size.bytes();
    let disk = match &plan.base {
        Some(base) => NewVolume::Overlay(size, &base.volume),
        None => NewVolume::Blank(size),
    };
    let make_disk = seed::volume_maker(host, &plan.disk, undo);
    let make_seed = match (&plan.seed, iso) {
        (Some((volume, _)), Some(iso)) => Some(seed::writer(host, volume, iso, undo)),
        _ => None,
    };
    let make_console = seed::volume_maker(host, &plan.console, undo);
    let make_others = || {
        make_console(&NewVolume::Content(0))?;
        make_seed.map_or(Ok(()), |make| make())
    };
    side_by_side(host, || make_disk(&disk), make_others)?;
    if let Some((file, Some(volume))) = &plan.installer {
        host.step("uploading the installer");
        let metadata = file.metadata();
        let size = metadata.map_err(|error| Error::io(format!("read the installer `{}`", file.path()), &error))?.len();
        host.allowance.take_volume(&volume.name, size)?;
        seed::volume_maker(host, volume, undo)(&NewVolume::Content(size))?;
        let path = if host.is_dry_run() { file.path().to_owned() } else { file.access() };
        host.virsh.upload(&volume.pool, &volume.name, &path)?;
    }
    Ok(())
}
