//! A typed client over the Unix socket.
//!
//! Every method is one request. A client keeps idle connections, so a series of calls connects
//! once.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{Authentication, Portal, Target};
use crate::limits;
use crate::path::url;
use crate::request::{
    Change, DeviceChange, DeviceRemoval, EventQuery, Export, LunChange, MoveRule, NewAccount,
    NewDevice, NewLun, NewRule, NewSecret, PortalChange, Rollback, SettingsText, TargetChange,
    TaskQuery,
};
use crate::view::{
    AccountView, Applied, DeviceView, Difference, HistoryEntry, LunAdded, NextEvents, PortalView,
    RuleView, SecretStored, SessionInfo, SettingsApplied, SettingsShown, Status, TargetView, Task,
};
use crate::{Code, Problem};

/// Why a call gave no answer of its type.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens on the socket.
    #[error("cannot reach the service at {}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The service refused, and says why.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The exchange broke off, or the answer is not of this API.
    #[error("the exchange with the service at {} broke off", socket.display())]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The client could not be made.
    #[error("the HTTP client could not be set up")]
    Setup(#[source] reqwest::Error),
}

/// The management API of one service.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
    change: Change,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// What a request body is when there is none.
const NOTHING: Option<&()> = None;

impl Client {
    /// A client of the service behind `socket`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ClientError::Setup`] when the HTTP client cannot be made.
    pub fn new(socket: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let socket = socket.into();
        let http = reqwest::Client::builder()
            .unix_socket(socket.clone())
            .timeout(limits::ANSWER_TIME_MAX)
            .no_proxy()
            .build()
            .map_err(ClientError::Setup)?;
        Ok(Self {
            http,
            socket,
            change: Change::default(),
        })
    }

    /// Sends `change` (reason, expected generation) with every changing request from now on.
    #[must_use]
    pub fn with_change(mut self, change: Change) -> Self {
        self.change = change;
        self
    }

    /// What it sends with every changing request.
    pub const fn carried_change(&self) -> &Change {
        &self.change
    }

