//! [`Watch`]: reports a call of a program to the [`Observer`].

use std::time::{Duration, Instant};

use super::Runner;
use crate::observer::Observer;

/// A call that was started.
pub(super) struct Watch<'a> {
    observer: Option<&'a dyn Observer>,
    program: &'static str,
    started: Instant,
}

impl Runner {
    /// Reports that a program is being started. The program may still turn out to be missing.
    pub(super) fn watch(&self, program: &'static str) -> Watch<'_> {
        let observer = self.observer.as_deref();
        if let Some(observer) = observer {
            observer.program_started(program);
        }
        Watch { observer, program, started: Instant::now() }
    }
}

impl Watch<'_> {
    /// Reports the end of the call and returns its duration.
    pub(super) fn ended(self, succeeded: bool) -> Duration {
        let took = self.started.elapsed();
        self.report(Some(took), succeeded);
        took
    }

    /// Reports the end of a call without its duration, which the caller or the user decided and not the program.
    pub(super) fn ended_untimed(self, succeeded: bool) {
        self.report(None, succeeded);
    }

    fn report(self, took: Option<Duration>, succeeded: bool) {
        if let Some(observer) = self.observer {
            observer.program_ended(self.program, took, succeeded);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        ops::ControlFlow,
        sync::{Arc, Mutex},
    };

    use super::{super::Tool, *};

    /// The reports, one line for each.
    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Observer for Notes {
        fn program_started(&self, program: &'static str) {
            self.0.lock().unwrap().push(program.to_owned());
        }

        fn program_ended(&self, program: &'static str, took: Option<Duration>, succeeded: bool) {
            let timed = if took.is_some() { " timed" } else { "" };
            let result = if succeeded { "succeeded" } else { "failed" };
            self.0.lock().unwrap().push(format!("{program} {result}{timed}"));
        }
    }

    fn reports(call: impl Fn(&Runner)) -> Vec<String> {
        let notes = Arc::new(Notes::default());
        call(&Runner { observer: Some(notes.clone()), ..Runner::default() });
        notes.0.lock().unwrap().clone()
    }

    fn sh(script: &str) -> Tool {
        Tool::new("sh").args(["-c", script])
    }

    #[test]
    fn every_call_is_reported_once_at_its_start_and_once_at_its_end() {
        assert_eq!(reports(|runner| drop(sh("true").read(runner))), ["sh", "sh succeeded timed"]);
        assert_eq!(reports(|runner| drop(sh("exit 1").read(runner))), ["sh", "sh failed timed"]);
        assert_eq!(reports(|runner| drop(sh("exit 1").pass_through(runner, true))), ["sh", "sh failed timed"]);
        assert_eq!(reports(|runner| drop(sh("true").attach(runner))), ["sh", "sh succeeded"]);
        assert_eq!(reports(|runner| drop(Tool::new("missing").read(runner))), ["missing", "missing failed timed"]);
        let late = |runner: &Runner| drop(sh("sleep 60").limit(Duration::from_millis(1)).read(runner));
        assert_eq!(reports(late), ["sh", "sh failed timed"]);
    }

    #[test]
    fn a_call_whose_lines_are_followed_has_no_duration_and_may_be_stopped() {
        let follow =
            |script, flow: ControlFlow<()>| reports(move |runner| drop(sh(script).lines(runner, |_| Ok(flow))));
        assert_eq!(follow("echo a; echo b", ControlFlow::Continue(())), ["sh", "sh succeeded"]);
        assert_eq!(follow("echo a; exec sleep 60", ControlFlow::Break(())), ["sh", "sh succeeded"]);
        assert_eq!(follow("exit 1", ControlFlow::Continue(())), ["sh", "sh failed"]);
    }

    #[test]
    fn refused_and_planned_calls_are_not_reported() {
        let cancelled = |runner: &Runner| {
            runner.cancel.raise();
            assert!(sh("true").read(runner).is_err());
        };
        assert!(reports(cancelled).is_empty());
        let planned = |runner: &Runner| {
            let runner = Runner { plan: Some(Arc::default()), ..runner.clone() };
            assert!(sh("true").changes().run(&runner).unwrap().is_none());
        };
        assert!(reports(planned).is_empty());
    }
}
