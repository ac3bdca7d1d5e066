//! The names of guests' users.

use crate::error::Error;

/// Refuses what no Linux takes for a user's name (`useradd` of shadow 4.13).
pub fn check_user(user: &str) -> Result<(), Error> {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    let rest = |c: char| first(c) || c.is_ascii_digit() || c == '-';
    if user.len() > 32 || !user.starts_with(first) || !user.chars().all(rest) {
        return Err(Error::invalid(format!("`{}` cannot be a user's name", user.escape_debug()))
            .hint("A user's name is up to 32 lower-case letters, digits, - and _, and begins with a letter or _."));
    }
    if user == "default" {
        return Err(Error::invalid("cloud-init takes the user `default` for the image's own default user")
            .hint("Name that user itself, or leave out --user."));
    }
    Ok(())
}
