//! One rotation from where it stands to its end.

use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::kind::{Context, KindError};
use super::{Mode, OnPending, Plan, Report, Request, Rotator};
use crate::document::{Document, MAX_VALUE_BYTES, Rotation, Start, Step};
use crate::notify::{Message, Notified};
use crate::store::{Change, Editor, not_found, revocation};
use crate::{Secret, SecretStore, StoreError, Version, VersionState};

/// How often another rotator's work is met and taken up before this one gives up.
const MAX_MEETINGS: u32 = 16;

/// The reason is kept in the document; so much of it is.
const MAX_REASON_CHARS: usize = 500;

/// Why a rotation did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the step \"{step}\" failed: {error}")]
    Kind { step: &'static str, error: KindError },
    #[error("the step \"{step}\" took longer than {seconds} s and was given up")]
    TimedOut { step: &'static str, seconds: f64 },
}

impl Failure {
    /// Whether the pending version is to be withdrawn: it is known to be of no use. Where the store is away, the next call
    /// finds out.
    fn is_verdict(&self) -> bool {
        matches!(self, Self::Kind { .. } | Self::TimedOut { .. } | Self::Store(StoreError::Overtaken { .. }))
    }
}

/// A rotation with its pending version.
struct Pending {
    rotation: Rotation,
    new: Secret,
    old: Option<Secret>,
}

pub(super) struct Run<'a> {
    rotator: &'a Rotator,
    plan: &'a Plan,
    request: &'a Request,
    editor: Editor<'a, dyn SecretStore>,
    report: Report,
    began: Instant,
    /// Held while it counts as one of those that are rotated at a time.
    turn: Option<OwnedSemaphorePermit>,
}

impl<'a> Run<'a> {
    pub(super) fn new(rotator: &'a Rotator, plan: &'a Plan, request: &'a Request) -> Self {
        let report = Report::new(plan.name.clone());
        let editor = Editor::new(&*rotator.store, &plan.name);
        Self { rotator, plan, request, editor, report, began: Instant::now(), turn: None }
    }

    pub(super) fn with_turn(self, turn: Option<OwnedSemaphorePermit>) -> Self {
        Self { turn, ..self }
    }

    pub(super) async fn rotate(mut self) -> Report {
        if let Err(failure) = self.attempt().await {
            self.report.fail(failure);
        }
        if self.is_emergency() && !self.request.dry_run {
            self.look_at_exposure().await;
        }
        self.end()
    }

    pub(super) async fn resume(mut self, rotation: Rotation) -> Report {
        self.report.from_version = Some(rotation.from).filter(|from| *from != Version::NONE);
        let done = if rotation.step == Step::Promoted {
            self.report.promoted = true;
            self.report.to_version = Some(rotation.version);
            self.follow_up(&rotation).await
        } else {
            self.take_up(rotation).await
        };
        if let Err(failure) = done {
            self.report.fail(failure);
        }
        self.end()
    }

    pub(super) async fn expire(mut self) -> Result<Vec<Version>, StoreError> {
        let now = Timestamp::now();
        let document = self.load().await?;
        let ended = |state, until: Option<Timestamp>| {
            state == VersionState::Previous && until.is_some_and(|until| until <= now)
        };
        let ended: Vec<Version> =
            document.versions().filter(|info| ended(info.state, info.valid_until)).map(|info| info.version).collect();
        let mut revoked = Vec::new();
        for version in ended {
            if self.revoke(&document, version, Uuid::nil()).await {
                revoked.push(version);
            }
        }
        if let Some(error) = self.report.error.take() {
            tracing::warn!(name = %self.plan.name, error, "a version of which the overlap has ended could not be revoked");
        }
        Ok(revoked)
    }

    fn end(mut self) -> Report {
        self.report.seconds = self.began.elapsed().as_secs_f64();
        self.report
    }

    async fn attempt(&mut self) -> Result<(), Failure> {
        let document = self.load().await?;
        self.report.from_version = Some(document.current_version()).filter(|version| *version != Version::NONE);
        if self.request.dry_run {
            self.describe(&document);
            return Ok(());
        }
        let pending = self.pending(document).await?;
        self.carry_through(pending).await
    }

    /// Fills in the report what would be done.
    fn describe(&mut self, document: &Document) {
        let pending = document.rotation().filter(|rotation| rotation.step < Step::Promoted);
        self.report.to_version = Some(pending.map_or(document.next_version(), |rotation| rotation.version));
        let untold = |subscriber: &crate::notify::Subscriber| Notified {
            subscriber: subscriber.to_string(),
            acknowledged: false,
            seconds: 0.0,
            error: None,
        };
        self.report.notified = self.plan.subscribers.iter().map(untold).collect();
    }

