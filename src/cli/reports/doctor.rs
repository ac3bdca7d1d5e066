//! The report on the host.

use super::table;
use crate::{
    cli::{doctor::Checks, output::Show, output::plain},
    ops::doctor::{CheckStatus, Checked, Diagnosis, Summary},
};

impl Show for Diagnosis {
    fn table(&self) -> String {
        let width = self.checks.iter().map(|checked| checked.id.len()).max().unwrap_or(0);
        let mut lines: Vec<_> = self.checks.iter().flat_map(|checked| lines(checked, width)).collect();
        let Summary { ok, warn, fail, skip, fixed } = self.summary;
        let warnings = if warn == 1 { "warning" } else { "warnings" };
        let fixed = if fixed > 0 { format!("; {fixed} fixed") } else { String::new() };
        lines.push(format!("{ok} ok, {warn} {warnings}, {fail} failed, {skip} skipped{fixed}"));
        lines.join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.checks.iter().map(|checked| checked.id.to_owned()).collect()
    }
}

/// Returns a check's line, followed by lines with the fixes that were applied and the command that fixes the problem.
fn lines(checked: &Checked, width: usize) -> Vec<String> {
    const INDENT: &str = "      ";
    let status = match checked.status {
        CheckStatus::Ok => "ok",
        CheckStatus::Warn => "warn",
        CheckStatus::Fail => "fail",
        CheckStatus::Skip => "skip",
    };
    let one_line = |text: &str| plain(text).replace('\n', " ");
    let mut lines = vec![format!("{status:4}  {:width$}  {}", checked.id, one_line(&checked.observed))];
    lines.extend(checked.actions.iter().map(|action| format!("{INDENT}fixed: {}", one_line(action))));
    if let Some(command) = &checked.fix_command {
        let safe = if checked.safe { " (or vmprov doctor --fix)" } else { "" };
        lines.push(format!("{INDENT}fix: {}{safe}", plain(command)));
    }
    lines
}

impl Show for Checks {
    fn table(&self) -> String {
        let row = |check: &crate::ops::doctor::Check| [check.id.to_owned(), check.about.to_owned()];
        table(&["ID", "PASSES IF"], self.checks.iter().map(row))
    }

    fn names(&self) -> Vec<String> {
        self.checks.iter().map(|check| check.id.to_owned()).collect()
    }
}
