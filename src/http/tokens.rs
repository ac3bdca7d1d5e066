//! [`Tokens`]: the bearer tokens of the operator's token file, and their clients.

use std::{collections::HashSet, os::unix::fs::PermissionsExt, sync::Arc};

use camino::Utf8Path;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::{
    api::Scope,
    error::{Code, Error, Hint, Result},
    model::{
        digest,
        name::{self, Name},
        source_policy::HostPattern,
        ttl::Ttl,
        vm::DEFAULT_NETWORK,
    },
    service::client::{Client, Identity, Quota},
};

/// The minimum length of a token in plain text. Shorter tokens can be guessed.
const MIN_LENGTH: usize = 16;

/// The mode bits of other users.
const OTHERS: u32 = 0o007;

/// The clients, by the digests of their tokens.
#[derive(Debug)]
pub(super) struct Tokens(Vec<(Digest, Arc<Client>)>);

/// The SHA-256 of a token, in lower-case hexadecimal.
type Digest = String;

/// The token file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Entry>,
}

/// A token in the file. It is never printed, because it may contain the token in plain text.
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
    /// Reads the file. A file with tokens in plain text must not be readable by other users.
    pub(super) fn read(path: &Utf8Path, pool: &str) -> Result<Self> {
        let failed = |error: &std::io::Error| Error::io(format!("read the token file `{path}`"), error);
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        let mode = std::fs::metadata(path).map_err(|error| failed(&error))?.permissions().mode();
        let (tokens, has_plain) = Self::parse(&text, pool)
            .map_err(|error| Error { message: format!("invalid token file `{path}`: {}", error.message), ..error })?;
        if has_plain && mode & OTHERS != 0 {
            let message = format!("other users can access the token file `{path}`");
            return Err(Error::new(Code::Denied, message)
                .because(format!("it contains tokens in plain text, and its mode is {:03o}", mode & 0o777))
                .hint(Hint::run("Restrict its mode", format!("chmod o= {}", shell_words::quote(path.as_str()))))
                .hint("Or replace each `token` with its `sha256`"));
        }
        Ok(tokens)
    }

    /// Parses the text of the file. Also returns whether it contains a token in plain text.
    fn parse(text: &str, pool: &str) -> Result<(Self, bool)> {
        let File { token: entries } = toml::from_str(text).map_err(|error| {
            // The full text of the error shows the line, which may contain a token.
            let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            Error::invalid("syntax error").because(format!("{place}{}", error.message())).hint(FORMAT)
        })?;
        if entries.is_empty() {
            return Err(Error::invalid("it has no [[token]]").hint(FORMAT));
        }
        let has_plain = entries.iter().any(|entry| entry.token.is_some());
        let (mut tokens, mut seen) = (Vec::with_capacity(entries.len()), HashSet::new());
        for entry in entries {
            let name = entry.name.to_string();
            let refuse = |why: &str| Error::invalid(format!("the token `{name}` {why}")).hint(FORMAT);
            let (digest, client) = entry.client(pool).map_err(|why| refuse(&why))?;
            if !seen.insert(name.clone()) || !seen.insert(digest.clone()) {
                return Err(refuse("is a duplicate"));
            }
            tokens.push((digest, Arc::new(client)));
        }
        Ok((Self(tokens), has_plain))
    }

    /// Returns the client of a token. Every token is compared in constant time, so that the time reveals nothing.
    pub(super) fn find(&self, token: &str) -> Option<Arc<Client>> {
        let given = digest::of(token.as_bytes());
        self.0.iter().fold(None, |found, (digest, client)| {
            if bool::from(digest.as_bytes().ct_eq(given.as_bytes())) { Some(client.clone()) } else { found }
        })
    }

    /// Returns the number of tokens.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The hint about the format of the file.
const FORMAT: &str = "Write each token as [[token]] with name = \"ci\", scope = \"read\", \"operate\" or \"admin\", and \
                      either sha256 = \"…\" as printed by sha256sum, or token = \"…\" in plain text";

impl Entry {
    /// Returns the digest of the token and its client, or what is wrong with the token. `pool` is the configured one.
    fn client(self, pool: &str) -> Result<(Digest, Client), String> {
        let Self { name, scope, sha256, token, prefix, quota, image_hosts, networks, pools, ttl_default } = self;
        let digest = match (sha256, token) {
            // sha256sum prints a file name after the digest.
            (Some(sha256), None) => sha256.split_whitespace().next().unwrap_or_default().to_ascii_lowercase(),
            (None, Some(token)) if token.chars().count() < MIN_LENGTH => {
                return Err(format!("is too short: the minimum is {MIN_LENGTH} characters"));
            }
            (None, Some(token)) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err("has characters that are not allowed in a header".to_owned());
            }
            (None, Some(token)) => digest::of(token.as_bytes()),
            _ => return Err("must have either sha256 or token".to_owned()),
        };
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("has an invalid sha256: it must be 64 hexadecimal digits".to_owned());
        }
        if let Some(prefix) = &prefix {
            if name::prefix(prefix).is_err() {
                return Err(format!("has the invalid prefix `{}`: no name can begin with it", prefix.escape_debug()));
            }
            if scope == Scope::Admin {
                return Err("has a prefix, which is not allowed with the scope admin".to_owned());
            }
        }
        let (name, identity) = (name.to_string(), Identity::Token);
        let networks = Some(networks.unwrap_or_else(|| vec![DEFAULT_NETWORK.to_owned()]));
        let pools = Some(pools.unwrap_or_else(|| vec![pool.to_owned()]));
        let is_limited = scope < Scope::Admin;
        let client =
            Client { name, scope, prefix, quota, image_hosts, networks, pools, ttl_default, is_limited, identity };
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
    fn tokens_in_plain_text_and_as_digests_are_found() {
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
    fn networks_and_pools_default_to_the_configured_ones() {
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
    fn invalid_files_are_refused_and_errors_do_not_contain_the_token() {
        let plain = format!("name='x'\nscope='read'\ntoken='{SECRET}'");
        for (text, why) in [
            (String::new(), "no [[token]]"),
            ("[[token]]\nname='x'\nscope='read'\ntoken='0123456789abcde'".to_owned(), "too short"),
            ("[[token]]\nname='x'\nscope='read'".to_owned(), "must have either"),
            ("[[token]]\nname='x'\nscope='read'\nsha256='zz'".to_owned(), "64 hexadecimal"),
            (format!("[[token]]\n{plain}\n[[token]]\n{plain}"), "is a duplicate"),
            (format!("[[token]]\n{plain}\n[[token]]\nname='y'\nscope='read'\ntoken='{SECRET}'"), "is a duplicate"),
            (format!("[[token]]\n{plain}\nprefix='-'"), "prefix"),
            (format!("[[token]]\n{plain}\nprefix=''"), "prefix"),
            (format!("[[token]]\n{}\nprefix='a-'", plain.replace("'read'", "'admin'")), "scope admin"),
            (format!("[[token]]\n{plain}\nfoo=1"), "line 5: unknown field"),
            (format!("[[token]]\ntoken='{SECRET}' x"), "line 2"),
            (format!("[[token]]\n{}", plain.replace("'read'", "'root'")), "unknown variant"),
        ] {
            let error = parse(&text).unwrap_err();
            let shown = format!("{error} {:?}", error.hints);
            assert!(shown.contains(why), "{text}: {shown}");
            assert!(!shown.contains(SECRET), "{shown}");
        }
    }

    #[test]
    fn a_file_with_plain_tokens_must_not_be_readable_by_others() {
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
