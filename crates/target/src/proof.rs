//! What an initiator proved at login, kept with its session, so that a change of the configuration
//! ends the sessions that could not log in any more.
//!
//! A session outlives the CHAP exchange that let it in. When accounts, secrets or what a target asks
//! for change, each session is measured against the new policy: one that would be refused now ends,
//! and its initiator may log in anew with what is asked for. A secret that is changed counts, too:
//! whoever knows only the old one is out at once.

use std::fmt;

use aws_lc_rs::hmac;

use crate::config::{Authentication, ChapAlgorithm};
use crate::exports::Exports;

/// What was proven, by which account.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) user: String,
    algorithm: ChapAlgorithm,
    /// The target proved itself, too.
    mutual: bool,
    secret: Fingerprint,
}

/// Tells whether a secret is the same as before, and nothing else about it.
#[derive(Clone)]
struct Fingerprint {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Fingerprint {
    /// `None`: the system gives no random bytes.
    fn of(secret: &[u8]) -> Option<Self> {
        let mut salt = [0; 32];
        aws_lc_rs::rand::fill(&mut salt).ok()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salt);
        let tag = hmac::sign(&key, secret);
        Some(Self { key, tag })
    }

    fn is_of(&self, secret: &[u8]) -> bool {
        hmac::verify(&self.key, secret, self.tag.as_ref()).is_ok()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

impl Proof {
    /// `began_under` is what was served when the login began: its secret is the one proven. `None`:
    /// there is no such account, or no random bytes.
    pub(crate) fn new(proven: &iscsi::target::Proof, began_under: &Exports) -> Option<Self> {
        Some(Self {
            user: proven.user.clone(),
            algorithm: proven.algorithm.into(),
            mutual: proven.mutual,
            secret: Fingerprint::of(began_under.secret_of(&proven.user)?)?,
        })
    }
}

impl Exports {
    /// Whether a login with this proof would pass what is asked for now.
    pub(crate) fn proves(&self, asked: &Authentication, proof: Option<&Proof>) -> bool {
        if asked.accounts.is_empty() {
            return true;
        }
        let Some(proof) = proof else { return false };
        asked.accounts.contains(&proof.user)
            && (asked.algorithms.is_empty() || asked.algorithms.contains(&proof.algorithm))
            && (proof.mutual || !asked.mutual_required)
            && self
                .secret_of(&proof.user)
                .is_some_and(|secret| proof.secret.is_of(secret))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use iscsi::target::Algorithm;

    use super::*;
    use crate::config::{ChapAccount, Config};
    use crate::secrets::Secrets;

    fn exports(accounts: &[(&str, &str)]) -> Exports {
        let mut secrets = Secrets::new();
        let account = |(user, secret): &(&str, &str)| {
            secrets.insert(format!("chap/{user}"), secret.as_bytes().to_vec());
            ChapAccount {
                user: (*user).to_owned(),
                secret: format!("chap/{user}"),
            }
        };
        let config = Config {
            accounts: accounts.iter().map(account).collect(),
            ..Config::default()
        };
        Exports {
            config: Arc::new(config),
            secrets,
            ..Exports::default()
        }
    }

    fn asked(users: &[&str]) -> Authentication {
        Authentication {
            accounts: users.iter().map(|user| (*user).to_owned()).collect(),
            ..Authentication::default()
        }
    }

    #[test]
    fn a_proof_holds_as_long_as_the_login_would() {
        let before = exports(&[("a", "a secret of a"), ("b", "a secret of b")]);
        let proven = iscsi::target::Proof {
            user: "a".to_owned(),
            algorithm: Algorithm::Md5,
            mutual: false,
        };
        let proof = Proof::new(&proven, &before).unwrap();
        let holds = |exports: &Exports, asked: &Authentication| exports.proves(asked, Some(&proof));
        assert!(holds(&before, &asked(&["a", "b"])));
        assert!(holds(&before, &asked(&[])), "nothing is asked for");
        assert!(!holds(&before, &asked(&["b"])), "not this account");
        assert!(!before.proves(&asked(&["a"]), None), "nothing was proven");
        assert!(before.proves(&asked(&[]), None));
        assert!(
            !holds(&exports(&[("a", "another secret")]), &asked(&["a"])),
            "the secret was changed"
        );
        assert!(
            !holds(&exports(&[]), &asked(&["a"])),
            "the account was removed"
        );
        let sha = Authentication {
            algorithms: vec![ChapAlgorithm::Sha256],
            ..asked(&["a"])
        };
        assert!(!holds(&before, &sha), "the hash is not allowed any more");
        let mutual = Authentication {
            mutual_required: true,
            ..asked(&["a"])
        };
        assert!(!holds(&before, &mutual), "the target proved nothing");
        assert!(!format!("{proof:?}").contains("secret of a"));
        assert!(Proof::new(&proven, &exports(&[])).is_none());
    }
}
