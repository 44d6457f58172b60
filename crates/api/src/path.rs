//! Builds request paths: every segment that carries a name is percent-encoded.
//!
//! iSCSI names hold colons and CHAP users may hold anything, slashes included, so no path is put
//! together by formatting strings.

use reqwest::Url;

use crate::PREFIX;

/// The URL of `/api/v1/<segments>`. The host part is a placeholder: the connection is a Unix
/// socket.
pub fn url(segments: &[&str]) -> Url {
    let mut url = base();
    // A URL with a host can always be a base, so the segments are there.
    if let Ok(mut path) = url.path_segments_mut() {
        path.extend(segments);
    }
    url
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
}
