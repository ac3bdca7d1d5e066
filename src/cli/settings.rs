//! Settings, in order of precedence: flags, environment, configuration file, defaults. Only this module reads settings
//! from the environment.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use etcetera::{AppStrategy, AppStrategyArgs, choose_app_strategy};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    model::{image::Mirror, limit::Limit, proxy::Proxies, source_policy::SourcePolicy},
    ops::{
        Settings,
        connection::{self, Connection},
    },
};

/// The key folder in the service's container, as its documentation specifies.
const CONTAINER_KEY_DIR: &str = "/app/ssh_keys";

/// The configuration file for all users of the host.
const SYSTEM_FILE: &str = "/etc/vmprov/config.toml";

/// The folder of additional catalogue files for all users of the host.
const SYSTEM_CATALOGUE: &str = "/etc/vmprov/images.d";

/// How long a server may send nothing by default: longer than a tape library needs, shorter than a user waits.
const DEFAULT_STALL_LIMIT: &str = "30s";

/// The definition of a setting. The manual and the reference are generated from it.
#[derive(Debug)]
pub struct Definition {
    /// Its name in the configuration file.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// The option that sets it.
    pub flag: Option<&'static str>,
    /// The environment variables that set it; the first one that is set counts.
    pub variables: &'static [&'static str],
    /// Its default, as text for a reader.
    pub default: &'static str,
    /// A line of the configuration file.
    pub example: &'static str,
}

/// Every setting, in the order in which `vmprov config` shows them.
pub(super) const SETTINGS: [Definition; 7] = [
    Definition {
        name: "connect",
        about: "libvirt connection",
        flag: Some("--connect"),
        variables: &["LIBVIRT_URI", "LIBVIRT_DEFAULT_URI"],
        default: "`qemu:///system`; `qemu:///session` for a user without access to it",
        example: "connect = \"qemu:///system\"",
    },
    Definition {
        name: "pool",
        about: "Storage pool for disks, images and seeds",
        flag: Some("--pool"),
        variables: &["LIBVIRT_STORAGE_POOL"],
        default: "`default`",
        example: "pool = \"vms\"",
    },
    Definition {
        name: "pool-path",
        about: "Folder in which to create the pool if it does not exist",
        flag: Some("--pool-path"),
        variables: &["LIBVIRT_STORAGE_PATH"],
        default: "`/var/lib/libvirt/images`; in a session `~/.local/share/libvirt/images`",
        example: "pool-path = \"/srv/vms\"",
    },
    Definition {
        name: "key-dir",
        about: "Folder of the SSH keys",
        flag: Some("--key-dir"),
        variables: &["SSH_KEY_DIR"],
        default: "`/app/ssh_keys` if it exists, otherwise `~/.local/share/vmprov/keys`",
        example: "key-dir = \"/srv/keys\"",
    },
    Definition {
        name: "mirrors",
        about: "Mirrors: a host or URL prefix, and its replacement (in the environment: `FROM=TO FROM=TO`)",
        flag: Some("--mirror"),
        variables: &["VMPROV_MIRRORS"],
        default: "none",
        example: "mirrors = { \"cloud-images.ubuntu.com\" = \"https://mirror.example/ubuntu\" }",
    },
    Definition {
        name: "require-verified",
        about: "Refuse images without a checksum or signature",
        flag: Some("--require-verified"),
        variables: &["VMPROV_REQUIRE_VERIFIED"],
        default: "`false`",
        example: "require-verified = true",
    },
    Definition {
        name: "stall-timeout",
        about: "How long a server may send nothing",
        flag: None,
        variables: &["VMPROV_STALL_TIMEOUT"],
        default: "`30s`",
        example: "stall-timeout = \"1m\"",
    },
];

