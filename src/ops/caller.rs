//! [`Caller`]: on whose behalf an operation works, where that is not whoever has the rights of this process.

use crate::model::image::Visibility;

/// On whose behalf an operation works; by default nobody's in particular, who sees everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Who is noted in the VMs that they create.
    pub owner: Option<String>,
    /// How the names begin of those VMs and keys that there are for them. The others are not there: they are in no list, no
    /// reference leads to them, and no hint names them.
    pub prefix: Option<String>,
    /// Whether it is a client with limits: the images that it makes are private to it, and those of others that are private
    /// do not exist for it. The operator is not limited.
    pub is_limited: bool,
}

impl Caller {
    /// Returns the owner to whom images are private, where the caller is limited.
    pub fn tenant(&self) -> Option<&str> {
        self.owner.as_deref().filter(|_| self.is_limited)
    }

    /// Whether an image of this owner and visibility exists for them.
    pub fn sees_image(&self, owner: Option<&str>, visibility: Visibility) -> bool {
        visibility == Visibility::Shared || !self.is_limited || (owner.is_some() && owner == self.tenant())
    }

    /// Whether a VM or a key of this name is there for them.
    pub fn sees(&self, name: &str) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_begin_otherwise_are_not_there() {
        let anybody = Caller::default();
        assert!(anybody.sees("web") && anybody.sees(""));
        let agent = Caller { prefix: Some("a1-".to_owned()), ..anybody };
        assert!(agent.sees("a1-web") && !agent.sees("a10-web") && !agent.sees("a1"));
    }

    #[test]
    fn private_images_exist_for_their_owner_and_the_operator() {
        let limited = |owner: &str| Caller { owner: Some(owner.to_owned()), is_limited: true, ..Caller::default() };
        let admin = Caller { owner: Some("boss".to_owned()), ..Caller::default() };
        for (caller, own, others, nobodys) in [
            (limited("agent1"), true, false, false),
            (limited("agent2"), false, true, false),
            (admin, true, true, true),
            (Caller::default(), true, true, true),
        ] {
            let sees = |owner| caller.sees_image(owner, Visibility::Private);
            assert_eq!([sees(Some("agent1")), sees(Some("agent2")), sees(None)], [own, others, nobodys], "{caller:?}");
            assert!(
                caller.sees_image(Some("agent1"), Visibility::Shared) && caller.sees_image(None, Visibility::Shared)
            );
        }
    }
}
