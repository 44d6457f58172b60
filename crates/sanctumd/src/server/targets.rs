//! `/targets`

use api::Problem;
use api::config::Target;
use api::request::TargetChange;
use api::view::{Applied, TargetView};
use axum::Json;
use axum::extract::State;
use settings::Document;

use super::extract::{Body, Names};
use super::{Answer, fresh, named};
use crate::admin::{Admin, By};

pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<TargetView>> {
    let sessions = admin.service().sessions();
    let document = &admin.current()?.document;
    let views = document.iscsi.targets.iter().map(|target| TargetView {
        target: target.clone(),
        sessions: sessions
            .iter()
            .filter(|session| session.target == target.name)
            .count(),
    });
    Ok(Json(views.collect()))
}

pub(super) async fn show(
    State(admin): State<Admin>,
    Names(name): Names<String>,
) -> Answer<TargetView> {
    let mut document = admin.current()?.document.clone();
    let target = find(&mut document, &name)?.clone();
    let sessions = admin.service().sessions();
    let sessions = sessions
        .iter()
        .filter(|session| session.target == target.name)
        .count();
    Ok(Json(TargetView { target, sessions }))
}

pub(super) async fn add(
    State(admin): State<Admin>,
    by: By,
    Body(mut target): Body<Target>,
) -> Answer<Applied> {
    target.name = target.name.to_lowercase();
    let what = format!("add target {}", target.name);
    let changed = admin.edit(by, what, |document| {
        let targets = &document.iscsi.targets;
        fresh(
            targets.iter().any(|other| other.name == target.name),
            &format!("target {}", target.name),
            "choose another name, or change the target: sanctum target update",
        )?;
        document.iscsi.targets.push(target);
        Ok(())
    });
    Ok(Json(changed.await?.applied()))
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Names(name): Names<String>,
    by: By,
    Body(to): Body<TargetChange>,
) -> Answer<Applied> {
    let what = format!("change target {name}");
    let changed = admin.edit(by, what, move |document| {
        merge(find(document, &name)?, to);
        Ok(())
    });
    Ok(Json(changed.await?.applied()))
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Names(name): Names<String>,
    by: By,
) -> Answer<Applied> {
    let what = format!("remove target {name}");
    let changed = admin.edit(by, what, move |document| {
        let name = find(document, &name)?.name.clone();
        document.iscsi.targets.retain(|target| target.name != name);
        Ok(())
    });
    Ok(Json(changed.await?.applied()))
}

/// A target by its name; iSCSI names compare in lower case.
pub(super) fn find<'a>(document: &'a mut Document, name: &str) -> Result<&'a mut Target, Problem> {
    let lower = name.to_lowercase();
    let mut targets = document.iscsi.targets.iter_mut();
    let found = targets.find(|target| target.name == lower);
    named(found, "target", &format!("target {name}"))
}

fn merge(target: &mut Target, to: TargetChange) {
    let optional = |text: String| (!text.is_empty()).then_some(text);
    let authentication = &mut target.authentication;
    if let Some(alias) = to.alias {
        target.alias = optional(alias);
    }
    if let Some(allow_multiple) = to.allow_multiple {
        target.allow_multiple = allow_multiple;
    }
    if let Some(portals) = to.portals {
        target.portals = portals;
    }
    if let Some(accounts) = to.accounts {
        authentication.accounts = accounts;
    }
    if let Some(mutual) = to.mutual {
        authentication.mutual = optional(mutual);
    }
    if let Some(mutual_required) = to.mutual_required {
        authentication.mutual_required = mutual_required;
    }
    if let Some(algorithms) = to.algorithms {
        authentication.algorithms = algorithms;
    }
}

#[cfg(test)]
mod tests {
    use api::Code;

    use super::*;

    fn target() -> Target {
        serde_json::from_str(
            r#"{"name":"iqn.2026-11.a:b","alias":"old","authentication":{"mutual":"m"}}"#,
        )
        .unwrap()
    }

    #[test]
    fn what_is_not_given_stays_and_empty_removes() {
        let mut changed = target();
        merge(&mut changed, TargetChange::default());
        assert_eq!(changed, target());
        let to = TargetChange {
            alias: Some(String::new()),
            mutual: Some(String::new()),
            allow_multiple: Some(false),
            ..TargetChange::default()
        };
        merge(&mut changed, to);
        assert_eq!((changed.alias, changed.authentication.mutual), (None, None));
        assert!(!changed.allow_multiple);
    }

    #[test]
    fn found_in_any_case() {
        let mut document = Document::default();
        document.iscsi.targets.push(target());
        assert!(find(&mut document, "IQN.2026-11.A:B").is_ok());
        assert_eq!(
            find(&mut document, "iqn.2026-11.a:c").unwrap_err().code,
            Code::NotFound
        );
    }
}