#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct Flags {
    /// libvirt connection [default: `qemu:///system`, or `qemu:///session` without access to it]
    #[arg(short, long, global = true, value_name = "URI")]
    connect: Option<String>,

    /// Storage pool for disks, images and seeds [default: default]
    #[arg(long, global = true, value_name = "POOL")]
    pool: Option<String>,

    /// Folder in which to create the pool if it does not exist [default: `/var/lib/libvirt/images`; in a session,
    /// `~/.local/share/libvirt/images`]
    #[arg(long, global = true, value_name = "PATH")]
    pool_path: Option<Utf8PathBuf>,

    /// Folder of the SSH keys
    #[arg(long, global = true, value_name = "PATH")]
    key_dir: Option<Utf8PathBuf>,

    /// Rewrite image URLs to a mirror: FROM is a host or a URL prefix, TO its replacement (can be repeated)
    #[arg(long, global = true, value_name = "FROM=TO")]
    mirror: Vec<Mirror>,

    /// Configuration file to read instead of the user's and the system's
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<Utf8PathBuf>,
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    connect: Option<String>,
    pool: Option<String>,
    pool_path: Option<Utf8PathBuf>,
    key_dir: Option<Utf8PathBuf>,
    /// Hosts or URL prefixes, and the mirrors that replace them.
    mirrors: Option<BTreeMap<String, String>>,
    require_verified: Option<bool>,
    stall_timeout: Option<String>,
}

/// A setting's value and origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) origin: String,
}

/// Every setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Resolved {
    pub(super) settings: [Setting; SETTINGS.len()],
    #[serde(skip)]
    parsed: Parsed,
    #[serde(skip)]
    cache_dir: Utf8PathBuf,
    #[serde(skip)]
    data_dir: Utf8PathBuf,
    #[serde(skip)]
    catalogue_files: Vec<Utf8PathBuf>,
    #[serde(skip)]
    proxies: Proxies,
    /// Tells the user why the session's libvirt is used, although no setting asks for it.
    #[serde(skip)]
    pub(super) notice: Option<String>,
}

/// The settings that are not plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parsed {
    mirrors: Vec<Mirror>,
    require_verified: bool,
    stall_limit: Limit,
}

impl Resolved {
    /// Returns the settings in the form that the operations take.
    pub(super) fn settings(&self) -> Settings {
        let [uri, pool, pool_path, key_dir, ..] = &self.settings;
        let Parsed { mirrors, require_verified, stall_limit } = self.parsed.clone();
        Settings {
            uri: uri.value.clone(),
            pool: pool.value.clone(),
            pool_path: pool_path.value.clone().into(),
            key_dir: key_dir.value.clone().into(),
            cache_dir: self.cache_dir.clone(),
            data_dir: self.data_dir.clone(),
            mirrors,
            proxies: self.proxies.clone(),
            require_verified,
            stall_limit: stall_limit.0,
            catalogue_files: self.catalogue_files.clone(),
            sources: SourcePolicy::Any,
        }
    }
}

/// Resolves every setting from the flags, this process's environment and the configuration files.
pub(super) fn resolve(flags: &Flags) -> Result<Resolved> {
    let folders = choose_app_strategy(AppStrategyArgs {
        top_level_domain: String::new(),
        author: String::new(),
        app_name: "vmprov".to_owned(),
    })
    .map_err(|error| Error::invalid("cannot determine your home folder").because(error).hint("Set HOME"))?;
    let utf8 = |path: std::path::PathBuf| {
        Utf8PathBuf::from_path_buf(path)
            .map_err(|path| Error::invalid(format!("invalid path `{}`: must be UTF-8", path.display())))
    };
    let (file, origin) = read_file(flags.config.as_deref(), &utf8(folders.config_dir())?.join("config.toml"))?;
    let container = Utf8Path::new(CONTAINER_KEY_DIR);
    let data = utf8(folders.data_dir())?;
    let keys = if container.is_dir() { container.to_owned() } else { data.join("keys") };
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let session_pool = data.parent().unwrap_or(&data).join("libvirt/images");
    let defaults =
        Defaults { keys, cache: utf8(folders.cache_dir())?, data, session_pool, connect: &connection::choose };
    let resolved = layer(flags, env, &file, &origin, &defaults)?;
    let proxies = Proxies::read(env)?;
    let catalogues = [Utf8Path::new(SYSTEM_CATALOGUE), &utf8(folders.config_dir())?.join("images.d")];
    let catalogue_files = catalogues.into_iter().flat_map(catalogue_files).collect();
    Ok(Resolved { catalogue_files, proxies, ..resolved })
}

