//! The API as a whole, without its socket.

use std::time::Duration;

use axum::body::to_bytes;

use super::*;
use crate::admin::waiting::tests::{by, hang, serving};

async fn ask(admin: &Admin, path: &str) -> (u16, String) {
    let request = Request::get(format!("{}{path}", api::PREFIX));
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(by().caller);
    let answer = router(admin.clone()).oneshot(request);
    // A wait for the disk would also end this one: there is one thread for all.
    let answer = tokio::time::timeout(Duration::from_secs(60), answer);
    let answer = answer.await.unwrap().unwrap();
    let status = answer.status().as_u16();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn all_is_listed_while_a_change_waits_for_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let admin = serving(dir.path()).await;
    let hanging = hang(&admin);
    let changing = tokio::spawn({
        let admin = admin.clone();
        let edit = |document: &mut settings::Document| {
            document.service.spin_us += 1;
            Ok(())
        };
        async move { admin.edit(by(), "spin".to_owned(), edit).await }
    });
    let listings = [
        "/status",
        "/targets",
        "/devices",
        "/portals",
        "/chap",
        "/discovery",
        "/sessions",
        "/tasks",
        "/settings",
        "/settings/history",
    ];
    for path in listings {
        let (status, text) = ask(&admin, path).await;
        assert_eq!(status, 200, "{path}: {text}");
    }
    let draft = ::events::Draft::info("heard", "test", "while it hangs");
    admin.events().record(draft);
    let (status, text) = ask(&admin, "/events").await;
    assert!(status == 200 && text.contains("while it hangs"), "{text}");
    hanging.send(()).expect("somebody waited for the disk");
    changing.await.unwrap().unwrap();
    admin
        .stop(crate::admin::StopBounds::default())
        .await
        .unwrap();
}
