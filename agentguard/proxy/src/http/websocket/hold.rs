//! Where a client's message can be decided on before it leaves.

use std::future::pending;
use std::sync::Arc;

use agentguard_decision::{Asked, Changes, Decided};
use agentguard_protocol::websocket::{Assembler, Ends, Head, Side};
use bytes::BytesMut;

use super::Stopped;
use crate::decoders::Decoding;
use crate::http::growth::Judge;

/// The most bytes of a message that are held back until it is decided on. A larger one goes on, and
/// is cut where it comes to be denied.
pub(crate) const MAX_HELD: usize = 1024 * 1024;

/// What more than this is held in counts against the agent's memory (`decoders`). Where there is no room
/// the message goes on as a larger one does.
const FREE: usize = 16 * 1024;

/// How much of a deflated message is inflated before it is looked how large it has become: to a
/// thousand times that at the most.
const SLICE: usize = 1024;

/// What a direction's messages have to pass.
pub(super) trait Hold: Send {
    /// A message begins.
    fn begin(&mut self, head: &Head) -> impl Future<Output = Result<(), Stopped>> + Send;

    /// Whether a rule may have to be asked about the message in progress.
    fn is_ruled(&self) -> bool;

    /// Looks at the next piece of the message, and asks the rules where they have to be. True: the message
    /// may go as far as it is there.
    fn push(
        &mut self,
        plain: &[u8],
        ends: Ends,
    ) -> impl Future<Output = Result<bool, Stopped>> + Send;

    /// Waits until the message in progress is to be asked about anew, or there is something of one's own to say.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    fn change(&mut self) -> impl Future<Output = ()> + Send;

    /// Asks the rules about the message in progress, if it is time for that.
    fn ask_anew(&mut self) -> impl Future<Output = Result<(), Stopped>> + Send;

    /// Takes what has come of the message, and gives on what may go at once.
    fn take(&mut self, frame: &mut BytesMut, passes: bool, give: impl FnOnce(&[u8]));

    /// The next piece of what was held and may go, and whether there is more of it.
    fn release(&mut self) -> Option<(BytesMut, bool)> {
        None
    }

    /// A message of one's own, if one is to be said and nothing is in progress.
    fn own(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// Whose messages these are says no more: it has sent a Close frame, or is gone.
    fn parts(&mut self) {}
}

/// What decides on the sizes of one message.
pub(crate) trait MessageSizes {
    /// The size, in bytes of what the message says, from which on it has to be asked again. None:
    /// nothing about the message's size can change any more, and nothing is held back.
    fn next_limit(&self) -> Option<u64>;

    /// Looks for a change of the rules since it was asked last. True: there was one.
    fn changed(&mut self) -> bool;

    /// Waits for a change of the rules, which [`Self::changed`] then tells.
    fn change(&mut self) -> impl Future<Output = ()> + Send;

    /// Room to hold a message, if there is any.
    fn room(&self) -> Option<Decoding>;

    /// Asks about a message of which nobody knows the size, if there are rules about that.
    fn unread(&mut self) -> impl Future<Output = Result<(), Decided>> + Send;

    /// Asks about a message that has reached the limit, and has this size so far.
    fn passes(&mut self, size: u64) -> impl Future<Output = Result<(), Decided>> + Send;
}

/// The policy's rules on size, on one message.
pub(super) struct Sizes {
    judge: Arc<dyn Judge>,
    changes: Changes,
    asked: Arc<Asked>,
    limit: Option<u64>,
}

impl Sizes {
    /// For a message on the connection that this request opened.
    pub(super) fn new(judge: Arc<dyn Judge>, handshake: &Asked) -> Self {
        let asked = Arc::new(handshake.message());
        Self {
            changes: judge.changes(),
            limit: judge.limit(&asked),
            judge,
            asked,
        }
    }
}

impl Sizes {
    async fn ask(&mut self, unmeasured: Option<String>) -> Result<(), Decided> {
        let judge = Arc::clone(&self.judge);
        let decided = judge.ask(Arc::clone(&self.asked), unmeasured).await;
        match decided {
            Some(decided) if !decided.allowed => Err(decided),
            _ => {
                self.limit = self.judge.limit(&self.asked);
                Ok(())
            }
        }
    }
}

impl MessageSizes for Sizes {
    fn next_limit(&self) -> Option<u64> {
        // A rule is about more than its size.
        self.limit.map(|limit| limit.saturating_add(1))
    }

