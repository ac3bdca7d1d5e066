//! The operations as language models meet them: tools, each derived from one operation, with names, descriptions and errors
//! that are meant for a model. The command line prints their definitions, HTTP runs them at `/api/tools`, and the Model Context
//! Protocol offers them over a pipe (`vmprov mcp`) and over HTTP (`/mcp`).

pub(crate) mod call;
mod definitions;
pub(crate) mod failure;
mod format;
mod hints;
pub(crate) mod mcp;
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

/// Every tool, in the order of the documentation.
pub fn tools() -> &'static [Tool] {
    static ALL: LazyLock<Vec<Tool>> = LazyLock::new(definitions::tools);
    &ALL
}

/// Finds a tool by its name.
pub fn find(name: &str) -> Result<&'static Tool> {
    tools().iter().find(|tool| tool.name == name).ok_or_else(|| {
        let error = Error::not_found(format!("there is no tool `{}`", name.escape_debug()));
        let names: Vec<_> = tools().iter().map(|tool| tool.name).collect();
        match api::nearest(name, names.iter().copied()) {
            Some(name) => error.hint(format!("Did you mean `{name}`?")),
            None => error,
        }
        .hint(format!("The tools are {}.", names.join(", ")))
    })
}
