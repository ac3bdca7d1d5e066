//! Hints from the checks: if an error has a known fault, the check for it is run, and its finding replaces the general
//! hints. All front ends use this.

use super::{context::Context, daemon, finding::Finding, kvm, network, pool};
use crate::{
    error::{Error, Fault, Result},
    ops::Host,
};

/// Returns the error, with the finding of a check as its hint if one finds the reason. It never fails and never takes
/// long. The error's message and cause stay as they were, and so do hints about what could not be rolled back.
#[must_use]
pub fn explain(host: &Host, error: Error) -> Error {
    let Some(fault) = error.fault.as_deref() else { return error };
    // The checks must run after an interrupt, too.
    let context = Context::new(&host.uncancellable());
    match search(&context, &error, fault).map(|finding| finding.and_then(|finding| finding.as_hint())) {
        Ok(Some(hint)) => {
            let leftovers = error.hints.into_iter().filter(|hint| hint.is_about_leftovers);
            Error { hints: std::iter::once(hint).chain(leftovers).collect(), ..error }
        }
        _ => error,
    }
}

/// Runs the check that can find the reason of a fault; none if there is no such check.
fn search(context: &Context, error: &Error, fault: &Fault) -> Result<Option<Finding>> {
    Ok(match fault {
        Fault::NoConnection => daemon::reason(context, error),
        Fault::NoLogDaemon => Some(daemon::log()),
        Fault::FileAccess(path) if context.sees_files() => Some(pool::access(context, path)?),
        Fault::NetworkInactive(name) => Some(network::inactive(context, name)),
        Fault::SubnetInUse => Some(network::subnet(context)?),
        Fault::Dnsmasq => Some(network::dnsmasq(context)?),
        Fault::DiskFull => Some(pool::space(context)?),
        Fault::KvmAccess => Some(kvm::device(context)),
        Fault::FileAccess(_) | Fault::Member(_) | Fault::Missing(_) | Fault::PortInUse | Fault::Passt => None,
    })
}
