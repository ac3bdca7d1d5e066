//! The human-readable reports on guests.

use crate::{
    cli::output::{Show, plain},
    model::ssh::quoted,
    ops::vm::{Copied, Executed, Log, Screenshot, SshCommand, SshConfig, SshHost},
};

impl Show for Executed {
    fn table(&self) -> String {
        self.stdout.clone().unwrap_or_default()
    }

    fn names(&self) -> Vec<String> {
        vec![self.vm.clone()]
    }
}

impl Show for Copied {
    fn table(&self) -> String {
        format!("{}: copied {} {} to {}", self.vm, self.direction, self.sources.join(" "), self.target)
    }

    fn names(&self) -> Vec<String> {
        vec![self.vm.clone()]
    }
}

impl Show for Log {
    fn table(&self) -> String {
        self.lines.iter().map(|line| plain(line)).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.lines.clone()
    }
}

impl Show for Screenshot {
    fn table(&self) -> String {
        format!("{}: {} ({} x {})", self.vm, self.file, self.width, self.height)
    }

    fn names(&self) -> Vec<String> {
        vec![self.file.to_string()]
    }
}

impl Show for SshCommand {
    fn table(&self) -> String {
        self.command.clone()
    }

    fn names(&self) -> Vec<String> {
        vec![self.vm.clone()]
    }
}

impl Show for SshConfig {
    fn table(&self) -> String {
        self.hosts.iter().map(entry).collect::<Vec<_>>().join("\n\n")
    }

    fn names(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.host.clone()).collect()
    }
}

/// Returns an entry of `ssh_config(5)`.
fn entry(host: &SshHost) -> String {
    let mut lines = vec![format!("Host {}", host.host), format!("  HostName {}", host.host_name)];
    lines.extend(host.port.map(|port| format!("  Port {port}")));
    lines.push(format!("  User {}", host.user));
    lines.extend(host.identity_files.iter().map(|file| format!("  IdentityFile {}", quoted(file))));
    lines.push("  IdentitiesOnly yes".to_owned());
    lines.push(format!("  HostKeyAlias {}", host.host_key_alias));
    lines.push(format!("  UserKnownHostsFile {}", quoted(&host.user_known_hosts_file)));
    lines.extend(
        ["  GlobalKnownHostsFile /dev/null", "  StrictHostKeyChecking yes", "  CheckHostIP no", "  UpdateHostKeys no"]
            .map(str::to_owned),
    );
    lines.join("\n")
}
