//! Splits user data into parts and detects the form of each, as cloud-init does.
//!
//! The rules are those of `user_data.py` and `handlers/__init__.py`.

use mailparse::{ParsedMail, parse_mail};
use yaml_serde::{Mapping, Value};

use super::gzip;
use crate::error::{Error, Hint, Result};

/// A part, as one of cloud-init's handlers receives it.
#[derive(Clone, PartialEq)]
pub(super) struct Part {
    /// The name of the part in messages.
    pub(super) label: String,
    pub(super) content: Content,
}

#[derive(Clone, PartialEq)]
pub(super) enum Content {
    /// A cloud-config: the only form that can be checked against vmprov's configuration.
    Config(Mapping),
    /// A script or boot hook, which does not change the configuration.
    Script,
    /// A form that only the guest can evaluate.
    Opaque(Form),
    /// Content of this type, for which cloud-init has no handler.
    Unknown(String),
}

/// A form of user data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    Config,
    Archive,
    JsonPatch,
    Script,
    PartHandler,
    Include,
    Template,
}

/// The prefix and the MIME type of each form, longer prefixes first (`INCLUSION_TYPES_MAP` in `handlers/__init__.py`).
const FORMS: [(&str, &str, Form); 9] = [
    ("#cloud-config-archive", "text/cloud-config-archive", Form::Archive),
    ("#cloud-config-jsonp", "text/cloud-config-jsonp", Form::JsonPatch),
    ("#cloud-config", "text/cloud-config", Form::Config),
    ("#cloud-boothook", "text/cloud-boothook", Form::Script),
    ("#part-handler", "text/part-handler", Form::PartHandler),
    ("#include-once", "text/x-include-once-url", Form::Include),
    ("#include", "text/x-include-url", Form::Include),
    ("## template: jinja", "text/jinja2", Form::Template),
    ("#!", "text/x-shellscript", Form::Script),
];

/// The types of parts that cloud-init decompresses (`DECOMP_TYPES` in `user_data.py`).
const GZIP_TYPES: [&str; 8] = [
    "application/gzip",
    "application/gzip-compressed",
    "application/gzipped",
    "application/x-compress",
    "application/x-compressed",
    "application/x-gunzip",
    "application/x-gzip",
    "application/x-gzip-compressed",
];

impl Form {
    /// Returns the form by the first line. Blank lines before it and its case do not matter (`type_from_starts_with`).
    fn by_first_line(text: &str) -> Option<Self> {
        let start: String = text.trim_start().chars().take(32).collect::<String>().to_ascii_lowercase();
        FORMS.iter().find(|(prefix, ..)| start.starts_with(prefix)).map(|&(.., form)| form)
    }

    fn by_type(mime: &str) -> Option<Self> {
        if mime.starts_with("text/x-shellscript-per-") {
            return Some(Self::Script);
        }
        FORMS.iter().find(|(_, known, _)| *known == mime).map(|&(.., form)| form)
    }
}

/// Returns whether cloud-init parses a text as a MIME message (`convert_string` in `user_data.py`).
///
/// For a text that only mentions the header, the result makes no difference.
pub(super) fn is_mime(text: &str) -> bool {
    let start = &text.as_bytes()[..text.len().min(4096)];
    Form::by_first_line(text).is_none() && start.to_ascii_lowercase().windows(13).any(|at| at == b"mime-version:")
}

/// Returns the parts, in the order in which cloud-init handles them.
pub(super) fn split(text: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    if is_mime(text) {
        // Python treats each carriage return as the end of a line, but mailparse does not.
        if text.replace("\r\n", "").contains('\r') {
            return Err(malformed("it has carriage returns without line feeds"));
        }
        let message = parse_mail(text.as_bytes()).map_err(|error| malformed("it cannot be parsed").because(error))?;
        split_message(&message, &mut parts)?;
        if parts.iter().all(|part| matches!(part.content, Content::Unknown(_))) {
            return Err(malformed("no part has a type that cloud-init handles"));
        }
    } else {
        let form = Form::by_first_line(text).ok_or_else(|| unknown(text))?;
        add(form, text, "the user data".to_owned(), &mut parts)?;
    }
    Ok(parts)
}

fn malformed(why: &str) -> Error {
    Error::invalid(format!("the user data is a MIME message that cloud-init would ignore: {why}"))
        .hint(Hint::run("Create a valid one", "cloud-init devel make-mime"))
}

