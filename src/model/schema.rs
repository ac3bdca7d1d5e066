//! Schemas of the types whose JSON form is written by hand. All other types derive their schema.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, OneOfBuilder, Ref, RefOr, Schema,
        schema::{SchemaType, Type},
    },
};

use super::{
    image::Checksum,
    limit::Limit,
    size::{DiskSize, Memory},
    ttl::{Lifetime, Ttl},
    vm::Bytes,
};
use crate::error::{Code, Error};

/// Returns the schema of text that matches a pattern.
fn text(pattern: &str, example: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).pattern(Some(pattern)).examples([example])
}

/// Returns the schema of a number in the member's unit, or of text with a unit.
fn quantity(unit: &str, (least, most): (u64, u64), pattern: &str, example: &str) -> RefOr<Schema> {
    let number = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Integer))
        .minimum(Some(least))
        .maximum(Some(most))
        .description(Some(format!("A number of {unit}")));
    OneOfBuilder::new().item(number).item(text(pattern, example).description(Some("Text with a unit"))).into()
}

impl PartialSchema for Memory {
    fn schema() -> RefOr<Schema> {
        let pattern = "^(6[4-9]|[7-9][0-9]|[1-9][0-9]{2,6})M?$|^[1-9][0-9]{0,3}G$|^([1-9]|1[0-6])T$";
        quantity("MiB", (64, 16 << 20), pattern, "2G")
    }
}

impl ToSchema for Memory {}

impl PartialSchema for DiskSize {
    fn schema() -> RefOr<Schema> {
        quantity("GiB", (1, 64 << 10), "^[1-9][0-9]{0,6}M$|^[1-9][0-9]{0,3}G?$|^([1-9]|[1-5][0-9]|6[0-4])T$", "20G")
    }
}

impl ToSchema for DiskSize {}

impl PartialSchema for Limit {
    fn schema() -> RefOr<Schema> {
        quantity("seconds", (0, 86_400), "^([0-9]{1,4}s?|[0-9]{1,3}m|(1?[0-9]|2[0-3])h([0-5]?[0-9]m)?)$", "5m")
    }
}

impl ToSchema for Limit {}

impl PartialSchema for Checksum {
    fn schema() -> RefOr<Schema> {
        let sum = format!("sha256:{}", "0123456789abcdef".repeat(4));
        text("^(sha256:[0-9a-fA-F]{64}|sha512:[0-9a-fA-F]{128})$", &sum).into()
    }
}

impl ToSchema for Checksum {}

impl PartialSchema for Bytes {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).into()
    }
}

impl ToSchema for Bytes {}

impl PartialSchema for Lifetime {
    fn schema() -> RefOr<Schema> {
        let never = ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).enum_values(Some(["never"]));
        OneOfBuilder::new().item(never).item(Ttl::schema()).into()
    }
}

impl ToSchema for Lifetime {}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let names = Self::ALL.map(Self::name);
        ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).enum_values(Some(names)).into()
    }
}

impl ToSchema for Code {}

impl PartialSchema for Error {
    fn schema() -> RefOr<Schema> {
        let text = |about: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(about));
        let or_null = |about: &str| text(about).schema_type(SchemaType::from_iter([Type::String, Type::Null]));
        ObjectBuilder::new()
            .property("error", text("What failed"))
            .property("code", Ref::from_schema_name("Code"))
            .property("exitStatus", ObjectBuilder::new().schema_type(Type::Integer))
            .property("cause", or_null("Why it failed, as the tool or operating system reports it"))
            .property("hint", or_null("What to do next"))
            .property("retryable", ObjectBuilder::new().schema_type(Type::Boolean))
            .property("details", ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Object, Type::Null])))
            .into()
    }
}

impl ToSchema for Error {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push(("Code".to_owned(), Code::schema()));
    }
}