    /// Gets the secret to the state "there is a pending version": finds one, or makes one.
    async fn pending(&mut self, mut document: Document) -> Result<Pending, Failure> {
        let unwanted = document.rotation().filter(|_| self.request.on_pending == OnPending::Withdraw).map(|r| r.id);
        for _ in 0..MAX_MEETINGS {
            match document.rotation().cloned() {
                None => match self.begin(&document).await {
                    Err(Failure::Store(StoreError::Overtaken { .. })) => {}
                    begun => return begun,
                },
                Some(rotation) if rotation.step == Step::Promoted => self.clear(&rotation).await?,
                Some(rotation) if rotation.condemned || unwanted == Some(rotation.id) => {
                    let pending = pending_of(&document, rotation)?;
                    self.take_back(&pending).await?;
                }
                Some(rotation) => return Ok(pending_of(&document, rotation)?),
            }
            document = self.load().await?;
        }
        Err(Failure::Store(StoreError::Moved { name: self.plan.name.clone() }))
    }

    async fn begin(&mut self, document: &Document) -> Result<Pending, Failure> {
        let id = Uuid::now_v7();
        let context = self.context(id);
        let value = self.limited("create", self.plan.kind.create(&context)).await?;
        if value.len() > MAX_VALUE_BYTES {
            let error = KindError(format!("the new value has more than {MAX_VALUE_BYTES} bytes"));
            return Err(Failure::Kind { step: "create", error });
        }
        let reason = self.request.reason.chars().take(MAX_REASON_CHARS).collect();
        let start = Start { id, emergency: self.is_emergency(), reason };
        let existed = document.revision() > 0;
        let begun = self.editor.change(|document| {
            if existed && document.revision() == 0 {
                return Err(not_found(document.name(), None));
            }
            document.begin(start.clone(), value.clone(), Timestamp::now())?;
            let rotation = document.rotation().cloned();
            let rotation = rotation.ok_or_else(|| not_found(document.name(), None))?;
            Ok(Change::Write(pending_of(document, rotation)?))
        });
        Ok(begun.await?)
    }

    /// Ends a rotation that has promoted its version but was interrupted before its follow-up.
    async fn clear(&mut self, rotation: &Rotation) -> Result<(), Failure> {
        if self.is_emergency() {
            // This emergency revokes whatever that rotation left, and tells its subscribers of a newer version.
            self.settle(rotation.id).await?;
            return Ok(());
        }
        let mut other = Run::new(self.rotator, self.plan, self.request);
        other.follow_up(rotation).await?;
        if let Some(error) = other.report.error {
            tracing::warn!(name = %self.plan.name, rotation = %rotation.id, error, "an interrupted rotation was ended");
        }
        Ok(())
    }

    async fn take_up(&mut self, rotation: Rotation) -> Result<(), Failure> {
        let document = self.load().await?;
        let pending = pending_of(&document, rotation)?;
        if pending.rotation.condemned || self.request.on_pending == OnPending::Withdraw {
            return self.take_back(&pending).await;
        }
        self.carry_through(pending).await
    }

    async fn carry_through(&mut self, pending: Pending) -> Result<(), Failure> {
        self.report.to_version = Some(pending.new.info.version);
        if let Err(failure) = self.prove(&pending).await {
            if !failure.is_verdict() {
                return Err(failure);
            }
            // Also where others were faster: what was set here after they had revoked it is valid again.
            if let Err(failure) = self.take_back(&pending).await {
                self.report.fail(format!("the pending version could not be withdrawn: {failure}"));
            }
            return if self.is_outdone(&pending.rotation).await? { Ok(()) } else { Err(failure) };
        }
        self.report.promoted = true;
        let emergency = self.is_emergency() || pending.rotation.emergency;
        self.follow_up(&Rotation { emergency, ..pending.rotation }).await
    }

