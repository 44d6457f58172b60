//! What people get to read about a text that is no document.

use insta::assert_snapshot;

use super::BASE;
use crate::*;

/// Every text with what is said about it.
fn said(texts: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (title, text) in texts {
        let problems = parse(text.as_bytes()).expect_err(title);
        out.push_str(&format!("## {title}\n{problems}\n\n"));
    }
    out
}

#[test]
fn the_example_of_the_crate_is_a_document() {
    let chapter = include_str!("../lib.rs");
    let example = chapter
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("//! ```").next())
        .expect("an example");
    let text: String = example
        .lines()
        .map(|line| format!("{}\n", line.trim_start_matches("//!").trim_start()))
        .collect();
    let document = parse(text.as_bytes()).expect("a document");
    assert_eq!(document.iscsi.targets.len(), 1);
    assert_eq!(
        parse(BASE.as_bytes())
            .expect("a document")
            .iscsi
            .devices
            .len(),
        2
    );
}

#[test]
fn unknown_keys_are_told_all_with_what_was_meant() {
    let swap = |from: &str, to: &str| BASE.replace(from, to);
    assert_snapshot!(
        "unknown_keys",
        said(&[
            ("top level", swap("[service]", "colour = 1\n[servise]")),
            ("service", swap("name = \"san1\"", "nmae = \"san1\"")),
            ("portal", swap("address =", "adress =")),
            ("device", swap("size = 1073741824", "szie = 1073741824")),
            (
                "device of another kind",
                swap("kind = \"ram\"", "kind = \"ram\"\npath = \"/x\"")
            ),
            ("device kind", swap("kind = \"image\"", "kind = \"imgae\"")),
            ("no device kind", swap("kind = \"image\"", "")),
            ("lun", swap("number = 0", "numbre = 0\nread-only = true")),
            ("authentication", swap("{ accounts", "{ acounts")),
            (
                "rule",
                swap("action = \"allow\"", "action = \"allow\"\ninitator = \"x\"")
            ),
            ("quoted", swap("number = 0", "number = 0\n\"a b.c\" = true")),
        ])
    );
}

#[test]
fn wrong_values_are_told_in_plain_words() {
    let swap = |from: &str, to: &str| BASE.replace(from, to);
    assert_snapshot!(
        "wrong_values",
        said(&[
            ("number in quotes", swap("number = 0", "number = \"0\"")),
            ("number too large", swap("number = 0", "number = 70000")),
            ("number negative", swap("number = 0", "number = -1")),
            (
                "device size in quotes",
                swap("size = 1073741824", "size = \"1 GiB\"")
            ),
            (
                "device size negative",
                swap("size = 1073741824", "size = -5")
            ),
            (
                "device size too large",
                swap("1073741824", "9223372036854775808")
            ),
            (
                "device cache",
                swap("size = 67108864", "size = 67108864\ncache = \"writeback\"")
            ),
            ("device without size", swap("size = 67108864", "")),
            ("address", swap("192.0.2.1\"", "192.0.2.256\"")),
            ("network", swap("192.0.2.0/24", "192.0.2.0/240")),
            ("action", swap("\"allow\"", "\"alow\"")),
            ("ring", swap("[service]", "[service]\nring = \"iouring\"")),
            (
                "boolean",
                swap("number = 0", "number = 0\nread_only = \"yes\"")
            ),
            ("missing", swap("device = \"disk1\"", "")),
            (
                "table for a value",
                swap("name = \"san1\"", "name = { a = 1 }")
            ),
            (
                "value for a table",
                swap("[service]\nname = \"san1\"", "service = 3")
            ),
            (
                "value for a list",
                swap(
                    "authentication = { accounts = [\"host-a\"] }",
                    "portals = 3"
                )
            ),
        ])
    );
}

#[test]
fn broken_text_is_told_by_line() {
    let swap = |from: &str, to: &str| BASE.replace(from, to);
    assert_snapshot!(
        "syntax",
        said(&[
            ("unclosed quote", swap("\"san1\"", "\"san1")),
            ("no value", swap("number = 0", "number =")),
            ("twice", swap("number = 0", "number = 0\nnumber = 1")),
            (
                "two lines",
                swap("number = 0", "number = = 0").replace("name = \"disk1\"", "name disk1")
            ),
            ("nothing", String::new()),
            ("something else", "{\"version\": 1}".to_owned()),
            ("no version", BASE.replace("version = 1", "")),
            (
                "a newer version",
                BASE.replace("version = 1", "version = 2\nnew_key = 1")
            ),
            ("version 0", BASE.replace("version = 1", "version = 0")),
            (
                "a version in quotes",
                BASE.replace("version = 1", "version = \"1\"")
            ),
            (
                "nested without end",
                format!("version = 1\nx = {}", "[".repeat(100_000))
            ),
        ])
    );
    let mut bytes = BASE.as_bytes().to_vec();
    bytes[40] = 0xff;
    assert_snapshot!("no_text", parse(&bytes).expect_err("no text"));
    let long = vec![b'#'; usize::try_from(limits::DOCUMENT_BYTES).expect("fits") + 1];
    assert_snapshot!("too_long", parse(&long).expect_err("too long"));
}

#[test]
fn many_problems_are_counted() {
    let keys: String = (0..50).map(|n| format!("key{n} = 1\n")).collect();
    let problems = parse(format!("version = 1\n{keys}").as_bytes()).expect_err("unknown keys");
    assert_eq!(problems.list.len(), limits::PROBLEMS);
    assert_eq!(problems.more, 50 - limits::PROBLEMS);
    assert_eq!(problems.list[0].line, 2);
}

#[test]
fn every_default_is_spelled_out_in_the_canonical_form() {
    let document = parse(BASE.as_bytes()).expect("a document");
    let text = document.to_text().expect("writable");
    assert_snapshot!("canonical", text);
    assert_eq!(parse(text.as_bytes()), Ok(document));
}

#[test]
fn a_number_that_toml_has_no_room_for_is_refused() {
    let mut document = parse(BASE.as_bytes()).expect("a document");
    document.iscsi.devices[0].backing = target::config::Backing::Ram {
        size: u64::MAX,
        block_size: 512,
    };
    let error = document.to_text().expect_err("too large");
    assert_snapshot!("too_large", error);
}

/// Whoever writes a secret where its name belongs does not find it in a log or on a screen.
#[test]
fn a_secret_in_a_wrong_place_is_not_repeated() {
    for wrong in [
        "secret = 8675309867530986",
        "secret = [\"8675309867530986\"]",
        "secret = { a = 8675309867530986 }",
        "secret = 8675309867530986.5",
        "secret = x8675309867530986",
        "secret = \"8675309867530986",
        "secret \"8675309867530986\"",
        "secret = '8675309867530986\\",
        "secret = \"\\8675309867530986\"",
        "secret = 8675309867530986 8675309867530986",
        "secret: 8675309867530986",
        "secret = \"a\" 8675309867530986",
    ] {
        let text = BASE.replace("secret = \"host-a\"", wrong);
        let problems = parse(text.as_bytes()).expect_err("is refused");
        let said = format!("{problems} {problems:?}");
        assert!(!said.contains("8675309"), "{wrong}: {said}");
        assert!(
            problems.list.iter().all(|problem| problem.line > 0),
            "{said}"
        );
    }
    let text = format!("{BASE}[sealed_secrets]\nmethod = \"m\"\nrounds = \"8675309\"\n");
    let problems = parse(text.as_bytes()).expect_err("is refused");
    assert!(!problems.to_string().contains("8675309"), "{problems}");
}
