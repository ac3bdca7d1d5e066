//! OpenSSH's configuration syntax.

/// Returns a value as `ssh_config(5)` and `ssh -o` read it. A value with blanks is quoted; `%` is doubled, because it
/// would begin a token.
pub fn quoted(value: &str) -> String {
    let value = value.replace('%', "%%");
    if value.contains([' ', '"', '\\']) {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        value
    }
}