fn split_message(message: &ParsedMail<'_>, parts: &mut Vec<Part>) -> Result<()> {
    if message.ctype.mimetype.starts_with("multipart/") {
        let boundary = message.ctype.params.get("boundary").ok_or_else(|| malformed("no boundary is declared"))?;
        let end = format!("--{boundary}--");
        if message.subparts.is_empty() || !message.raw_bytes.windows(end.len()).any(|at| at == end.as_bytes()) {
            return Err(malformed(&format!("the boundary `{boundary}` does not begin and end its parts")));
        }
        if let Some(line) = message.raw_bytes.split(|&byte| byte == b'\n').find(|line| is_nearly(line, boundary)) {
            let line = String::from_utf8_lossy(line.trim_ascii()).into_owned();
            return Err(Error::invalid(format!("the user data has the line `{line}`, which begins like a boundary"))
                .hint(format!("Replace the boundary `{boundary}` with one that no other line begins with")));
        }
        return message.subparts.iter().try_for_each(|part| split_message(part, parts));
    }
    let label = format!("part {} of the user data", parts.len() + 1);
    // A type without exactly one slash is ignored (`get_content_type` of Python's `email.message`).
    let declared = message.ctype.mimetype.as_str();
    let mime = if declared.matches('/').count() == 1 { declared } else { "text/plain" };
    // cloud-init would handle the parts of a nested message, but this code does not check them.
    if mime.starts_with("message/") {
        return Err(Error::invalid(format!("{label} is a nested message"))
            .hint("Move its content into the user data directly, as parts of a `multipart/mixed` message"));
    }
    let mut body = message.get_body_raw().map_err(|error| {
        Error::invalid(format!("cannot decode {label}"))
            .because(error)
            .hint("Check that the content matches the part's `Content-Transfer-Encoding`")
    })?;
    let compressed = GZIP_TYPES.contains(&mime);
    if compressed {
        body = gzip::decompress(&body, &label)?;
    }
    let text = String::from_utf8(body).ok();
    // The content decides if the type is generic, and for scripts, which are often mislabeled.
    let mut form = Form::by_type(mime);
    if compressed || ["text/plain", "text/x-not-multipart", "text/x-shellscript"].contains(&mime) {
        form = text.as_deref().and_then(Form::by_first_line).or(form);
    }
    match (form, text) {
        (Some(form), Some(text)) => {
            // Python would decode such a part as Latin-1 (`email.message.get_payload`).
            if !message.raw_bytes.is_ascii() {
                return Err(Error::invalid(format!("{label} has non-ASCII characters, which cloud-init would garble"))
                    .hint("Encode it with `Content-Transfer-Encoding: base64`"));
            }
            add(form, &text, label, parts)
        }
        (Some(_), None) => Err(Error::invalid(format!("{label} is not UTF-8")).hint("Save it as UTF-8")),
        (None, _) => {
            parts.push(Part { label, content: Content::Unknown(mime.to_owned()) });
            Ok(())
        }
    }
}

/// Returns whether a line begins with a boundary and goes on. mailparse takes it for the boundary, Python does not.
fn is_nearly(line: &[u8], boundary: &str) -> bool {
    let rest = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary.as_bytes()));
    rest.is_some_and(|rest| !rest.strip_prefix(b"--").unwrap_or(rest).trim_ascii().is_empty())
}

fn add(form: Form, text: &str, label: String, parts: &mut Vec<Part>) -> Result<()> {
    let content = match form {
        Form::Archive => return split_archive(text, &label, parts),
        Form::Config => Content::Config(config(text, &label)?),
        Form::Script => Content::Script,
        opaque => Content::Opaque(opaque),
    };
    parts.push(Part { label, content });
    Ok(())
}

/// Splits an archive: a list of texts, or of mappings with `content` and optionally `type` (`_explode_archive` in
/// `user_data.py`).
fn split_archive(text: &str, label: &str, parts: &mut Vec<Part>) -> Result<()> {
    let Value::Sequence(entries) = yaml(text, label)? else {
        return Err(Error::invalid(format!("{label} is a cloud-config archive, but not a list"))
            .hint("Write one `- content: |` entry for each part"));
    };
    for (number, entry) in entries.iter().enumerate() {
        let label = format!("entry {} of {label}", number + 1);
        let (content, mime) = match entry {
            Value::String(content) => (Some(content.as_str()), None),
            entry => (entry.get("content").and_then(Value::as_str), entry.get("type").and_then(Value::as_str)),
        };
        let content = content.ok_or_else(|| {
            Error::invalid(format!("{label} has no text as `content`")).hint("Write `- content: |` and the text below")
        })?;
        let form = match mime {
            Some(mime) => Form::by_type(mime),
            None => Form::by_first_line(content).or(Some(Form::Config)),
        };
        match form {
            // An archive's entries are passed directly to the handlers, and these two forms have none.
            None | Some(Form::Include | Form::Archive) => {
                let what = mime.unwrap_or("an include or an archive inside an archive").to_owned();
                parts.push(Part { label, content: Content::Unknown(what) });
            }
            Some(form) => add(form, content, label, parts)?,
        }
    }
    Ok(())
}

