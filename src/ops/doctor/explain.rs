//! Hints from the checks: a known fault behind an error is looked at, and what is found replaces the general hints. One place for all front ends.

use super::{context::Context, daemon, finding::Finding, kvm, network, pool};
use crate::{
    error::{Error, Fault, Result},
    ops::Host,
};

/// Returns the error; where a check finds its reason, with that as its hint. It never fails and never takes long. What failed
/// and why stays as it was, and so does what could not be rolled back.
#[must_use]
pub fn explain(host: &Host, error: Error) -> Error {
    let Some(fault) = error.fault.as_deref() else { return error };
    // After an interrupt, too.
    let context = Context::new(&host.uncancellable());
    match search(&context, &error, fault).map(|finding| finding.and_then(|finding| finding.as_hint())) {
        Ok(Some(hint)) => {
            let leftovers = error.hints.into_iter().filter(|hint| hint.is_about_leftovers);
            Error { hints: std::iter::once(hint).chain(leftovers).collect(), ..error }
        }
        _ => error,
    }
}

/// Runs the check that looks for the reason of a fault; none where no check does.
fn search(context: &Context, error: &Error, fault: &Fault) -> Result<Option<Finding>> {
    Ok(match fault {
        Fault::NoConnection => daemon::reason(context, error),
        Fault::NoLogDaemon => Some(daemon::log()),
        Fault::FileAccess(path) if context.sees_files() => Some(pool::way_to(context, path)?),
        Fault::NetworkInactive(name) => Some(network::inactive(context, name)),
        Fault::SubnetInUse => Some(network::subnet(context)?),
        Fault::Dnsmasq => Some(network::dnsmasq(context)?),
        Fault::DiskFull => Some(pool::space(context)?),
        Fault::KvmAccess => Some(kvm::device(context)),
        Fault::FileAccess(_) | Fault::Member(_) | Fault::Missing(_) | Fault::PortInUse | Fault::Passt => None,
    })
}