/// Returns the log filter, in the form of `RUST_LOG`: that of the environment, else vmprov's own messages at a level.
pub(super) fn log_filter(level: &str) -> Result<String> {
    let from_env = ["VMPROV_LOG", "RUST_LOG"].into_iter().find_map(|name| {
        let filter = std::env::var(name).ok().filter(|filter| !filter.is_empty())?;
        Some((name, filter))
    });
    let Some((name, filter)) = from_env else { return Ok(format!("vmprov={level}")) };
    match filter.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(filter),
        Err(error) => Err(Error::invalid(format!("invalid log filter `{}`", filter.escape_debug()))
            .because(error)
            .hint(format!("Set {name} to a level or a filter, such as info or vmprov=debug"))),
    }
}

/// Returns the catalogue files in a folder, sorted by name.
fn catalogue_files(folder: &Utf8Path) -> Vec<Utf8PathBuf> {
    let entries = folder.read_dir_utf8().into_iter().flatten().filter_map(std::result::Result::ok);
    let mut files: Vec<_> = entries.map(camino::Utf8DirEntry::into_path).collect();
    files.retain(|file| file.extension() == Some("toml"));
    files.sort();
    files
}

struct Defaults<'a> {
    keys: Utf8PathBuf,
    cache: Utf8PathBuf,
    data: Utf8PathBuf,
    session_pool: Utf8PathBuf,
    connect: &'a dyn Fn() -> Connection,
}

/// Combines the sources in order of precedence; `env` returns the value of a variable.
fn layer(
    flags: &Flags,
    env: impl Fn(&str) -> Option<String>,
    file: &File,
    file_name: &str,
    defaults: &Defaults<'_>,
) -> Result<Resolved> {
    let pick = |setting: &Definition, flag: Option<String>, in_file: Option<String>, default: &str| {
        let from_flag = flag.zip(setting.flag).map(|(value, flag)| (value, format!("flag: {flag}")));
        let from_env =
            || setting.variables.iter().find_map(|variable| Some((env(variable)?, format!("environment: {variable}"))));
        let (value, origin) = from_flag
            .or_else(from_env)
            .or_else(|| Some((in_file?, format!("file: {file_name}"))))
            .unwrap_or_else(|| (default.to_owned(), "default".to_owned()));
        Setting { name: setting.name, value, origin }
    };
    let mirror = |(from, to): (&String, &String)| Mirror::new(from, to);
    let in_file = file.mirrors.as_ref().map(|mirrors| mirrors.iter().map(mirror).collect::<Result<Vec<_>>>());
    let in_file = in_file.transpose().map_err(|error| error.hint(correct_at(&format!("file: {file_name}"))))?;
    let listed = |mirrors: &[Mirror]| mirrors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let text = |path: &Option<Utf8PathBuf>| path.as_ref().map(ToString::to_string);
    let [connect, pool, path, keys, mirrors, require_verified, stall_timeout] = &SETTINGS;
    let mut connect = pick(connect, flags.connect.clone(), file.connect.clone(), "");
    let mut notice = None;
    if connect.origin == "default" {
        let Connection { uri, because } = (defaults.connect)();
        uri.clone_into(&mut connect.value);
        if let Some(because) = because {
            connect.origin = format!("default: qemu:///system cannot be used ({because})");
            notice = Some(format!("using {uri}: qemu:///system cannot be used ({because})"));
        }
    }
    let is_session = connect.value.ends_with("/session");
    let pool_path = if is_session { defaults.session_pool.as_str() } else { "/var/lib/libvirt/images" };
    let verified = file.require_verified.map(|required| required.to_string());
    let mut settings = [
        connect,
        pick(pool, flags.pool.clone(), file.pool.clone(), "default"),
        pick(path, text(&flags.pool_path), text(&file.pool_path), pool_path),
        pick(keys, text(&flags.key_dir), text(&file.key_dir), defaults.keys.as_str()),
        pick(
            mirrors,
            (!flags.mirror.is_empty()).then(|| listed(&flags.mirror)),
            in_file.as_deref().map(listed),
            "none",
        ),
        pick(require_verified, None, verified, "false"),
        pick(stall_timeout, None, file.stall_timeout.clone(), DEFAULT_STALL_LIMIT),
    ];
    for Setting { name, value, origin } in &settings {
        let rule = match value.as_str() {
            "" => "must not be empty",
            value if value.starts_with('-') => "must not begin with a hyphen",
            value if value.contains(char::is_control) => "must not contain control characters",
            _ => continue,
        };
        let message = format!("invalid value `{}` of the setting {name}: {rule}", value.escape_debug());
        return Err(Error::invalid(message).hint(correct_at(origin)));
    }
    let parsed = Parsed::of(&settings)?;
    for setting in &mut settings[2..4] {
        // libvirtd would resolve a relative path from its own working directory.
        let path = std::path::absolute(&setting.value)
            .map_err(|error| Error::io(format!("use `{}` for {}", setting.value, setting.name), &error))?;
        setting.value = path.to_string_lossy().into_owned();
    }
    let (catalogue_files, proxies) = (Vec::new(), Proxies::default());
    let (cache_dir, data_dir) = (defaults.cache.clone(), defaults.data.clone());
    Ok(Resolved { settings, parsed, cache_dir, data_dir, catalogue_files, proxies, notice })
}

