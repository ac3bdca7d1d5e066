//! `nft`: reads the packet filter's rules, including those of the newer iptables backend.

use serde::Deserialize;
use serde_json::Value;

use super::{Runner, Tool};
use crate::{
    error::{Code, Error, Result},
    model::firewall::{Chain, Hook, Rule, Ruleset, Verdict},
};

/// Reads every chain that IPv4 packets pass. This requires root.
pub fn ruleset(runner: &Runner) -> Result<Ruleset> {
    let finished = Tool::new("nft").args(["-j", "list", "ruleset"]).read(runner)?;
    if finished.stderr.contains("Operation not permitted") {
        let message = "cannot read the packet filter's rules without root";
        return Err(Error::new(Code::Denied, message).because(finished.stderr));
    }
    parse(&finished.text()?)
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Value>,
}

#[derive(Deserialize)]
struct RawChain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
}

#[derive(Deserialize)]
struct RawRule {
    family: String,
    table: String,
    chain: String,
    #[serde(default)]
    expr: Vec<Value>,
}

fn parse(json: &str) -> Result<Ruleset> {
    let failed = |error| Error::new(Code::ToolFailed, "cannot parse nft's JSON").because(error);
    let mut ruleset = Ruleset::default();
    for mut item in serde_json::from_str::<Listing>(json).map_err(failed)?.nftables {
        if let Some(chain) = item.get_mut("chain").map(Value::take) {
            let raw: RawChain = serde_json::from_value(chain).map_err(failed)?;
            ruleset.chains.extend(chain_of(raw));
        } else if let Some(rule) = item.get_mut("rule").map(Value::take) {
            let raw: RawRule = serde_json::from_value(rule).map_err(failed)?;
            let table = format!("{} {}", raw.family, raw.table);
            let is_its = |chain: &&mut Chain| chain.table == table && chain.name == raw.chain;
            if let Some(chain) = ruleset.chains.iter_mut().find(is_its) {
                chain.rules.push(rule_of(&raw.expr));
            }
        }
    }
    Ok(ruleset)
}

/// Converts a chain. Returns none if no IPv4 packets pass it.
fn chain_of(raw: RawChain) -> Option<Chain> {
    let hook = match raw.hook.as_deref() {
        Some("input") => Some(Hook::Input),
        Some("forward") => Some(Hook::Forward),
        _ => None,
    };
    matches!(raw.family.as_str(), "ip" | "inet").then(|| Chain {
        legacy: false,
        table: format!("{} {}", raw.family, raw.table),
        name: raw.name,
        hook,
        drops: raw.policy.as_deref() == Some("drop"),
        rules: Vec::new(),
    })
}

fn rule_of(expressions: &[Value]) -> Rule {
    let mut rule = Rule::default();
    for expression in expressions {
        if let Some(matched) = expression.get("match") {
            let (key, right) = (matched.pointer("/left/meta/key").and_then(Value::as_str), matched["right"].as_str());
            let is = matched["op"] == "==";
            match (key, right) {
                (Some("iifname" | "iif"), Some(name)) if is => rule.from = Some(name.to_owned()),
                (Some("oifname" | "oif"), Some(name)) if is => rule.to = Some(name.to_owned()),
                _ if matched.pointer("/left/ct/key").is_some_and(|key| key == "state") => rule.known = true,
                _ => rule.continues_elsewhere = true,
            }
        } else if let Some(extension) = expression.get("xt") {
            // nft shows only the name of an iptables extension, not its conditions.
            match extension["name"].as_str() {
                Some("conntrack") => rule.known = true,
                _ => rule.continues_elsewhere = true,
            }
        } else if expression.get("accept").is_some() {
            rule.verdict = Verdict::Accept;
        } else if let Some(target) =
            ["jump", "goto"].iter().find_map(|verb| expression.get(verb)).and_then(|jump| jump["target"].as_str())
        {
            rule.verdict = Verdict::Jump(target.to_owned());
        }
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of nft 1.0.6 for rules of iptables 1.8.9 and two rules of nft itself.
    const REAL: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "ip", "name": "filter", "handle": 1}},
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip", "table": "filter", "name": "X", "handle": 4}},
        {"chain": {"family": "ip6", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 2, "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "virbr0"}}, {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"prefix": {"addr": "192.168.122.0", "len": 24}}}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}]}},
        {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 3, "expr": [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "virbr0"}}, {"xt": {"type": "match", "name": "conntrack"}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}]}},
        {"rule": {"family": "ip", "table": "filter", "chain": "X", "handle": 6, "expr": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}]}},
        {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 5, "expr": [{"counter": {"packets": 0, "bytes": 0}}, {"jump": {"target": "X"}}]}}]}"#;

    #[test]
    fn chains_and_rules_are_parsed() {
        let ruleset = parse(REAL).unwrap();
        let names: Vec<_> = ruleset.chains.iter().map(|chain| (chain.name.as_str(), chain.hook, chain.drops)).collect();
        assert_eq!(names, [("FORWARD", Some(Hook::Forward), true), ("X", None, false)]);
        let bridge = |name: &str| Some(name.to_owned());
        let accept = Rule { verdict: Verdict::Accept, ..Rule::default() };
        assert_eq!(
            ruleset.chains[0].rules,
            [
                Rule { from: bridge("virbr0"), continues_elsewhere: true, ..accept.clone() },
                Rule { to: bridge("virbr0"), known: true, ..accept.clone() },
                Rule { verdict: Verdict::Jump("X".to_owned()), ..Rule::default() },
            ]
        );
        assert_eq!(ruleset.chains[1].rules, [Rule { known: true, ..accept }]);
        assert!(ruleset.blocking("virbr0").is_empty());
        assert_eq!(ruleset.blocking("virbr1").len(), 1);
        assert_eq!(parse("nonsense").unwrap_err().code, Code::ToolFailed);
    }
}
