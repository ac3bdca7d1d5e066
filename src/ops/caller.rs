//! [`Caller`]: on whose behalf an operation works, where that is not whoever has the rights of this process.

/// On whose behalf an operation works; by default nobody's in particular, who sees everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Who is noted in the VMs that they create.
    pub owner: Option<String>,
    /// How the names begin of those VMs and keys that there are for them. The others are not there: they are in no list, no
    /// reference leads to them, and no hint names them.
    pub prefix: Option<String>,
}

impl Caller {
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
}
