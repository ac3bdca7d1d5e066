//! `inject`: adding a key to an existing VM.
//!
//! If the guest agent is connected, it adds the key at once. Otherwise the VM gets a new seed with a new instance ID,
//! so that cloud-init runs again at the next start. The key is added to the seed in both cases, so that a guest that is
//! set up again from its seed has every key.

mod reseed;

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Code, Error, Hint, Result},
    model::{
        key::Key,
        limit::Limit,
        name::Name,
        user::check_user,
        vm::{State, WaitFor},
    },
    ops::{
        Host, key,
        vm::{lifecycle::power, lifecycle::power::StopOptions, lock_found, look_up, require_complete, wait::Watch},
    },
    tools::{
        scratch::Scratch,
        virsh::{Domain, DomainSummary},
    },
};
use reseed::Reseed;

/// Describes the key to inject
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewInjection {
    /// VM to inject into, by name or UUID
    #[schema(min_length = 1, max_length = 255)]
    pub vm: String,

    /// Key of the key store
    pub key: Name,

    /// User to add the key for [default: the VM's]
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    #[schema(pattern = "^[a-z_][a-z0-9_-]{0,31}$")]
    pub user: Option<String>,

    /// How to add the key
    #[arg(long, value_enum, default_value_t = Method::Auto)]
    #[serde(default)]
    pub method: Method,

    /// Restart the VM if needed, and verify the key by logging in
    #[arg(long)]
    #[serde(default)]
    pub restart: bool,

    /// Time limit for the restart and the login
    #[arg(long, value_name = "TIME", default_value_t = Limit::WAIT)]
    #[serde(default = "wait_limit")]
    pub timeout: Limit,
}

const fn wait_limit() -> Limit {
    Limit::WAIT
}

/// How to add a key to a VM
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize, ToSchema, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[schema(as = InjectMethod)]
#[strum(serialize_all = "kebab-case")]
pub enum Method {
    /// The guest agent if it is connected, otherwise cloud-init
    #[default]
    Auto,
    /// The guest agent of a running VM; takes effect at once
    Agent,
    /// A new cloud-init seed; takes effect at the next start
    CloudInit,
}

/// The result of injecting a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Injected {
    /// `injected`.
    pub status: &'static str,
    /// The VM's name.
    pub vm: String,
    /// The key's name.
    pub key: String,
    /// The user that the key logs in as.
    pub user: String,
    /// `agent` or `cloud-init`.
    pub method: Method,
    /// Whether the VM's seed has the key, too.
    pub kept_in_seed: bool,
    /// Whether the VM must be restarted before the key works.
    pub restart_needed: bool,
    /// Whether a login with the key succeeded.
    pub verified: bool,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// Injects a key into a VM.
