//! Every change of what is served goes through here, one at a time.
//!
//! ```text
//! edit the document ─► plan and check ─► stage (stable, not current) ─► data path prepares it
//!                                                                         │ fails: discard
//!                                       event ◄─ data path commits ◄─ activate
//!                                                                         │ fails: data path undoes
//! ```
//!
//! Secrets take the same steps: those that come with a document, and those that go with it because
//! no account of it names them. They are staged with it, and in force with it.
//!
//! A change runs as a task of its own, so that a client that goes away in the middle cannot leave
//! it half made. Nothing here waits for a disk where requests are served: what a change looks at
//! has a bound ([`Admin::look`]), what it writes goes on to its end on a thread of its own. When
//! the process ends between the activation and the data path's commit, the next start serves the
//! new settings; nobody was told so, as with a power cut on any disk.

mod checks;
mod paths;
mod removals;
pub(crate) mod waiting;

use std::collections::HashSet;
use std::sync::Arc;

use api::view::{Applied, Difference};
use api::{Code, Problem};
use events::Draft;
use parking_lot::{Mutex, RwLock};
use secrecy::{ExposeSecret, SecretString};
use settings::{
    ActivateError, Document, Loaded, Plan, Secrets, ServiceSettings, Staged, StagedSecrets, Store,
};
use target::{Prepared, Service, ServiceError, provision};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::data_dir::DataDir;
use crate::door::Door;
use crate::peer::Caller;
use crate::tasks::Tasks;
use crate::{limits, trouble};

pub(crate) use checks::{check, check_new};
pub(crate) use paths::Paths;
pub(crate) use removals::{Removal, Removals};
pub(crate) use waiting::{StopBounds, blocking};

/// The running service as the socket's requests see it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Admin(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Parts,
    tasks: Tasks,
    /// Held along a change.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// Places of those that wait for their turn to change something.
    waiting: Semaphore,
    /// Places of those that look at the data directory at once.
    looking: Arc<Semaphore>,
    /// What looks at other disks.
    paths: Paths,
    /// Files that are being deleted.
    removals: Removals,
    /// Locked over the disk's work: on blocking threads alone, along a change.
    secrets: Mutex<Secrets>,
    /// The secrets in force. Locked only to copy the pointer or to put another in its place.
    secrets_now: RwLock<Arc<Secrets>>,
}

/// What an [`Admin`] is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) data_dir: DataDir,
    pub(crate) service: Service,
    pub(crate) store: Store,
    pub(crate) events: events::Store,
    pub(crate) door: Door,
    /// Runs the data path's control plane, and what is asked of it.
    pub(crate) control: Handle,
}

/// Who asks for a change, on what condition, and why.
#[derive(Clone, Debug)]
pub(crate) struct By {
    pub(crate) caller: Caller,
    pub(crate) expect: Option<u64>,
    pub(crate) why: Option<String>,
}

/// Secrets that come with a change, by name.
pub(crate) type NewSecrets = Vec<(String, SecretString)>;

/// What a change does to the secrets.
#[derive(Debug, Default)]
struct SecretsChange {
    /// New ones, or in place of those of their names.
    set: NewSecrets,
    /// Names of those that go: no account names them any more.
    dropped: Vec<String>,
}

impl SecretsChange {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.dropped.is_empty()
    }
}

/// A change on disk that is not in force yet.
struct Pending {
    settings: Staged,
    secrets: Option<StagedSecrets>,
}

/// A change that is in force.
#[derive(Debug)]
pub(crate) struct Changed<T> {
    pub(crate) generation: u64,
    /// The generation was made by it; otherwise all was in force already.
    pub(crate) made: bool,
    /// Unified diff; empty when the settings are as they were.
    pub(crate) diff: String,
    /// Names of the secrets that are new or replaced.
    pub(crate) secrets: Vec<String>,
    /// Names of the secrets that went, as no account names them any more.
    pub(crate) secrets_removed: Vec<String>,
    /// What comes into force later, or did not quite work.
    pub(crate) notes: Vec<String>,
    /// It holds, but something that had to end before it has not ended, or not well. What follows
    /// from the change is to be done all the same; then this is the answer.
    pub(crate) overdue: Option<Problem>,
    /// What the edit gave.
    pub(crate) value: T,
}

