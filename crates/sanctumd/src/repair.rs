//! Settings that cannot be used: bring a kept generation back, or take what a person wrote.

use std::path::Path;

use api::{Code, Problem};
use settings::{Document, LoadError, Secrets, Store};

use crate::admin;
use crate::data_dir::{DataDir, Lock};
use crate::peer::Caller;
use crate::trouble;

/// Brings a generation back; the newest that is whole unless one is named.
///
/// # Errors
/// The settings are well, nothing can be restored, or the service runs.
pub(crate) fn restore(data_dir: &Path, generation: Option<u64>) -> Result<(), Problem> {
    let (dir, _lock, store, secrets) = open(data_dir)?;
    let number = match (store.load(), generation) {
        (Ok(_), _) => {
            return Err(Problem::new(
                Code::Refused,
                "the current settings are well; there is nothing to restore",
            )
            .next("to return to an earlier generation: sanctum settings rollback GENERATION"));
        }
        (Err(LoadError::Absent { .. }), _) => {
            return Err(Problem::new(
                Code::NotFound,
                format!("there have never been settings in {}", dir.path().display()),
            )
            .next(format!(
                "make them: sanctum setup --data-dir {}",
                api::quoted(dir.path())
            )));
        }
        (Err(_), Some(number)) => number,
        (Err(error), None) => newest(&error).ok_or_else(|| trouble::load(&error, dir.path()))?,
    };
    let plan = store
        .propose_restore(number, &|document| checked(document, &dir, &secrets))
        .map_err(|error| trouble::propose(&error))?;
    let why = format!("restore generation {number}");
    let made = store
        .commit(plan, &Caller::this_user(), &why)
        .map_err(|error| trouble::commit(&error))?;
    println!("generation {number} is back, as generation {}", made.number);
    Ok(())
}

/// Takes the current file as it is.
///
/// # Errors
/// It is no settings document, or the service runs.
pub(crate) fn adopt(data_dir: &Path) -> Result<(), Problem> {
    let (dir, _lock, store, secrets) = open(data_dir)?;
    if store.load().is_ok() {
        println!("the current settings are the service's own; nothing to adopt");
        return Ok(());
    }
    let plan = store
        .propose_adoption(&|document| checked(document, &dir, &secrets))
        .map_err(|error| trouble::propose(&error))?;
    let made = store
        .commit(plan, &Caller::this_user(), "adopt the edited file")
        .map_err(|error| trouble::commit(&error))?;
    println!("the edited settings are generation {} now", made.number);
    Ok(())
}

fn open(data_dir: &Path) -> Result<(DataDir, Lock, Store, Secrets), Problem> {
    let dir = DataDir::open(data_dir)?;
    let lock = dir.lock()?;
    let store = Store::open(dir.path()).map_err(|error| trouble::internal(&error))?;
    let secrets = Secrets::load(dir.path()).map_err(|error| trouble::secrets(&error))?;
    Ok((dir, lock, store, secrets))
}

fn checked(
    document: &Document,
    dir: &DataDir,
    secrets: &Secrets,
) -> Result<(), settings::CheckError> {
    admin::check_new(document, dir, &|name| secrets.contains(name))
}

fn newest(error: &LoadError) -> Option<u64> {
    match error {
        LoadError::Missing { restorable, .. }
        | LoadError::Unusable { restorable, .. }
        | LoadError::Changed { restorable, .. } => restorable.as_ref().map(|kept| kept.number),
        LoadError::Absent { .. } | LoadError::Read { .. } => None,
    }
}
