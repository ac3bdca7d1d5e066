//! Refuses, in the operator's cloud-config, what contradicts what vmprov needs, and warns of what it cannot see.

use yaml_serde::{Mapping, Value};

use super::parts::{Content, Form, Part};
use crate::error::{Error, Result};
use crate::model::name::Name;

/// The modules that carry out vmprov's part of the configuration. All are in `cloud_init_modules` by default.
const MODULES: [&str; 4] = ["growpart", "resizefs", "users_groups", "ssh"];

/// What comes of users and groups that cannot be carried out: the module ends there.
const GIVES_UP: &str = "on which cloud-init gives up making users";

pub(super) fn check(parts: &[Part], hostname: &Name, user: &str) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for Part { label, content } in parts {
        match content {
            Content::Config(members) => {
                Config { label, members, hostname: hostname.as_str(), user }.check(&mut warnings)?;
            }
            Content::Script => {}
            Content::Opaque(form) => warnings.push(format!("{label} {}", unseen(*form))),
            Content::Unknown(what) => {
                warnings.push(format!("{label} is {what}, which cloud-init ignores unless a part handler takes it"));
            }
        }
    }
    Ok(warnings)
}

/// What is not known of a form that only the guest can read, and what holds all the same.
fn unseen(form: Form) -> &'static str {
    match form {
        Form::Include => {
            "includes what is not known before the guest fetches it: vmprov's keys, host keys, host name and, where no \
             other part sets it, disk growth are merged after it and hold as long as it leaves `users` a list and the \
             module lists alone, but if an address cannot be fetched at the first boot, cloud-init drops all user data, \
             vmprov's too"
        }
        Form::PartHandler => {
            "is a part handler: should it take `text/cloud-config` for itself, vmprov's keys, host keys and host name \
             never reach the guest"
        }
        _ => {
            "is filled in by the guest and was not checked: vmprov's keys, host keys, host name and, where no other \
             part sets it, disk growth are merged after it and hold as long as it leaves `users` a list and the module \
             lists alone"
        }
    }
}

/// One cloud-config under check.
struct Config<'a> {
    label: &'a str,
    members: &'a Mapping,
    hostname: &'a str,
    user: &'a str,
}

