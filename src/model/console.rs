//! What a serial console has said, as text.

/// The most bytes of a line that is shown: what has no line breaks is no text.
const MOST: usize = 500;

/// The lines of a console as they would stand on paper: without colours, cursor movements and what was overwritten.
/// Empty ones are left out.
pub fn lines(log: &[u8]) -> Vec<String> {
    // What clears the screen, or goes to a place on it, begins a line: firmware and boot menus draw so.
    let text = String::from_utf8_lossy(log).replace("\x1b[2J", "\n");
    text.split('\n').map(line).filter(|line| !line.is_empty()).collect()
}

/// One line: what a carriage return went back to is replaced by what came then.
fn line(raw: &str) -> String {
    let printed = |part: &str| {
        let text = strip_ansi_escapes::strip_str(part);
        text.chars().filter(|c| !c.is_control()).collect::<String>()
    };
    let printed = raw.rsplit('\r').map(printed).find(|part| !part.trim().is_empty()).unwrap_or_default();
    let mut line = printed.trim_end().to_owned();
    let end = (0..=MOST.min(line.len())).rev().find(|&at| line.is_char_boundary(at)).unwrap_or_default();
    line.truncate(end);
    line
}

/// The last `count` lines.
pub fn last_lines(log: &[u8], count: usize) -> Vec<String> {
    let mut lines = lines(log);
    lines.drain(..lines.len().saturating_sub(count));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_no_text() {
        let log = b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.3)\r\nMachine UUID x\r\n\r\nload 1%\rload 99%\r\n\
                    \x1b[32m[  OK  ]\x1b[0m up\x07\x08\r\nlogin: ";
        assert_eq!(lines(log), ["SeaBIOS (version 1.16.3)", "Machine UUID x", "load 99%", "[  OK  ] up", "login:"]);
        assert_eq!(last_lines(log, 2), ["[  OK  ] up", "login:"]);
        assert_eq!(lines(&[b'x'; 2000])[0].len(), MOST);
    }

    #[test]
    fn any_bytes_are_taken() {
        assert!(lines(&[0, 255, 13, 10, 27, 91]).len() <= 1);
        assert!(lines(b"").is_empty());
        let wide = "é".repeat(400);
        assert_eq!(lines(wide.as_bytes())[0].len(), MOST);
    }
}
