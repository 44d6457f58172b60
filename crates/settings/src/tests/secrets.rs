//! Secrets, and exports that hold them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use insta::assert_snapshot;
use secrecy::{ExposeSecret, SecretString};

use super::BASE;
use crate::*;

fn secret(text: &str) -> SecretString {
    SecretString::from(text)
}

fn load(dir: &tempfile::TempDir) -> Result<Secrets, SecretsError> {
    Secrets::load(dir.path())
}

/// What is said, without the directory, which has another name each time.
fn said(error: &SecretsError, dir: &tempfile::TempDir) -> String {
    error
        .to_string()
        .replace(&dir.path().display().to_string(), "DATA")
}

#[test]
fn secrets_are_kept_private_and_read_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut secrets = load(&dir).expect("loads");
    assert_eq!(secrets.names().count(), 0);
    let odd = "quo\"te \\ 'back' #ä";
    assert_eq!(
        secrets.set("host-a", secret("twelve-bytes")).expect("set"),
        None
    );
    secrets
        .set("iqn.2026-11.example:b", secret(odd))
        .expect("set");
    let made = secrets.generate("made").expect("made");
    secrets.remove("host-a").expect("removed");
    assert!(matches!(
        secrets.remove("host-a"),
        Err(SecretsError::Unknown { .. })
    ));

    let mode =
        |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(secrets.path()), 0o600);
    assert_eq!(mode(secrets.path().parent().expect("a directory")), 0o700);
    let again = load(&dir).expect("loads");
    assert_eq!(
        again.names().collect::<Vec<_>>(),
        ["iqn.2026-11.example:b", "made"]
    );
    let value = |name| {
        again
            .get(name)
            .map(|secret| secret.expose_secret().to_owned())
    };
    assert_eq!(value("iqn.2026-11.example:b").as_deref(), Some(odd));
    assert_eq!(value("made").as_deref(), Some(made.expose_secret()));
    assert!(!again.contains("host-a"));
}

#[test]
fn made_secrets_fit_every_initiator() {
    let made: BTreeSet<String> = (0..100)
        .map(|_| random_secret().expect("made").expose_secret().to_owned())
        .collect();
    assert_eq!(made.len(), 100, "none twice");
    for text in &made {
        assert_eq!(text.len(), limits::SECRET_GENERATED);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text}");
        assert_eq!(check_secret(&secret(text)), Ok(None));
    }
    let used: BTreeSet<char> = made.iter().flat_map(|text| text.chars()).collect();
    assert!(used.len() > 55, "all letters come up: {used:?}");
}

#[test]
fn what_cannot_be_a_secret_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut secrets = load(&dir).expect("loads");
    let mut out = String::new();
    for (name, value) in [
        ("a", "elevenbytes"),
        ("a", &"x".repeat(256)),
        ("a", "with-a-line-end\n"),
        ("", "twelve-bytes"),
        ("a b\u{1b}", "twelve-bytes"),
    ] {
        let error = secrets.set(name, secret(value)).expect_err("refused");
        out.push_str(&format!("{error}\n"));
        assert!(value.is_empty() || !error.to_string().contains(value));
    }
    for value in ["seventeen-bytes-x", "zwölf-zeichen"] {
        let advice = secrets
            .set("a", secret(value))
            .expect("set")
            .expect("advice");
        out.push_str(&format!("advice: {advice}\n"));
    }
    assert_snapshot!("secret_rules", out);
    assert_eq!(secrets.names().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_file_that_others_can_use_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut secrets = load(&dir).expect("loads");
    secrets.set("a", secret("twelve-bytes")).expect("set");
    let path = secrets.path().to_owned();
    let chmod = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    };
    let mut out = String::new();
    for mode in [0o644, 0o640, 0o602, 0o700] {
        chmod(&path, mode);
        out.push_str(&format!(
            "{}\n",
            said(&load(&dir).expect_err("too open"), &dir)
        ));
    }
    chmod(&path, 0o400);
    assert!(load(&dir).is_ok(), "narrower is fine");
    chmod(path.parent().expect("a directory"), 0o755);
    out.push_str(&format!(
        "{}\n",
        said(&load(&dir).expect_err("too open"), &dir)
    ));
    chmod(path.parent().expect("a directory"), 0o700);
    let real = dir.path().join("real");
    fs::rename(&path, &real).expect("movable");
    std::os::unix::fs::symlink(&real, &path).expect("a link");
    out.push_str(&format!(
        "{}\n",
        said(&load(&dir).expect_err("a link"), &dir)
    ));
    assert_snapshot!("secrets_too_open", out);
}

