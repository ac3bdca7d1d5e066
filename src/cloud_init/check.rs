//! Refuses cloud-config settings of the operator that conflict with vmprov, and warns of content that it cannot check.

use yaml_serde::{Mapping, Value};

use super::parts::{Content, Form, Part};
use crate::error::{Error, Hint, Result};
use crate::model::name::Name;

/// The modules that apply vmprov's part of the configuration. By default, all are in `cloud_init_modules`.
const MODULES: [&str; 4] = ["growpart", "resizefs", "users_groups", "ssh"];

/// The effect of users and groups that cannot be created: the module ends there.
const STOPS_USERS: &str = "so cloud-init would stop creating users";

pub(super) fn check(parts: &[Part], hostname: &Name, user: &str) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for Part { label, content } in parts {
        match content {
            Content::Config(members) => {
                Config { label, members, hostname: hostname.as_str(), user }.check(&mut warnings)?;
            }
            Content::Script => {}
            Content::Opaque(form) => warnings.push(format!("{label} {}", unchecked(*form))),
            Content::Unknown(what) => {
                warnings.push(format!("{label} is {what}, which cloud-init ignores unless a part handler takes it"));
            }
        }
    }
    Ok(warnings)
}

/// Returns the warning about a form that only the guest can evaluate.
fn unchecked(form: Form) -> &'static str {
    match form {
        Form::Include => {
            "includes URLs that only the guest fetches, so their content was not checked: vmprov's SSH keys, host \
             keys, host name and, unless another part sets it, disk growth are merged after it and apply if it keeps \
             `users` a list and does not set the module lists; if a URL cannot be fetched at the first boot, \
             cloud-init drops all user data, including vmprov's"
        }
        Form::PartHandler => {
            "is a part handler: if it handles `text/cloud-config`, vmprov's SSH keys, host keys and host name do not \
             reach the guest"
        }
        _ => {
            "is evaluated by the guest, so it was not checked: vmprov's SSH keys, host keys, host name and, unless \
             another part sets it, disk growth are merged after it and apply if it keeps `users` a list and does not \
             set the module lists"
        }
    }
}

