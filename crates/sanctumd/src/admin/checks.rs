//! Whether a document could be served: what is asked before anything is changed.

use std::collections::HashSet;
use std::path::Path;

use settings::{CheckError, Document};
use target::Service;
use target::config::Device;

use super::{Admin, NewSecrets, Removals};
use crate::data_dir::DataDir;
use crate::peer::group_id;

impl Admin {
    /// Whether the data path could serve a document.
    pub(crate) fn check(&self, document: &Document) -> Result<(), CheckError> {
        self.check_with(document, &Vec::new())
    }

    /// Whether the data path could serve a document once the store has these secrets, too.
    pub(crate) fn check_with(
        &self,
        document: &Document,
        secrets: &NewSecrets,
    ) -> Result<(), CheckError> {
        let now = self.store().current();
        let now = now.as_ref().map(|loaded| &loaded.document);
        check_group(document, now)?;
        let known = now.map_or(&[][..], |now| &now.iscsi.devices);
        let stored = self.secrets();
        check(document, &|name| {
            stored.contains(name) || secrets.iter().any(|(other, _)| other == name)
        })?;
        new_paths(document, known).try_for_each(|(n, path)| {
            let (dir, removals) = (self.data_dir().clone(), self.removals().clone());
            let may = move |path: &Path| may_back(&dir, path).and_then(|()| free(&removals, path));
            let may = self.paths().look(path, may);
            may.unwrap_or_else(|problem| Err(problem.what))
                .map_err(|reason| refused(n, reason))
        })
    }
}

/// The data path's judgement of a document.
pub(crate) fn check(
    document: &Document,
    has_secret: &dyn Fn(&str) -> bool,
) -> Result<(), CheckError> {
    Service::check(&document.iscsi, has_secret)
        .map_err(|error| CheckError::new(error.path, error.reason))
}

/// [`check`] where no service runs yet, and whether the devices leave its own files alone. Looks at
/// the files, and so may wait for a disk.
pub(crate) fn check_new(
    document: &Document,
    dir: &DataDir,
    has_secret: &dyn Fn(&str) -> bool,
) -> Result<(), CheckError> {
    check(document, has_secret)?;
    new_paths(document, &[])
        .try_for_each(|(n, path)| may_back(dir, path).map_err(|reason| refused(n, reason)))
}

fn refused(device: usize, reason: String) -> CheckError {
    CheckError::new(format!("device[{device}].path"), reason)
}

fn may_back(dir: &DataDir, path: &Path) -> Result<(), String> {
    match dir.may_back(path) {
        true => Ok(()),
        false => Err(format!(
            "{} is among the service's own files; of the data directory only what lies in \
             images/ backs a device",
            path.display()
        )),
    }
}

fn free(removals: &Removals, path: &Path) -> Result<(), String> {
    match removals.hold(path) {
        false => Ok(()),
        true => Err(format!(
            "the file {} is being deleted; an event file-deleted or file-not-deleted tells when \
             that is over, try again then",
            path.display()
        )),
    }
}

/// Paths of devices that no `known` one has, with the places of their devices in the document.
fn new_paths<'a>(
    document: &'a Document,
    known: &'a [Device],
) -> impl Iterator<Item = (usize, &'a Path)> {
    let known: HashSet<_> = known.iter().map(|device| device.backing.path()).collect();
    let devices = document.iscsi.devices.iter().enumerate();
    devices.filter_map(move |(n, device)| {
        let path = device.backing.path()?;
        (!known.contains(&Some(path))).then_some((n, path))
    })
}

/// A group that is named anew must be there. One that went since keeps no change from being made.
fn check_group(document: &Document, now: Option<&Document>) -> Result<(), CheckError> {
    let group = document.service.api_group.as_deref();
    let before = now.and_then(|now| now.service.api_group.as_deref());
    match group {
        Some(name) if group != before && group_id(name).is_none() => {
            let reason = format!("this host has no group `{name}`");
            Err(CheckError::new("service.api_group", reason))
        }
        _ => Ok(()),
    }
}