    /// The socket it talks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The service at a glance.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.read(&["status"], NOTHING).await
    }

    /// All targets.
    pub async fn targets(&self) -> Result<Vec<TargetView>, ClientError> {
        self.read(&["targets"], NOTHING).await
    }

    /// One target.
    pub async fn target(&self, name: &str) -> Result<TargetView, ClientError> {
        self.read(&["targets", name], NOTHING).await
    }

    /// Adds a target.
    pub async fn add_target(&self, target: &Target) -> Result<Applied, ClientError> {
        self.change(Method::POST, &["targets"], Some(target)).await
    }

    /// Changes a target.
    pub async fn change_target(
        &self,
        name: &str,
        to: &TargetChange,
    ) -> Result<Applied, ClientError> {
        self.change(Method::PATCH, &["targets", name], Some(to))
            .await
    }

    /// Removes a target; its sessions end, its devices stay.
    pub async fn remove_target(&self, name: &str) -> Result<Applied, ClientError> {
        self.change(Method::DELETE, &["targets", name], NOTHING)
            .await
    }

    /// Adds a LUN to a target.
    pub async fn add_lun(&self, target: &str, lun: &NewLun) -> Result<LunAdded, ClientError> {
        self.change(Method::POST, &["targets", target, "luns"], Some(lun))
            .await
    }

    /// Removes a LUN from a target; its device stays.
    pub async fn remove_lun(&self, target: &str, number: u16) -> Result<Applied, ClientError> {
        let number = number.to_string();
        self.change(
            Method::DELETE,
            &["targets", target, "luns", &number],
            NOTHING,
        )
        .await
    }

    /// The access rules of a target, in order.
    pub async fn rules(&self, target: &str) -> Result<Vec<RuleView>, ClientError> {
        self.read(&["targets", target, "access"], NOTHING).await
    }

    /// Adds an access rule.
    pub async fn add_rule(&self, target: &str, rule: &NewRule) -> Result<Applied, ClientError> {
        self.change(Method::POST, &["targets", target, "access"], Some(rule))
            .await
    }

    /// Removes the access rule at `position`; sessions that it allowed end.
    pub async fn remove_rule(&self, target: &str, position: usize) -> Result<Applied, ClientError> {
        let position = position.to_string();
        self.change(
            Method::DELETE,
            &["targets", target, "access", &position],
            NOTHING,
        )
        .await
    }

    /// Moves the access rule at `position`.
    pub async fn move_rule(
        &self,
        target: &str,
        position: usize,
        to: MoveRule,
    ) -> Result<Applied, ClientError> {
        let position = position.to_string();
        self.change(
            Method::POST,
            &["targets", target, "access", &position, "move"],
            Some(&to),
        )
        .await
    }

    /// All devices.
    pub async fn devices(&self) -> Result<Vec<DeviceView>, ClientError> {
        self.read(&["devices"], NOTHING).await
    }

    /// One device, with its reservations.
    pub async fn device(&self, name: &str) -> Result<DeviceView, ClientError> {
        self.read(&["devices", name], NOTHING).await
    }

    /// Starts to add a device; follow it with [`Self::task`].
    pub async fn add_device(&self, device: &NewDevice) -> Result<Task, ClientError> {
        self.change(Method::POST, &["devices"], Some(device)).await
    }

    /// Changes a device: grows it, sets its cache mode or its queue.
    pub async fn change_device(
        &self,
        name: &str,
        to: &DeviceChange,
    ) -> Result<Applied, ClientError> {
        self.change(Method::PATCH, &["devices", name], Some(to))
            .await
    }

    /// Removes a device from the settings.
    pub async fn remove_device(
        &self,
        name: &str,
        how: DeviceRemoval,
    ) -> Result<Applied, ClientError> {
        let mut url = url(&["devices", name]);
        if how.delete_file {
            url.query_pairs_mut().append_pair("delete_file", "true");
        }
        self.send(Method::DELETE, self.with_query(url), NOTHING)
            .await
    }

    /// Loads the medium, or accepts an empty RAM disk.
    pub async fn load_device(&self, name: &str) -> Result<(), ClientError> {
        self.change(Method::POST, &["devices", name, "load"], NOTHING)
            .await
    }

    /// Ejects the medium of a removable device.
    pub async fn eject_device(&self, name: &str) -> Result<(), ClientError> {
        self.change(Method::POST, &["devices", name, "eject"], NOTHING)
            .await
    }

    /// Removes every registration and reservation of a device.
    pub async fn clear_reservations(&self, name: &str) -> Result<(), ClientError> {
        self.change(Method::DELETE, &["devices", name, "reservations"], NOTHING)
            .await
    }

    /// How a task stands; with `after`, waits for its next change.
    pub async fn task(&self, id: u64, query: TaskQuery) -> Result<Task, ClientError> {
        self.read(&["tasks", &id.to_string()], Some(&query)).await
    }

    /// Tasks that are at work or ended lately.
    pub async fn tasks(&self) -> Result<Vec<Task>, ClientError> {
        self.read(&["tasks"], NOTHING).await
    }

    /// Asks a task to end; its state tells when it did.
    pub async fn cancel_task(&self, id: u64) -> Result<Task, ClientError> {
        self.change(Method::DELETE, &["tasks", &id.to_string()], NOTHING)
            .await
    }

    /// All portals.
    pub async fn portals(&self) -> Result<Vec<PortalView>, ClientError> {
        self.read(&["portals"], NOTHING).await
    }

    /// Adds a portal.
    pub async fn add_portal(&self, portal: &Portal) -> Result<Applied, ClientError> {
        self.change(Method::POST, &["portals"], Some(portal)).await
    }

    /// Enables or disables a portal.
    pub async fn change_portal(
        &self,
        name: &str,
        to: PortalChange,
    ) -> Result<Applied, ClientError> {
        self.change(Method::PATCH, &["portals", name], Some(&to))
            .await
    }

    /// Removes a portal; its sessions end.
    pub async fn remove_portal(&self, name: &str) -> Result<Applied, ClientError> {
        self.change(Method::DELETE, &["portals", name], NOTHING)
            .await
    }

    /// All CHAP accounts, without their secrets.
    pub async fn accounts(&self) -> Result<Vec<AccountView>, ClientError> {
        self.read(&["chap"], NOTHING).await
    }

    /// Adds a CHAP account.
    pub async fn add_account(&self, account: &NewAccount) -> Result<SecretStored, ClientError> {
        self.change(Method::POST, &["chap"], Some(account)).await
    }

    /// Sets the secret of a CHAP account.
    pub async fn set_secret(
        &self,
        user: &str,
        to: &NewSecret,
    ) -> Result<SecretStored, ClientError> {
        self.change(Method::PUT, &["chap", user, "secret"], Some(to))
            .await
    }

    /// Removes a CHAP account and its secret.
    pub async fn remove_account(&self, user: &str) -> Result<Applied, ClientError> {
        self.change(Method::DELETE, &["chap", user], NOTHING).await
    }

    /// Sessions open now.
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>, ClientError> {
        self.read(&["sessions"], NOTHING).await
    }

    /// Ends a session.
    pub async fn drop_session(&self, tsih: u16) -> Result<(), ClientError> {
        self.change(Method::DELETE, &["sessions", &tsih.to_string()], NOTHING)
            .await
    }

    /// The settings in force.
    pub async fn settings(&self) -> Result<SettingsShown, ClientError> {
        self.read(&["settings"], NOTHING).await
    }

    /// A kept generation.
    pub async fn settings_of(&self, generation: u64) -> Result<SettingsShown, ClientError> {
        self.read(&["settings", "history", &generation.to_string()], NOTHING)
            .await
    }

    /// The settings in force for taking away, with secrets only under a passphrase.
    pub async fn export_settings(&self, how: &Export) -> Result<SettingsShown, ClientError> {
        // Changes nothing, but who takes secrets away may say why.
        self.change(Method::POST, &["settings", "export"], Some(how))
            .await
    }

    /// What applying a document would change.
    pub async fn diff_settings(&self, text: &SettingsText) -> Result<Difference, ClientError> {
        self.send(Method::POST, url(&["settings", "diff"]), Some(text))
            .await
    }

    /// Applies a document, all of it or nothing.
    pub async fn apply_settings(
        &self,
        text: &SettingsText,
    ) -> Result<SettingsApplied, ClientError> {
        self.change(Method::POST, &["settings", "apply"], Some(text))
            .await
    }

    /// Returns to a kept generation, as a new one.
    pub async fn roll_back(&self, to: Rollback) -> Result<SettingsApplied, ClientError> {
        self.change(Method::POST, &["settings", "rollback"], Some(&to))
            .await
    }

    /// Kept generations, newest first.
    pub async fn history(&self) -> Result<Vec<HistoryEntry>, ClientError> {
        self.read(&["settings", "history"], NOTHING).await
    }

    /// Events, oldest first.
    pub async fn events(&self, query: &EventQuery) -> Result<Vec<events::Event>, ClientError> {
        self.read(&["events"], Some(query)).await
    }

    /// Events after a number as soon as there are any; none when none came within
    /// [`EVENT_WAIT_MAX`](crate::limits::EVENT_WAIT_MAX).
    pub async fn next_events(&self, query: &EventQuery) -> Result<NextEvents, ClientError> {
        self.read(&["events", "next"], Some(query)).await
    }

    /// What initiators prove before they are told which targets there are.
    pub async fn discovery(&self) -> Result<Authentication, ClientError> {
        self.read(&["discovery"], NOTHING).await
    }

    /// Sets what initiators prove in discovery; an empty proof is none.
    pub async fn set_discovery(&self, proof: &Authentication) -> Result<Applied, ClientError> {
        self.change(Method::PUT, &["discovery"], Some(proof)).await
    }

    /// Changes a LUN.
    pub async fn change_lun(
        &self,
        target: &str,
        number: u16,
        to: LunChange,
    ) -> Result<Applied, ClientError> {
        let number = number.to_string();
        let place = ["targets", target, "luns", &number];
        self.change(Method::PATCH, &place, Some(&to)).await
    }

    async fn read<Q, A>(&self, segments: &[&str], query: Option<&Q>) -> Result<A, ClientError>
    where
        Q: Serialize + ?Sized,
        A: DeserializeOwned,
    {
        let mut url = url(segments);
        if let Some(query) = query {
            append_query(&mut url, query);
        }
        self.send(Method::GET, url, NOTHING).await
    }

    async fn change<B, A>(
        &self,
        method: Method,
        segments: &[&str],
        body: Option<&B>,
    ) -> Result<A, ClientError>
    where
        B: Serialize + ?Sized,
        A: DeserializeOwned,
    {
        self.send(method, self.with_query(url(segments)), body)
            .await
    }

    fn with_query(&self, mut url: Url) -> Url {
        append_query(&mut url, &self.change);
        url
    }

    async fn send<B, A>(&self, method: Method, url: Url, body: Option<&B>) -> Result<A, ClientError>
    where
        B: Serialize + ?Sized,
        A: DeserializeOwned,
    {
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| self.failure(error))?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.failure(error))?
        {
            if answer.len() + chunk.len() > limits::ANSWER_BYTES_MAX {
                return Err(self.broken("the answer is longer than this client takes"));
            }
            answer.extend_from_slice(&chunk);
        }
        if status.is_success() {
            let answer = if answer.is_empty() {
                b"null".as_slice()
            } else {
                &answer
            };
            return serde_json::from_slice(answer).map_err(|error| self.broken(error));
        }
        Err(ClientError::Problem(
            serde_json::from_slice(&answer).unwrap_or_else(|_| {
                Problem::new(
                    Code::Internal,
                    format!("the service answered with status {status}"),
                )
                .next("check that client and service are of the same version")
            }),
        ))
    }

    fn failure(&self, error: reqwest::Error) -> ClientError {
        if error.is_connect() {
            let source = io_cause(&error).unwrap_or_else(|| io::Error::other(error));
            return ClientError::Unreachable {
                socket: self.socket.clone(),
                source,
            };
        }
        self.broken(error)
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Exchange {
            socket: self.socket.clone(),
            source: source.into(),
        }
    }
}

