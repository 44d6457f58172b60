//! `/settings`: the document as a whole.

use api::request::{Export, Rollback, SettingsText};
use api::view::{Difference, HistoryEntry, SettingsApplied, SettingsShown};
use api::{Code, Problem};
use axum::Json;
use axum::extract::State;
use events::Draft;
use secrecy::SecretString;
use settings::{Imported, Plan};

use super::extract::{Body, Names};
use super::{Answer, Failed};
use crate::admin::{Admin, By, Changed, Deed, blocking};
use crate::{limits, trouble};

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
    let looked = admin.look(move |admin| {
        let loaded = admin.store().generation(number);
        loaded.map_err(|error| trouble::generation(&error))
    });
    let loaded = looked.await?;
    Ok(Json(SettingsShown {
        generation: number,
        text: loaded.text,
    }))
}

pub(super) async fn history(State(admin): State<Admin>) -> Answer<Vec<HistoryEntry>> {
    let looked = admin.look(|admin| {
        let entries = admin.store().history();
        entries.map_err(|error| trouble::generation(&error))
    });
    let views = looked.await?.into_iter().map(|entry| {
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

pub(super) async fn export(
    State(admin): State<Admin>,
    by: By,
    Body(Export { passphrase }): Body<Export>,
) -> Answer<SettingsShown> {
    let current = admin.current()?;
    let generation = current.generation.number;
    let Some(passphrase) = passphrase else {
        return Ok(Json(SettingsShown {
            generation,
            text: current.text.clone(),
        }));
    };
    let passphrase = SecretString::from(passphrase.expose());
    // Slow on purpose: the passphrase is made hard to guess.
    let exporting = admin.clone();
    let text = blocking(move || exporting.export(&current.document, &passphrase)).await??;
    // Before it is handed out: nobody takes secrets away without a trace.
    let deed = Deed {
        code: "secrets-exported",
        subject: format!("generation {generation}"),
        what: "exported the settings with all secrets, under a passphrase".to_owned(),
    };
    admin.tell_done(&by, &deed, None);
    traced(&admin, &deed).await?;
    Ok(Json(SettingsShown { generation, text }))
}

/// The event of a deed is on disk; where it is not, an event more says that nothing was handed out.
async fn traced(admin: &Admin, deed: &Deed) -> Result<(), Problem> {
    let events = admin.events().clone();
    // It has a bound of its own.
    let synced = blocking(move || events.sync(limits::EVENTS_SYNC_MAX)).await?;
    let Err(error) = synced else { return Ok(()) };
    let what = "the secrets are not handed out: the event of their export is not on disk";
    let next = "mend the disk of the data directory or make room on it, then export again";
    let draft = Draft::warning("secrets-not-exported", &deed.subject, what);
    let draft = draft.cause(&error.to_string()).next_step(next);
    admin.events().record(draft);
    let problem = Problem::new(Code::Refused, what).detail(error.to_string());
    Err(problem.next(next))
}

pub(super) async fn diff(
    State(admin): State<Admin>,
    Body(body): Body<SettingsText>,
) -> Answer<Difference> {
    let imported = blocking(move || import(&body)).await??;
    let foreseen = admin.look(move |admin| {
        let plan = plan_for(admin, &imported)?;
        admin.foresee(&plan, imported.secrets)
    });
    Ok(Json(foreseen.await?))
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
    let imported = blocking(move || import(&body)).await??;
    let changed = admin.carry_out(by, what, move |admin| {
        let plan = plan_for(admin, &imported)?;
        Ok((plan, imported.secrets))
    });
    told(changed.await?)
}

/// Plans a document that was read, as if its secrets were there.
fn plan_for(admin: &Admin, imported: &Imported) -> Result<Plan, Problem> {
    let plan = admin
        .store()
        .propose_text(imported.text.as_bytes(), &|document| {
            admin.check_with(document, &imported.secrets)
        });
    plan.map_err(|error| trouble::propose(&error))
}

/// Reads a document; one with secrets needs its passphrase.
fn import(body: &SettingsText) -> Result<Imported, Problem> {
    let passphrase = body
        .passphrase
        .as_ref()
        .map(|secret| SecretString::from(secret.expose()));
    settings::import(body.text.as_bytes(), passphrase.as_ref())
        .map_err(|error| trouble::import(&error))
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
        let plan = plan.map_err(|error| trouble::propose(&error))?;
        Ok((plan, Vec::new()))
    });
    told(changed.await?)
}

#[expect(clippy::unnecessary_wraps, reason = "what handlers give")]
fn told(changed: Changed<()>) -> Result<Json<SettingsApplied>, Failed> {
    Ok(Json(SettingsApplied {
        generation: changed.generation,
        changed: changed.made,
        text: changed.diff,
        secrets: changed.secrets,
        secrets_removed: changed.secrets_removed,
        notes: changed.notes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::StopBounds;
    use crate::admin::waiting::tests::{by, serving_with};

    async fn exported(admin: &Admin) -> Result<String, Problem> {
        let passphrase = serde_json::from_str(r#"{"passphrase":"correct horse battery"}"#);
        let asked = Body(passphrase.unwrap());
        let answer = export(State(admin.clone()), by(), asked).await;
        answer
            .map(|Json(shown)| shown.text)
            .map_err(|failed| failed.0)
    }

    #[tokio::test]
    async fn secrets_are_handed_out_once_their_export_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("journal");
        let events = events::Store::open(&journal, events::Options::default()).unwrap();
        let admin = serving_with(&dir.path().join("data"), events).await;
        exported(&admin).await.unwrap();
        let lines = || std::fs::read_to_string(journal.join("events.jsonl")).unwrap_or_default();
        assert!(lines().contains("secrets-exported"), "{}", lines());
        admin.stop(StopBounds::default()).await.unwrap();

        let full = dir.path().join("full");
        let events = events::Store::open(&full, events::Options::default()).unwrap();
        // A directory in its place: no file can be opened there.
        std::fs::create_dir(full.join("events.jsonl")).unwrap();
        let admin = serving_with(&dir.path().join("other"), events).await;
        let problem = exported(&admin).await.unwrap_err();
        assert_eq!(problem.code, Code::Refused);
        assert!(problem.what.contains("not handed out"), "{problem}");
        let told = admin.events().query(&events::Filter::default());
        assert_eq!(told.last().unwrap().code, "secrets-not-exported");
        admin.stop(StopBounds::default()).await.unwrap();
    }
}
