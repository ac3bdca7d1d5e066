//! How OpenSSH's configuration is written.

/// A value as `ssh_config(5)` and `ssh -o` take it: in quotes where it has blanks, with `%` doubled, which would begin a token.
pub fn quoted(value: &str) -> String {
    let value = value.replace('%', "%%");
    if value.contains([' ', '"', '\\']) {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        value
    }
}
