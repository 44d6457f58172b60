//! Harnesses of single values: text segments, CHAP values, settings documents.

use iscsi::chap::{self as values, Algorithm};

/// A text segment, as a login reads it and as a long text exchange does.
pub fn text(data: &[u8]) {
    for parsed in [iscsi::text::parse(data), iscsi::text::parse_long(data)] {
        let Ok(pairs) = parsed else { continue };
        let inside: usize = pairs
            .iter()
            .map(|(key, value)| key.len() + value.len() + 2)
            .sum();
        // The last pair may come without its zero.
        assert!(inside <= data.len() + 1, "more text than there was");
        let mut written = Vec::new();
        for (key, value) in &pairs {
            iscsi::text::push(&mut written, key, value);
        }
        assert_eq!(
            iscsi::text::parse_long(&written).as_ref(),
            Ok(&pairs),
            "text that does not write back"
        );
    }
    if let Ok(word) = std::str::from_utf8(data) {
        let _ = iscsi::text::number(word);
        if let Ok(name) = iscsi::name::normalize(word) {
            assert_eq!(
                iscsi::name::normalize(&name),
                Ok(name.clone()),
                "a normal name is its own normal form"
            );
        }
    }
}

/// CHAP values: responses, challenges, identifiers, lists of hashes.
pub fn chap(data: &[u8]) {
    let Ok(word) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(value) = values::decode_value(word) {
        assert_eq!(
            values::decode_value(&values::encode_value(&value)),
            Ok(value),
            "a value that does not write back"
        );
    }
    for algorithm in [
        Algorithm::Md5,
        Algorithm::Sha1,
        Algorithm::Sha256,
        Algorithm::Sha3_256,
    ] {
        if let Ok(response) = values::decode_response(word, algorithm) {
            let other =
                algorithm.response(1, &values::Secret::new(b"a secret".to_vec()), b"challenge");
            assert_eq!(
                response.len(),
                other.len(),
                "a response of another hash's length"
            );
        }
    }
    let _ = values::decode_identifier(word);
    if let Ok(chosen) = values::choose(word, &[Algorithm::Sha256, Algorithm::Md5]) {
        assert!(
            [Algorithm::Sha256, Algorithm::Md5].contains(&chosen),
            "a hash that is not allowed"
        );
    }
}

/// A settings document.
pub fn settings(data: &[u8]) {
    let Ok(document) = settings::parse(data) else {
        return;
    };
    let _ = document.check();
    let Ok(text) = document.to_text() else { return };
    match settings::parse(text.as_bytes()) {
        Ok(again) => assert_eq!(again, document, "a document that reads back as another"),
        Err(problems) => panic!("our own text is refused: {problems:?}\n{text}"),
    }
}