/// Writes the fields of a flat value into the query of `url`; absent fields leave nothing behind.
fn append_query<Q: Serialize + ?Sized>(url: &mut Url, query: &Q) {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(query) else {
        return;
    };
    if fields.is_empty() {
        return;
    }
    let mut pairs = url.query_pairs_mut();
    for (name, value) in &fields {
        match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => pairs.append_pair(name, text),
            other => pairs.append_pair(name, &other.to_string()),
        };
    }
}

/// The operating system's word at the bottom of a chain of causes.
fn io_cause(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(errno) = io.raw_os_error()
        {
            return Some(io::Error::from_raw_os_error(errno));
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_holds_what_is_there() {
        let mut url = url(&["events"]);
        append_query(
            &mut url,
            &EventQuery {
                since_id: Some(7),
                code: Some("a b&c".to_owned()),
                ..EventQuery::default()
            },
        );
        let mut pairs: Vec<_> = url.query_pairs().into_owned().collect();
        pairs.sort();
        assert_eq!(
            pairs,
            [
                ("code".to_owned(), "a b&c".to_owned()),
                ("since_id".to_owned(), "7".to_owned())
            ]
        );
    }

    #[test]
    fn an_empty_change_adds_no_query() {
        let client = Client::new("/nowhere/api.sock").unwrap();
        assert_eq!(client.with_query(url(&["targets"])).query(), None);
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable_with_the_cause() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(dir.path().join("api.sock")).unwrap();
        match client.status().await {
            Err(ClientError::Unreachable { source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::NotFound);
            }
            other => panic!("expected unreachable, got {other:?}"),
        }
    }
}