/// Returns the hint where to correct a setting.
fn correct_at(origin: &str) -> String {
    format!("Correct the setting at its origin ({origin})")
}

impl Parsed {
    fn of([.., mirrors, require_verified, stall_limit]: &[Setting; SETTINGS.len()]) -> Result<Self> {
        let from = |setting: &Setting, error: Error| error.hint(correct_at(&setting.origin));
        let words = mirrors.value.split_whitespace().filter(|word| *word != "none");
        let parsed = words.map(str::parse).collect::<Result<Vec<_>>>();
        let is_yes = match require_verified.value.as_str() {
            "true" | "yes" | "1" => Ok(true),
            "false" | "no" | "0" => Ok(false),
            other => Err(Error::invalid(format!("invalid boolean `{}`: must be true or false", other.escape_debug()))),
        };
        let limit = stall_limit.value.parse::<Limit>().and_then(|limit| match limit.0.as_secs() {
            0 => Err(Error::invalid("invalid stall timeout: must be at least 1s")),
            _ => Ok(limit),
        });
        Ok(Self {
            mirrors: parsed.map_err(|error| from(mirrors, error))?,
            require_verified: is_yes.map_err(|error| from(require_verified, error))?,
            stall_limit: limit.map_err(|error| from(stall_limit, error))?,
        })
    }
}

