//! [`Watch`]: one call of a program, as whoever counts them is told of it.

use std::time::{Duration, Instant};

use super::Runner;
use crate::observer::Observer;

/// A call that has begun.
pub(super) struct Watch<'a> {
    observer: Option<&'a dyn Observer>,
    program: &'static str,
    started: Instant,
}

impl Runner {
    /// Says that a program is called, which may yet turn out to be missing.
    pub(super) fn watch(&self, program: &'static str) -> Watch<'_> {
        let observer = self.observer.as_deref();
        if let Some(observer) = observer {
            observer.program_started(program);
        }
        Watch { observer, program, started: Instant::now() }
    }
}

impl Watch<'_> {
    /// Says how it ended, and returns how long it took.
    pub(super) fn ended(self, succeeded: bool) -> Duration {
        let took = self.started.elapsed();
        self.tell(Some(took), succeeded);
        took
    }

    /// Says how a call ended that was listened to for as long as somebody liked: its duration says nothing of the program.
    pub(super) fn heard(self, succeeded: bool) {
        self.tell(None, succeeded);
    }

    fn tell(self, took: Option<Duration>, succeeded: bool) {
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

    /// What was told: a line each.
    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Observer for Notes {
        fn program_started(&self, program: &'static str) {
            self.0.lock().unwrap().push(program.to_owned());
        }

        fn program_ended(&self, program: &'static str, took: Option<Duration>, succeeded: bool) {
            let (timed, how) = (if took.is_some() { " timed" } else { "" }, if succeeded { "well" } else { "badly" });
            self.0.lock().unwrap().push(format!("{program} {how}{timed}"));
        }
    }

    fn told(call: impl Fn(&Runner)) -> Vec<String> {
        let notes = Arc::new(Notes::default());
        call(&Runner { observer: Some(notes.clone()), ..Runner::default() });
        notes.0.lock().unwrap().clone()
    }

    fn sh(script: &str) -> Tool {
        Tool::new("sh").args(["-c", script])
    }

    #[test]
    fn every_kind_of_call_is_told_once_when_it_begins_and_once_when_it_ends() {
        assert_eq!(told(|runner| drop(sh("true").read(runner))), ["sh", "sh well timed"]);
        assert_eq!(told(|runner| drop(sh("exit 1").read(runner))), ["sh", "sh badly timed"]);
        assert_eq!(told(|runner| drop(sh("exit 1").pass_through(runner, true))), ["sh", "sh badly timed"]);
        assert_eq!(told(|runner| drop(sh("true").attach(runner))), ["sh", "sh well"]);
        assert_eq!(told(|runner| drop(Tool::new("not-there").read(runner))), ["not-there", "not-there badly timed"]);
        let late = |runner: &Runner| drop(sh("sleep 60").limit(Duration::from_millis(1)).read(runner));
        assert_eq!(told(late), ["sh", "sh badly timed"]);
    }

    #[test]
    fn one_that_is_listened_to_has_no_duration_and_may_be_ended() {
        let hear = |script, flow: ControlFlow<()>| told(move |runner| drop(sh(script).lines(runner, |_| Ok(flow))));
        assert_eq!(hear("echo a; echo b", ControlFlow::Continue(())), ["sh", "sh well"]);
        assert_eq!(hear("echo a; exec sleep 60", ControlFlow::Break(())), ["sh", "sh well"]);
        assert_eq!(hear("exit 1", ControlFlow::Continue(())), ["sh", "sh badly"]);
    }

    #[test]
    fn what_is_refused_or_only_written_down_is_no_call() {
        let cancelled = |runner: &Runner| {
            runner.cancel.raise();
            assert!(sh("true").read(runner).is_err());
        };
        assert!(told(cancelled).is_empty());
        let planned = |runner: &Runner| {
            let runner = Runner { plan: Some(Arc::default()), ..runner.clone() };
            assert!(sh("true").changes().run(&runner).unwrap().is_none());
        };
        assert!(told(planned).is_empty());
    }
}
