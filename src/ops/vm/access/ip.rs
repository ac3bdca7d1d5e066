//! `ip`: reports a VM's addresses, and waits for one.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::address;
use crate::{
    error::{Error, Hint, Result},
    model::{
        limit::Limit,
        vm::{Address, WaitFor},
    },
    ops::{
        Host,
        vm::{look_up, not_running, wait::Watch},
    },
};

/// Sets whether and how long to wait for an address
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AddressOptions {
    /// Wait until the VM has an address
    #[arg(long)]
    pub wait: bool,

    /// Time limit for the wait
    #[arg(long, value_name = "TIME", default_value_t = Limit::WAIT, requires = "wait")]
    pub timeout: Limit,
}

impl Default for AddressOptions {
    fn default() -> Self {
        Self { wait: false, timeout: Limit::WAIT }
    }
}

/// The addresses of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Addresses {
    /// The VM, as it was named in the request.
    pub vm: String,
    /// The addresses, the best one for a login first.
    pub addresses: Vec<Address>,
}

/// Returns the addresses of a running VM.
pub fn addresses(host: &Host, reference: &str, options: AddressOptions) -> Result<Addresses> {
    let (listed, domain) = look_up(host, reference)?;
    if !listed.state.is_active() {
        return Err(not_running(&listed.name, listed.state, "so it has no address"));
    }
    if options.wait {
        Watch::new(listed.uuid, WaitFor::Ip, options.timeout.0, true).run(host)?;
    }
    let addresses = address::of(host, &domain)?;
    if addresses.is_empty() {
        return Err(Error::not_found(format!("VM `{}` has no address yet", listed.name)).hint(Hint::call(
            "Wait for one",
            "vm_wait",
            [("vm", listed.name.as_str()), ("for", "ip")],
        )));
    }
    Ok(Addresses { vm: reference.to_owned(), addresses })
}