    /// Whether other rotators have since promoted a newer version in place of this one: then what was wanted has
    /// happened, and the report says so. In an emergency nothing older than that stays valid.
    async fn is_outdone(&mut self, rotation: &Rotation) -> Result<bool, Failure> {
        let document = self.load().await?;
        let newer = document.secret(None).ok().map(|current| current.info);
        let Some(newer) = newer.filter(|newer| newer.version > rotation.version) else { return Ok(false) };
        // One that was put by hand is nobody's rotation.
        let Some(id) = newer.rotation_id else { return Ok(false) };
        (self.report.promoted, self.report.to_version) = (true, Some(newer.version));
        let rotation = Rotation { id, version: newer.version, ..rotation.clone() };
        self.report.old_revoked = if self.is_emergency() {
            self.revoke_older(&document, &rotation).await
        } else {
            valid_versions(&document).all(|version| version >= newer.version)
        };
        Ok(true)
    }

    /// set → test → promote.
    async fn prove(&mut self, pending: &Pending) -> Result<(), Failure> {
        let Pending { rotation, new, old } = pending;
        let context = self.context(rotation.id);
        // Both also if they were done before an interruption: that may be long ago, or was being taken back.
        self.limited("set", self.plan.kind.set(&context, new, old.as_ref())).await?;
        self.limited("test", self.plan.kind.test(&context, new)).await?;
        self.promote(rotation.id).await
    }

    async fn promote(&mut self, id: Uuid) -> Result<(), Failure> {
        let emergency = self.is_emergency();
        let overlap = jiff::SignedDuration::try_from(self.plan.overlap).unwrap_or(jiff::SignedDuration::MAX);
        let promoted = self.editor.change(|document| {
            let until = Timestamp::now().checked_add(overlap).unwrap_or(Timestamp::MAX);
            let until = if emergency { None } else { Some(until) };
            Ok(if document.promote(id, emergency, until)? { Change::Write(()) } else { Change::Keep(()) })
        });
        Ok(promoted.await?)
    }

    /// What comes after a promotion: tidy up, revoke the old ones, tell the subscribers. What fails is reported; only a
    /// store that can't be asked breaks it off, to be resumed.
    async fn follow_up(&mut self, rotation: &Rotation) -> Result<(), Failure> {
        if let Some(cache) = &self.rotator.cache {
            cache.invalidate(&self.plan.name);
        }
        let document = self.editor.latest().await?.clone();
        let new = match document.secret(Some(rotation.version)) {
            Err(StoreError::Revoked { .. }) if self.is_outdone(rotation).await? => {
                return self.settle(rotation.id).await;
            }
            other => other?,
        };
        let context = self.context(rotation.id);
        let finished = self.plan.kind.finish(&context, &new);
        if let Err(failure) = self.limited("finish", finished).await {
            self.report.fail(failure);
        }
        if rotation.emergency {
            self.report.old_revoked = self.revoke_older(&document, rotation).await;
            self.turn = None;
        }
        self.tell(rotation, &document, &new).await;
        if !rotation.emergency {
            let told = &self.report.notified;
            let acknowledged = !told.is_empty() && told.iter().all(|notified| notified.acknowledged);
            if acknowledged || self.plan.overlap.is_zero() {
                self.report.old_revoked = self.revoke_older(&document, rotation).await;
            }
        }
        self.settle(rotation.id).await?;
        Ok(())
    }

    async fn tell(&mut self, rotation: &Rotation, document: &Document, new: &Secret) {
        let message = Message {
            schema_version: 1,
            name: self.plan.name.clone(),
            version: rotation.version,
            index: document.revision(),
            rotation_id: rotation.id,
            reason: rotation.reason.clone(),
            time: Timestamp::now(),
        };
        self.report.notified = self.rotator.notifier.tell(&self.plan.subscribers, &message, new).await;
    }

    /// Revokes every version older than the new one. Whether all of them are.
    async fn revoke_older(&mut self, document: &Document, rotation: &Rotation) -> bool {
        let mut all = true;
        for version in valid_versions(document).filter(|version| *version < rotation.version) {
            all &= self.revoke(document, version, rotation.id).await;
        }
        all
    }

    /// Revokes one version: first where it is used, then here, as it is needed for the former.
    async fn revoke(&mut self, document: &Document, version: Version, rotation_id: Uuid) -> bool {
        match self.try_to_revoke(document, version, rotation_id).await {
            // Another rotator was faster, or the version is so old that it is no longer kept.
            Ok(()) | Err(Failure::Store(StoreError::Revoked { .. } | StoreError::NotFound { .. })) => {
                if let Some(cache) = &self.rotator.cache {
                    cache.revoked(&self.plan.name, version);
                }
                true
            }
            Err(failure) => {
                self.report.fail(format!("version {version} could not be revoked and is still valid: {failure}"));
                false
            }
        }
    }