#[test]
fn a_damaged_file_is_told_without_its_secrets() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = load(&dir).expect("loads").path().to_owned();
    let mut out = String::new();
    for text in [
        "a = \"hush-hush-hush\"\nb = hush-hush-hush\n",
        "a = \"hush-hush-hush\"\nb = \"hush-hush-hush\n",
        "a = \"hush-hush-hush\"\na = \"hush-hush-hush2\"\n",
        "b = 123456789012\n",
        "[b]\nc = \"hush-hush-hush\"\n",
        "b = \"hush\"\n",
        "\"b c\" = \"hush-hush-hush\"\n",
        "b = \"hush\\u0000hush-hush\"\n",
    ] {
        fs::write(&path, text).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        let error = load(&dir).expect_err("damaged");
        out.push_str(&format!("{}\n", said(&error, &dir)));
        assert!(!format!("{error:?} {error}").contains("hush"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("readable"), text);
    }
    assert_snapshot!("secrets_damaged", out);
}

#[test]
fn debug_shows_names_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut secrets = load(&dir).expect("loads");
    secrets
        .set("host-a", secret("hush-hush-hush"))
        .expect("set");
    let text = format!("{secrets:?} {:?}", secrets.get("host-a"));
    assert!(text.contains("host-a") && !text.contains("hush"), "{text}");
}

#[test]
fn an_export_has_secrets_only_under_a_passphrase() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut secrets = load(&dir).expect("loads");
    secrets
        .set("host-a", secret("hush-hush-hush"))
        .expect("set");
    secrets.set("b", secret("with \"quotes\"…")).expect("set");
    let document = parse(BASE.as_bytes()).expect("a document");

    let plain = export(&document, None).expect("an export");
    assert!(!plain.contains("hush") && !plain.contains("sealed"));
    let read = import(plain.as_bytes(), None).expect("an import");
    assert_eq!(read.document, document);
    assert!(read.secrets.is_empty());

    let passphrase = secret("correct horse battery");
    let sealed = export(&document, Some((&secrets, &passphrase))).expect("an export");
    assert!(!sealed.contains("hush"));
    let again = export(&document, Some((&secrets, &passphrase))).expect("an export");
    assert_ne!(sealed, again, "another salt and nonce each time");
    let read = import(sealed.as_bytes(), Some(&passphrase)).expect("an import");
    assert_eq!(read.document, document);
    let plain: Vec<_> = read
        .secrets
        .iter()
        .map(|(name, secret)| (name.as_str(), secret.expose_secret()))
        .collect();
    assert_eq!(
        plain,
        [("b", "with \"quotes\"…"), ("host-a", "hush-hush-hush")]
    );

    let none = import(sealed.as_bytes(), None).expect_err("sealed");
    assert!(matches!(none, ImportError::PassphraseNeeded));
    let wrong = import(sealed.as_bytes(), Some(&secret("another passphrase")));
    assert!(matches!(wrong, Err(ImportError::WrongPassphrase)));
    let weak = export(&document, Some((&secrets, &secret("short"))));
    assert!(matches!(weak, Err(ExportError::WeakPassphrase)));
}

#[test]
fn a_sealed_section_cannot_be_changed_or_applied_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut secrets = load(&dir).expect("loads");
    secrets
        .set("host-a", secret("hush-hush-hush"))
        .expect("set");
    let document = parse(BASE.as_bytes()).expect("a document");
    let passphrase = secret("correct horse battery");
    let sealed = export(&document, Some((&secrets, &passphrase))).expect("an export");
    let error_of = |text: &str| import(text.as_bytes(), Some(&passphrase)).expect_err("changed");
    for (from, to, wrong) in [
        ("rounds = 600000", "rounds = 600001", None),
        ("rounds = 600000", "rounds = 1", Some("rounds")),
        ("rounds = 600000", "rounds = 4000000000", Some("rounds")),
        ("method = \"pbkdf2", "method = \"scrypt", Some("method")),
        ("salt = \"", "salt = \"AAAA", Some("salt")),
        ("nonce = \"", "nonce = \"AAAA", Some("nonce")),
        ("data = \"", "data = \"AAAA", None),
        ("data = \"", "data = \"!", Some("data")),
    ] {
        assert!(sealed.contains(from), "{from}");
        match (error_of(&sealed.replace(from, to)), wrong) {
            (ImportError::WrongPassphrase, None) => {}
            (ImportError::Sealed { key, .. }, Some(wrong)) => assert_eq!(key, wrong),
            (other, _) => panic!("{to}: {other:?}"),
        }
    }
    let mut changed = parse(sealed.as_bytes()).expect("a document");
    let error = changed.check().expect_err("not as it is");
    assert_eq!(error.path, "sealed_secrets");
    changed.sealed_secrets = None;
    assert_eq!(changed.check(), Ok(()));
}
