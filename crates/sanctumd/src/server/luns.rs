//! `/targets/{name}/luns`

use api::config::{Lun, Target};
use api::request::{LunChange, NewLun};
use api::view::{Applied, LunAdded};
use api::{Code, Problem};
use axum::Json;
use axum::extract::State;

use super::Answer;
use super::extract::{Body, Names};
use super::targets::find;
use crate::admin::{Admin, By};

pub(super) async fn add(
    State(admin): State<Admin>,
    Names(target): Names<String>,
    by: By,
    Body(lun): Body<NewLun>,
) -> Answer<LunAdded> {
    let what = format!("add device {} to target {target}", lun.device);
    let changed = admin.edit(by, what, move |document| {
        if !document
            .iscsi
            .devices
            .iter()
            .any(|device| device.name == lun.device)
        {
            return Err(
                Problem::new(Code::NotFound, format!("there is no device {}", lun.device))
                    .next("list what there is: sanctum device list"),
            );
        }
        for other in &document.iscsi.targets {
            if let Some(used) = other.luns.iter().find(|used| used.device == lun.device) {
                let what = format!(
                    "device {} is LUN {} of {} already",
                    lun.device, used.number, other.name
                );
                return Err(Problem::new(Code::InUse, what)
                    .next("one device backs one LUN: remove that one first"));
            }
        }
        insert(find(document, &target)?, lun)
    });
    let changed = changed.await?;
    Ok(Json(LunAdded {
        number: changed.value,
        generation: changed.generation,
    }))
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Names((target, number)): Names<(String, u16)>,
    by: By,
    Body(LunChange { read_only }): Body<LunChange>,
) -> Answer<Applied> {
    let how = if read_only { "read-only" } else { "writable" };
    let what = format!("make LUN {number} of target {target} {how}");
    let changed = admin.edit(by, what, move |document| {
        let target = find(document, &target)?;
        let lun = target.luns.iter_mut().find(|lun| lun.number == number);
        let Some(lun) = lun else {
            return Err(no_lun(&target.name, number));
        };
        lun.read_only = read_only;
        Ok(())
    });
    Ok(Json(changed.await?.applied()))
}

fn no_lun(target: &str, number: u16) -> Problem {
    let what = format!("target {target} has no LUN {number}");
    Problem::new(Code::NotFound, what).next("list what there is: sanctum lun list")
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Names((target, number)): Names<(String, u16)>,
    by: By,
) -> Answer<Applied> {
    let what = format!("remove LUN {number} of target {target}");
    let changed = admin.edit(by, what, move |document| {
        let target = find(document, &target)?;
        let before = target.luns.len();
        target.luns.retain(|lun| lun.number != number);
        if target.luns.len() == before {
            return Err(no_lun(&target.name, number));
        }
        let mapped = target.access.iter().position(|rule| {
            rule.luns
                .as_ref()
                .is_some_and(|luns| luns.iter().any(|map| map.lun == number))
        });
        match mapped {
            Some(position) => Err(Problem::new(
                Code::InUse,
                format!(
                    "access rule {} of {} maps LUN {number}",
                    position + 1,
                    target.name
                ),
            )
            .next("change or remove the rule first")),
            None => Ok(()),
        }
    });
    Ok(Json(changed.await?.applied()))
}

/// Adds a LUN under its number, or under the lowest free one.
fn insert(target: &mut Target, lun: NewLun) -> Result<u16, Problem> {
    let taken = |number: u16| target.luns.iter().any(|other| other.number == number);
    let number = match lun.number {
        Some(number) if taken(number) => {
            return Err(Problem::new(
                Code::AlreadyExists,
                format!("target {} has a LUN {number} already", target.name),
            )
            .next("choose another number, or leave it to the service"));
        }
        Some(number) => number,
        None => (0..target::limits::LUN_NUMBERS)
            .find(|number| !taken(*number))
            .ok_or_else(|| {
                Problem::new(
                    Code::Refused,
                    format!("target {} has no free LUN number", target.name),
                )
                .next("add another target")
            })?,
    };
    target.luns.push(Lun {
        number,
        device: lun.device,
        read_only: lun.read_only,
    });
    target.luns.sort_by_key(|lun| lun.number);
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lun(number: Option<u16>) -> NewLun {
        NewLun {
            device: "d".to_owned(),
            number,
            read_only: false,
        }
    }

    #[test]
    fn the_lowest_free_number() {
        let mut target: Target = serde_json::from_str(r#"{"name":"iqn.2026-11.a:b"}"#).unwrap();
        assert_eq!(insert(&mut target, lun(None)), Ok(0));
        assert_eq!(insert(&mut target, lun(Some(2))), Ok(2));
        assert_eq!(insert(&mut target, lun(None)), Ok(1));
        assert_eq!(
            insert(&mut target, lun(Some(1))).unwrap_err().code,
            Code::AlreadyExists
        );
        let numbers: Vec<_> = target.luns.iter().map(|lun| lun.number).collect();
        assert_eq!(numbers, [0, 1, 2]);
    }

    #[test]
    fn a_full_target() {
        let mut target: Target = serde_json::from_str(r#"{"name":"iqn.2026-11.a:b"}"#).unwrap();
        for _ in 0..target::limits::LUN_NUMBERS {
            insert(&mut target, lun(None)).unwrap();
        }
        assert_eq!(
            insert(&mut target, lun(None)).unwrap_err().code,
            Code::Refused
        );
    }
}
