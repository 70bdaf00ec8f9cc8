//! What a provider has written of a stream that ends before its end: its client went away, or the guard has cut it.
//!
//! A provider bills what it has written, also what is on its way still. That is read, counted, and goes nowhere: for a
//! moment only, since a provider writes on while somebody reads. Behind it the stream is closed, so that the provider
//! stops. Where its end comes within that moment, it is charged as reported.

use std::sync::Arc;
use std::time::Duration;

use agentguard_decision::Recorder;
use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::account::Account;
use crate::fair;
use crate::http::body::Received;
use crate::http::checked::Checked;
use crate::http::reading::Reading;

/// For how long it is read at most.
pub(super) const MOMENT: Duration = Duration::from_millis(500);

/// Where nothing has come for so long, all has.
const QUIET: Duration = Duration::from_millis(100);

/// How much of it is read at most. Where there is more, nobody knows how much: the call is charged with its whole limit.
const MOST: usize = 8 << 20;

/// How many are read at the same time, so that they take no more than their share of the processor. What ends beside them
/// is charged with its whole limit.
static SEATS: Semaphore = Semaphore::const_new(256);

/// The rest of an answer whose tokens are counted.
pub(crate) struct Behind<R: Recorder> {
    pub(crate) inner: Received,
    pub(crate) account: Arc<Account<R>>,
    pub(crate) checked: Checked,
    pub(crate) reading: Reading,
}

/// What is not read: dropped before it was, as where the daemon ends, it says so.
struct Unread<R: Recorder>(Option<Arc<Account<R>>>);

impl<R: Recorder> Drop for Unread<R> {
    fn drop(&mut self) {
        if let Some(account) = &self.0 {
            account.unread();
        }
    }
}

impl<R: Recorder> Behind<R> {
    /// Counts it, in a task of its own; what it belongs to ends with that.
    pub(crate) fn count(self) {
        self.account.breaks();
        let Ok(seat) = SEATS.try_acquire() else {
            self.account.unseen();
            return self.end();
        };
        let unread = Unread(Some(Arc::clone(&self.account)));
        // Without a runtime the daemon ends.
        if tokio::runtime::Handle::try_current().is_ok() {
            drop(fair::spawn(self.read(seat, unread)));
        }
    }

    async fn read(mut self, _seat: SemaphorePermit<'static>, mut unread: Unread<R>) {
        // What was taken and not looked at.
        self.checked.hear_behind(&[], &mut self.reading);
        let read = timeout(MOMENT, self.read_on()).await;
        match read {
            Ok(true) => {
                self.reading.ends();
                self.account.is_whole();
            }
            Ok(false) => {}
            Err(_) => self.was_quiet(),
        }
        unread.0 = None;
        self.end();
    }

    /// Reads what is there. Whether it came to the end.
    async fn read_on(&mut self) -> bool {
        let mut left = MOST;
        loop {
            let Ok(frame) = timeout(QUIET, self.inner.frame()).await else {
                self.was_quiet();
                return false;
            };
            match frame {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref() else {
                        continue;
                    };
                    self.checked.hear_behind(data, &mut self.reading);
                    left = left.saturating_sub(data.len());
                    if left == 0 {
                        self.account.unseen();
                        return false;
                    }
                }
            }
            yield_now().await;
        }
    }

    /// Nothing more has come for a while. Where its agent has so much under way that some of that waits, more may have come
    /// which nobody has read.
    fn was_quiet(&self) {
        if fair::lags() {
            self.account.unseen();
        }
    }

    fn end(self) {
        drop(self.inner);
        if let Some(mut answer) = self.reading.answer() {
            answer.without(self.checked.checks().cuts());
            self.account.heard(answer);
        }
    }
}
