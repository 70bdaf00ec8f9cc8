//! Streams of events by which lists of tools may come, whether or not one was asked for there. An event is passed on once it
//! was read as a whole.

use agentguard_decision::Recorder;
use agentguard_model::HostName;
use agentguard_protocol::mcp::{ListFilter, may_list};
use agentguard_protocol::sse::Pieces;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc::Receiver;

use super::{Ended, Looked, frame};
use crate::Port;
use crate::http::body::{BodyFailed, Received};
use crate::http::growth::Judge as _;
use crate::http::held::Kept;

/// The most bytes of a line that are looked at to see where an event ends.
const LINE: usize = 64;

/// A stream whose events are looked at.
struct Stream<R: Recorder, P: Port> {
    looked: Looked<R, P>,
    body: Received,
    /// None where the stream is over.
    pieces: Option<Pieces>,
    /// What has come and was not read.
    rest: Bytes,
    /// The event in hand.
    event: Kept,
    /// Whether the rest of it goes unread.
    unread: bool,
    /// Whether its first event with data has come.
    begun: bool,
    /// What is refused of what belongs to it, where it says to where that is posted.
    told: Option<Receiver<Bytes>>,
    /// What may go.
    out: BytesMut,
    /// Why nothing comes behind that.
    failed: Option<BodyFailed>,
}

/// The same stream, without the tools that the agent is not shown.
pub(super) fn looked<R: Recorder, P: Port>(looked: Looked<R, P>, body: Received) -> Received {
    let stream = Stream {
        looked,
        body,
        pieces: Some(Pieces::new(LINE)),
        rest: Bytes::new(),
        event: Kept::default(),
        unread: false,
        begun: false,
        told: None,
        out: BytesMut::new(),
        failed: None,
    };
    let frames = stream::unfold(stream, |mut stream| async move {
        let frame = stream.next().await?;
        Some((frame, stream))
    });
    Received::Looked(StreamBody::new(frames).boxed_unsync())
}

impl<R: Recorder, P: Port> Stream<R, P> {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, BodyFailed>> {
        loop {
            if let Err(ended) = self.read().await {
                self.end(ended);
            }
            if !self.out.is_empty() {
                return Some(Ok(frame(self.out.split())));
            }
            if let Some(failed) = self.failed.take() {
                return Some(Err(failed));
            }
            self.pieces.as_ref()?;
            // Between two events.
            let between = self.event.is_empty() && !self.unread;
            let came = tokio::select! {
                came = self.body.frame() => came,
                Some(told) = refused(&mut self.told), if between => {
                    self.out.extend_from_slice(&told);
                    continue;
                }
            };
            match came {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    // Behind half an event there is nothing to be passed on but that.
                    Err(trailers) if self.event.is_empty() => return Some(Ok(trailers)),
                    Err(_) => {}
                },
                Some(Err(error)) => {
                    self.pieces = None;
                    return Some(Err(error));
                }
                None => {
                    self.pieces = None;
                    // Some clients take an event for one that the end of its stream finds unfinished.
                    if let Err(ended) = self.event_ends().await {
                        self.end(ended);
                    }
                    self.tells();
                }
            }
        }
    }

    /// Nothing more comes. Where somebody waits for a list that is told, and is all that there was to say; else the stream
    /// breaks off.
    fn end(&mut self, ended: Ended) {
        self.pieces = None;
        self.rest.clear();
        match ended.told {
            Some(told) => {
                self.out.extend_from_slice(told.as_bytes());
                self.looked.account.fail(ended.why);
            }
            None => self.failed = Some(BodyFailed::NotCompared(ended.why)),
        }
    }

    /// Reads what has come.
    async fn read(&mut self) -> Result<(), Ended> {
        while !self.rest.is_empty() {
            let breaks = |byte: &u8| matches!(byte, b'\r' | b'\n');
            let end = self.rest.iter().position(breaks);
            let line = self
                .rest
                .split_to(end.map_or(self.rest.len(), |end| end + 1));
            let Some(pieces) = &mut self.pieces else {
                return Ok(());
            };
            pieces.push(&line, &mut |_| {});
            let ends = pieces.is_between();
            if self.unread {
                self.out.extend_from_slice(&line);
            } else {
                let flow = &self.looked.flow;
                let kept = self.event.push(&line, |memory| flow.room(memory));
                if let Err(why) = kept {
                    self.looked.unread_event(why).await?;
                    self.unread = true;
                    self.let_go();
                }
            }
            if ends {
                self.event_ends().await?;
                self.unread = false;
            }
        }
        Ok(())
    }

    /// Of HTTP+SSE the first event says where what belongs to it is posted.
    fn begins(&mut self, event: &[u8]) {
        if self.begun {
            return;
        }
        // Before it there may be comments, and lines of ids and times alone.
        let mut lines = event.split(|byte| matches!(byte, b'\r' | b'\n'));
        self.begun = lines.any(|line| line.starts_with(b"data"));
        if !self.begun {
            return;
        }
        let Looked { flow, server, .. } = &self.looked;
        let host = flow.target.host.as_ref().map(HostName::as_str);
        let streams = &flow.guard.streams;
        self.told = streams.begins(server, flow.client.agent, host, event);
    }

    /// Nothing is told behind the end: what waits goes, and what comes later has a status.
    fn tells(&mut self) {
        let Some(mut told) = self.told.take() else {
            return;
        };
        told.close();
        while let Ok(told) = told.try_recv() {
            self.out.extend_from_slice(&told);
        }
    }

    /// What is held goes as it came.
    fn let_go(&mut self) {
        while let Some(piece) = self.event.pop() {
            self.out.extend_from_slice(&piece);
        }
    }

    async fn event_ends(&mut self) -> Result<(), Ended> {
        let mut event = BytesMut::with_capacity(self.event.size());
        while let Some(piece) = self.event.pop() {
            event.extend_from_slice(&piece);
        }
        self.begins(&event);
        if !may_list(&event) {
            self.out.extend_from_slice(&event);
            return Ok(());
        }
        let mut filter = ListFilter::new(true);
        filter.push(&event);
        if self.pieces.is_none() {
            filter.push(b"\n\n");
        }
        match filter.finish() {
            Ok(mut list) => match self.looked.written(&mut list, false).await {
                true => self.out.extend_from_slice(&list.written()),
                false => self.out.extend_from_slice(&event),
            },
            Err(why) => {
                self.looked.unread_event(&why.to_string()).await?;
                self.out.extend_from_slice(&event);
            }
        }
        Ok(())
    }
}

/// What is refused next; nothing, where nothing can be.
async fn refused(told: &mut Option<Receiver<Bytes>>) -> Option<Bytes> {
    match told {
        Some(told) => told.recv().await,
        None => None,
    }
}
