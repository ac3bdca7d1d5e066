//! Access to a guest: its addresses, SSH logins, keys, commands and files.

pub(in crate::ops) mod address;
pub(in crate::ops) mod copy;
pub(in crate::ops) mod exec;
pub(in crate::ops) mod inject;
pub(in crate::ops) mod ip;
pub(in crate::ops) mod login;
pub(in crate::ops) mod ssh_command;
pub(in crate::ops) mod ssh_config;