/// The limit of nested brackets. It is more than any configuration needs, and low enough for libyaml, whose time grows
/// with the square of the depth.
const MAX_NESTING: usize = 1000;

/// Returns the maximum depth of nested brackets. Brackets in strings count as well, but usually come in pairs.
fn nesting(text: &str) -> usize {
    let deeper = |(depth, deepest): (usize, usize), byte: u8| match byte {
        b'[' | b'{' => (depth + 1, deepest.max(depth + 1)),
        b']' | b'}' => (depth.saturating_sub(1), deepest),
        _ => (depth, deepest),
    };
    text.bytes().fold((0, 0), deeper).1
}

fn config(text: &str, label: &str) -> Result<Mapping> {
    match yaml(text, label)? {
        Value::Mapping(members) => Ok(members),
        Value::Null => Err(Error::invalid(format!("{label} is an empty cloud-config"))
            .hint("Add content below its first line, or remove it")),
        _ => Err(Error::invalid(format!("{label} is a cloud-config, but not a mapping"))
            .hint("Write lines such as `packages: [nginx]` below `#cloud-config`")),
    }
}

fn yaml(text: &str, label: &str) -> Result<Value> {
    if nesting(text) > MAX_NESTING {
        return Err(Error::invalid(format!("{label} is nested too deeply"))
            .hint("Check for brackets without their counterparts"));
    }
    let parsed = yaml_serde::from_str(text).and_then(|mut value: Value| value.apply_merge().map(|()| value));
    let value = parsed.map_err(|error| {
        Error::invalid(format!("{label} is not valid YAML"))
            .because(error)
            .hint("Correct the line in the error")
            .hint(Hint::run("Check the rest", "cloud-init schema --config-file FILE"))
    })?;
    match beyond_python(&value) {
        None => Ok(value),
        Some(what) => Err(Error::invalid(format!("{label} has {what}, so cloud-init would ignore all of it"))
            .hint("Write a plain value instead")),
    }
}

/// Returns what in a value the YAML loader of cloud-init refuses (`safeyaml.py`), although it parses here.
fn beyond_python(value: &Value) -> Option<String> {
    match value {
        // YAML's own tags, such as `!!binary`, are resolved already.
        Value::Tagged(tagged) => Some(format!("the tag `{}`", tagged.tag)),
        Value::Sequence(list) => list.iter().find_map(beyond_python),
        Value::Mapping(members) => members.iter().find_map(|(name, value)| match name {
            Value::Sequence(_) | Value::Mapping(_) => Some("a list or mapping as the name of a member".to_owned()),
            name => beyond_python(name).or_else(|| beyond_python(value)),
        }),
        _ => None,
    }
}

/// Returns the error for data that cloud-init would ignore, with no more than a line in its log.
fn unknown(text: &str) -> Error {
    let refuse = |why: &str, hint: &str| Error::invalid(format!("the user data {why}")).hint(hint);
    let first_line = text.trim_start().lines().next().unwrap_or_default();
    let lower = first_line.to_ascii_lowercase();
    let starts_with = |prefixes: &[&str]| prefixes.iter().any(|prefix| lower.starts_with(prefix));
    if first_line.is_empty() {
        return refuse("is empty", "Remove it, or begin it with `#cloud-config` or `#!`");
    }
    if starts_with(&["-----begin ", "ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"]) {
        return Error::invalid("the user data is an SSH key")
            .hint(Hint::run("Import it", "vmprov key import NAME FILE"))
            .hint(Hint::set("Pass the name of the key instead of user data", "sshKeys"));
    }
    if starts_with(&["<!doctype", "<html"]) {
        return refuse("is a web page", "Download the file itself, not the page that shows it");
    }
    if starts_with(&["content-type:"]) {
        return refuse(
            "is a MIME message without `MIME-Version`, which cloud-init ignores",
            "Add the line `MIME-Version: 1.0` at its top",
        );
    }
    if matches!(yaml_serde::from_str(text), Ok(Value::Mapping(_))) {
        return refuse("lacks its first line, so cloud-init would ignore it", "Make `#cloud-config` the first line");
    }
    let shown: String = first_line.chars().take(60).collect();
    refuse(
        "has no form that cloud-init supports",
        "Begin it with `#cloud-config`, `#!` and an interpreter, `#include`, `#cloud-boothook`, \
         `#cloud-config-archive`, `#part-handler`, `## template: jinja`, or the header of a MIME message",
    )
    .because(format!("its first line is `{}`", shown.escape_debug()))
}
