//! The builder of an operation in the table.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    Effect, ExecutionMode, Kind, Operation, Reference, Report, Resource, Schemas, Scope, ToolPart, VM, request, schema,
};
use crate::{
    error::{Error, Result},
    ops::Host,
};

fn reported(report: &impl Serialize) -> Result<Report> {
    let report = serde_json::to_value(report).map(Report::Json);
    report.map_err(|error| Error::internal("cannot write the report").because(error))
}

/// An operation that is not complete yet.
pub(super) struct OperationBuilder {
    operation: Operation,
    check: Box<Check>,
}

/// Checks a request as a whole.
type Check = dyn Fn(&Value) -> Result<()> + Send + Sync;

fn operation(name: &'static str, command: &'static str, method: &'static str, path: &'static str) -> OperationBuilder {
    OperationBuilder {
        check: Box::new(|_| Ok(())),
        operation: Operation {
            name,
            command,
            summary: "",
            method,
            path,
            status: 200,
            effect: Effect::Change,
            scope: Scope::Operate,
            mode: ExecutionMode::Long,
            references: Vec::new(),
            takes: None,
            admin_switches: Vec::new(),
            whole_host: None,
            tool: None,
            shell: &[],
            example: Value::Object(Map::new()),
            request: Value::Null,
            complete: Value::Null,
            report: None,
            schemas: Schemas::default(),
            read: Box::new(|_, _| Err(Error::internal("the operation has no request type"))),
            run: Box::new(|_, _| Err(Error::internal("the operation has no implementation"))),
        },
    }
}

/// Returns a builder of an operation that only reads.
pub(super) fn read(name: &'static str, command: &'static str, path: &'static str) -> OperationBuilder {
    operation(name, command, "GET", path).mode(ExecutionMode::Quick).effect(Effect::Read).scope(Scope::Read).takes(&[])
}

/// Returns a builder of an operation that changes something.
pub(super) fn change(
    name: &'static str,
    command: &'static str,
    method: &'static str,
    path: &'static str,
) -> OperationBuilder {
    operation(name, command, method, path)
}

/// Returns a builder of an operation that changes a VM.
pub(super) fn change_vm(
    name: &'static str,
    command: &'static str,
    method: &'static str,
    path: &'static str,
) -> OperationBuilder {
    operation(name, command, method, path).mode(ExecutionMode::Ordered)
}

impl OperationBuilder {
    pub(super) fn about(mut self, summary: &'static str) -> Self {
        self.operation.summary = summary;
        self
    }

    pub(super) fn mode(mut self, mode: ExecutionMode) -> Self {
        self.operation.mode = mode;
        self
    }

    pub(super) fn effect(mut self, effect: Effect) -> Self {
        self.operation.effect = effect;
        self
    }

    pub(super) fn scope(mut self, scope: Scope) -> Self {
        self.operation.scope = scope;
        self
    }

    /// Declares that only an administrator may set a switch, and what the switch does.
    pub(super) fn admin_switch(mut self, member: &'static str, does: &'static str) -> Self {
        self.operation.admin_switches.push((member, does));
        self
    }

    /// Declares what it does to the whole host, which a client that is limited to a prefix may not do.
    pub(super) fn whole_host(mut self, does: &'static str) -> Self {
        self.operation.whole_host = Some(does);
        self
    }

    /// Gives it a tool for language models.
    pub(super) fn tool(mut self, tool: ToolPart) -> Self {
        self.operation.tool = Some(tool);
        self
    }

    /// Sets the examples of its command: what each does, and the line to type. Without any, the example of a request
    /// becomes one.
    pub(super) fn shell(mut self, examples: &'static [(&'static str, &'static str)]) -> Self {
        self.operation.shell = examples;
        self
    }

    /// Declares the resources that it may create.
    pub(super) fn takes(mut self, takes: &'static [Resource]) -> Self {
        self.operation.takes = Some(takes);
        self
    }

    /// Declares a member that names existing resources. A member `vm` always names a VM, so no row declares it.
    pub(super) fn names(mut self, kind: Kind, member: &'static str) -> Self {
        self.operation.references.push(Reference { member, kind, is_new: false });
        self
    }

    /// Declares a member that gives a resource a name that is free.
    pub(super) fn names_new(mut self, kind: Kind, member: &'static str) -> Self {
        self.operation.references.push(Reference { member, kind, is_new: true });
        self
    }

    /// Declares the member that names the resource to create. The HTTP status is 201, with a `Location`.
    pub(super) fn creates(mut self, kind: Kind, member: &'static str) -> Self {
        self.operation.status = 201;
        self.names_new(kind, member)
    }