impl<T> Changed<T> {
    pub(crate) const fn applied(&self) -> Applied {
        Applied {
            generation: self.generation,
        }
    }

    /// The answer when nothing else is to be done.
    pub(crate) fn settled(mut self) -> Result<Self, Problem> {
        self.overdue.take().map_or(Ok(self), Err)
    }

    fn with<U>(self, value: U) -> Changed<U> {
        Changed {
            generation: self.generation,
            made: self.made,
            diff: self.diff,
            secrets: self.secrets,
            secrets_removed: self.secrets_removed,
            notes: self.notes,
            overdue: self.overdue,
            value,
        }
    }
}

/// Something done that is no change of the settings, for its event.
#[derive(Clone, Debug)]
pub(crate) struct Deed {
    pub(crate) code: &'static str,
    pub(crate) subject: String,
    pub(crate) what: String,
}

impl Admin {
    pub(crate) fn new(parts: Parts, secrets: Secrets) -> Self {
        Self(Arc::new(Inner {
            parts,
            tasks: Tasks::default(),
            changing: Arc::default(),
            waiting: Semaphore::new(limits::CHANGES_WAITING_MAX),
            looking: Arc::new(Semaphore::new(limits::LOOKING_MAX)),
            paths: Paths::default(),
            removals: Removals::default(),
            secrets_now: RwLock::new(Arc::new(secrets.clone())),
            secrets: Mutex::new(secrets),
        }))
    }

    pub(crate) fn service(&self) -> &Service {
        &self.0.parts.service
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.parts.store
    }

    pub(crate) fn events(&self) -> &events::Store {
        &self.0.parts.events
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    pub(crate) fn paths(&self) -> &Paths {
        &self.0.paths
    }

    pub(crate) fn removals(&self) -> &Removals {
        &self.0.removals
    }

    pub(crate) fn data_dir(&self) -> &DataDir {
        &self.0.parts.data_dir
    }

    pub(crate) fn door(&self) -> &Door {
        &self.0.parts.door
    }

    /// The settings in force.
    pub(crate) fn current(&self) -> Result<Arc<Loaded>, Problem> {
        self.store().current().ok_or_else(|| {
            Problem::new(Code::Internal, "the service has no settings").next("start it again")
        })
    }

    /// Whether the secrets store has a secret of this name.
    pub(crate) fn has_secret(&self, name: &str) -> bool {
        self.secrets().contains(name)
    }

    /// The file with the secrets.
    pub(crate) fn secrets_path(&self) -> std::path::PathBuf {
        self.secrets().path().to_owned()
    }

    /// The secrets in force.
    fn secrets(&self) -> Arc<Secrets> {
        Arc::clone(&self.0.secrets_now.read())
    }

    /// Changes the secrets, and shows what came of it. Waits for the disk.
    fn change_secrets<T>(&self, change: impl FnOnce(&mut Secrets) -> T) -> T {
        let mut secrets = self.0.secrets.lock();
        let changed = change(&mut secrets);
        *self.0.secrets_now.write() = Arc::new(secrets.clone());
        changed
    }

    /// Edits the document and makes the result be in force.
    pub(crate) async fn edit<T: Send + 'static>(
        &self,
        by: By,
        what: String,
        edit: impl FnOnce(&mut Document) -> Result<T, Problem> + Send + 'static,
    ) -> Result<Changed<T>, Problem> {
        self.edit_with_secrets(by, what, |document| Ok((edit(document)?, Vec::new())))
            .await
    }

