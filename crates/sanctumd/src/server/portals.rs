//! `/portals`

use api::config::Portal;
use api::request::PortalChange;
use api::view::{Applied, PortalView};
use api::{Code, Problem};
use axum::Json;
use axum::extract::State;
use settings::Document;

use super::extract::{Body, Names};
use super::{Answer, fresh, named};
use crate::admin::{Admin, By};

pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<PortalView>> {
    let live = admin.service().portals();
    let document = &admin.current()?.document;
    let views = document.iscsi.portals.iter().map(|portal| {
        let live = live.iter().find(|live| live.name == portal.name);
        PortalView {
            portal: portal.clone(),
            listening: live.is_some_and(|live| live.listening),
            connections: live.map_or(0, |live| live.connections),
        }
    });
    Ok(Json(views.collect()))
}

pub(super) async fn add(
    State(admin): State<Admin>,
    by: By,
    Body(portal): Body<Portal>,
) -> Answer<Applied> {
    let what = format!("add portal {} on {}", portal.name, portal.socket_address());
    let changed = admin.edit(by, what, |document| {
        let portals = &document.iscsi.portals;
        fresh(
            portals.iter().any(|other| other.name == portal.name),
            &format!("portal {}", portal.name),
            "choose another name",
        )?;
        document.iscsi.portals.push(portal);
        Ok(())
    });
    Ok(Json(changed.await?.applied()))
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Names(name): Names<String>,
    by: By,
    Body(PortalChange { enabled }): Body<PortalChange>,
) -> Answer<Applied> {
    let what = format!(
        "{} portal {name}",
        if enabled { "enable" } else { "disable" }
    );
    let changed = admin.edit(by, what, move |document| {
        find(document, &name)?.enabled = enabled;
        Ok(())
    });
    Ok(Json(changed.await?.applied()))
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Names(name): Names<String>,
    by: By,
) -> Answer<Applied> {
    let what = format!("remove portal {name}");
    let changed = admin.edit(by, what, move |document| {
        find(document, &name)?;
        if let Some(user) = named_by(document, &name) {
            return Err(Problem::new(
                Code::InUse,
                format!("portal {name} cannot be removed: {user} names it"),
            )
            .next("change that first"));
        }
        document.iscsi.portals.retain(|portal| portal.name != name);
        Ok(())
    });
    Ok(Json(changed.await?.applied()))
}

fn find<'a>(document: &'a mut Document, name: &str) -> Result<&'a mut Portal, Problem> {
    let mut portals = document.iscsi.portals.iter_mut();
    let found = portals.find(|portal| portal.name == name);
    named(found, "portal", &format!("portal {name}"))
}

/// What names a portal.
fn named_by(document: &Document, name: &str) -> Option<String> {
    document.iscsi.targets.iter().find_map(|target| {
        if target.portals.iter().any(|portal| portal == name) {
            return Some(format!("target {}", target.name));
        }
        let rule = target
            .access
            .iter()
            .position(|rule| rule.portal.as_deref() == Some(name))?;
        Some(format!(
            "access rule {} of target {}",
            rule + 1,
            target.name
        ))
    })
}
