//! [`undoing`]: whole, or not at all.

use crate::error::{Error, Result};

type Step<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// What is to be undone when the work fails, in the order it was begun.
#[derive(Default)]
pub struct Undo<'a>(Vec<(String, Step<'a>)>);

impl<'a> Undo<'a> {
    /// Adds a step. It is added before what it undoes is tried, because a call that failed may have done its work;
    /// so it must bear that there is nothing to undo.
    pub fn push(&mut self, what: impl Into<String>, step: impl FnOnce() -> Result<()> + 'a) {
        self.0.push((what.into(), Box::new(step)));
    }

    /// Takes the last step back: what it undoes is not ours.
    pub fn forget_last(&mut self) {
        self.0.pop();
    }

    /// Undoes in reverse order, all of it even where a step fails, and names what is left behind.
    fn run(&mut self) -> Vec<String> {
        let undo = |(what, step): (String, Step)| {
            tracing::info!("undoing: {what}");
            step().err().map(|error| format!("{what} ({error})"))
        };
        self.0.drain(..).rev().filter_map(undo).collect()
    }
}

impl Drop for Undo<'_> {
    /// Runs in a panic only: [`undoing`] has emptied it otherwise.
    fn drop(&mut self) {
        self.run();
    }
}

/// Does `work`; when it fails, everything that it pushed is undone and what could not be is named in the error.
pub fn undoing<'a, T>(work: impl FnOnce(&mut Undo<'a>) -> Result<T>) -> Result<T> {
    let mut undo = Undo::default();
    match work(&mut undo) {
        Ok(value) => {
            undo.0.clear();
            Ok(value)
        }
        Err(error) => {
            let left = undo.run();
            Err(if left.is_empty() { error } else { left_behind(error, &left) })
        }
    }
}

fn left_behind(error: Error, left: &[String]) -> Error {
    error.hint(format!("Left behind: {}. `vmprov gc` removes it later.", left.join("; ")))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_failure_undoes_in_reverse_and_names_what_is_left() {
        let log = RefCell::new(Vec::new());
        let error = undoing(|undo| {
            for step in ["a", "b", "c"] {
                let log = &log;
                undo.push(step, move || {
                    log.borrow_mut().push(step);
                    if step == "b" { Err(Error::internal("stuck")) } else { Ok(()) }
                });
            }
            undo.push("d", || unreachable!("it was not ours"));
            undo.forget_last();
            Err::<(), _>(Error::internal("boom").hint("Do this."))
        })
        .unwrap_err();
        assert_eq!(*log.borrow(), ["c", "b", "a"]);
        assert_eq!(error.hint.unwrap(), "Do this. Left behind: b (stuck). `vmprov gc` removes it later.");
    }

    #[test]
    fn success_keeps_everything() {
        assert_eq!(
            undoing(|undo| {
                undo.push("a", || unreachable!("nothing failed"));
                Ok(1)
            }),
            Ok(1)
        );
    }

    #[test]
    fn a_panic_undoes_too() {
        let undone = std::sync::atomic::AtomicBool::new(false);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            undoing::<()>(|undo| {
                undo.push("a", || {
                    undone.store(true, std::sync::atomic::Ordering::SeqCst);
                    Ok(())
                });
                panic!("boom")
            })
        }));
        assert!(result.is_err() && undone.into_inner());
    }
}