    async fn try_to_revoke(&mut self, document: &Document, version: Version, rotation_id: Uuid) -> Result<(), Failure> {
        let context = self.context(rotation_id);
        let old = document.secret(Some(version))?;
        let in_force = document.secret(None).ok().filter(|current| current.info.version != version);
        // The same value may have been put again: then it is in use, and only its older number goes.
        if in_force.is_none_or(|current| current.value != old.value) {
            self.limited("revoke", self.plan.kind.revoke(&context, &old)).await?;
        }
        if let Some(revisions) = self.editor.change(|document| revocation(document, version)).await? {
            self.rotator.store.forget(&self.plan.name, revisions).await?;
        }
        Ok(())
    }

    /// Takes a pending version back: condemns it here, so that nobody promotes it meanwhile, takes it back where it is used,
    /// and wipes it here. Unless another rotator, for whom it worked, has promoted it.
    async fn take_back(&mut self, pending: &Pending) -> Result<(), Failure> {
        let rotation = &pending.rotation;
        let context = self.context(rotation.id);
        let condemned = self.editor.change(|document| {
            let promoted = document.has_promoted(rotation.id);
            Ok(if !promoted && document.condemn(rotation.id) { Change::Write(true) } else { Change::Keep(!promoted) })
        });
        if !condemned.await? {
            return Ok(());
        }
        // What is in force now, which may have been put since the rotation began.
        let in_force = self.load().await?.secret(None).ok();
        let undone = self.plan.kind.withdraw(&context, &pending.new, in_force.as_ref());
        if let Err(failure) = self.limited("withdraw", undone).await {
            self.report.fail(failure);
        }
        let withdrawn = self.editor.change(|document| {
            if !document.withdraw(rotation.id, Timestamp::now()) {
                return Ok(Change::Keep(None));
            }
            Ok(Change::Write(document.gone_revisions(rotation.version)))
        });
        if let Some(revisions) = withdrawn.await? {
            self.rotator.store.forget(&self.plan.name, revisions).await?;
        }
        Ok(())
    }

    async fn settle(&mut self, id: Uuid) -> Result<(), Failure> {
        let settled =
            self.editor.change(|document| Ok(if document.settle(id) { Change::Write(()) } else { Change::Keep(()) }));
        Ok(settled.await?)
    }

    /// In an emergency: says whether something that may have leaked is still valid, after doing the last that can be done
    /// about it if that was asked for.
    async fn look_at_exposure(&mut self) {
        if self.report.promoted {
            self.report.still_exposed = !self.report.old_revoked;
            return;
        }
        let document = match self.rotator.store.load(&self.plan.name).await {
            Ok(Some(document)) => document,
            Ok(None) => return,
            // Nothing is known, so the worst is assumed.
            Err(_) => {
                self.report.still_exposed = true;
                return;
            }
        };
        let valid: Vec<Version> = valid_versions(&document).collect();
        let mut revoked = 0;
        if self.request.revoke_anyway {
            for version in &valid {
                revoked += usize::from(self.revoke(&document, *version, Uuid::nil()).await);
            }
            self.report.old_revoked = revoked == valid.len();
        }
        self.report.still_exposed = revoked < valid.len();
    }

    async fn load(&mut self) -> Result<Document, StoreError> {
        self.editor.read().await.cloned()
    }

    /// Runs a step within the time limit.
    async fn limited<T>(
        &self,
        step: &'static str,
        work: impl Future<Output = Result<T, KindError>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.request.step_timeout, work).await {
            Ok(done) => done.map_err(|error| Failure::Kind { step, error }),
            Err(_) => Err(Failure::TimedOut { step, seconds: self.request.step_timeout.as_secs_f64() }),
        }
    }

    fn is_emergency(&self) -> bool {
        self.request.mode == Mode::Emergency
    }

    fn context(&self, rotation_id: Uuid) -> Context {
        Context {
            name: self.plan.name.clone(),
            rotation_id,
            emergency: self.is_emergency(),
            reason: self.request.reason.clone(),
        }
    }
}

fn pending_of(document: &Document, rotation: Rotation) -> Result<Pending, StoreError> {
    let new = document.secret(Some(rotation.version))?;
    let old = document.secret(None).ok();
    Ok(Pending { rotation, new, old })
}

/// The versions that can still be used, oldest first, without a pending one.
fn valid_versions(document: &Document) -> impl Iterator<Item = Version> {
    document
        .versions()
        .filter(|info| matches!(info.state, VersionState::Current | VersionState::Previous))
        .map(|info| info.version)
}
