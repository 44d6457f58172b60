//! `/chap`

use api::config::{Authentication, ChapAccount};
use api::request::{NewAccount, NewSecret};
use api::view::{AccountView, Applied, SecretStored};
use api::{Code, Problem, Secret};
use axum::Json;
use axum::extract::State;
use secrecy::SecretString;
use settings::{Document, SecretsError};

use super::extract::{Body, Names};
use super::{Answer, fresh, named};
use crate::admin::{Admin, By};
use crate::trouble;

pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<AccountView>> {
    let document = &admin.current()?.document;
    let views = document.iscsi.accounts.iter().map(|account| AccountView {
        user: account.user.clone(),
        secret: account.secret.clone(),
        secret_stored: admin.has_secret(&account.secret),
        used_by: used_by(document, &account.user),
    });
    Ok(Json(views.collect()))
}

/// Account and secret are in force together, or neither is there.
pub(super) async fn add(
    State(admin): State<Admin>,
    by: By,
    Body(NewAccount { user, secret }): Body<NewAccount>,
) -> Answer<SecretStored> {
    let generated = secret.is_none();
    let (secret, advice) = chosen(secret.as_ref(), &user)?;
    let what = format!("add CHAP account {user}");
    let stored = admin.clone();
    let changed = admin.edit_with_secrets(by, what, move |document| {
        let accounts = &document.iscsi.accounts;
        fresh(
            accounts.iter().any(|account| account.user == user),
            &format!("account {user}"),
            &format!("give it a new secret: sanctum chap set-secret {user}"),
        )?;
        let name = free_name(document, &user, |name| stored.has_secret(name));
        document.iscsi.accounts.push(ChapAccount {
            user,
            secret: name.clone(),
        });
        Ok((name.clone(), vec![(name, secret)]))
    });
    let changed = changed.await?;
    Ok(Json(SecretStored {
        secret: changed.value,
        file: admin.secrets_path(),
        generated,
        advice,
        generation: changed.generation,
    }))
}

/// A new generation of the same text: who changed a secret, and when, is in the history.
pub(super) async fn set_secret(
    State(admin): State<Admin>,
    Names(user): Names<String>,
    by: By,
    Body(NewSecret { secret }): Body<NewSecret>,
) -> Answer<SecretStored> {
    let generated = secret.is_none();
    let (secret, advice) = chosen(secret.as_ref(), &user)?;
    let name = find(&admin.current()?.document, &user)?.secret.clone();
    let what = format!("set a new secret of CHAP account {user}");
    let changed = admin.carry_out(by, what, move |admin| {
        let current = admin.current()?;
        let name = find(&current.document, &user)?.secret.clone();
        let set = vec![(name, secret)];
        let check = |document: &Document| admin.check_with(document, &set);
        // Its text as it is, so that comments stay.
        let plan = admin.store().propose_text(current.text.as_bytes(), &check);
        Ok((plan.map_err(|error| trouble::propose(&error))?, set))
    });
    let changed = changed.await?;
    Ok(Json(SecretStored {
        secret: name,
        file: admin.secrets_path(),
        generated,
        advice,
        generation: changed.generation,
    }))
}

/// The secret that was handed in, or one of chance, and what a person should know of it.
fn chosen(secret: Option<&Secret>, user: &str) -> Result<(SecretString, Option<String>), Problem> {
    let Some(secret) = secret else {
        let made = settings::random_secret().map_err(|error| trouble::secrets(&error))?;
        return Ok((made, None));
    };
    let secret = SecretString::from(secret.expose());
    let advice = settings::check_secret(&secret).map_err(|fault| {
        trouble::secrets(&SecretsError::Value {
            name: user.to_owned(),
            fault,
        })
    })?;
    Ok((secret, advice.map(|advice| advice.to_string())))
}

