//! [`Caller`]: the client on whose behalf an operation runs.

use crate::model::image::Visibility;

/// The client on whose behalf an operation runs. The default is the operator, who sees everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The owner that is recorded in the VMs that the caller creates.
    pub owner: Option<String>,
    /// The prefix of the names of the VMs and keys that the caller can see. All others are hidden: no list contains
    /// them, no reference finds them, and no hint names them.
    pub prefix: Option<String>,
    /// Whether the caller is a client with limits. The images that it makes are private to it, and the private images
    /// of others are hidden from it. The operator is not limited.
    pub is_limited: bool,
}

impl Caller {
    /// Returns the owner that the caller's images are private to, if the caller is limited.
    pub fn tenant(&self) -> Option<&str> {
        self.owner.as_deref().filter(|_| self.is_limited)
    }

    /// Returns whether the caller can see an image of this owner and visibility.
    pub fn sees_image(&self, owner: Option<&str>, visibility: Visibility) -> bool {
        visibility == Visibility::Shared || !self.is_limited || (owner.is_some() && owner == self.tenant())
    }

    /// Returns whether the caller can see a VM or key of this name.
    pub fn sees(&self, name: &str) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_another_prefix_are_hidden() {
        let operator = Caller::default();
        assert!(operator.sees("web") && operator.sees(""));
        let agent = Caller { prefix: Some("a1-".to_owned()), ..operator };
        assert!(agent.sees("a1-web") && !agent.sees("a10-web") && !agent.sees("a1"));
    }

    #[test]
    fn private_images_are_visible_to_their_owner_and_the_operator() {
        let limited = |owner: &str| Caller { owner: Some(owner.to_owned()), is_limited: true, ..Caller::default() };
        let admin = Caller { owner: Some("boss".to_owned()), ..Caller::default() };
        for (caller, first, second, unowned) in [
            (limited("agent1"), true, false, false),
            (limited("agent2"), false, true, false),
            (admin, true, true, true),
            (Caller::default(), true, true, true),
        ] {
            let sees = |owner| caller.sees_image(owner, Visibility::Private);
            assert_eq!(
                [sees(Some("agent1")), sees(Some("agent2")), sees(None)],
                [first, second, unowned],
                "{caller:?}"
            );
            assert!(
                caller.sees_image(Some("agent1"), Visibility::Shared) && caller.sees_image(None, Visibility::Shared)
            );
        }
    }
}
