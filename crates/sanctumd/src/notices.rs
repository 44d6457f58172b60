//! What the data path tells becomes events.

use events::{Draft, Store};
use target::Notice;
use tokio::sync::mpsc;

/// Words a notice as an event. What an outsider can provoke is held to the store's rate limit.
fn draft(notice: &Notice) -> Draft {
    let severity = match notice.severity() {
        target::Severity::Info => events::Severity::Info,
        target::Severity::Warning => events::Severity::Warning,
        target::Severity::Error => events::Severity::Error,
    };
    let mut draft = Draft::new(
        severity,
        notice.code(),
        notice.subject(),
        &notice.to_string(),
    );
    let next_step = [notice.next_step().map(str::to_owned), command(notice)];
    let next_step: Vec<String> = next_step.into_iter().flatten().collect();
    if !next_step.is_empty() {
        draft = draft.next_step(&next_step.join(": "));
    }
    match notice {
        // A device that fails tells so once for each change of its state; an initiator cannot make
        // it.
        Notice::DeviceFailed { .. } | Notice::DeviceReady { .. } | Notice::PortalFailed { .. } => {
            draft
        }
        _ => draft.provoked(),
    }
}

/// What to type for the next step. The service below knows no command line.
fn command(notice: &Notice) -> Option<String> {
    match notice {
        Notice::LoginRefused { target, .. } => {
            Some(format!("sanctum access list {target}; sanctum chap list"))
        }
        Notice::DeviceFailed { device, .. } => Some(format!("sanctum device load {device}")),
        Notice::DeviceStuck { device } => Some(format!("sanctum device show {device}")),
        Notice::DiskError { device, .. } => Some(format!(
            "sanctum device show {device}; sanctum device load {device}"
        )),
        Notice::PortalFailed { .. } => Some("sanctum portal list".to_owned()),
        _ => None,
    }
}

/// Records notices until the data path has ended and all of them are taken.
pub(crate) async fn record(mut notices: mpsc::Receiver<Notice>, events: Store) {
    while let Some(notice) = notices.recv().await {
        events.record(draft(&notice));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(n: u16) -> Notice {
        Notice::LoginRefused {
            initiator: "iqn.2026-11.a:b".to_owned(),
            target: "iqn.2026-11.c:d".to_owned(),
            peer: ([192, 0, 2, 1], n).into(),
            reason: "wrong secret".to_owned(),
        }
    }

    #[tokio::test]
    async fn notices_become_events_with_a_next_step() {
        let events = Store::in_memory(events::Options::default());
        let (sender, receiver) = mpsc::channel(8);
        sender.send(refused(1)).await.unwrap();
        sender
            .send(Notice::DeviceFailed {
                device: "d0".to_owned(),
                reason: "gone".to_owned(),
            })
            .await
            .unwrap();
        drop(sender);
        record(receiver, events.clone()).await;
        let recorded = events.query(&events::Filter::default());
        let codes: Vec<_> = recorded.iter().map(|event| event.code.as_str()).collect();
        assert_eq!(codes, ["login-refused", "device-failed"]);
        let step = |n: usize| recorded[n].next_step.clone().unwrap_or_default();
        assert!(
            step(0).contains("sanctum access list iqn.2026-11.c:d"),
            "{}",
            step(0)
        );
        assert!(step(1).contains("sanctum device load d0"), "{}", step(1));
        assert_eq!(recorded[1].severity, events::Severity::Error);
    }

    #[test]
    fn a_disk_that_may_have_to_be_loaded_anew_says_how() {
        let events = Store::in_memory(events::Options::default());
        events.record(draft(&Notice::DiskError {
            device: "d0".to_owned(),
            error: "the device is gone".to_owned(),
        }));
        let recorded = events.query(&events::Filter::default());
        let step = recorded[0].next_step.clone().unwrap_or_default();
        assert!(step.ends_with("; sanctum device load d0"), "{step}");
    }

    #[test]
    fn a_flood_of_refused_logins_is_held_back() {
        let events = Store::in_memory(events::Options::default());
        for n in 0..1000 {
            events.record(draft(&refused(n)));
        }
        assert!(
            events
                .query(&events::Filter {
                    limit: Some(1000),
                    ..Default::default()
                })
                .len()
                < 100
        );
    }
}
