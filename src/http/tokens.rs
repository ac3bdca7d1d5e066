//! [`Tokens`]: who may ask, by the file that the operator keeps.

use std::{collections::HashSet, os::unix::fs::PermissionsExt, sync::Arc};

use camino::Utf8Path;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::{
    api::Scope,
    error::{Code, Error, Result},
    model::{
        digest,
        name::{self, Name},
        source_policy::HostPattern,
        ttl::Ttl,
        vm::DEFAULT_NETWORK,
    },
    service::client::{Client, Identity, Quota},
};

/// The fewest characters of a token that stands in the file itself: fewer can be guessed.
const LEAST: usize = 16;

/// The rights of those who are neither a file's owner nor of its group.
const OTHERS: u32 = 0o007;

/// Everybody who may ask.
#[derive(Debug)]
pub(super) struct Tokens(Vec<(Digest, Arc<Client>)>);

/// The SHA-256 of a token, in lower-case hexadecimal.
type Digest = String;

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Entry>,
}

/// What the file says of a token. It is never printed: it may hold the token itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    name: Name,
    scope: Scope,
    sha256: Option<String>,
    token: Option<String>,
    prefix: Option<String>,
    #[serde(default)]
    quota: Quota,
    image_hosts: Option<Vec<HostPattern>>,
    networks: Option<Vec<String>>,
    pools: Option<Vec<String>>,
    ttl_default: Option<Ttl>,
}

impl Tokens {
    /// Reads the file. One that holds tokens themselves must not be readable by everybody.
    pub(super) fn read(path: &Utf8Path, pool: &str) -> Result<Self> {
        let failed = |error: &std::io::Error| Error::io(format!("read the tokens `{path}`"), error);
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        let mode = std::fs::metadata(path).map_err(|error| failed(&error))?.permissions().mode();
        let (tokens, has_plain) = Self::parse(&text, pool).map_err(|error| Error {
            message: format!("the tokens `{path}` cannot be used: {}", error.message),
            ..error
        })?;
        if has_plain && mode & OTHERS != 0 {
            return Err(Error::new(
                Code::Denied,
                format!("the tokens `{path}` are open to every user of this machine"),
            )
            .because(format!("it holds tokens themselves, and its mode is {:03o}", mode & 0o777))
            .hint(format!(
                "Close it: chmod o= {}. Or give sha256 instead of token.",
                shell_words::quote(path.as_str())
            )));
        }
        Ok(tokens)
    }

    /// Reads the file's text, and says whether a token itself stands in it.
    fn parse(text: &str, pool: &str) -> Result<(Self, bool)> {
        let File { token: entries } = toml::from_str(text).map_err(|error| {
            // Its own text shows the line, which may hold a token.
            let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            Error::invalid("it is not as it should be").because(format!("{place}{}", error.message())).hint(FORM)
        })?;
        if entries.is_empty() {
            return Err(Error::invalid("there is no [[token]] in it").hint(FORM));
        }
        let has_plain = entries.iter().any(|entry| entry.token.is_some());
        let (mut tokens, mut seen) = (Vec::with_capacity(entries.len()), HashSet::new());
        for entry in entries {
            let name = entry.name.to_string();
            let refuse = |why: &str| Error::invalid(format!("the token `{name}` {why}")).hint(FORM);
            let (digest, client) = entry.client(pool).map_err(|why| refuse(&why))?;
            if !seen.insert(name.clone()) || !seen.insert(digest.clone()) {
                return Err(refuse("is there twice"));
            }
            tokens.push((digest, Arc::new(client)));
        }
        Ok((Self(tokens), has_plain))
    }