impl Config<'_> {
    fn check(&self, warnings: &mut Vec<String>) -> Result<()> {
        self.check_hostname()?;
        self.check_ssh()?;
        self.check_users()?;
        self.check_disk(warnings)?;
        self.check_modules()?;
        self.check_datasource(warnings)
    }

    fn refuse<T>(&self, member: &str, why: &str, hint: &str) -> Result<T> {
        Err(Error::invalid(format!("{}: `{member}` {why}", self.label)).hint(hint))
    }

    fn check_hostname(&self) -> Result<()> {
        for member in ["hostname", "fqdn"] {
            let Some(value) = self.members.get(member) else {
                continue;
            };
            let first_label = value.as_str().and_then(|name| name.split('.').next());
            if first_label != Some(self.hostname) {
                let why = format!("is not the VM's name, `{0}`, nor `{0}` and a domain", self.hostname);
                return self.refuse(member, &why, "Leave it out, or create the VM under that name.");
            }
        }
        if self.is_true("preserve_hostname") {
            let why = "would keep the image's host name, and the guest has to be named like the VM";
            return self.refuse("preserve_hostname", why, "Leave it out.");
        }
        Ok(())
    }

    fn check_ssh(&self) -> Result<()> {
        if self.members.contains_key("ssh_keys") {
            let why = "sets the host keys, which vmprov makes itself so that the first connection can be verified";
            return self.refuse("ssh_keys", why, "Leave it out.");
        }
        if self.user == "root" && self.is_true("disable_root") {
            let why = "would lock out root, the user that vmprov's keys are for";
            return self.refuse("disable_root", why, "Leave it out, or pick another user with `--user`.");
        }
        Ok(())
    }

    /// Entries of one name are merged in the guest, and the first to have a member wins, the list of keys included
    /// (`_normalize_users` in `distros/ug_util.py`). vmprov's entry goes first, with the keys that are visible here
    /// added to its own; an entry for the default user, whatever the image calls it, goes before both.
    fn check_users(&self) -> Result<()> {
        if let Some(entry) = self.members.get("user") {
            self.check_user("user", Some("default"), entry)?;
        }
        match self.members.get("users") {
            None => {}
            Some(Value::Sequence(users)) => {
                for (index, entry) in users.iter().enumerate() {
                    let member = format!("users[{index}]");
                    if !matches!(entry, Value::String(_) | Value::Sequence(_) | Value::Mapping(_)) {
                        let why = format!("is neither a name nor a mapping, {GIVES_UP}");
                        return self.refuse(&member, &why, "Write `- default`, `- NAME` or `- name: NAME`.");
                    }
                    let name = entry.get("name").map_or(Some("default"), Value::as_str);
                    self.check_user(&member, name, entry)?;
                }
            }
            Some(_) => {
                let why = "is no list, so vmprov's user cannot be added";
                return self.refuse("users", why, "Write `users: [default, …]`.");
            }
        }
        match self.members.get("groups") {
            Some(groups) if !are_groups(groups) => {
                let why = format!("is neither a list of names nor a mapping of names to members, {GIVES_UP}");
                self.refuse("groups", &why, "Write `groups: [NAME, …]` or `- NAME: [MEMBER, …]`.")
            }
            _ => Ok(()),
        }
    }

    fn check_user(&self, member: &str, name: Option<&str>, entry: &Value) -> Result<()> {
        let is_default = name == Some("default");
        let is_own = name == Some(self.user);
        if is_default && has_keys(entry) {
            let why = "carries keys for the image's default user, which would take the place of vmprov's";
            let hint = "Put these keys into the top-level `ssh_authorized_keys`, which adds to them.";
            return self.refuse(member, why, hint);
        }
        if is_own && entry.get("ssh-authorized-keys").is_some() {
            let why = "spells the keys in a way in which they would replace vmprov's";
            return self.refuse(member, why, "Write `ssh_authorized_keys`.");
        }
        if !(is_own || is_default || has_keys(entry)) {
            return Ok(());
        }
        // The image's default user may be the one that vmprov's keys are for. Upon a user with both keys and one of
        // these, the module fails (`handle` in `config/cc_users_groups.py`), or passes over the keys (`create_user`
        // in `distros/__init__.py`).
        let keyless =
            ["no_create_home", "no-create-home", "system", "ssh_redirect_user", "ssh-redirect-user", "snapuser"];
        match keyless.iter().find(|&&name| entry.get(name).is_some_and(|value| !is_false(value) && !value.is_null())) {
            Some(keyless) => {
                let why = format!("makes `{}` with `{keyless}` and with keys, {GIVES_UP}", name.unwrap_or("a user"));
                self.refuse(member, &why, "Leave one of them out, or pick another user for vmprov with `--user`.")
            }
            None => Ok(()),
        }
    }

    fn check_disk(&self, warnings: &mut Vec<String>) -> Result<()> {
        let why = "would leave the file system at the image's size, whatever the disk's";
        if let Some(growpart) = self.members.get("growpart") {
            if !growpart.is_mapping() || growpart.get("mode").is_some_and(is_false) {
                return self.refuse("growpart", why, "Leave it out; vmprov sets `mode: auto` for `/`.");
            }
            let grows_root = match growpart.get("devices") {
                Some(Value::Sequence(devices)) => devices.iter().any(|device| device.as_str() == Some("/")),
                Some(device) => device.as_str() == Some("/"),
                None => true,
            };
            if !grows_root {
                warnings.push(format!("{}: `growpart` does not name `/`, which may not grow to the disk", self.label));
            }
        }
        match self.members.get("resize_rootfs") {
            Some(value) if !is_true(value) && value.as_str() != Some("noblock") => {
                self.refuse("resize_rootfs", why, "Leave it out.")
            }
            _ => Ok(()),
        }
    }

    fn check_modules(&self) -> Result<()> {
        if !self.members.contains_key("cloud_init_modules") {
            return Ok(());
        }
        let stages = ["cloud_init_modules", "cloud_config_modules", "cloud_final_modules"];
        let listed: Vec<String> = stages
            .iter()
            .filter_map(|stage| self.members.get(*stage)?.as_sequence())
            .flatten()
            .filter_map(module_name)
            .collect();
        let is_listed = |module: &str| listed.iter().any(|name| name == module);
        let mut missing: Vec<&str> = MODULES.into_iter().filter(|module| !is_listed(module)).collect();
        if !is_listed("set_hostname") && !is_listed("update_hostname") {
            missing.push("set_hostname");
        }
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!("leaves out what vmprov needs: {}", missing.join(", "));
        self.refuse("cloud_init_modules", &why, "Add these modules, or leave the list out.")
    }

    fn check_datasource(&self, warnings: &mut Vec<String>) -> Result<()> {
        if let Some(sources) = self.members.get("datasource_list") {
            let has_ours = |list: &Vec<Value>| list.iter().any(|source| source.as_str() == Some("NoCloud"));
            if !sources.as_sequence().is_some_and(has_ours) {
                let why = "leaves out NoCloud, so the guest would see no later seed";
                return self.refuse("datasource_list", why, "Add `NoCloud`, or leave the list out.");
            }
        }
        if self.is_true("manual_cache_clean") {
            let (label, effect) =
                (self.label, "keeps the guest from seeing a later seed, so `vmprov inject` needs its agent");
            warnings.push(format!("{label}: `manual_cache_clean` {effect}"));
        }
        if self.members.contains_key("network") {
            let effect =
                "is ignored: cloud-init takes the network from the seed's `network-config`, not from user data";
            warnings.push(format!("{}: `network` {effect}", self.label));
        }
        Ok(())
    }

    fn is_true(&self, member: &str) -> bool {
        self.members.get(member).is_some_and(is_true)
    }
}

