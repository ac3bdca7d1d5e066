//! `ssh`: a login into a guest, always with the host keys that vmprov made.

use std::{net::IpAddr, process::ExitStatus, time::Duration};

use camino::Utf8PathBuf;

use super::{Runner, Tool, scratch::Scratch};
use crate::error::{Code, Result};

/// How long one attempt to log in may take.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Where to log in, as whom, with what, and whose host keys must answer.
#[derive(Debug, Clone)]
pub struct Target {
    /// The guest's address.
    pub address: IpAddr,
    /// The user.
    pub user: String,
    /// The identity files to offer, and no others.
    pub identities: Vec<Utf8PathBuf>,
    /// The public halves of the guest's host keys.
    pub host_keys: Vec<String>,
    /// The name that the host keys are looked up by, whatever the address.
    pub alias: String,
}

/// How an attempt to run something in a guest ended.
#[derive(Debug)]
pub enum Attempt {
    /// The command ran.
    Ran {
        /// Its exit status.
        status: i32,
        /// What it printed.
        stdout: String,
    },
    /// Nothing ran; ssh's own words.
    Failed(String),
}

impl Target {
    /// A `known_hosts` file of this guest alone.
    fn known_hosts(&self) -> Result<Scratch> {
        let line = |key: &String| format!("{} {key}\n", self.alias);
        Scratch::memory(self.host_keys.iter().map(line).collect::<String>().as_bytes())
    }

    fn tool(&self, known_hosts: &Scratch, options: &[&str], command: &[String]) -> Tool {
        let file = format!("UserKnownHostsFile={}", known_hosts.path());
        let alias = format!("HostKeyAlias={}", self.alias);
        let strict = [
            "StrictHostKeyChecking=yes",
            &file,
            "GlobalKnownHostsFile=/dev/null",
            &alias,
            "CheckHostIP=no",
            "UpdateHostKeys=no",
        ];
        let mut args: Vec<_> = strict.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]).collect();
        args.extend(options.iter().map(|&option| option.to_owned()));
        if !self.identities.is_empty() {
            args.extend(["-o".to_owned(), "IdentitiesOnly=yes".to_owned()]);
        }
        for identity in &self.identities {
            args.extend(["-i".to_owned(), identity.to_string()]);
        }
        args.extend(["-l".to_owned(), self.user.clone(), "--".to_owned(), self.address.to_string()]);
        args.extend(command.iter().cloned());
        Tool::new("ssh").args(args)
    }

    /// Tries to run a command in the guest, asking nobody anything.
    pub fn attempt(&self, runner: &Runner, command: &str) -> Result<Attempt> {
        let known_hosts = self.known_hosts()?;
        let options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR"];
        let tool = self.tool(&known_hosts, &options, &[command.to_owned()]).limit(ATTEMPT);
        let finished = match tool.read(runner) {
            // A guest that answers and then says nothing is one that is not ready.
            Err(error) if error.code == Code::Timeout => return Ok(Attempt::Failed(error.message)),
            result => result?,
        };
        Ok(match finished.status.code() {
            Some(255) | None => Attempt::Failed(finished.stderr.trim().to_owned()),
            Some(status) => Attempt::Ran { status, stdout: String::from_utf8_lossy(&finished.stdout).into_owned() },
        })
    }

    /// Hands the terminal to an ssh session, or to one command in the guest; returns ssh's exit status, which is the
    /// command's.
    pub fn session(&self, command: &[String]) -> Result<ExitStatus> {
        let known_hosts = self.known_hosts()?;
        self.tool(&known_hosts, &["-o", "ConnectTimeout=15"], command).attach()
    }
}
