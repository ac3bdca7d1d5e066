//! Finds the reason of a boot failure on a guest's console.

use std::time::{Duration, Instant};

use super::probe::NotReady;
use crate::{
    error::{Code, Result},
    model::{console::last_lines, stage::Stage},
    ops::{Host, vm::inspect::console},
    tools::virsh::Domain,
};

/// How often the console is read. Each read starts a process, and only a failed wait needs the result.
const INTERVAL: Duration = Duration::from_secs(5);

/// How many bytes from the end of the console are kept.
const MAX_BYTES: usize = 64 << 10;

/// How many of the last lines are searched for a sign. The trace of a kernel panic is as long.
const SEARCHED_LINES: usize = 60;

/// How many lines are shown.
const SHOWN_LINES: usize = 20;

/// The signs of a boot failure: a text on the console, its stage, and the stage as a clause. The first match decides.
const SIGNS: &[(&str, Stage, &str)] = &[
    ("Kernel panic - not syncing", Stage::KernelPanic, "its kernel panicked"),
    // SeaBIOS 1.16; iPXE prints the same.
    ("No bootable device", Stage::NoBootDevice, "its firmware found nothing to boot"),
    // OVMF (edk2-stable202211 and later).
    ("No bootable option or device was found", Stage::NoBootDevice, "its firmware found nothing to boot"),
    // GRUB 2.
    ("grub rescue>", Stage::NoBootDevice, "its boot loader cannot find its files"),
    // initramfs-tools, dracut, systemd.
    ("(initramfs)", Stage::EmergencyShell, "it is in the initramfs shell"),
    ("Entering emergency mode", Stage::EmergencyShell, "it is in emergency mode"),
    ("You are in emergency mode", Stage::EmergencyShell, "it is in emergency mode"),
];

/// The console as far as it has been read.
#[derive(Debug, Default)]
pub(super) struct Console {
    /// The last bytes.
    tail: Vec<u8>,
    /// The number of bytes read.
    offset: u64,
    last: Option<Instant>,
    /// Whether the last read found nothing new.
    is_still: bool,
    /// Whether the VM has a console log.
    pub(super) is_logged: bool,
}

impl Console {
    /// Returns whether it is time to read the console again.
    pub(super) fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= INTERVAL)
    }

    /// Reads what the guest has printed since the last read.
    pub(super) fn read(&mut self, host: &Host, domain: &Domain) -> Result<()> {
        let is_first = self.last.replace(Instant::now()).is_none();
        let Some((pool, log)) = console::log_of(host, domain)? else { return Ok(()) };
        let mut read = host.virsh.log_from(&pool, &log, self.offset);
        if read.as_ref().is_ok_and(|(_, size)| *size < self.offset) {
            // The log was truncated, because the guest has been started again.
            (self.tail, self.offset) = (Vec::new(), 0);
            read = host.virsh.log_from(&pool, &log, 0);
        }
        let (new, _) = match read {
            // A failure to read the console must not hide the failure that is being diagnosed.
            Err(error) if error.code != Code::Interrupted => return Ok(()),
            read => read?,
        };
        self.is_logged = true;
        self.is_still = !is_first && new.is_empty();
        self.offset += new.len() as u64;
        self.tail.extend(new);
        self.tail.drain(..self.tail.len().saturating_sub(MAX_BYTES));
        Ok(())
    }

    /// Returns the last lines, for display.
    pub(super) fn last_lines(&self) -> Vec<String> {
        last_lines(&self.tail, SHOWN_LINES)
    }

    /// Returns the boot failure that the console shows, if any. It is fatal if the guest has printed nothing since.
    pub(super) fn boot_failure(&self) -> Option<NotReady> {
        let lines = last_lines(&self.tail, SEARCHED_LINES);
        let find = |(sign, stage, saw): &(&str, Stage, &str)| {
            let line = lines.iter().find(|line| line.contains(sign))?;
            Some(NotReady { fatal: self.is_still, ..NotReady::new(*stage, *saw, line.trim()) })
        };
        SIGNS.iter().find_map(find)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_firmware_and_kernels_are_found() {
        for (text, stage) in [
            (
                "Booting from Hard Disk...\r\nBoot failed: not a bootable disk\r\n\r\nNo bootable device.\r\n",
                Stage::NoBootDevice,
            ),
            ("BdsDxe: No bootable option or device was found.\r\nBdsDxe: Press any key", Stage::NoBootDevice),
            ("error: unknown filesystem.\r\nEntering rescue mode...\r\ngrub rescue> ", Stage::NoBootDevice),
            (
                "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[  1.1] Call Trace:",
                Stage::KernelPanic,
            ),
            ("BusyBox v1.35\r\n(initramfs) ", Stage::EmergencyShell),
        ] {
            let console = Console { tail: text.as_bytes().to_vec(), ..Console::default() };
            let found = console.boot_failure().unwrap();
            assert_eq!((found.stage, found.fatal), (stage, false), "{text}");
        }
        let console = Console { tail: b"Debian GNU/Linux 12 web ttyS0\r\nweb login: ".to_vec(), ..Console::default() };
        assert!(console.boot_failure().is_none());
    }

    #[test]
    fn old_signs_are_ignored() {
        let mut tail = b"No bootable device.\r\n".to_vec();
        tail.extend(b"[ OK ] it goes on\r\n".repeat(SEARCHED_LINES));
        assert!(Console { tail, ..Console::default() }.boot_failure().is_none());
    }
}
