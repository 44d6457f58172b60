//! `/targets/{name}/access`

use api::config::{AccessRule, Target};
use api::request::{MoveRule, NewRule};
use api::view::{Applied, RuleView};
use api::{Code, Problem};
use axum::Json;
use axum::extract::State;

use super::Answer;
use super::extract::{Body, Names};
use super::targets::find;
use crate::admin::{Admin, By};

pub(super) async fn list(
    State(admin): State<Admin>,
    Names(target): Names<String>,
) -> Answer<Vec<RuleView>> {
    let mut document = admin.current()?.document.clone();
    let rules = find(&mut document, &target)?.access.clone();
    let views = rules.into_iter().enumerate().map(|(n, rule)| RuleView {
        position: n + 1,
        rule,
    });
    Ok(Json(views.collect()))
}

pub(super) async fn add(
    State(admin): State<Admin>,
    Names(target): Names<String>,
    by: By,
    Body(new): Body<NewRule>,
) -> Answer<Applied> {
    let what = format!(
        "add an access rule to target {target}: {} {}",
        new.rule.action, new.rule.initiator
    );
    let changed = admin.edit(by, what, move |document| {
        insert(find(document, &target)?, new.position, new.rule)
    });
    Ok(Json(changed.await?.applied()))
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Names((target, position)): Names<(String, usize)>,
    by: By,
) -> Answer<Applied> {
    let what = format!("remove access rule {position} of target {target}");
    let changed = admin.edit(by, what, move |document| {
        take(find(document, &target)?, position).map(|_| ())
    });
    Ok(Json(changed.await?.applied()))
}

pub(super) async fn shift(
    State(admin): State<Admin>,
    Names((target, position)): Names<(String, usize)>,
    by: By,
    Body(MoveRule { to }): Body<MoveRule>,
) -> Answer<Applied> {
    let what = format!("move access rule {position} of target {target} to {to}");
    let changed = admin.edit(by, what, move |document| {
        let target = find(document, &target)?;
        let rule = take(target, position)?;
        insert(target, Some(to), rule)
    });
    Ok(Json(changed.await?.applied()))
}

fn insert(target: &mut Target, position: Option<usize>, rule: AccessRule) -> Result<(), Problem> {
    let last = target.access.len() + 1;
    let position = position.unwrap_or(last);
    if !(1..=last).contains(&position) {
        return Err(Problem::new(
            Code::InvalidRequest,
            format!("target {} has no place {position} for a rule", target.name),
        )
        .next(format!("choose 1 to {last}")));
    }
    target.access.insert(position - 1, rule);
    Ok(())
}

fn take(target: &mut Target, position: usize) -> Result<AccessRule, Problem> {
    if !(1..=target.access.len()).contains(&position) {
        return Err(Problem::new(
            Code::NotFound,
            format!("target {} has no access rule {position}", target.name),
        )
        .next(format!("list them: sanctum access list {}", target.name)));
    }
    Ok(target.access.remove(position - 1))
}

#[cfg(test)]
mod tests {
    use api::config::Action;

    use super::*;

    fn rule(initiator: &str) -> AccessRule {
        AccessRule {
            initiator: initiator.to_owned(),
            network: None,
            portal: None,
            action: Action::Allow,
            luns: None,
            authentication: None,
        }
    }

    #[test]
    fn order_counts() {
        let mut target: Target = serde_json::from_str(r#"{"name":"iqn.2026-11.a:b"}"#).unwrap();
        insert(&mut target, None, rule("a")).unwrap();
        insert(&mut target, None, rule("c")).unwrap();
        insert(&mut target, Some(2), rule("b")).unwrap();
        let names = |target: &Target| -> String {
            target
                .access
                .iter()
                .map(|rule| rule.initiator.as_str())
                .collect()
        };
        assert_eq!(names(&target), "abc");
        let moved = take(&mut target, 1).unwrap();
        insert(&mut target, Some(3), moved).unwrap();
        assert_eq!(names(&target), "bca");
        assert_eq!(take(&mut target, 0).unwrap_err().code, Code::NotFound);
        assert_eq!(take(&mut target, 4).unwrap_err().code, Code::NotFound);
        assert_eq!(
            insert(&mut target, Some(5), rule("d")).unwrap_err().code,
            Code::InvalidRequest
        );
    }
}
