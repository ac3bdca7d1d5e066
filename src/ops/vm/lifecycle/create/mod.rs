//! `create`: creates a VM from an image, completely or not at all.
//!
//! The request is validated before anything is changed. Then the domain is defined first, marked as being created and
//! with the list of volumes that it will own. So libvirt refuses a second domain of that name, and after a failure the
//! domain tells what to remove.

mod existing;
mod link;
mod plan;
mod request;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::{Code, Error, Fault, Hint, Result},
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

/// A VM that was created, or that already existed with the requested specification.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// The VM, as in the list of VMs.
    #[serde(flatten)]
    pub vm: Vm,
    /// What was done.
    pub status: Status,
    /// Whether anything was changed.
    pub changed: bool,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// What creating a VM did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CreateStatus)]
pub enum Status {
    /// The VM was created.
    Created,
    /// An existing VM was deleted, and a new one was created.
    Replaced,
    /// The VM already existed with the requested specification.
    Unchanged,
}

/// Creates a VM and, unless the request says otherwise, starts it. With `wait`, also waits for the guest. A VM whose
/// guest does not become ready is kept for diagnosis.
pub fn create(host: &Host, new: &NewVm) -> Result<Created> {
    let mut warnings = Vec::new();
    let request = Request::check(host, new, &mut warnings)?;
    // Waiting for a guest must not prevent others from stopping it, so the lease ends here.
    let mut created = create_without_wait(&lock(host, new.name.as_str())?.host, new, &request, warnings)?;
    if let Some(goal) = new.wait.filter(|_| !host.is_dry_run()) {
        let kept = |error: Error| match error.code {
            Code::Interrupted => {
                let text = format!("Wait again; VM `{}` was created and is kept", new.name);
                error.hint(Hint::call(text, "vm_wait", [("vm", new.name.to_string()), ("for", goal.to_string())]))
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

/// Creates a VM whose lease is held, without waiting for the guest.
fn create_without_wait(host: &Host, new: &NewVm, request: &Request, warnings: Vec<String>) -> Result<Created> {
    match existing::find(host, new, &request.specification(new))? {
        Existing::Nothing => make(host, new, request, None, warnings),
        Existing::Old(old) => make(host, new, request, Some(&old), warnings),
        Existing::Same(listed) => existing::kept(host, new, &listed, warnings),
    }
}

/// Makes the VM and replaces the `old` one, if any. The old VM is deleted only after all checks have passed and the
/// image has been fetched.
fn make(host: &Host, new: &NewVm, request: &Request, old: Option<&Old>, mut warnings: Vec<String>) -> Result<Created> {
    let planned = plan(host, new, request, old, &mut warnings)?;
    let name = new.name.as_str();
    old.map_or(Ok(()), |old| old.delete(host, name))?;
    let built = build_with_retries(host, new, request, planned, &mut warnings);
    let (uuid, metadata) = built.map_err(|error| if old.is_some() { Old::is_gone(name, error) } else { error })?;
    let status = if old.is_some() { Status::Replaced } else { Status::Created };
    if let Some(PortForward { address, port }) = metadata.forward {
        let text = format!("`{name}` uses user-mode networking; SSH is at {address} port {port}");
        host.progress.note(&text);
    }
    Ok(Created { vm: report(new, uuid, metadata), status, changed: true, warnings })
}

/// How many ports are tried if other processes take them before QEMU does.
const MAX_PORTS: usize = 5;

/// Builds the VM, with retries after failures that another choice can avoid. Returns its UUID and its record.
fn build_with_retries(
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
            // The base image was deleted by hand, but its manifest still exists. The base image is fetched again.
            is_base_new = true;
            request.image.iter().zip(&planned.base).try_for_each(|(source, base)| image::forget(host, source, base))?;
            planned.held = None;
            planned = plan(host, new, request, None, &mut Vec::new())?;
        } else if let Some(forward) = planned.attachment.forward()
            && error.fault.as_deref() == Some(&Fault::PortInUse)
            && in_use.len() < MAX_PORTS
        {
            // Another process took the port between its choice and QEMU's start.
            in_use.push(forward.port);
            planned.attachment = planned.attachment.with_other_port(host, &in_use)?;
            planned.metadata.forward = planned.attachment.forward();
        } else if planned.attachment.is_passt() && error.fault.as_deref() == Some(&Fault::Passt) {
            // passt fails on some hosts, for example because of an AppArmor profile or forbidden namespaces.
            planned.attachment = planned.attachment.without_passt();
            let why = error.cause.unwrap_or(error.message);
            host.warn(warnings, format!("using QEMU's built-in user-mode networking, because passt failed: {why}"));
        } else {
            return Err(error);
        }
    }
}

/// Returns the report of a VM that has just been created.
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

/// Builds the VM and returns its record. A failure in any step rolls back the steps before it.
fn build(host: &Host, new: &NewVm, plan: &Plan) -> Result<VmRecord> {
    let uuid = plan.uuid;
    let xml = plan.domain_xml(new)?;
    undoing(|undo| {
        host.step("defining the VM");
        undo.push(format!("VM `{}`", new.name), {
            let host = host.uncancellable();
            move || absent_is_fine(host.virsh.undefine(uuid))
        });
        // Making the seed has no visible effect, so it need not wait until the name is reserved.
        let make_seed = || plan.seed.as_ref().map(|(_, seed)| seed::make(host, seed)).transpose();
        let define = || host.virsh.define(&xml).map_err(|error| name_taken(error, new));
        let (seed, ()) = side_by_side(host, make_seed, define)?;
        host.step("creating its volumes");
        make_volumes(host, new, plan, seed.as_ref(), undo)?;
        if new.autostart {
            host.virsh.set_autostart(uuid, true)?;
        }
        // The lifetime begins here, because fetching the image does not count.
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

/// Ignores that there is nothing to undo.
fn absent_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(error.code, Code::NotFound | Code::Conflict) => Ok(()),
        result => result,
    }
}

/// Names the VM in the error if another program has taken its name since the check.
fn name_taken(error: Error, new: &NewVm) -> Error {
    if error.code == Code::AlreadyExists {
        return Error { message: format!("VM `{}` already exists", new.name), ..error }.hint("Choose another name");
    }
    error
}

/// Creates the disk in parallel with the console log and the seed, and then the installer.
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
