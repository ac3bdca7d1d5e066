//! The names of users in guests.

use crate::error::Error;

/// Refuses a user name that Linux does not allow (`useradd` of shadow 4.13).
pub fn check_user(user: &str) -> Result<(), Error> {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    let rest = |c: char| first(c) || c.is_ascii_digit() || c == '-';
    if user.len() > 32 || !user.starts_with(first) || !user.chars().all(rest) {
        return Err(Error::invalid(format!("invalid user name `{}`", user.escape_debug()))
            .hint("Use up to 32 lower-case letters, digits, - and _, beginning with a letter or _"));
    }
    if user == "default" {
        return Err(Error::invalid("invalid user name `default`: cloud-init reserves it for the image's default user")
            .hint("Leave out `user`, or give that user's real name"));
    }
    Ok(())
}
