//! Packet filters: whether what a network's guests send and are sent gets through.
//!
//! Every base chain of a hook has its say, and one that drops is enough. Looked at are the chains that drop what none
//! of their rules accepts; a rule that drops by itself is its writer's wish.

/// The chains and rules of a machine, from whatever program told them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// Every chain.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// Whether it is of iptables' older kind, which `nft` does not show.
    pub legacy: bool,
    /// Its table, with nftables' family before it: `ip filter`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The hook that it is called from; none for one that is only jumped to.
    pub hook: Option<Hook>,
    /// Whether what no rule decides is dropped.
    pub drops: bool,
    /// Its rules, in their order.
    pub rules: Vec<Rule>,
}

/// Where in a packet's way a chain is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What is for this machine: guests' DHCP and DNS.
    Input,
    /// What passes through it.
    Forward,
}

/// What a rule asks for, as far as it matters here, and what it does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// The interface that the packet came by; a `*` at its end stands for anything.
    pub from: Option<String>,
    /// The interface that it leaves by.
    pub to: Option<String>,
    /// Whether it must belong to a connection that is known.
    pub known: bool,
    /// Whether it asks for anything else.
    pub asks_more: bool,
    /// What becomes of the packet.
    pub verdict: Verdict,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Verdict {
    /// The packet passes this hook's chain.
    Accept,
    /// Another chain decides.
    Jump(String),
    /// Anything else.
    #[default]
    Other,
}

impl Ruleset {
    /// The chains that drop what guests behind a bridge send, or the answers to it.
    pub fn in_the_way(&self, bridge: &str) -> Vec<&Chain> {
        let stops = |chain: &&Chain| match chain.hook {
            Some(Hook::Input) => !self.lets(chain, &|rule| rule.takes_from(bridge), 0),
            Some(Hook::Forward) => {
                !(self.lets(chain, &|rule| rule.takes_from(bridge), 0)
                    && self.lets(chain, &|rule| rule.takes_to(bridge), 0))
            }
            None => false,
        };
        self.chains.iter().filter(|chain| chain.drops).filter(stops).collect()
    }

    /// Whether a rule of the chain, or of one that it jumps to, takes the packet.
    fn lets(&self, chain: &Chain, takes: &dyn Fn(&Rule) -> bool, depth: usize) -> bool {
        /// The kernel refuses deeper ones.
        const DEEPEST: usize = 16;
        depth < DEEPEST
            && chain.rules.iter().any(|rule| match &rule.verdict {
                Verdict::Accept => takes(rule),
                Verdict::Jump(name) => {
                    let same = |other: &&Chain| other.table == chain.table && other.name == *name;
                    self.chains.iter().filter(same).any(|other| self.lets(other, takes, depth + 1))
                }
                Verdict::Other => false,
            })
    }

    /// Whether a table has a chain whose name begins so.
    pub fn has_chain(&self, table: &str, prefix: &str) -> bool {
        self.chains.iter().any(|chain| chain.table == table && chain.name.starts_with(prefix))
    }
}

impl Rule {
    /// Whether guests' packets are taken. What else the rule asks for (libvirt's own: their subnet) is taken to be met.
    fn takes_from(&self, bridge: &str) -> bool {
        match &self.from {
            Some(from) => !self.known && is_named(bridge, from) && !self.stays_behind(bridge),
            None => self.to.is_none() && !self.known && !self.asks_more,
        }
    }

    /// Whether only what guests send each other is meant.
    fn stays_behind(&self, bridge: &str) -> bool {
        [&self.from, &self.to].iter().all(|side| side.as_ref().is_some_and(|name| is_named(bridge, name)))
    }

    /// Whether the answers to them are.
    fn takes_to(&self, bridge: &str) -> bool {
        match (&self.to, &self.from) {
            (Some(to), _) => is_named(bridge, to) && !self.stays_behind(bridge),
            (None, None) => self.known || !self.asks_more,
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
        Rule { from: own(from), to: own(to), known, asks_more: false, verdict: Verdict::Accept }
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
    fn a_chain_that_drops_is_in_the_way_unless_both_directions_are_let_through() {
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
            (vec![Rule { asks_more: true, ..accepts(None, None, false) }], false),
            (vec![accepts(Some("docker0"), None, false), accepts(None, None, true)], false),
        ] {
            let ruleset = forward(rules.clone());
            assert_eq!(ruleset.in_the_way("virbr0").is_empty(), free, "{rules:?}");
        }
        let mut ruleset = forward(vec![jump]);
        ruleset.chains[1].rules = vec![accepts(Some("virbr0"), None, false), accepts(None, Some("virbr0"), false)];
        assert!(ruleset.in_the_way("virbr0").is_empty());
        // What another table's chain of the same hook lets through is dropped here all the same: libvirt's own table
        // (nftables) beside Docker's chain.
        let libvirts = Chain { table: "ip libvirt_network".to_owned(), drops: false, ..ruleset.chains[1].clone() };
        ruleset.chains[1] = Chain { hook: Some(Hook::Forward), ..libvirts };
        assert_eq!(ruleset.in_the_way("virbr0"), [&ruleset.chains[0]]);
        ruleset.chains[0].rules.clear();
        ruleset.chains[0].drops = false;
        assert!(ruleset.in_the_way("virbr0").is_empty());
    }
}
