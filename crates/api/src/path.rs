//! Builds request paths: every segment that carries a name is percent-encoded. And says a file's
//! path as a shell takes it.
//!
//! iSCSI names hold colons and CHAP users may hold anything, slashes included, so no path is put
//! together by formatting strings.

use std::path::Path;

use reqwest::Url;

use crate::PREFIX;

/// The URL of `/api/v1/<segments>`. Its host is never looked up: the connection is a Unix
/// socket.
pub fn url(segments: &[&str]) -> Url {
    let mut url = base();
    // A URL with a host can always be a base, so the segments are there.
    if let Ok(mut path) = url.path_segments_mut() {
        path.extend(segments);
    }
    url
}

/// A file's path as one word of a command line that a person can paste into a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn base() -> Url {
    #[expect(clippy::expect_used, reason = "a constant; the test below parses it")]
    Url::parse(&format!("http://localhost{PREFIX}")).expect("constant URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded() {
        let url = url(&["targets", "iqn.2026-11.local.sanctum:a/b?c", "luns"]);
        assert_eq!(
            url.path(),
            "/api/v1/targets/iqn.2026-11.local.sanctum:a%2Fb%3Fc/luns"
        );
        assert_eq!(url.query(), None);
    }

    #[test]
    fn dots_are_names_too() {
        // Dot segments would be removed by URL rules; they are not names that the service accepts.
        assert_eq!(url(&["chap", "a%b"]).path(), "/api/v1/chap/a%25b");
    }

    #[test]
    fn paths_can_be_pasted() {
        for (path, word) in [
            ("/var/lib/sanctum", "/var/lib/sanctum"),
            ("/srv/my disks", "'/srv/my disks'"),
            ("/srv/it's; rm", r"'/srv/it'\''s; rm'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(Path::new(path)), word);
        }
    }
}