/// Its secret goes with it, unless another account names it.
pub(super) async fn remove(
    State(admin): State<Admin>,
    Names(user): Names<String>,
    by: By,
) -> Answer<Applied> {
    let what = format!("remove CHAP account {user}");
    let changed = admin.edit(by, what, move |document| {
        find(document, &user)?;
        let users = used_by(document, &user);
        if let Some(first) = users.first() {
            return Err(Problem::new(
                Code::InUse,
                format!("account {user} cannot be removed: {first} uses it"),
            )
            .next("take it out there first: sanctum target update --chap, or sanctum access"));
        }
        document
            .iscsi
            .accounts
            .retain(|account| account.user != user);
        Ok(())
    });
    Ok(Json(changed.await?.applied()))
}

fn find<'a>(document: &'a Document, user: &str) -> Result<&'a ChapAccount, Problem> {
    let mut accounts = document.iscsi.accounts.iter();
    let found = accounts.find(|account| account.user == user);
    named(found, "chap", &format!("CHAP account {user}"))
}

/// Where an account is named.
fn used_by(document: &Document, user: &str) -> Vec<String> {
    let names = |proof: &Authentication| {
        proof.accounts.iter().any(|name| name == user) || proof.mutual.as_deref() == Some(user)
    };
    let mut places = Vec::new();
    if document.iscsi.discovery.as_ref().is_some_and(names) {
        places.push("discovery".to_owned());
    }
    for target in &document.iscsi.targets {
        if names(&target.authentication) {
            places.push(format!("target {}", target.name));
        }
        for (n, rule) in target.access.iter().enumerate() {
            if rule.authentication.as_ref().is_some_and(names) {
                places.push(format!("access rule {} of target {}", n + 1, target.name));
            }
        }
    }
    places
}

/// A name for an account's secret: the user where that can be one, with a number where it is taken.
fn free_name(document: &Document, user: &str, stored: impl Fn(&str) -> bool) -> String {
    const LONGEST: usize = settings::limits::SECRET_NAME_BYTES - 8;
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    let base: String = user
        .chars()
        .take(LONGEST)
        .map(|c| if fits(c) { c } else { '_' })
        .collect();
    let taken = |name: &str| {
        stored(name)
            || document
                .iscsi
                .accounts
                .iter()
                .any(|account| account.secret == name)
    };
    let numbered = (2..=settings::limits::SECRETS + 1).map(|n| format!("{base}-{n}"));
    std::iter::once(base.clone())
        .chain(numbered)
        .find(|name| !taken(name))
        .unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_after_its_user() {
        let mut document = Document::default();
        assert_eq!(
            free_name(&document, "iqn.2026-11.a:b", |_| false),
            "iqn.2026-11.a:b"
        );
        assert_eq!(free_name(&document, "a b/ä", |_| false), "a_b__");
        assert_eq!(free_name(&document, "x", |name| name == "x"), "x-2");
        document.iscsi.accounts.push(ChapAccount {
            user: "y".to_owned(),
            secret: "x-2".to_owned(),
        });
        assert_eq!(free_name(&document, "x", |name| name == "x"), "x-3");
        assert!(
            free_name(&document, &"u".repeat(255), |_| false).len()
                <= settings::limits::SECRET_NAME_BYTES
        );
    }

    #[test]
    fn used_in_every_place() {
        let document = settings::parse(
            b"version = 1\n[iscsi.discovery]\naccounts = [\"u\"]\n[[iscsi.target]]\nname = \"iqn.2026-11.a:b\"\nauthentication = { mutual = \"u\" }\n[[iscsi.target.access]]\naction = \"allow\"\nauthentication = { accounts = [\"u\"] }\n",
        )
        .unwrap();
        assert_eq!(
            used_by(&document, "u"),
            [
                "discovery",
                "target iqn.2026-11.a:b",
                "access rule 1 of target iqn.2026-11.a:b"
            ]
        );
        assert!(used_by(&document, "v").is_empty());
    }
}