/// A cloud-config to check.
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

    fn refuse<T>(&self, member: &str, why: &str, hint: impl Into<Hint>) -> Result<T> {
        Err(Error::invalid(format!("{}: `{member}` {why}", self.label)).hint(hint))
    }

    fn check_hostname(&self) -> Result<()> {
        for member in ["hostname", "fqdn"] {
            let Some(value) = self.members.get(member) else {
                continue;
            };
            let first_label = value.as_str().and_then(|name| name.split('.').next());
            if first_label != Some(self.hostname) {
                let why = format!("must be the VM's name, `{0}`, or `{0}` with a domain", self.hostname);
                return self.refuse(member, &why, "Remove it, or create the VM under that name");
            }
        }
        if self.is_true("preserve_hostname") {
            let why = "would keep the image's host name instead of the VM's name";
            return self.refuse("preserve_hostname", why, "Remove it");
        }
        Ok(())
    }

    fn check_ssh(&self) -> Result<()> {
        if self.members.contains_key("ssh_keys") {
            let why = "sets the host keys, which vmprov generates so that the first connection can be verified";
            return self.refuse("ssh_keys", why, "Remove it");
        }
        if self.user == "root" && self.is_true("disable_root") {
            let why = "would lock out root, the user for vmprov's SSH keys";
            return self.refuse("disable_root", why, Hint::set("Remove it, or choose another user", "user"));
        }
        Ok(())
    }

    /// Checks the users.
    ///
    /// The guest merges entries of one name, and the first entry with a member wins, also for the list of keys
    /// (`_normalize_users` in `distros/ug_util.py`). vmprov's entry comes first and includes the keys of the operator's
    /// entries. An entry for the image's default user, whatever its name, precedes both.
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
                        let why = format!("is neither a name nor a mapping, {STOPS_USERS}");
                        return self.refuse(&member, &why, "Write `- default`, `- NAME` or `- name: NAME`");
                    }
                    let name = entry.get("name").map_or(Some("default"), Value::as_str);
                    self.check_user(&member, name, entry)?;
                }
            }
            Some(_) => {
                let why = "is not a list, so vmprov's user cannot be added";
                return self.refuse("users", why, "Write `users: [default, …]`");
            }
        }
        match self.members.get("groups") {
            Some(groups) if !are_groups(groups) => {
                let why = format!("is neither a list of names nor a mapping of names to members, {STOPS_USERS}");
                self.refuse("groups", &why, "Write `groups: [NAME, …]` or `- NAME: [MEMBER, …]`")
            }
            _ => Ok(()),
        }
    }

    fn check_user(&self, member: &str, name: Option<&str>, entry: &Value) -> Result<()> {
        let is_default = name == Some("default");
        let is_own = name == Some(self.user);
        if is_default && has_keys(entry) {
            let why = "has keys for the image's default user, which would replace vmprov's";
            let hint = "Move these keys to the top-level `ssh_authorized_keys`, which adds to vmprov's";
            return self.refuse(member, why, hint);
        }
        if is_own && entry.get("ssh-authorized-keys").is_some() {
            let why = "uses `ssh-authorized-keys`, which would replace vmprov's keys";
            return self.refuse(member, why, "Write `ssh_authorized_keys` instead");
        }
        if !(is_own || is_default || has_keys(entry)) {
            return Ok(());
        }
        // The image's default user may be the one for vmprov's keys. If a user has both keys and one of these members,
        // the module fails (`handle` in `config/cc_users_groups.py`) or ignores the keys (`create_user` in
        // `distros/__init__.py`).
        let keyless =
            ["no_create_home", "no-create-home", "system", "ssh_redirect_user", "ssh-redirect-user", "snapuser"];
        match keyless.iter().find(|&&name| entry.get(name).is_some_and(|value| !is_false(value) && !value.is_null())) {
            Some(keyless) => {
                let name = name.unwrap_or("a user");
                let why = format!("creates `{name}` with `{keyless}` and with keys, {STOPS_USERS}");
                self.refuse(member, &why, Hint::set("Remove one of them, or choose another user for vmprov", "user"))
            }
            None => Ok(()),
        }
    }

    fn check_disk(&self, warnings: &mut Vec<String>) -> Result<()> {
        let why = "would leave the file system at the image's size, regardless of the disk size";
        if let Some(growpart) = self.members.get("growpart") {
            if !growpart.is_mapping() || growpart.get("mode").is_some_and(is_false) {
                return self.refuse("growpart", why, "Remove it; vmprov sets `mode: auto` for `/`");
            }
            let grows_root = match growpart.get("devices") {
                Some(Value::Sequence(devices)) => devices.iter().any(|device| device.as_str() == Some("/")),
                Some(device) => device.as_str() == Some("/"),
                None => true,
            };
            if !grows_root {
                let effect = "does not name `/`, so the root file system may not grow to the disk size";
                warnings.push(format!("{}: `growpart` {effect}", self.label));
            }
        }
        match self.members.get("resize_rootfs") {
            Some(value) if !is_true(value) && value.as_str() != Some("noblock") => {
                self.refuse("resize_rootfs", why, "Remove it")
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
        let why = format!("lacks modules that vmprov needs: {}", missing.join(", "));
        self.refuse("cloud_init_modules", &why, "Add these modules, or remove the list")
    }

    fn check_datasource(&self, warnings: &mut Vec<String>) -> Result<()> {
        if let Some(sources) = self.members.get("datasource_list") {
            let has_nocloud = |list: &Vec<Value>| list.iter().any(|source| source.as_str() == Some("NoCloud"));
            if !sources.as_sequence().is_some_and(has_nocloud) {
                let why = "lacks NoCloud, so the guest would not read a later seed";
                return self.refuse("datasource_list", why, "Add `NoCloud`, or remove the list");
            }
        }
        if self.is_true("manual_cache_clean") {
            let effect = "keeps the guest from reading a later seed, so injecting keys requires the guest agent";
            warnings.push(format!("{}: `manual_cache_clean` {effect}", self.label));
        }
        if self.members.contains_key("network") {
            let effect =
                "is ignored: cloud-init reads the network from the seed's `network-config`, not from user data";
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

/// Returns whether `_normalize_groups` of `distros/ug_util.py` accepts the groups.
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

/// Returns the module name in an entry of a module list: a name, a list that begins with one, or a mapping with one.
///
/// `cc_`, `.py` and hyphens do not matter (`_read_modules` and `form_module_name` in `config/modules.py`).
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

/// Implements `is_true` of `util.py`. YAML 1.1 also parses `yes` and `on` as booleans; our parser leaves them as text.
fn is_true(value: &Value) -> bool {
    is_one_of(value, true, ["true", "1", "on", "yes"])
}

/// Implements `is_false` of `util.py`.
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