    /// Whose a token is. Every token is looked at, and each in the same time, so that the time tells nothing.
    pub(super) fn find(&self, token: &str) -> Option<Arc<Client>> {
        let given = digest::of(token.as_bytes());
        self.0.iter().fold(None, |found, (digest, client)| {
            if bool::from(digest.as_bytes().ct_eq(given.as_bytes())) { Some(client.clone()) } else { found }
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// How the file is written.
const FORM: &str = "A token is [[token]], name = \"ci\", scope = \"read\", \"operate\" or \"admin\", and sha256 = \"…\" as \
                    sha256sum prints it, or token = \"…\" itself.";

impl Entry {
    /// Who has the token, and its digest; or what is wrong with it. `pool` is the configured one.
    fn client(self, pool: &str) -> Result<(Digest, Client), String> {
        let Self { name, scope, sha256, token, prefix, quota, image_hosts, networks, pools, ttl_default } = self;
        let digest = match (sha256, token) {
            // As sha256sum prints it: with a file's name behind it.
            (Some(sha256), None) => sha256.split_whitespace().next().unwrap_or_default().to_ascii_lowercase(),
            (None, Some(token)) if token.chars().count() < LEAST => {
                return Err(format!("is too short: {LEAST} characters are the least"));
            }
            (None, Some(token)) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err("has characters that no header can carry".to_owned());
            }
            (None, Some(token)) => digest::of(token.as_bytes()),
            _ => return Err("needs either sha256 or token".to_owned()),
        };
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("has a sha256 that is not 64 hexadecimal digits".to_owned());
        }
        if let Some(prefix) = &prefix {
            if name::prefix(prefix).is_err() {
                return Err(format!("has the prefix `{}`, with which no name can begin", prefix.escape_debug()));
            }
            if scope == Scope::Admin {
                return Err("has a prefix and the scope admin, which is not held to names".to_owned());
            }
        }
        let (name, standing) = (name.to_string(), Identity::Token);
        let networks = Some(networks.unwrap_or_else(|| vec![DEFAULT_NETWORK.to_owned()]));
        let pools = Some(pools.unwrap_or_else(|| vec![pool.to_owned()]));
        let is_limited = scope < Scope::Admin;
        let client =
            Client { name, scope, prefix, quota, image_hosts, networks, pools, ttl_default, is_limited, standing };
        Ok((digest, client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123";

    fn parse(text: &str) -> Result<Tokens> {
        Tokens::parse(text, "vms").map(|(tokens, _)| tokens)
    }

    #[test]
    fn a_token_is_found_by_itself_or_by_its_digest() {
        let text = format!(
            "[[token]]\nname='ci'\nscope='read'\ntoken='{SECRET}'\n[[token]]\nname='agent'\nscope='operate'\nsha256='{}'\n\
             prefix='a-'\nimage-hosts=['cloud.debian.org']\nquota={{vms=2, vcpus=4, memory='4G', disk='40G'}}",
            digest::of(b"other").to_uppercase()
        );
        let tokens = parse(&text).unwrap();
        assert_eq!(tokens.find(SECRET).unwrap().name, "ci");
        let agent = tokens.find("other").unwrap();
        assert_eq!((agent.scope, agent.prefix.as_deref()), (Scope::Operate, Some("a-")));
        assert_eq!((agent.quota.vms, agent.quota.memory.unwrap().mib()), (Some(2), 4096));
        for wrong in ["", "0123456789abcdef012", "agent", &digest::of(b"other")] {
            assert!(tokens.find(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn networks_and_pools_are_the_configured_ones_unless_others_are_listed() {
        let of = |more: &str| {
            let tokens = parse(&format!("[[token]]\nname='x'\nscope='admin'\ntoken='{SECRET}'\n{more}")).unwrap();
            let client = tokens.find(SECRET).unwrap();
            (client.networks.clone().unwrap(), client.pools.clone().unwrap())
        };
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(of(""), (list(&["default"]), list(&["vms"])));
        assert_eq!(of("networks=['lab', 'user']\npools=['p']"), (list(&["lab", "user"]), list(&["p"])));
        assert_eq!(of("networks=[]\npools=[]"), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_the_token_in_the_words() {
        let plain = format!("name='x'\nscope='read'\ntoken='{SECRET}'");
        for (text, why) in [
            (String::new(), "no [[token]]"),
            ("[[token]]\nname='x'\nscope='read'\ntoken='0123456789abcde'".to_owned(), "too short"),
            ("[[token]]\nname='x'\nscope='read'".to_owned(), "needs either"),
            ("[[token]]\nname='x'\nscope='read'\nsha256='zz'".to_owned(), "64 hexadecimal"),
            (format!("[[token]]\n{plain}\n[[token]]\n{plain}"), "there twice"),
            (format!("[[token]]\n{plain}\n[[token]]\nname='y'\nscope='read'\ntoken='{SECRET}'"), "there twice"),
            (format!("[[token]]\n{plain}\nprefix='-'"), "prefix"),
            (format!("[[token]]\n{plain}\nprefix=''"), "prefix"),
            (format!("[[token]]\n{}\nprefix='a-'", plain.replace("'read'", "'admin'")), "scope admin"),
            (format!("[[token]]\n{plain}\nfoo=1"), "line 5: unknown field"),
            (format!("[[token]]\ntoken='{SECRET}' x"), "line 2"),
            (format!("[[token]]\n{}", plain.replace("'read'", "'root'")), "unknown variant"),
        ] {
            let error = parse(&text).unwrap_err();
            let said = format!("{error} {:?}", error.hints);
            assert!(said.contains(why), "{text}: {said}");
            assert!(!said.contains(SECRET), "{said}");
        }
    }

    #[test]
    fn a_file_with_tokens_is_no_file_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("tokens.toml");
        let write = |line: &str, mode| {
            std::fs::write(&path, format!("[[token]]\nname='x'\nscope='read'\n{line}")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Tokens::read(&path, "vms")
        };
        let error = write(&format!("token='{SECRET}'"), 0o644).unwrap_err();
        assert!(error.code == Code::Denied && error.command().unwrap().contains("chmod o= "));
        assert_eq!(write(&format!("token='{SECRET}'"), 0o640).unwrap().len(), 1);
        assert_eq!(write(&format!("sha256='{}'", digest::of(b"x")), 0o644).unwrap().len(), 1);
        assert_eq!(Tokens::read(&path.with_file_name("none"), "vms").unwrap_err().code, Code::NotFound);
    }
}
