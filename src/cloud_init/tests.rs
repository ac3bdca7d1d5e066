//! Properties of the files. Their effect in a guest is tested with cloud-init itself, in `tests/cloud_init`.

use proptest::prelude::*;

use super::*;

/// Returns a seed with the given texts in it.
fn seed(user: &str, comment: &str) -> Seed {
    Seed {
        instance_id: "web-1".to_owned(),
        hostname: "web".parse().unwrap(),
        user: user.to_owned(),
        mac: "52:54:00:ab:cd:ef".to_owned(),
        authorized_keys: vec![format!("ssh-ed25519 AAAA {comment}")],
        host_keys: vec![HostKey {
            algorithm: "ed25519".to_owned(),
            private: format!("-----BEGIN\n{comment}\n"),
            public: format!("ssh-ed25519 AAAA {comment}"),
        }],
        user_data: None,
    }
}

fn file(seed: &Seed, name: &str) -> String {
    let (_, content) = seed.files().into_iter().find(|(it, _)| *it == name).unwrap();
    String::from_utf8(content).unwrap()
}

fn yaml(text: &str) -> yaml_serde::Value {
    yaml_serde::from_str(text).unwrap()
}

/// Generates text with many characters that are special in YAML, JSON, MIME or Unicode.
fn text() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        '\u{0}',
        '\t',
        '\r',
        '\n',
        '"',
        '\'',
        '\\',
        '#',
        ':',
        '-',
        '{',
        '%',
        '@',
        '\u{7f}',
        '\u{85}',
        '\u{a0}',
        '\u{2028}',
        '\u{feff}',
        '\u{fffe}',
        '\u{1f511}',
        'ü',
    ]);
    prop::collection::vec(prop_oneof![special, any::<char>()], 0..40).prop_map(String::from_iter)
}

/// Generates user data of every form, with arbitrary text in it.
fn user_data() -> impl Strategy<Value = String> {
    let beginnings = prop::sample::select(vec![
        "",
        "#!",
        "#cloud-config\n",
        "#cloud-config\nusers: [{name: alice, ",
        "#cloud-config-archive\n- ",
        "#cloud-config-jsonp\n",
        "#include\n",
        "## template: jinja\n",
        "MIME-Version: 1.0\n",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/cloud-config\n\n",
    ]);
    (beginnings, text(), prop::sample::select(vec!["", "\n", "\n--b--\n", "}]\n"]))
        .prop_map(|(beginning, text, end)| format!("{beginning}{text}{end}"))
}

proptest! {
    #[test]
    fn any_text_survives_a_yaml_parser(user in text(), comment in text()) {
        let seed = seed(&user, &comment);
        let config = file(&seed, "user-data");
        prop_assert!(config.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~')), "{config}");
        let config = yaml(&config);
        prop_assert_eq!(config["users"][0]["name"].as_str(), Some(user.as_str()));
        prop_assert_eq!(config["users"][0]["ssh_authorized_keys"][0].as_str(), Some(seed.authorized_keys[0].as_str()));
        let keys = &config["ssh_keys"];
        prop_assert_eq!(keys["ed25519_private"].as_str(), Some(seed.host_keys[0].private.as_str()));
        prop_assert_eq!(keys["ed25519_public"].as_str(), Some(seed.host_keys[0].public.as_str()));
    }

    #[test]
    fn a_seed_is_read_back_unchanged(user in text(), comment in text(), data in user_data()) {
        let mut seed = seed(&user, &comment);
        seed.user_data = UserData::parse(data.as_bytes()).ok();
        let back = Seed::from_json(file(&seed, "vmprov.json").as_bytes()).unwrap();
        prop_assert_eq!(&back, &seed);
        prop_assert_eq!(back.files(), seed.files());
    }

    /// Checking and rendering do not panic either.
    #[test]
    fn parsing_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), data in user_data()) {
        for bytes in [&bytes[..], data.as_bytes(), &[b"\x1f\x8b\x08", &bytes[..]].concat()] {
            if let Ok(parsed) = UserData::parse(bytes) {
                let _ = parsed.check(&"web".parse().unwrap(), "alice");
                let mut seed = seed("alice", "");
                seed.user_data = Some(parsed);
                seed.files();
            }
        }
    }
}

/// libyaml's time grows with the square of the depth, and mailparse and this crate would run out of stack.
#[test]
fn deep_nesting_is_an_error() {
    let lists = format!("#cloud-config\na: {}", "[".repeat(1 << 19));
    let levels = |number| format!("Content-Type: multipart/mixed; boundary=b{number}\n\n--b{number}\n");
    let message = format!("MIME-Version: 1.0\n{}", (0..10_000).map(levels).collect::<String>());
    for data in [lists, message] {
        UserData::parse(data.as_bytes()).unwrap_err();
    }
}

#[test]
fn aliases_that_multiply_are_an_error() {
    let letters: Vec<char> = ('a'..='k').collect();
    let multiplied = |pair: &[char]| format!("{1}: &{1} [{0}]\n", format!("*{}, ", pair[0]).repeat(9), pair[1]);
    let lines: Vec<String> = letters.windows(2).map(multiplied).collect();
    let data = format!("#cloud-config\na: &a [x, x, x, x, x, x, x, x, x]\n{}", lines.concat());
    UserData::parse(data.as_bytes()).unwrap_err();
}

#[test]
fn debug_output_omits_private_keys() {
    let shown = format!("{:?}", seed("alice", "comment"));
    assert!(shown.contains("ssh-ed25519 AAAA comment") && !shown.contains("BEGIN"), "{shown}");
}

#[test]
fn another_versions_seed_is_refused_with_a_hint() {
    let error = Seed::from_json(b"{}").unwrap_err();
    assert!(error.to_string().contains("missing field") && !error.hints.is_empty(), "{error:?}");
}