    /// As [`Admin::edit`], with secrets that come with it.
    pub(crate) async fn edit_with_secrets<T: Send + 'static>(
        &self,
        by: By,
        what: String,
        edit: impl FnOnce(&mut Document) -> Result<(T, NewSecrets), Problem> + Send + 'static,
    ) -> Result<Changed<T>, Problem> {
        let changed = self.alone(move |admin| async move {
            Box::pin(admin.edit_all_alone(&by, &what, edit)).await
        });
        changed.await?.settled()
    }

    /// As [`Admin::edit`], for work that runs within [`Admin::alone`] already, and that goes on
    /// where the change is overdue.
    pub(crate) async fn edit_alone<T: Send + 'static>(
        &self,
        by: &By,
        what: &str,
        edit: impl FnOnce(&mut Document) -> Result<T, Problem> + Send + 'static,
    ) -> Result<Changed<T>, Problem> {
        let edit = |document: &mut Document| Ok((edit(document)?, Vec::new()));
        self.edit_all_alone(by, what, edit).await
    }

    async fn edit_all_alone<T: Send + 'static>(
        &self,
        by: &By,
        what: &str,
        edit: impl FnOnce(&mut Document) -> Result<(T, NewSecrets), Problem> + Send + 'static,
    ) -> Result<Changed<T>, Problem> {
        self.expected(by)?;
        // Looks at files, and at every line of the document.
        let looked = self.look(|admin| {
            let mut document = admin.current()?.document.clone();
            let (value, secrets) = edit(&mut document)?;
            let check = |document: &Document| admin.check_with(document, &secrets);
            let plan = admin.store().propose(document, &check);
            let plan = plan.map_err(|error| trouble::propose(&error))?;
            Ok((value, secrets, plan))
        });
        let (value, secrets, mut plan) = looked.await?;
        // Who typed a command has not seen the text that the lines would be of.
        for problem in &mut plan.checks {
            (problem.line, problem.column) = (0, 0);
        }
        let changed = Box::pin(self.change(by, what, plan, secrets)).await?;
        Ok(changed.with(value))
    }

    /// Makes a plan be in force, and with it the secrets it comes with: all of it, or nothing.
    pub(crate) async fn carry_out(
        &self,
        by: By,
        what: String,
        plan: impl FnOnce(&Self) -> Result<(Plan, NewSecrets), Problem> + Send + 'static,
    ) -> Result<Changed<()>, Problem> {
        let changed = self.alone(move |admin| async move {
            admin.expected(&by)?;
            let (plan, secrets) = admin.look(plan).await?;
            Box::pin(admin.change(&by, &what, plan, secrets)).await
        });
        changed.await?.settled()
    }

    /// Does something that is no change of the settings, in its turn, and records it, also where
    /// nobody waits for the answer any more.
    pub(crate) async fn act<F>(
        &self,
        by: By,
        deed: Deed,
        work: impl FnOnce(Service) -> F + Send + 'static,
    ) -> Result<(), Problem>
    where
        F: Future<Output = Result<(), ServiceError>> + Send + 'static,
    {
        self.alone(move |admin| async move {
            admin.expected(&by)?;
            let done = admin.ask(work(admin.service().clone())).await;
            let done = done.map_err(|error| (overdue(&error), trouble::service(&error)));
            match &done {
                Ok(()) => admin.tell_done(&by, &deed, None),
                Err((true, problem)) => admin.tell_done(&by, &deed, Some(problem)),
                Err((false, _)) => {}
            }
            done.map_err(|(_, problem)| problem)
        })
        .await
    }

    /// Refuses a change whose caller read another generation.
    pub(crate) fn expected(&self, by: &By) -> Result<(), Problem> {
        let now = &self.current()?.generation;
        match by.expect {
            Some(expect) if expect != now.number => Err(Problem::new(
                Code::GenerationConflict,
                format!("the settings were changed since generation {expect} was read"),
            )
            .detail(format!(
                "generation {} is in force, made by {} ({})",
                now.number, now.who, now.why
            ))
            .next("read the settings again, compare, and repeat")),
            _ => Ok(()),
        }
    }

    /// The settings with all secrets under a passphrase. Takes a second or so.
    pub(crate) fn export(
        &self,
        document: &Document,
        passphrase: &SecretString,
    ) -> Result<String, Problem> {
        settings::export(document, Some((&*self.secrets(), passphrase)))
            .map_err(|error| trouble::export(&error))
    }

    /// Stages, applies, activates.
    async fn change(
        &self,
        by: &By,
        what: &str,
        plan: Plan,
        secrets: NewSecrets,
    ) -> Result<Changed<()>, Problem> {
        let before = self.current()?;
        self.accepted(&plan, &secrets)?;
        let secrets = self.due(&plan.document, secrets);
        let mut changed = Changed {
            generation: before.generation.number,
            made: false,
            diff: plan.diff.clone(),
            secrets: names(&secrets.set),
            secrets_removed: Vec::new(),
            notes: Vec::new(),
            overdue: None,
            value: (),
        };
        if plan.is_empty() && plan.text == before.text && secrets.set.is_empty() {
            return Ok(changed);
        }
        changed.secrets_removed.clone_from(&secrets.dropped);
        let document = plan.document.clone();
        // Before: what a kill left after the device of this name had been removed.
        self.forget(&document, &before.document).await?;
        let pending = self.stage(by, what, plan, secrets).await?;
        let prepared = match self.prepare(&document, pending.secrets.as_ref()).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.discard(pending).await;
                return Err(trouble::service(&error));
            }
        };
        let notes = &mut changed.notes;
        let group = self.door().group();
        if let Err(problem) = self.admit(&before.document, &document, notes).await {
            self.discard(pending).await;
            return Err(self.give_up(prepared, problem).await);
        }
        let activated = self.activate(pending, notes).await;
        let activated =
            activated.and_then(|activated| activated.map_err(|error| trouble::activate(&error)));
        let generation = match activated {
            Ok(generation) => generation,
            Err(problem) => {
                let problem = match self.at_the_door(move |door| door.give_to(group)).await {
                    Ok(()) => problem,
                    Err(left) => problem.detail(left.what),
                };
                return Err(self.give_up(prepared, problem).await);
            }
        };
        // The change holds from here on; what had to end before it may not have ended yet.
        let overdue = self.ask(prepared.commit()).await.err();
        if let Err(problem) = self.forget(&before.document, &document).await {
            notes.push(problem.to_string());
        }
        let later = later(&before.document.service, &document.service);
        changed.generation = generation.number;
        changed.made = true;
        changed.overdue = overdue.map(|error| trouble::service(&error));
        self.tell(by, what, &changed, &later);
        changed.notes.extend(later);
        Ok(changed)
    }

    /// What a plan with these secrets would make.
    pub(crate) fn foresee(&self, plan: &Plan, secrets: NewSecrets) -> Result<Difference, Problem> {
        let before = self.current()?;
        self.accepted(plan, &secrets)?;
        let SecretsChange { set, mut dropped } = self.due(&plan.document, secrets);
        let changed = !(plan.is_empty() && plan.text == before.text && set.is_empty());
        if !changed {
            dropped.clear();
        }
        Ok(Difference {
            generation: before.generation.number,
            changed,
            text: plan.diff.clone(),
            secrets: names(&set),
            secrets_removed: dropped,
        })
    }

    /// Refuses a plan that could not be served. Where accounts have no secret, says what to do.
    fn accepted(&self, plan: &Plan, secrets: &NewSecrets) -> Result<(), Problem> {
        if plan.is_accepted() {
            return Ok(());
        }
        let lines: Vec<String> = plan.checks.iter().map(ToString::to_string).collect();
        let stored = self.secrets();
        let held =
            |name: &str| stored.contains(name) || secrets.iter().any(|(other, _)| other == name);
        let accounts = plan.document.iscsi.accounts.iter();
        let without = accounts.filter(|account| !held(&account.secret));
        let users: Vec<&str> = without.map(|account| account.user.as_str()).collect();
        Err(trouble::plan_refused(&lines, &users))
    }

    /// Removes what lies in the data directory under the names of devices that only the first
    /// document has: there is no such device, or it is a new one.
    async fn forget(&self, of: &Document, but: &Document) -> Result<(), Problem> {
        let names = |document: &Document, name: &str| {
            let devices = &document.iscsi.devices;
            devices.iter().any(|device| device.name == name)
        };
        let devices = of.iscsi.devices.iter();
        let gone: Vec<_> = devices
            .filter(|device| !names(but, &device.name))
            .cloned()
            .collect();
        let data_dir = self.data_dir().path().to_owned();
        let forgotten = blocking(move || {
            gone.iter()
                .try_for_each(|device| provision::forget(device, &data_dir))
        });
        forgotten.await?.map_err(|error| trouble::provision(&error))
    }

    /// What has to be done for the store to hold the secrets that a document's accounts name, and
    /// no others: a secret that outlives its account would let in who knows it, once a later
    /// document has an account of that name.
    fn due(&self, document: &Document, mut set: NewSecrets) -> SecretsChange {
        let accounts = document.iscsi.accounts.iter();
        let named: HashSet<&str> = accounts.map(|account| account.secret.as_str()).collect();
        let stored = self.secrets();
        set.retain(|(name, secret)| {
            let stored = stored.get(name).map(ExposeSecret::expose_secret);
            named.contains(name.as_str()) && stored != Some(secret.expose_secret())
        });
        let unnamed = stored.names().filter(|name| !named.contains(name));
        let dropped = unnamed.map(str::to_owned).collect();
        SecretsChange { set, dropped }
    }

    async fn stage(
        &self,
        by: &By,
        what: &str,
        plan: Plan,
        secrets: SecretsChange,
    ) -> Result<Pending, Problem> {
        let (who, why) = (
            by.caller.name.clone(),
            by.why.clone().unwrap_or_else(|| what.to_owned()),
        );
        let admin = self.clone();
        let staged = blocking(move || {
            admin.change_secrets(|stored| {
                // Secrets of the change before this one, where the disk did not take them then:
                // they belong to settings that this change replaces.
                stored.finish().map_err(|error| trouble::secrets(&error))?;
                let none = secrets.is_empty();
                if none {
                    let ready = stored.stage_none();
                    ready.map_err(|error| trouble::secrets(&error))?;
                }
                let settings = admin.store().stage(plan, &who, &why);
                let settings = settings.map_err(|error| trouble::stage(&error))?;
                let secrets = match none {
                    true => None,
                    false => {
                        let staged = stored.stage(secrets.set, &secrets.dropped, &settings);
                        Some(staged.map_err(|error| trouble::secrets(&error))?)
                    }
                };
                Ok(Pending { settings, secrets })
            })
        });
        staged.await?
    }

    /// Takes a staged change away. That it cannot must not keep the rest from being undone.
    async fn discard(&self, pending: Pending) {
        let admin = self.clone();
        let discarded = blocking(move || {
            let secrets = pending.secrets.map_or(Ok(()), |secrets| {
                admin.change_secrets(|stored| stored.discard(secrets))
            });
            pending.settings.discard().and(secrets)
        });
        let error = match discarded.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(problem) => problem.to_string(),
        };
        tracing::warn!(
            error,
            "a change that was given up stays on disk until the next one"
        );
    }

    /// Makes a change that the data path has taken the current one; then its secrets are.
    async fn activate(
        &self,
        pending: Pending,
        notes: &mut Vec<String>,
    ) -> Result<Result<settings::Generation, ActivateError>, Problem> {
        let admin = self.clone();
        let activated = blocking(move || {
            let activated = pending.settings.activate();
            let Some(secrets) = pending.secrets else {
                return (activated, Ok(()));
            };
            let taken = admin.change_secrets(|stored| match &activated {
                Ok(_) => stored.take(secrets),
                Err(ActivateError::NotConfirmed { .. }) => {
                    stored.hold(secrets);
                    Ok(())
                }
                Err(ActivateError::NotActivated(_)) => {
                    if let Err(error) = stored.discard(secrets) {
                        tracing::warn!(%error, "staged secrets stay until the next change or start");
                    }
                    Ok(())
                }
            });
            (activated, taken)
        });
        let (activated, taken) = activated.await?;
        if let Err(error) = taken {
            notes.push(format!(
                "{error}; the next start or change brings them to their place"
            ));
        }
        Ok(match activated {
            Err(ActivateError::NotConfirmed { generation, source }) => {
                notes.push(format!(
                    "the disk did not confirm the new settings: {source}"
                ));
                Ok(*generation)
            }
            other => other,
        })
    }

    /// Lets the data path prepare a document, with the secrets in force or with those to be.
    async fn prepare(
        &self,
        document: &Document,
        staged: Option<&StagedSecrets>,
    ) -> Result<Prepared, ServiceError> {
        let secrets = match staged {
            Some(staged) => handed_over(staged.iter()),
            None => handed_over(self.secrets().iter()),
        };
        let (service, config) = (self.service().clone(), document.iscsi.clone());
        self.ask(async move { service.prepare(config, secrets).await })
            .await
    }

    /// Opens the socket to the group of a document that is about to be in force. Where the group is
    /// not new, a change of something else does not fail for it.
    async fn admit(
        &self,
        before: &Document,
        after: &Document,
        notes: &mut Vec<String>,
    ) -> Result<(), Problem> {
        let group = after.service.api_group.clone();
        let same = group == before.service.api_group;
        let admitted = self.at_the_door(move |door| door.open_to(group.as_deref()));
        match admitted.await {
            Err(problem) if same => {
                notes.push(problem.what);
                Ok(())
            }
            admitted => admitted,
        }
    }

    /// The socket lies on a disk, too.
    async fn at_the_door(
        &self,
        work: impl FnOnce(&Door) -> Result<(), Problem> + Send + 'static,
    ) -> Result<(), Problem> {
        let admin = self.clone();
        blocking(move || work(admin.door())).await?
    }

    /// The data path goes back to what it serves; what it cannot take back is told, too.
    async fn give_up(&self, prepared: Prepared, problem: Problem) -> Problem {
        match self.ask(prepared.undo()).await {
            Ok(()) => problem,
            Err(left) => problem.detail(left.to_string()),
        }
    }

    /// Records a change, and in events of their own what of it did not go well.
    fn tell(&self, by: &By, what: &str, changed: &Changed<()>, later: &[String]) {
        let subject = format!("generation {}", changed.generation);
        let mut message = format!("{} changed the settings: {what}", by.caller.name);
        if !changed.secrets_removed.is_empty() {
            let removed = changed.secrets_removed.join(", ");
            message.push_str(&format!("; secrets without an account went: {removed}"));
        }
        let mut draft = Draft::info("settings-changed", &subject, &message);
        if let Some(why) = &by.why {
            draft = draft.cause(why);
        }
        if !later.is_empty() {
            draft = draft.next_step(&later.join("; "));
        }
        self.events().record(draft);
        for note in &changed.notes {
            let draft = Draft::warning("change-incomplete", &subject, note);
            self.events().record(draft);
        }
        if let Some(overdue) = &changed.overdue {
            self.events().record(not_ended(&subject, overdue));
        }
    }

    /// Records something done that is no change of the settings; `late` is what has not ended.
    pub(crate) fn tell_done(&self, by: &By, deed: &Deed, late: Option<&Problem>) {
        let message = format!("{} {}", by.caller.name, deed.what);
        let mut draft = Draft::info(deed.code, &deed.subject, &message);
        if let Some(why) = &by.why {
            draft = draft.cause(why);
        }
        self.events().record(draft);
        if let Some(late) = late {
            self.events().record(not_ended(&deed.subject, late));
        }
    }
}