    /// Sets the example: a request with every required member.
    pub(super) fn example(mut self, example: Value) -> Self {
        self.operation.example = example;
        self
    }

    /// Sets the constraints between members: as schemas, and as the check of the operation itself.
    pub(super) fn rules<T: DeserializeOwned + 'static>(mut self, rules: &Value, check: fn(&T) -> Result<()>) -> Self {
        self.operation.request = json!({"allOf": rules});
        self.check = Box::new(move |request| check(&request::reread(request.clone())?));
        self
    }

    /// Completes an operation that takes a request of type `T` and returns a report.
    pub(super) fn run<T, R>(self, run: impl Fn(&Host, T) -> Result<R> + Send + Sync + 'static) -> Operation
    where
        T: Serialize + DeserializeOwned + ToSchema + 'static,
        R: Serialize + ToSchema,
    {
        let mut operation = self.answer(move |host, request| reported(&run(host, request)?));
        operation.report = Some(operation.schemas.of::<R>());
        operation
    }

    /// Completes an operation that takes a VM and the rest of a request, of type `T`, and returns a report.
    pub(super) fn on_vm<T, R>(self, run: impl Fn(&Host, &str, T) -> Result<R> + Send + Sync + 'static) -> Operation
    where
        T: Serialize + DeserializeOwned + ToSchema + 'static,
        R: Serialize + ToSchema,
    {
        let mut operation = self.answer_on_vm(move |host, vm, options| reported(&run(host, vm, options)?));
        operation.report = Some(operation.schemas.of::<R>());
        operation
    }

    /// Completes an operation as [`Self::on_vm`] does; its report can be an image or text.
    pub(super) fn answer_on_vm<T>(
        self,
        run: impl Fn(&Host, &str, T) -> Result<Report> + Send + Sync + 'static,
    ) -> Operation
    where
        T: Serialize + DeserializeOwned + ToSchema + 'static,
    {
        let mut example = self.operation.example.clone();
        let vm = example.as_object_mut().and_then(|example| example.shift_remove(VM));
        let mut operation = self.example(example).answer(|_, _: T| Err(Error::internal("the VM is missing")));
        schema::put_first(&mut operation.request, VM, "VM, by name or UUID", vm.unwrap_or_default());
        operation.name_vm();
        operation.example = operation.request["examples"][0].clone();
        operation.complete = operation.schemas.complete(&operation.request);
        let (read, members) = (operation.read, operation.complete.clone());
        operation.read = Box::new(move |mut request, names| {
            let vm = request.shift_remove(VM).unwrap_or_default();
            let Value::String(vm) = vm else {
                let own = request::called(names, VM);
                return Err(request::invalid_member(own, format!("invalid member `{own}`: it must be text")));
            };
            let mut whole = Map::from_iter([(VM.to_owned(), Value::String(vm))]);
            request::require_forms(&whole, &members, names)?;
            if let Value::Object(options) = read(request, names)? {
                whole.extend(options);
            }
            Ok(Value::Object(whole))
        });
        operation.run = Box::new(move |host, mut request| {
            let vm = request.as_object_mut().and_then(|request| request.shift_remove(VM));
            run(host, vm.as_ref().and_then(Value::as_str).unwrap_or_default(), request::reread(request)?)
        });
        operation
    }

    /// Completes an operation as [`Self::run`] does; its report can be an image or text.
    pub(super) fn answer<T>(self, run: impl Fn(&Host, T) -> Result<Report> + Send + Sync + 'static) -> Operation
    where
        T: Serialize + DeserializeOwned + ToSchema + 'static,
    {
        let Self { mut operation, check } = self;
        let rules = operation.request.get("allOf").cloned();
        operation.request = operation.schemas.of_request::<T>(&operation.example);
        if let (Some(rules), Value::Object(request)) = (rules, &mut operation.request) {
            request.insert("allOf".to_owned(), rules);
        }
        operation.name_vm();
        operation.complete = operation.schemas.complete(&operation.request);
        let members = operation.complete.clone();
        operation.read = Box::new(move |request, names| {
            let request = request::typed::<T>(&request, &members, names)?;
            check(&request).map(|()| request)
        });
        operation.run = Box::new(move |host, request| run(host, request::reread(request)?));
        operation
    }
}

impl Operation {
    /// Adds the reference of a member `vm`, as the first one: it names the VM that a request is about.
    fn name_vm(&mut self) {
        if self.members().any(|(member, _)| member == VM) {
            self.references.insert(0, Reference { member: VM, kind: Kind::Vm, is_new: false });
        }
    }
}
