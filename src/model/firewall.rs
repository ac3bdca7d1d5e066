//! Packet filters: whether the packets of a network's guests get through.
//!
//! Every base chain of a hook is evaluated, and one that drops a packet is enough. Only the chains with the policy drop
//! are checked here. A single rule that drops packets is assumed to be intended.

/// The chains and rules of a host, from any program that lists them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// Every chain.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// Whether it belongs to legacy iptables, which `nft` does not list.
    pub legacy: bool,
    /// Its table, after the family of nftables: `ip filter`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The hook that calls it, or `None` if it is only reached by jumps.
    pub hook: Option<Hook>,
    /// Whether its policy is drop: it drops packets that no rule decides on.
    pub drops: bool,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// The point in the packet flow at which a chain is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets to this host, such as the guests' DHCP and DNS.
    Input,
    /// Packets that this host forwards.
    Forward,
}

/// A rule: the conditions that matter here, and its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// The incoming interface; a `*` at the end matches any rest.
    pub from: Option<String>,
    /// The outgoing interface.
    pub to: Option<String>,
    /// Whether the packet must belong to an established connection.
    pub known: bool,
    /// Whether it has any other condition.
    pub continues_elsewhere: bool,
    /// The verdict.
    pub verdict: Verdict,
}

/// The verdict of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Verdict {
    /// The chain accepts the packet.
    Accept,
    /// Another chain decides.
    Jump(String),
    /// Anything else.
    #[default]
    Other,
}

impl Ruleset {
    /// Returns the chains that drop the packets of guests behind a bridge, or the replies to them.
    pub fn blocking(&self, bridge: &str) -> Vec<&Chain> {
        let blocks = |chain: &&Chain| match chain.hook {
            Some(Hook::Input) => !self.accepts(chain, &|rule| rule.matches_from(bridge), 0),
            Some(Hook::Forward) => {
                !(self.accepts(chain, &|rule| rule.matches_from(bridge), 0)
                    && self.accepts(chain, &|rule| rule.matches_to(bridge), 0))
            }
            None => false,
        };
        self.chains.iter().filter(|chain| chain.drops).filter(blocks).collect()
    }

    /// Returns whether the chain, or a chain that it jumps to, has a matching rule that accepts.
    fn accepts(&self, chain: &Chain, matches: &dyn Fn(&Rule) -> bool, depth: usize) -> bool {
        /// The kernel's limit on nested jumps.
        const MAX_DEPTH: usize = 16;
        depth < MAX_DEPTH
            && chain.rules.iter().any(|rule| match &rule.verdict {
                Verdict::Accept => matches(rule),
                Verdict::Jump(name) => {
                    let same = |other: &&Chain| other.table == chain.table && other.name == *name;
                    self.chains.iter().filter(same).any(|other| self.accepts(other, matches, depth + 1))
                }
                Verdict::Other => false,
            })
    }

    /// Returns whether a table has a chain whose name begins with `prefix`.
    pub fn has_chain(&self, table: &str, prefix: &str) -> bool {
        self.chains.iter().any(|chain| chain.table == table && chain.name.starts_with(prefix))
    }
}

impl Rule {
    /// Returns whether it matches the guests' packets. Its other conditions are assumed to hold: libvirt's rules also
    /// match the guests' subnet.
    fn matches_from(&self, bridge: &str) -> bool {
        match &self.from {
            Some(from) => !self.known && is_named(bridge, from) && !self.is_within(bridge),
            None => self.to.is_none() && !self.known && !self.continues_elsewhere,
        }
    }

    /// Returns whether it matches only packets from guest to guest.
    fn is_within(&self, bridge: &str) -> bool {
        [&self.from, &self.to].iter().all(|side| side.as_ref().is_some_and(|name| is_named(bridge, name)))
    }

    /// Returns whether it matches the replies to the guests' packets.
    fn matches_to(&self, bridge: &str) -> bool {
        match (&self.to, &self.from) {
            (Some(to), _) => is_named(bridge, to) && !self.is_within(bridge),
            (None, None) => self.known || !self.continues_elsewhere,
            (None, Some(_)) => false,
        }
    }
}

fn is_named(bridge: &str, pattern: &str) -> bool {
    pattern.strip_suffix(['*', '+']).map_or(pattern == bridge, |prefix| bridge.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(from: Option<&str>, to: Option<&str>, known: bool) -> Rule {
        let own = |name: Option<&str>| name.map(str::to_owned);
        Rule { from: own(from), to: own(to), known, continues_elsewhere: false, verdict: Verdict::Accept }
    }

    fn forward(rules: Vec<Rule>) -> Ruleset {
        let chain = Chain {
            table: "ip filter".to_owned(),
            name: "FORWARD".to_owned(),
            hook: Some(Hook::Forward),
            drops: true,
            rules,
            ..Chain::default()
        };
        let jumped =
            Chain { name: "LIBVIRT_FWO".to_owned(), hook: None, drops: false, rules: Vec::new(), ..chain.clone() };
        Ruleset { chains: vec![chain, jumped] }
    }

    #[test]
    fn a_chain_that_drops_is_reported_unless_it_accepts_both_directions() {
        let jump = Rule { verdict: Verdict::Jump("LIBVIRT_FWO".to_owned()), ..Rule::default() };
        let loops = Rule { verdict: Verdict::Jump("FORWARD".to_owned()), ..Rule::default() };
        for (rules, free) in [
            (vec![], false),
            (vec![loops], false),
            (vec![jump.clone()], false),
            (vec![accepts(Some("virbr0"), None, false)], false),
            (vec![accepts(None, Some("virbr0"), true)], false),
            (vec![accepts(Some("virbr0"), None, false), accepts(None, Some("virbr0"), true)], true),
            (vec![accepts(Some("virbr0"), None, false), accepts(None, None, true)], true),
            (vec![accepts(Some("virbr*"), None, false), accepts(None, Some("virbr+"), false)], true),
            (vec![accepts(Some("virbr0"), Some("virbr0"), false)], false),
            (vec![accepts(None, None, false)], true),
            (vec![Rule { continues_elsewhere: true, ..accepts(None, None, false) }], false),
            (vec![accepts(Some("docker0"), None, false), accepts(None, None, true)], false),
        ] {
            let ruleset = forward(rules.clone());
            assert_eq!(ruleset.blocking("virbr0").is_empty(), free, "{rules:?}");
        }
        let mut ruleset = forward(vec![jump]);
        ruleset.chains[1].rules = vec![accepts(Some("virbr0"), None, false), accepts(None, Some("virbr0"), false)];
        assert!(ruleset.blocking("virbr0").is_empty());
        // A packet that another table's chain of the same hook accepts is still dropped here. Example: libvirt's own
        // table (nftables) next to Docker's chain.
        let libvirts = Chain { table: "ip libvirt_network".to_owned(), drops: false, ..ruleset.chains[1].clone() };
        ruleset.chains[1] = Chain { hook: Some(Hook::Forward), ..libvirts };
        assert_eq!(ruleset.blocking("virbr0"), [&ruleset.chains[0]]);
        ruleset.chains[0].rules.clear();
        ruleset.chains[0].drops = false;
        assert!(ruleset.blocking("virbr0").is_empty());
    }
}
