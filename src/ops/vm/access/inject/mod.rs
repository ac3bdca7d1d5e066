//! `inject`: a key into a VM that exists already.
//!
//! Live through the guest agent where one answers; else through a new seed with a new instance-id, upon which
//! cloud-init goes through its work again at the next start. The seed gets the key either way, so that whatever
//! makes the guest anew from it knows every key.

mod reseed;

use std::{fmt, time::Duration};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Code, Error, Result},
    model::{
        key::Key,
        limit::Limit,
        name::Name,
        user::check_user,
        vm::{State, WaitFor},
    },
    ops::{
        Host, key,
        vm::{lifecycle::power, lifecycle::power::StopOptions, lock_found, look_up, require_whole, wait::Watch},
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

    /// User that the key logs in as [default: the VM's]
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    #[schema(pattern = "^[a-z_][a-z0-9_-]{0,31}$")]
    pub user: Option<String>,

    /// How to do it
    #[arg(long, value_enum, default_value_t = Method::Auto)]
    #[serde(default)]
    pub method: Method,

    /// Restart the VM where that is needed, and prove the key by logging in
    #[arg(long)]
    #[serde(default)]
    pub restart: bool,

    /// How long the restart and the login may take
    #[arg(long, value_name = "TIME", default_value_t = Limit::WAIT)]
    #[serde(default = "wait_limit")]
    pub timeout: Limit,
}

const fn wait_limit() -> Limit {
    Limit::WAIT
}

/// How a key gets into a VM
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = InjectMethod)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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

/// Injects a key into a VM.
pub fn inject(host: &Host, request: &NewInjection) -> Result<Injected> {
    let NewInjection { vm, key: key_name, user, method, restart, timeout: Limit(limit) } = request;
    let key = key::get(host, key_name)?;
    let lease = lock_found(host, vm)?;
    let unlocked = host;
    let host = &lease.host;
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
        let other = Reseed { host, listed: &listed, metadata, key: &key }.run(user, renew)?;
        report.kept_in_seed = other.is_none();
        if let Some(other) = other {
            host.warn(
                &mut report.warnings,
                format!("the key is not kept in the seed, which is for the user `{other}`"),
            );
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
        prove(host, &listed, &key, user, *limit, &mut report)?;
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

/// Logs in with the key alone.
fn prove(
    host: &Host,
    listed: &DomainSummary,
    key: &Key,
    user: &str,
    limit: Duration,
    report: &mut Injected,
) -> Result<()> {
    if key.private_key_path.is_none() {
        host.warn(&mut report.warnings, "the key's private half is not in the key store, so the login was not tried");
        return Ok(());
    }
    host.step("logging in with the key");
    Watch::new(listed.uuid, WaitFor::Ssh, limit, true).proving(key, user).run(host)?;
    report.verified = true;
    Ok(())
}
