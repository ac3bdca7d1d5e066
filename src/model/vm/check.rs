//! What a request for a VM must be as a whole, which its members' types do not say.

use super::{super::user::check_user, NewVm, WaitFor, check_vcpus};
use crate::error::{Error, Result};

impl NewVm {
    /// The image, whichever member names it.
    pub fn given_image(&self) -> Option<&String> {
        self.image.as_ref().or(self.image_url.as_ref())
    }

    /// Refuses what contradicts itself, whichever way it came in.
    pub fn check(&self) -> Result<()> {
        check_vcpus(self.vcpus)?;
        self.user.as_deref().map_or(Ok(()), check_user)?;
        let has_image = self.given_image().is_some();
        if self.image.is_some() && self.image_url.is_some() {
            return Err(Error::invalid("an image is given twice").hint("Give either image or imageUrl."));
        }
        if !has_image && (self.checksum.is_some() || self.require_verified || self.pull) {
            return Err(Error::invalid("a checksum, a verification or a pull is asked for, but no image is given")
                .hint("Give the image with --image NAME, PATH or URL."));
        }
        let wants_seed = !self.ssh_keys.is_empty() || self.user_data.is_some() || self.user.is_some();
        if wants_seed && !has_image && self.iso.is_none() {
            return Err(Error::invalid("a key, a user or user data is given, but no image that would read it")
                .hint("Give the cloud image with --image PATH or --image URL."));
        }
        self.check_goal(has_image)
    }

    /// Refuses to wait for what cannot come.
    fn check_goal(&self, has_image: bool) -> Result<()> {
        match self.wait {
            Some(goal) if !self.start => {
                Err(Error::invalid(format!("waiting for {goal} contradicts leaving the VM stopped"))
                    .hint("Leave out one of the two."))
            }
            Some(goal @ (WaitFor::Ip | WaitFor::Ssh | WaitFor::CloudInit | WaitFor::Agent)) if !has_image => {
                Err(Error::invalid(format!("without an image there will be no {goal} to wait for")))
            }
            Some(goal @ (WaitFor::Ssh | WaitFor::CloudInit)) if self.ssh_keys.is_empty() => {
                Err(Error::invalid(format!("waiting for {goal} needs a key to log in with"))
                    .hint("Give one with --ssh-key."))
            }
            _ => Ok(()),
        }
    }
}
