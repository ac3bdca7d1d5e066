//! The table of all operations. A row is all that the front ends know of an operation.

mod guest;
mod host;
mod image;
mod key;
mod vm;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Operation, Resource};

/// For an operation that creates nothing that a quota limits.
const NOTHING: &[Resource] = &[];

/// A request without members.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
struct Nothing {}

/// Every operation, in the order of the documentation.
pub(super) fn operations() -> Vec<Operation> {
    [
        vm::lifecycle(),
        vm::power(),
        vm::lifetime(),
        guest::operations(),
        image::operations(),
        key::operations(),
        host::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
