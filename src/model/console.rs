//! The log of a serial console as text.

/// The maximum length of a line in bytes. Output without line breaks is not text and is cut off.
const MAX_LINE: usize = 500;

/// Returns the lines of a console without colors, cursor movements and overwritten text. Empty lines are left out.
pub fn lines(log: &[u8]) -> Vec<String> {
    // Clearing the screen begins a new line: firmware and boot menus draw that way.
    let text = String::from_utf8_lossy(log).replace("\x1b[2J", "\n");
    text.split('\n').map(line).filter(|line| !line.is_empty()).collect()
}

/// Returns one line. Text after a carriage return replaces the text before it.
fn line(raw: &str) -> String {
    let printed = |part: &str| {
        let text = strip_ansi_escapes::strip_str(part);
        text.chars().filter(|c| !c.is_control()).collect::<String>()
    };
    let printed = raw.rsplit('\r').map(printed).find(|part| !part.trim().is_empty()).unwrap_or_default();
    let mut line = printed.trim_end().to_owned();
    let end = (0..=MAX_LINE.min(line.len())).rev().find(|&at| line.is_char_boundary(at)).unwrap_or_default();
    line.truncate(end);
    line
}

/// Returns the last `count` lines.
pub fn last_lines(log: &[u8], count: usize) -> Vec<String> {
    let mut lines = lines(log);
    lines.drain(..lines.len().saturating_sub(count));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_of_a_terminal_are_removed() {
        let log = b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.3)\r\nMachine UUID x\r\n\r\nload 1%\rload 99%\r\n\
                    \x1b[32m[  OK  ]\x1b[0m up\x07\x08\r\nlogin: ";
        assert_eq!(lines(log), ["SeaBIOS (version 1.16.3)", "Machine UUID x", "load 99%", "[  OK  ] up", "login:"]);
        assert_eq!(last_lines(log, 2), ["[  OK  ] up", "login:"]);
        assert_eq!(lines(&[b'x'; 2000])[0].len(), MAX_LINE);
    }

    #[test]
    fn any_bytes_are_accepted() {
        assert!(lines(&[0, 255, 13, 10, 27, 91]).len() <= 1);
        assert!(lines(b"").is_empty());
        let wide = "é".repeat(400);
        assert_eq!(lines(wide.as_bytes())[0].len(), MAX_LINE);
    }
}