    fn changed(&mut self) -> bool {
        let came = self.changes.came();
        if came {
            self.changes = self.judge.changes();
            self.limit = self.judge.limit(&self.asked);
        }
        came
    }

    async fn change(&mut self) {
        // One that is waited for has not been told yet.
        let mut changes = self.changes.clone();
        changes.next().await;
    }

    fn room(&self) -> Option<Decoding> {
        self.judge.room(MAX_HELD)
    }

    async fn unread(&mut self) -> Result<(), Decided> {
        match self.limit {
            Some(_) => {
                self.ask(Some("its beginning was not read".to_owned()))
                    .await
            }
            None => Ok(()),
        }
    }

    async fn passes(&mut self, size: u64) -> Result<(), Decided> {
        self.asked.grew(size);
        self.ask(None).await
    }
}

/// No rule is about messages: those of the server.
pub(crate) struct Unruled;

impl MessageSizes for Unruled {
    fn next_limit(&self) -> Option<u64> {
        None
    }

    fn changed(&mut self) -> bool {
        false
    }

    async fn change(&mut self) {
        pending::<()>().await;
    }

    fn room(&self) -> Option<Decoding> {
        None
    }

    async fn unread(&mut self) -> Result<(), Decided> {
        Ok(())
    }

    async fn passes(&mut self, _: u64) -> Result<(), Decided> {
        Ok(())
    }
}

/// Holds a message back until it is whole, as far as its rule has a limit, and asks the rule when it
/// reaches that.
pub(super) struct SizeHold<F, M> {
    rule: F,
    /// The rule's, on the message in progress.
    sizes: Option<M>,
    assembler: Assembler,
    /// Whether a deflated message may refer to those before it.
    takeover: bool,
    /// Whether a deflated message has not been put together. Others cannot be any more, with `takeover`.
    missed: bool,
    /// Whether the message in progress is decided on by its size.
    reads: bool,
    /// Whether it is put together: one that is not deflated is as large as what comes.
    assembles: bool,
    deflated: bool,
    /// How much of the message in progress has come, as it is sent.
    size: u64,
    /// Whether there is one.
    in_message: bool,
    held: BytesMut,
    /// What that takes, where it is more than [`FREE`].
    room: Option<Decoding>,
    /// Whether the message in progress has more bytes than are held.
    overflown: bool,
}

impl<F: Fn() -> M, M: MessageSizes> SizeHold<F, M> {
    /// `rule` begins to decide on a message.
    pub(super) fn new(rule: F, assembler: Assembler, takeover: bool) -> Self {
        Self {
            rule,
            sizes: None,
            assembler,
            takeover,
            missed: false,
            reads: false,
            assembles: false,
            deflated: false,
            size: 0,
            in_message: false,
            held: BytesMut::new(),
            room: None,
            overflown: false,
        }
    }

    /// How much the message in progress says so far.
    fn message_size(&self) -> u64 {
        if self.assembles {
            self.assembler.message().size
        } else {
            self.size
        }
    }

    fn is_limited(&self) -> bool {
        let sizes = self.sizes.as_ref();
        sizes.is_some_and(|sizes| sizes.next_limit().is_some())
    }

