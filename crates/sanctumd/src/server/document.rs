//! `/settings`: the document as a whole.

use api::Problem;
use api::request::{Rollback, SettingsText};
use api::view::{Difference, HistoryEntry, SettingsApplied, SettingsShown};
use axum::Json;
use axum::extract::State;
use settings::Plan;

use super::extract::{Body, Names};
use super::{Answer, Failed};
use crate::admin::{Admin, By, Changed, blocking};
use crate::trouble;

pub(super) async fn show(State(admin): State<Admin>) -> Answer<SettingsShown> {
    let current = admin.current()?;
    Ok(Json(SettingsShown {
        generation: current.generation.number,
        text: current.text.clone(),
    }))
}

pub(super) async fn of_generation(
    State(admin): State<Admin>,
    Names(number): Names<u64>,
) -> Answer<SettingsShown> {
    let store = admin.store().clone();
    let loaded = blocking(move || store.generation(number)).await?;
    let loaded = loaded.map_err(|error| trouble::generation(&error))?;
    Ok(Json(SettingsShown {
        generation: number,
        text: loaded.text,
    }))
}

pub(super) async fn history(State(admin): State<Admin>) -> Answer<Vec<HistoryEntry>> {
    let store = admin.store().clone();
    let entries = blocking(move || store.history()).await?;
    let entries = entries.map_err(|error| trouble::generation(&error))?;
    let views = entries.into_iter().map(|entry| {
        let (time, who, why) = match entry.generation {
            Some(made) => (made.when.to_string(), made.who, made.why),
            None => (
                String::new(),
                String::new(),
                entry.fault.unwrap_or_default(),
            ),
        };
        HistoryEntry {
            generation: entry.number,
            time,
            who,
            why,
            active: entry.current,
        }
    });
    Ok(Json(views.collect()))
}

pub(super) async fn diff(
    State(admin): State<Admin>,
    Body(body): Body<SettingsText>,
) -> Answer<Difference> {
    let generation = admin.current()?.generation.number;
    let plan = blocking(move || propose(&admin, &body)).await??;
    if !plan.is_accepted() {
        let lines: Vec<String> = plan.checks.iter().map(ToString::to_string).collect();
        return Err(trouble::settings_refused(&lines).into());
    }
    Ok(Json(Difference {
        generation,
        text: plan.diff,
    }))
}

pub(super) async fn apply(
    State(admin): State<Admin>,
    by: By,
    Body(body): Body<SettingsText>,
) -> Answer<SettingsApplied> {
    let what = match &body.file {
        Some(file) => format!("apply {}", file.display()),
        None => "apply a document".to_owned(),
    };
    let changed = admin
        .carry_out(by, what, move |admin| propose(admin, &body))
        .await?;
    told(changed)
}

pub(super) async fn roll_back(
    State(admin): State<Admin>,
    by: By,
    Body(Rollback { generation }): Body<Rollback>,
) -> Answer<SettingsApplied> {
    let what = format!("roll back to generation {generation}");
    let changed = admin.carry_out(by, what, move |admin| {
        let plan = admin
            .store()
            .propose_rollback(generation, &|document| admin.check(document));
        plan.map_err(|error| trouble::propose(&error))
    });
    told(changed.await?)
}

fn propose(admin: &Admin, body: &SettingsText) -> Result<Plan, Problem> {
    let plan = admin
        .store()
        .propose_text(body.text.as_bytes(), &|document| admin.check(document));
    plan.map_err(|error| trouble::propose(&error))
}

#[expect(clippy::unnecessary_wraps, reason = "what handlers give")]
fn told(changed: Changed<()>) -> Result<Json<SettingsApplied>, Failed> {
    Ok(Json(SettingsApplied {
        generation: changed.generation,
        text: changed.diff,
        notes: changed.notes,
    }))
}
