//! `iptables-legacy`: reads the rules of the older iptables backend, which `nft` does not show.

use super::{Runner, Tool};
use crate::{
    error::Result,
    model::firewall::{Chain, Hook, Rule, Ruleset, Verdict},
};

/// Reads the filter table. Call it only if that table exists, because the command creates a missing one.
pub fn ruleset(runner: &Runner) -> Result<Ruleset> {
    // -w: wait while another process holds the lock of the tables.
    Tool::new("iptables-legacy").args(["-w", "5", "-S"]).read(runner)?.text().map(|text| parse(&text))
}

/// Parses the output of `-S`: `-P CHAIN POLICY`, `-N CHAIN`, `-A CHAIN …`.
fn parse(text: &str) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["-P" | "-N", name, ..] => ruleset.chains.push(Chain {
                legacy: true,
                table: "ip filter".to_owned(),
                name: name.to_owned(),
                hook: match name {
                    "INPUT" => Some(Hook::Input),
                    "FORWARD" => Some(Hook::Forward),
                    _ => None,
                },
                drops: words.get(2) == Some(&"DROP"),
                rules: Vec::new(),
            }),
            ["-A", name, ref rest @ ..] => {
                if let Some(chain) = ruleset.chains.iter_mut().find(|chain| chain.name == name) {
                    chain.rules.push(rule_of(rest));
                }
            }
            _ => {}
        }
    }
    ruleset
}

fn rule_of(words: &[&str]) -> Rule {
    let mut rule = Rule::default();
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default().to_owned();
        match word {
            "-i" => rule.from = Some(value()),
            "-o" => rule.to = Some(value()),
            "-j" | "-g" => {
                rule.verdict = match value() {
                    accept if accept == "ACCEPT" => Verdict::Accept,
                    name => Verdict::Jump(name),
                }
            }
            "--ctstate" | "--state" => {
                value();
                rule.known = true;
            }
            "-m" if matches!(value().as_str(), "conntrack" | "state" | "comment") => {}
            "--comment" => drop(value()),
            _ => rule.continues_elsewhere = true,
        }
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_and_rules_are_parsed() {
        let ruleset = parse(
            "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N X\n\
             -A FORWARD -s 192.168.122.0/24 -i virbr0 -j ACCEPT\n\
             -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A FORWARD -j X\n-A X ! -i virbr+ -j RETURN\n",
        );
        assert_eq!(ruleset.chains.len(), 4);
        let forward = &ruleset.chains[1];
        assert_eq!((forward.hook, forward.drops, forward.legacy), (Some(Hook::Forward), true, true));
        assert!(
            forward.rules[0].continues_elsewhere && forward.rules[1].known && !forward.rules[1].continues_elsewhere
        );
        assert_eq!(forward.rules[2].verdict, Verdict::Jump("X".to_owned()));
        assert!(ruleset.blocking("virbr0").is_empty());
        assert_eq!(ruleset.blocking("br9")[0].name, "FORWARD");
    }
}
