//! Harnesses: each takes any bytes and must not panic, loop, or break what it asserts.
//!
//! libFuzzer calls them through `fuzz_targets/`; the tests below replay the committed corpora with
//! the stable compiler and nothing installed.
//!
//! | harness | reads | holds besides "no panic" |
//! |---|---|---|
//! | [`pdu`] | the byte stream of an initiator | memory and tasks within the engine's own limits |
//! | [`text`] | a login or text segment | what was parsed is inside the input and writes back |
//! | [`cdb`] | commands with parameter lists | disk steps inside the device and the data-out; an end within a bound |
//! | [`chap`] | CHAP values | a decoded value encodes to something that decodes to it |
//! | [`settings`](fn@settings) | a settings document | a document that is accepted survives writing and reading |

#![forbid(unsafe_code)]

mod command;
mod connection;
mod values;

pub use command::cdb;
pub use connection::pdu;
pub use values::{chap, settings, text};

#[cfg(test)]
mod replay {
    use std::fs;
    use std::path::Path;

    fn replay(name: &str, harness: fn(&[u8])) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut count = 0;
        for entry in fs::read_dir(&directory).expect("the corpus is committed") {
            let path = entry.expect("a readable directory").path();
            println!("{}", path.display());
            let data = fs::read(&path).expect("a readable file");
            harness(&data);
            // Every prefix of a short input as well: the cheapest mutation, and the one TCP makes.
            for end in 0..data.len().min(300) {
                harness(&data[..end]);
            }
            count += 1;
        }
        assert!(count >= 5, "{count} files in {}", directory.display());
    }

    #[test]
    fn pdu() {
        replay("pdu", super::pdu);
    }

    #[test]
    fn seeds_open_the_full_feature_phase() {
        // Else the corpus would stop at the login, and nobody would notice.
        for name in [
            "login",
            "login-straight",
            "login-in-pieces",
            "login-chap",
            "commands",
            "commands-digests",
            "discovery",
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("corpus/pdu")
                .join(name);
            let data = fs::read(&path).expect("the corpus is committed");
            assert!(crate::connection::drive(&data), "{name} does not log in");
        }
    }

    #[test]
    fn text() {
        replay("text", super::text);
    }

    #[test]
    fn cdb() {
        replay("cdb", super::cdb);
    }

    #[test]
    fn chap() {
        replay("chap", super::chap);
    }

    #[test]
    fn settings() {
        replay("settings", super::settings);
    }
}
