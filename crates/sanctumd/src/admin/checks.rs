//! Whether a document could be served: what is asked before anything is changed.

use std::collections::HashSet;
use std::path::Path;

use settings::{CheckError, Document};
use target::Service;
use target::config::Device;

use super::{Admin, NewSecrets};
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
        check_new(document, self.data_dir(), known, &|name| {
            stored.contains(name) || secrets.iter().any(|(other, _)| other == name)
        })?;
        for (n, path) in new_paths(document, known) {
            if self.removals().hold(path) {
                let reason = format!(
                    "the file {} is being deleted; an event file-deleted or file-not-deleted tells \
                     when that is over, try again then",
                    path.display()
                );
                return Err(CheckError::new(format!("device[{n}].path"), reason));
            }
        }
        Ok(())
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

/// [`check`], and whether devices that are not `known` leave the service's own files alone. Looks
/// at the files, and so may wait for a disk.
pub(crate) fn check_new(
    document: &Document,
    dir: &DataDir,
    known: &[Device],
    has_secret: &dyn Fn(&str) -> bool,
) -> Result<(), CheckError> {
    check(document, has_secret)?;
    for (n, path) in new_paths(document, known) {
        if !dir.may_back(path) {
            let reason = format!(
                "{} is among the service's own files; of the data directory only what lies in \
                 images/ backs a device",
                path.display()
            );
            return Err(CheckError::new(format!("device[{n}].path"), reason));
        }
    }
    Ok(())
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