fn has_keys(user: &Value) -> bool {
    ["ssh_authorized_keys", "ssh-authorized-keys"].iter().any(|name| user.get(name).is_some())
}

/// What `_normalize_groups` of `distros/ug_util.py` takes.
fn are_groups(groups: &Value) -> bool {
    let are_members = |members: &Value| members.is_string() || members.is_sequence();
    match groups {
        Value::String(_) => true,
        Value::Sequence(list) => list.iter().all(|group| match group {
            Value::Mapping(members) => members.values().all(are_members),
            name => name.is_string(),
        }),
        Value::Mapping(members) => members.values().all(are_members),
        _ => false,
    }
}

/// A module list's entry is a name, a list that begins with one, or a mapping with one; `cc_`, `.py` and hyphens do
/// not matter (`_read_modules` and `form_module_name` in `config/modules.py`).
fn module_name(entry: &Value) -> Option<String> {
    let name = match entry {
        Value::Sequence(list) => list.first()?.as_str()?,
        Value::Mapping(members) => members.get("name")?.as_str()?,
        other => other.as_str()?,
    };
    let name = name.trim().replace('-', "_");
    let name = name.strip_suffix(".py").unwrap_or(&name);
    Some(name.strip_prefix("cc_").unwrap_or(name).to_owned())
}

/// `is_true` of `util.py`. `yes` and `on`, which YAML 1.1 makes booleans and our parser leaves text, are among the texts.
fn is_true(value: &Value) -> bool {
    is_one_of(value, true, ["true", "1", "on", "yes"])
}

/// `is_false` of `util.py`.
fn is_false(value: &Value) -> bool {
    is_one_of(value, false, ["off", "0", "no", "false"])
}

fn is_one_of(value: &Value, boolean: bool, texts: [&str; 4]) -> bool {
    match value {
        Value::Bool(it) => *it == boolean,
        Value::Number(it) => texts.contains(&it.to_string().as_str()),
        Value::String(it) => texts.contains(&it.trim().to_ascii_lowercase().as_str()),
        _ => false,
    }
}