/// Reads the named file, else the user's, else the system's.
fn read_file(named: Option<&Utf8Path>, user: &Utf8Path) -> Result<(File, String)> {
    let candidates = match named {
        Some(named) => vec![named],
        None => vec![user, Utf8Path::new(SYSTEM_FILE)],
    };
    for path in candidates {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let file = toml::from_str(&text).map_err(|error| {
                    Error::invalid(format!("invalid configuration file `{path}`")).because(error.to_string().trim_end())
                })?;
                return Ok((file, path.to_string()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {}
            Err(error) => return Err(Error::io(format!("read the configuration file `{path}`"), &error)),
        }
    }
    Ok((File::default(), String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Flags =
        Flags { connect: None, pool: None, pool_path: None, key_dir: None, mirror: Vec::new(), config: None };

    fn resolved(flags: &Flags, env: &[(&str, &str)], file: &str) -> Vec<(String, String)> {
        let find = |name: &str| env.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        let defaults = defaults();
        let resolved = layer(flags, find, &toml::from_str(file).unwrap(), "c.toml", &defaults).unwrap();
        resolved.settings.into_iter().map(|setting| (setting.value, setting.origin)).collect()
    }

    fn defaults() -> Defaults<'static> {
        Defaults {
            keys: "/data/keys".into(),
            cache: "/cache".into(),
            data: "/data".into(),
            session_pool: "/data/images".into(),
            connect: &|| Connection { uri: connection::SESSION, because: Some("no".to_owned()) },
        }
    }

    fn pair(value: &str, origin: &str) -> (String, String) {
        (value.to_owned(), origin.to_owned())
    }

    #[test]
    fn flags_precede_the_environment_the_file_and_the_defaults() {
        let flags = Flags { connect: Some("a:///".to_owned()), ..NONE };
        let env = [("LIBVIRT_URI", "b:///"), ("LIBVIRT_STORAGE_POOL", "env-pool")];
        let file = "connect = 'c:///'\npool = 'file-pool'\npool-path = '/file'\nstall-timeout = '5s'\n\
                    require-verified = true\n[mirrors]\n'h' = 'http://m/'";
        assert_eq!(
            resolved(&flags, &env, file),
            [
                pair("a:///", "flag: --connect"),
                pair("env-pool", "environment: LIBVIRT_STORAGE_POOL"),
                pair("/file", "file: c.toml"),
                pair("/data/keys", "default"),
                pair("h=http://m", "file: c.toml"),
                pair("true", "file: c.toml"),
                pair("5s", "file: c.toml"),
            ]
        );
    }

    #[test]
    fn only_a_connection_by_default_has_a_notice() {
        let none = |_: &str| None;
        let configured = File { connect: Some("qemu:///system".to_owned()), ..File::default() };
        assert_eq!(layer(&NONE, none, &configured, "c.toml", &defaults()).unwrap().notice, None);
        let chosen = layer(&NONE, none, &File::default(), "", &defaults()).unwrap();
        assert_eq!(chosen.notice.as_deref(), Some("using qemu:///session: qemu:///system cannot be used (no)"));
        let values: Vec<_> = chosen.settings.iter().take(3).map(|setting| setting.value.as_str()).collect();
        assert_eq!(values, ["qemu:///session", "default", "/data/images"]);
    }

    #[test]
    fn libvirt_uri_precedes_libvirts_own_variable() {
        let both = [("LIBVIRT_DEFAULT_URI", "x:///"), ("LIBVIRT_URI", "y:///")];
        assert_eq!(resolved(&NONE, &both, "")[0], pair("y:///", "environment: LIBVIRT_URI"));
        assert_eq!(resolved(&NONE, &both[..1], "")[0], pair("x:///", "environment: LIBVIRT_DEFAULT_URI"));
    }

    #[test]
    fn an_error_about_an_invalid_setting_names_its_origin() {
        for (name, value) in [
            ("VMPROV_MIRRORS", "h=ftp://m"),
            ("VMPROV_REQUIRE_VERIFIED", "perhaps"),
            ("VMPROV_STALL_TIMEOUT", "0"),
            ("VMPROV_STALL_TIMEOUT", "soon"),
        ] {
            let find = |variable: &str| (variable == name).then(|| value.to_owned());
            let defaults = defaults();
            let error = layer(&NONE, find, &File::default(), "", &defaults).unwrap_err();
            let origin = error.hints.last().unwrap();
            assert!(origin.text.contains(&format!("environment: {name}")), "{error:?}");
        }
        let file = toml::from_str::<File>("[mirrors]\n'a/b' = 'http://m'").unwrap();
        let defaults = defaults();
        let error = layer(&NONE, |_| None, &file, "c.toml", &defaults).unwrap_err();
        assert!(error.hints.last().unwrap().text.contains("file: c.toml"));
    }

    /// The error about an unknown key lists those of [`File`].
    #[test]
    fn every_key_of_the_file_has_a_definition() {
        let keys = SETTINGS.map(|setting| format!("`{}`", setting.name)).join(", ");
        let error = toml::from_str::<File>("x = 1").unwrap_err().to_string();
        assert!(error.contains(&format!("expected one of {keys}\n")), "{error}");
        for Definition { name, example, .. } in &SETTINGS {
            assert!(example.starts_with(&format!("{name} = ")), "{example}");
            assert!(toml::from_str::<File>(example).is_ok(), "{example}");
        }
    }

    #[test]
    fn an_unknown_key_in_the_file_is_rejected() {
        assert!(toml::from_str::<File>("conect = 'x'").unwrap_err().to_string().contains("conect"));
    }
}