pub fn inject(host: &Host, request: &NewInjection) -> Result<Injected> {
    let NewInjection { vm, key: key_name, user, method, restart, timeout: Limit(limit) } = request;
    let key = key::get(host, key_name)?;
    let lease = lock_found(host, vm)?;
    let unlocked = host;
    let host = &lease.host;
    // Another vmprov may have changed the VM before this one got the lock.
    let (listed, domain) = look_up(host, vm)?;
    require_complete(&domain)?;
    let seed_user = domain.metadata.as_ref().and_then(|metadata| metadata.user.as_deref());
    let user = user.as_deref().or(seed_user).ok_or_else(|| {
        Error::invalid(format!("no default login user is known for VM `{}`", listed.name))
            .hint(Hint::set("Choose the user", "user"))
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
    // A VM with a seed has every key in it. Without a seed, only the guest agent can add a key.
    let seeded = domain.metadata.as_ref().filter(|metadata| metadata.has_seed());
    report.method = choose(host, &domain, &listed, *method, seeded.is_some(), &mut report.warnings)?;
    if report.method == Method::Agent {
        match through_agent(host, &domain, user, &key) {
            Err(error) if *method == Method::Auto && seeded.is_some() && error.code != Code::NotFound => {
                host.warn(
                    &mut report.warnings,
                    format!("the guest agent cannot add the key ({error}); using cloud-init instead"),
                );
                report.method = Method::CloudInit;
            }
            result => result?,
        }
    }
    if let Some(metadata) = seeded {
        let renew = report.method == Method::CloudInit;
        let other = Reseed { host, listed: &listed, metadata, key: &key }.run(user, renew)?;
        report.kept_in_seed = other.is_none();
        if let Some(other) = other {
            host.warn(&mut report.warnings, format!("the key was not added to the seed, which is for user `{other}`"));
        }
    }
    drop(lease);
    let host = unlocked;
    report.restart_needed = report.method == Method::CloudInit && listed.state.is_active();
    if *restart && report.method == Method::CloudInit {
        power::restart_listed(host, &listed, StopOptions { force: false, timeout: Some(request.timeout) })?;
        report.restart_needed = false;
    }
    if *restart {
        verify(host, &listed, &key, user, *limit, &mut report)?;
    }
    Ok(report)
}

fn choose(
    host: &Host,
    domain: &Domain,
    listed: &DomainSummary,
    method: Method,
    seeded: bool,
    warnings: &mut Vec<String>,
) -> Result<Method> {
    let name = &listed.name;
    let running = listed.state == State::Running;
    let no_seed = || {
        Error::conflict(format!("VM `{name}` has no cloud-init seed that vmprov created"))
            .hint("Run the VM with a guest agent, which can add keys without a seed")
            .hint("Create VMs from an image to give them a seed")
    };
    match method {
        Method::Agent if !running => {
            Err(Error::conflict(format!("VM `{name}` is {}, so its guest agent is not connected", listed.state))
                .hint(Hint::call_on_vm("Start it", "vm_start", name))
                .hint(Hint::set_to("Use cloud-init instead", "method", "cloud-init")))
        }
        Method::Agent if !domain.agent_connected => {
            Err(Error::conflict(format!("the guest agent of VM `{name}` is not connected"))
                .hint("Install qemu-guest-agent in the guest")
                .hint(Hint::set_to("Use cloud-init instead", "method", "cloud-init")))
        }
        Method::Agent => Ok(Method::Agent),
        Method::Auto if running && domain.agent_connected => Ok(Method::Agent),
        Method::Auto | Method::CloudInit if !seeded => Err(no_seed()),
        Method::Auto | Method::CloudInit => {
            if host.virsh.has_managed_save(listed.uuid)? {
                let problem = "it has a saved state, which does not read the new seed when it resumes";
                let fix = "remove the state with `virsh managedsave-remove`, or restart the VM once more";
                host.warn(warnings, format!("VM `{name}` will not get the key at its next start: {problem}; {fix}"));
            }
            Ok(Method::CloudInit)
        }
    }
}

fn through_agent(host: &Host, domain: &Domain, user: &str, key: &Key) -> Result<()> {
    host.step("adding the key through the guest agent");
    // The agent does not end the file that it writes with a line break, so the key's own is the only one.
    let file = Scratch::memory(format!("{}\n", key.public_key).as_bytes())?;
    host.virsh.set_user_sshkeys(domain.uuid, user, file.path().as_str()).map_err(|error| {
        if error.code == Code::NotFound {
            return Error::not_found(format!("VM `{}` has no user `{user}`", domain.name))
                .because(error.cause.unwrap_or(error.message))
                .hint(Hint::set("Choose a user of the guest", "user"));
        }
        error
    })
}

/// Verifies that a login with this key succeeds.
fn verify(
    host: &Host,
    listed: &DomainSummary,
    key: &Key,
    user: &str,
    limit: Duration,
    report: &mut Injected,
) -> Result<()> {
    if key.private_key_path.is_none() {
        host.warn(&mut report.warnings, "the key store has no private key, so the login was not tested");
        return Ok(());
    }
    host.step("logging in with the key");
    Watch::new(listed.uuid, WaitFor::Ssh, limit, true).proving(key, user).run(host)?;
    report.verified = true;
    Ok(())
}
