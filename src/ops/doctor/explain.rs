//! An error's hint from what the checks find: one place for every face and every operation.

use camino::Utf8Path;

use super::{context::Context, daemon, finding::Finding, kvm, network, pool};
use crate::{
    error::{Error, Result},
    ops::{Host, undo::LEFT_BEHIND},
};

/// What looks for the reason of an error that says something.
type Search = fn(&Context, &Error, &str) -> Result<Finding>;

/// What an error's cause may say, and what looks for the reason. The first that fits looks.
const SIGNS: &[(&[&str], Search)] = &[
    (&["failed to connect to the hypervisor"], |look, error, _| {
        Ok(daemon::reason(look, error).unwrap_or_else(|| Finding::unknown(error)))
    }),
    (&["virtlogd-sock"], |_, _, _| Ok(daemon::log())),
    (&["Cannot access storage file '", "Permission denied"], |look, _, cause| way_to(look, cause, "storage file '")),
    (&["Could not open '", "Permission denied"], |look, _, cause| way_to(look, cause, "Could not open '")),
    (&["network '", "' is not active"], |look, _, cause| {
        Ok(network::inactive(look, quoted(cause, "network '").unwrap_or_default()))
    }),
    (&["Network is already in use by interface"], |look, _, _| network::subnet(look)),
    (&["dnsmasq"], |look, _, _| network::dnsmasq(look)),
    (&["No space left on device"], |look, _, _| pool::space(look)),
    (&["Could not access KVM kernel module"], |look, _, _| Ok(kvm::device(look))),
];

/// The same error; where a check finds its reason, with that as its hint. It never fails, never takes long, and hides
/// nothing: what failed and why stays as it was.
#[must_use]
pub fn explain(host: &Host, error: Error) -> Error {
    let Some(cause) = error.cause.clone() else { return error };
    let says = |words: &[&str]| words.iter().all(|word| cause.contains(word));
    let Some((_, search)) = SIGNS.iter().find(|(words, _)| says(words)) else { return error };
    // Whoever interrupted gets an answer all the same.
    let look = Context::new(&host.uncancellable());
    match search(&look, &error, &cause).map(|finding| finding.as_hint()) {
        Ok(Some(hint)) => with_hint(error, hint),
        _ => error,
    }
}

/// Puts what was found in the place of what is said of such errors in general. What could not be undone stays.
fn with_hint(error: Error, found: String) -> Error {
    let left = error.hint.as_deref().and_then(|hint| hint.find(LEFT_BEHIND).map(|at| hint[at..].to_owned()));
    let error = Error { hint: Some(found), ..error };
    match left {
        Some(left) => error.hint(left),
        None => error,
    }
}

/// Whether QEMU gets to the file that stands in quotes behind `before`.
fn way_to(look: &Context, cause: &str, before: &str) -> Result<Finding> {
    match quoted(cause, before) {
        Some(path) if look.sees_files() => pool::way_to(look, Utf8Path::new(path)),
        _ => Ok(Finding::skip("the file is not on this machine")),
    }
}

/// What stands between `before`, which ends in a quote, and the next one.
fn quoted<'c>(cause: &'c str, before: &str) -> Option<&'c str> {
    let (_, rest) = cause.split_once(before)?;
    rest.split_once('\'').map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_is_not_hidden_by_what_was_found() {
        let error = Error::conflict("x").hint("In general.").hint(format!("{LEFT_BEHIND}y."));
        assert_eq!(with_hint(error, "Found: z".to_owned()).hint.unwrap(), format!("Found: z {LEFT_BEHIND}y."));
        let error = Error::conflict("x").because("y").hint("In general.");
        let found = with_hint(error.clone(), "Found".to_owned());
        assert_eq!((found.hint.as_deref(), found.message, found.cause), (Some("Found"), error.message, error.cause));
    }

    #[test]
    fn a_path_is_taken_out_of_libvirts_words() {
        let cause = "Failed to start domain 'web': Cannot access storage file '/srv/x y/web.qcow2' (as uid:64055, gid:993): Permission denied";
        assert_eq!(quoted(cause, "storage file '"), Some("/srv/x y/web.qcow2"));
        assert_eq!(quoted("storage file 'half", "storage file '"), None);
    }
}
