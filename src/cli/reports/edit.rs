//! The human-readable report on a changed VM.

use super::{Show, plain};
use crate::ops::vm::{Edited, Effect, Item};

impl Show for Edited {
    fn table(&self) -> String {
        let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { plain(text).replace('\n', "\\n") };
        let line = |Item { difference, effect }: &Item| {
            let (member, from, to) = (difference.member, shown(&difference.from), shown(&difference.to));
            match effect {
                Effect::Live => format!("{member}: {from} -> {to}"),
                Effect::NextStart => format!("{member}: {from} -> {to} at the next start"),
                Effect::Unchanged => format!("{member}: already {to}"),
            }
        };
        let mut lines: Vec<_> = self.changes.iter().map(line).collect();
        if self.restart_needed {
            lines.push(format!("restart the VM to apply the rest: vmprov vm restart {}", shell_words::quote(&self.vm)));
        }
        lines.join("\n")
    }

    fn names(&self) -> Vec<String> {
        vec![self.vm.clone()]
    }
}
