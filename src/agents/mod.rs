//! The operations as tools of language models. Each tool is derived from one operation; its names, descriptions and
//! errors are written for a model. The command line prints the definitions, HTTP runs the tools at `/api/tools`, and
//! the Model Context Protocol offers them over a pipe (`vmprov mcp`) and over HTTP (`/mcp`).

pub(crate) mod call;
mod definitions;
pub(crate) mod failure;
mod format;
mod hints;
pub(crate) mod mcp;
mod names;
mod prompts;
mod resources;
mod schema;
mod stdio;
mod tool;

use std::sync::LazyLock;

use crate::{
    api,
    error::{Error, Result},
};
pub use format::{Format, definitions};
pub use hints::as_tool_call;
pub use stdio::{Options, serve};
pub use tool::{Hints, Tool};

/// Returns every tool, in the order of the documentation.
pub fn tools() -> &'static [Tool] {
    static ALL: LazyLock<Vec<Tool>> = LazyLock::new(definitions::tools);
    &ALL
}

/// Finds a tool by its name.
pub fn find(name: &str) -> Result<&'static Tool> {
    tools().iter().find(|tool| tool.name == name).ok_or_else(|| {
        let error = Error::not_found(format!("tool `{}` does not exist", name.escape_debug()));
        let names: Vec<_> = tools().iter().map(|tool| tool.name).collect();
        match api::nearest(name, names.iter().copied()) {
            Some(name) => error.hint(format!("Use `{name}` instead, if that is what you meant")),
            None => error,
        }
        .hint(format!("Use one of the tools {}", names.join(", ")))
    })
}