/// Whether what was asked for holds in spite of the error.
const fn overdue(error: &ServiceError) -> bool {
    matches!(
        error,
        ServiceError::Stuck { .. } | ServiceError::Unflushed { .. }
    )
}

fn names(secrets: &NewSecrets) -> Vec<String> {
    secrets.iter().map(|(name, _)| name.clone()).collect()
}

/// Something holds, but what had to end before has not ended, or not well.
fn not_ended(subject: &str, left: &Problem) -> Draft {
    Draft::error("change-not-ended", subject, &left.what).next_step(&left.next_step)
}

/// What cannot be followed while running.
fn later(before: &ServiceSettings, after: &ServiceSettings) -> Vec<String> {
    let later = [
        ("service.shards", before.shards != after.shards),
        ("service.ring", before.ring != after.ring),
        ("service.spin_us", before.spin_us != after.spin_us),
    ];
    let changed = later.into_iter().filter(|(_, changed)| *changed);
    let told = changed
        .map(|(name, _)| format!("{name} comes into force when the service is started again"));
    told.collect()
}

/// The secrets in the form that the data path takes.
pub(crate) fn handed_over<'a>(
    secrets: impl Iterator<Item = (&'a str, &'a SecretString)>,
) -> target::Secrets {
    let mut handed = target::Secrets::new();
    for (name, secret) in secrets {
        handed.insert(name, secret.expose_secret().as_bytes().to_vec());
    }
    handed
}