    /// Asks as long as the message has reached the limit. A limit that stays where it is has been
    /// asked about.
    async fn ask(&mut self) -> Result<(), Stopped> {
        let size = self.message_size();
        let Some(sizes) = &mut self.sizes else {
            return Ok(());
        };
        let mut asked = None;
        while let Some(limit) = sizes.next_limit()
            && size >= limit
            && asked != Some(limit)
        {
            sizes.passes(size).await.map_err(Stopped::Denied)?;
            asked = Some(limit);
        }
        Ok(())
    }
}

impl<F: Fn() -> M + Send, M: MessageSizes + Send> Hold for SizeHold<F, M> {
    async fn begin(&mut self, head: &Head) -> Result<(), Stopped> {
        let sizes = (self.rule)();
        let ruled = sizes.next_limit().is_some();
        self.deflated = head.deflated;
        self.overflown = false;
        self.size = 0;
        self.in_message = true;
        let unreadable = ruled && head.deflated && self.missed;
        self.sizes = Some(sizes);
        if let Some(sizes) = self.sizes.as_mut().filter(|_| unreadable) {
            sizes.unread().await.map_err(Stopped::Denied)?;
        }
        self.reads = ruled && !unreadable;
        self.assembles = self.reads;
        if self.assembles {
            self.assembler.begin(head);
        } else if head.deflated && self.takeover {
            self.missed = true;
        }
        Ok(())
    }

    fn is_ruled(&self) -> bool {
        self.reads
    }

    async fn push(&mut self, plain: &[u8], ends: Ends) -> Result<bool, Stopped> {
        self.ask_anew().await?;
        self.size = self.size.saturating_add(plain.len() as u64);
        self.in_message = ends != Ends::Message;
        if !self.reads {
            return Ok(true);
        }
        if !self.assembles {
            self.ask().await?;
            return Ok(!self.in_message || !self.is_limited());
        }
        let malformed = |violation| Stopped::Malformed(Side::Client, violation);
        let slice = if self.deflated {
            SLICE
        } else {
            plain.len().max(1)
        };
        for (nth, slice) in plain.chunks(slice).enumerate() {
            if nth > 0 {
                tokio::task::yield_now().await;
            }
            self.assembler.push(slice).map_err(malformed)?;
            self.ask().await?;
        }
        if ends == Ends::Message {
            self.assembler.end().map_err(malformed)?;
            self.ask().await?;
            return Ok(true);
        }
        Ok(!self.is_limited())
    }

    async fn change(&mut self) {
        match self.sizes.as_mut().filter(|_| self.in_message) {
            Some(sizes) => sizes.change().await,
            None => pending().await,
        }
    }

    async fn ask_anew(&mut self) -> Result<(), Stopped> {
        let size = self.message_size();
        let Some(sizes) = self.sizes.as_mut().filter(|_| self.in_message) else {
            return Ok(());
        };
        if !sizes.changed() {
            return Ok(());
        }
        if self.reads || !self.deflated {
            // Limits that it has passed are not asked about again by themselves.
            sizes.passes(size).await.map_err(Stopped::Denied)?;
            self.reads = true;
        } else {
            // Of what has passed nobody knows how much it says.
            sizes.unread().await.map_err(Stopped::Denied)?;
        }
        Ok(())
    }

    fn take(&mut self, frame: &mut BytesMut, passes: bool, give: impl FnOnce(&[u8])) {
        if passes || self.overflown {
            if self.held.is_empty() {
                give(frame);
            } else {
                self.held.extend_from_slice(frame);
                give(&self.held);
                self.held = BytesMut::new();
                self.room = None;
            }
            frame.clear();
            return;
        }
        self.held.extend_from_slice(frame);
        frame.clear();
        if self.held.len() > FREE && self.room.is_none() {
            self.room = self.sizes.as_ref().and_then(MessageSizes::room);
        }
        if self.held.len() > MAX_HELD || self.held.len() > FREE && self.room.is_none() {
            self.overflown = true;
            give(&self.held);
            self.held = BytesMut::new();
            self.room = None;
        }
    }
}
