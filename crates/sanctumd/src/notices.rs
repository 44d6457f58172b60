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
    if let Some(next_step) = notice.next_step() {
        draft = draft.next_step(next_step);
    }
    match notice {
        // A device that fails tells so once for each change of its state; an initiator cannot make it.
        Notice::DeviceFailed { .. } | Notice::DeviceReady { .. } | Notice::PortalFailed { .. } => {
            draft
        }
        _ => draft.provoked(),
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
        assert!(recorded.iter().all(|event| event.next_step.is_some()));
        assert_eq!(recorded[1].severity, events::Severity::Error);
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
