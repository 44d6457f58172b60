//! `/discovery`: what an initiator proves before it is told which targets there are.

use api::config::Authentication;
use api::view::Applied;
use axum::Json;
use axum::extract::State;

use super::Answer;
use super::extract::Body;
use crate::admin::{Admin, By};

/// Nothing asked reads as an empty proof.
pub(super) async fn show(State(admin): State<Admin>) -> Answer<Authentication> {
    let proof = admin.current()?.document.iscsi.discovery.clone();
    Ok(Json(proof.unwrap_or_default()))
}

pub(super) async fn set(
    State(admin): State<Admin>,
    by: By,
    Body(proof): Body<Authentication>,
) -> Answer<Applied> {
    let open = proof == Authentication::default();
    let what = match open {
        true => "ask no proof for discovery".to_owned(),
        false => format!("ask for CHAP in discovery: {}", proof.accounts.join(", ")),
    };
    let changed = admin.edit(by, what, move |document| {
        document.iscsi.discovery = (!open).then_some(proof);
        Ok(())
    });
    Ok(Json(changed.await?.applied()))
}
