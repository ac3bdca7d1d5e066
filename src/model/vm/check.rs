//! Checks of a request for a VM as a whole, which the types of its members cannot express.

use super::{super::user::check_user, NewVm, WaitFor, check_vcpus};
use crate::error::{Error, Hint, Result};

impl NewVm {
    /// Returns the image, from whichever member names it.
    pub fn given_image(&self) -> Option<&String> {
        self.image.as_ref().or(self.image_url.as_ref())
    }

    /// Refuses a contradictory request, whichever front end it came from.
    pub fn check(&self) -> Result<()> {
        check_vcpus(self.vcpus)?;
        self.user.as_deref().map_or(Ok(()), check_user)?;
        let has_image = self.given_image().is_some();
        if self.image.is_some() && self.image_url.is_some() {
            return Err(Error::invalid("`image` and `imageUrl` exclude each other").hint("Leave out one of the two"));
        }
        if !has_image && (self.checksum.is_some() || self.require_verified || self.pull) {
            return Err(Error::invalid("`checksum`, `requireVerified` and `pull` require an image")
                .hint(Hint::set("Give the image's name, path or URL", "image")));
        }
        let wants_seed = !self.ssh_keys.is_empty() || self.user_data.is_some() || self.user.is_some();
        if wants_seed && !has_image && self.iso.is_none() {
            return Err(Error::invalid("SSH keys, a user and user data require an image with cloud-init")
                .hint(Hint::set("Give a cloud image", "image")));
        }
        self.check_goal(has_image)
    }

    /// Refuses to wait for a state that the VM cannot reach.
    fn check_goal(&self, has_image: bool) -> Result<()> {
        match self.wait {
            Some(goal) if !self.start => Err(Error::invalid(format!("cannot wait for {goal} without starting the VM"))
                .hint("Leave out one of the two")),
            Some(goal @ (WaitFor::Ip | WaitFor::Ssh | WaitFor::CloudInit | WaitFor::Agent)) if !has_image => {
                Err(Error::invalid(format!("cannot wait for {goal} without an image"))
                    .hint(Hint::set("Give a cloud image", "image")))
            }
            Some(goal @ (WaitFor::Ssh | WaitFor::CloudInit)) if self.ssh_keys.is_empty() => {
                Err(Error::invalid(format!("cannot wait for {goal} without a key to log in"))
                    .hint(Hint::set("Give a key", "sshKeys")))
            }
            _ => Ok(()),
        }
    }
}
