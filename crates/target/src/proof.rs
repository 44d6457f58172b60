//! What an initiator proved at login, kept with its session, so that a change of the configuration
//! ends the sessions that could not log in any more.
//!
//! A session outlives the CHAP exchange that let it in. When accounts or what a target asks for
//! change, each session is measured against the new policy: one that would be refused now ends, and
//! its initiator may log in anew with what is asked for. A new secret of an account counts from the
//! next login: changing secrets one host after the other must not be an outage. Whoever may not stay
//! is dropped by hand, or by taking the account away.

use crate::config::{Authentication, ChapAlgorithm};
use crate::exports::Exports;

/// What was proven, by which account.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) user: String,
    algorithm: ChapAlgorithm,
    /// The target proved itself, too.
    mutual: bool,
}

impl Proof {
    pub(crate) fn new(proven: &iscsi::target::Proof) -> Self {
        Self {
            user: proven.user.clone(),
            algorithm: proven.algorithm.into(),
            mutual: proven.mutual,
        }
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
            && self.secret_of(&proof.user).is_some()
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
        let proof = Proof::new(&proven);
        let holds = |exports: &Exports, asked: &Authentication| exports.proves(asked, Some(&proof));
        assert!(holds(&before, &asked(&["a", "b"])));
        assert!(holds(&before, &asked(&[])), "nothing is asked for");
        assert!(!holds(&before, &asked(&["b"])), "not this account");
        assert!(!before.proves(&asked(&["a"]), None), "nothing was proven");
        assert!(before.proves(&asked(&[]), None));
        assert!(
            holds(&exports(&[("a", "another secret")]), &asked(&["a"])),
            "a new secret counts from the next login"
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
    }
}
