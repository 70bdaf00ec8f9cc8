//! What operators order, whatever it is: who did it, when and why, what the worker answers, and the way of
//! all of it to the record.

use std::sync::Arc;
use std::time::Duration;

use agentguard_keeper::message::{Deed, Done, MAX_REASON, ToWorker};
use anyhow::bail;
use jiff::Timestamp;

use super::super::registry::By;
use super::super::taken::Cuts;
use super::Keeper;

/// How long the worker may take to do what it is asked, and to end what is under way. Then it is replaced.
const CUT: Duration = Duration::from_secs(5);

/// A question to the worker.
pub(in super::super) struct Asked {
    number: u32,
    cuts: Arc<Cuts>,
}

impl Asked {
    /// Waits until the worker has done it. `false`: not in time.
    pub(in super::super) fn wait(&self) -> bool {
        self.cuts.wait(self.number, CUT)
    }

    /// Waits for what it says. `None`: nothing, in time.
    pub(in super::super) fn answer(&self) -> Option<Result<String, String>> {
        self.cuts.answered(self.number, CUT)
    }
}

impl Keeper {
    /// Tells the worker something that it answers with this number. `None`: there is no worker.
    pub(super) fn ask_worker(&self, message: impl FnOnce(u32) -> ToWorker) -> Option<Asked> {
        self.worker.as_ref()?;
        let cuts = self.cuts.clone();
        let number = cuts.next();
        self.tell(&message(number));
        Some(Asked { number, cuts })
    }

    /// What the worker has done of what it was asked.
    pub(in super::super) fn cuts(&self) -> Arc<Cuts> {
        self.cuts.clone()
    }

    /// Tells the worker what was done and is not in the record yet.
    pub(super) fn tell_deeds(&self) {
        for deed in self.registry.deeds() {
            self.tell_deed(deed);
        }
    }

    pub(super) fn tell_last_deed(&self) {
        if let Some(deed) = self.registry.deeds().last() {
            self.tell_deed(deed);
        }
    }

    /// Notes what was done for the record. Where it cannot be written down it is told all the same.
    pub(in super::super) fn note_deed(&mut self, by: By, done: Done) {
        if let Err(error) = self.registry.note(by, done) {
            tracing::error!(error = format!("{error:#}"), "a change is not in writing");
        }
        self.tell_last_deed();
    }

    fn tell_deed(&self, deed: &Deed) {
        self.tell(&ToWorker::Deed(Box::new(deed.clone())));
    }

    /// What was done is in the record.
    pub(in super::super) fn recorded(&mut self, number: u64) -> anyhow::Result<()> {
        self.registry.recorded(number)
    }
}

/// Whether a reason is one that is kept.
///
/// # Errors
/// It is too long.
pub(super) fn bounded(reason: Option<&str>) -> anyhow::Result<()> {
    if reason.is_some_and(|reason| reason.chars().count() > MAX_REASON) {
        bail!("a reason has at most {MAX_REASON} characters; hint: name a ticket");
    }
    Ok(())
}

/// Since when, by whom and why. `since` in seconds since the epoch.
pub(super) fn told(since: u64, uid: Option<u32>, reason: Option<&str>) -> String {
    let mut words = format!("since {}", moment(since));
    if let Some(uid) = uid {
        words.push_str(&format!(", by uid {uid}"));
    }
    if let Some(reason) = reason {
        words.push_str(&format!(": {reason}"));
    }
    words
}

/// A time in seconds since the epoch, in words.
pub(super) fn moment(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| "?".to_owned(), |time| time.to_string())
}
