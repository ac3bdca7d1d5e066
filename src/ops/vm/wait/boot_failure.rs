//! What a guest's console says of why it does not come up.

use std::time::{Duration, Instant};

use super::probe::NotReady;
use crate::{
    error::{Code, Result},
    model::{console::last_lines, stage::Stage},
    ops::{Host, vm::inspect::console},
    tools::virsh::Domain,
};

/// How often the console is read: each time is a process, and what it tells is for those who wait in vain.
const EVERY: Duration = Duration::from_secs(5);

/// How many bytes of its end are kept.
const KEPT: usize = 64 << 10;

/// In how many of the last lines a sign counts. A panic's trace is as long.
const WHERE: usize = 60;

/// How many lines are shown.
const SHOWN: usize = 20;

/// A sign on the console, what it means, and the same as half a sentence. The first that matches decides.
const SIGNS: &[(&str, Stage, &str)] = &[
    ("Kernel panic - not syncing", Stage::KernelPanic, "its kernel has panicked"),
    // SeaBIOS 1.16; iPXE says the same.
    ("No bootable device", Stage::NoBootDevice, "its firmware has found nothing to boot"),
    // OVMF (edk2-stable202211 and later).
    ("No bootable option or device was found", Stage::NoBootDevice, "its firmware has found nothing to boot"),
    // GRUB 2.
    ("grub rescue>", Stage::NoBootDevice, "its boot loader does not find its own files"),
    // initramfs-tools, dracut, systemd.
    ("(initramfs)", Stage::EmergencyShell, "it is in the shell of its initramfs"),
    ("Entering emergency mode", Stage::EmergencyShell, "it is in emergency mode"),
    ("You are in emergency mode", Stage::EmergencyShell, "it is in emergency mode"),
];

/// What was read of the console so far.
#[derive(Debug, Default)]
pub(super) struct Console {
    /// Its end.
    tail: Vec<u8>,
    /// The bytes of it that were read.
    offset: u64,
    last: Option<Instant>,
    /// Whether it has said nothing since the last but one look.
    is_still: bool,
    /// Whether there is one at all.
    pub(super) is_logged: bool,
}

impl Console {
    /// Whether it is time to read it again.
    pub(super) fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= EVERY)
    }

    /// Reads what it has said since it was read last.
    pub(super) fn read(&mut self, host: &Host, domain: &Domain) -> Result<()> {
        let is_first = self.last.replace(Instant::now()).is_none();
        let Some((pool, log)) = console::log_of(host, domain)? else { return Ok(()) };
        let mut read = host.virsh.log_from(&pool, &log, self.offset);
        if read.as_ref().is_ok_and(|(_, size)| *size < self.offset) {
            // It was begun anew: the guest has been started again.
            (self.tail, self.offset) = (Vec::new(), 0);
            read = host.virsh.log_from(&pool, &log, 0);
        }
        let (new, _) = match read {
            // What explains a failure must not replace it.
            Err(error) if error.code != Code::Interrupted => return Ok(()),
            read => read?,
        };
        self.is_logged = true;
        self.is_still = !is_first && new.is_empty();
        self.offset += new.len() as u64;
        self.tail.extend(new);
        self.tail.drain(..self.tail.len().saturating_sub(KEPT));
        Ok(())
    }

    /// Its last lines, for showing.
    pub(super) fn last_lines(&self) -> Vec<String> {
        last_lines(&self.tail, SHOWN)
    }

    /// What it says of why the guest does not come up. It is hopeless when nothing has come after it.
    pub(super) fn explains(&self) -> Option<NotReady> {
        let lines = last_lines(&self.tail, WHERE);
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
    fn what_firmware_and_kernels_say_is_understood() {
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
            let found = console.explains().unwrap();
            assert_eq!((found.stage, found.fatal), (stage, false), "{text}");
        }
        let console = Console { tail: b"Debian GNU/Linux 12 web ttyS0\r\nweb login: ".to_vec(), ..Console::default() };
        assert!(console.explains().is_none());
    }

    #[test]
    fn what_came_long_before_does_not_count() {
        let mut tail = b"No bootable device.\r\n".to_vec();
        tail.extend(b"[ OK ] it goes on\r\n".repeat(WHERE));
        assert!(Console { tail, ..Console::default() }.explains().is_none());
    }
}
