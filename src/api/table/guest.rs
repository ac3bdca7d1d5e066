//! Operations that read from a guest, act in it, or wait for it.

use serde_json::json;

use super::{NOTHING, Nothing};
use crate::{
    api::{
        Effect, ExecutionMode, Operation, Report, Scope,
        builder::{change, read},
        tool::tool,
    },
    ops::vm::{self, LogOptions, NewExec, SshConfigOptions, Streams, WaitOptions},
};

pub(super) fn operations() -> Vec<Operation> {
    let web = || json!({"vm": "web"});
    vec![
        read("vm_ip", "vm ip", "/api/vms/{vm}/addresses")
            .about("Show a running VM's addresses, the best for a login first")
            .shell(&[
                ("Print a VM's address", "vmprov vm ip web"),
                ("Wait for an address", "vmprov vm ip web --wait --timeout 2m"),
            ])
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::addresses(host, vm, vm::AddressOptions::default())),
        change("vm_wait", "vm wait", "POST", "/api/vms/{vm}/wait")
            .about("Wait for a VM to reach a state")
            .tool(tool(
                "Wait for a VM",
                "Waits for a virtual machine to reach a state: running, ip, ssh (a login works), cloud-init \
                     (first boot has finished), agent or stopped. If that fails, the error says what is wrong with \
                     the guest.",
            ))
            .shell(&[
                ("Wait until a VM accepts SSH logins", "vmprov vm wait web"),
                ("Wait until cloud-init has finished", "vmprov vm wait web --for cloud-init --timeout 10m"),
            ])
            .takes(NOTHING)
            .mode(ExecutionMode::Guest)
            .effect(Effect::Read)
            .scope(Scope::Read)
            .example(web())
            .on_vm(|host, vm, options: WaitOptions| vm::wait(host, vm, options)),
        change("vm_exec", "vm exec", "POST", "/api/vms/{vm}/exec")
            .about("Run a command in a VM, over SSH or through its guest agent")
            .tool(
                tool(
                    "Run a command in a VM",
                    "Runs a command in a virtual machine, over SSH or through its guest agent, and returns its \
                     exitStatus, stdout and stderr. The command is a list: the program and its arguments. It is not \
                     run by a shell; for pipes or variables use [\"sh\", \"-c\", \"…\"]. Very long output is \
                     shortened in the middle.",
                )
                .open_world(),
            )
            .shell(&[
                ("Run a command", "vmprov vm exec web -- uname -a"),
                (
                    "Use a shell in the guest",
                    "vmprov vm exec web --timeout 5m -- sh -c 'apt-get update && apt-get -y upgrade'",
                ),
            ])
            .takes(NOTHING)
            .mode(ExecutionMode::Guest)
            .effect(Effect::Destroy)
            .example(json!({"vm": "web", "command": ["uname", "-a"]}))
            .run(|host, new: NewExec| {
                let stdin = new.stdin.clone().unwrap_or_default().into_bytes();
                vm::exec(host, &new, Streams::Captured(stdin))
            }),
        read("vm_logs", "vm logs", "/api/vms/{vm}/logs")
            .about("Show a VM's serial console output since its last start")
            .tool(
                tool(
                    "Show a VM's console log",
                    "Shows the last lines of a virtual machine's serial console since its last start. Use it if the \
                     VM does not boot.",
                )
                .defaults(&[("lines", 100)]),
            )
            .shell(&[("Follow the serial console", "vmprov vm logs web --follow")])
            .example(web())
            .on_vm(|host, vm, options: LogOptions| vm::logs(host, vm, options)),
        read("vm_screenshot", "vm screenshot", "/api/vms/{vm}/screenshot")
            .about("Take a screenshot of a VM as a PNG image")
            .tool(tool("Take a screenshot of a VM", "Takes a screenshot of a virtual machine as a PNG image."))
            .shell(&[("Save the screen", "vmprov vm screenshot web -o web.png")])
            .example(web())
            .answer_on_vm(|host, vm, _: Nothing| Ok(Report::Png(vm::picture(host, vm)?.png))),
        read("vm_ssh_command", "vm ssh-command", "/api/vms/{vm}/ssh-command")
            .about("Show the ssh command that logs in to a VM from the host of the service")
            .tool(tool(
                "Show how to log in to a VM",
                "Shows the ssh command that logs in to a virtual machine from a shell of the host, with strict \
                     host key checking. To run a command without a shell, use vm_exec.",
            ))
            .shell(&[("Run a command with plain ssh", "eval \"$(vmprov vm ssh-command web)\" uptime")])
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::ssh_command(host, vm)),
        read("ssh_config", "ssh-config", "/api/ssh-config")
            .about("Show an ssh configuration for the VMs, for the host of the service")
            .shell(&[("Let ssh and rsync find VMs by name", "vmprov ssh-config >~/.ssh/vmprov")])
            .run(|host, options: SshConfigOptions| vm::ssh_config(host, &options)),
    ]
}
