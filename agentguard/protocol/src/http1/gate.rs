//! The gate in the byte stream.

use bytes::BytesMut;

use super::chunks::Chunks;
use super::head::{self, Framing};
use super::lines::Lines;
use super::{MAX_HEAD, MAX_TRAILERS};
use crate::HttpMalformed;

/// Where in the stream of requests the gate stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Position {
    /// Before a head of which no byte is there yet.
    BetweenRequests,
    /// Inside a head.
    InHead,
    /// Inside a body or its trailers.
    InBody,
    /// After a request that asks for another protocol: nothing is passed on and nothing should be
    /// read until [`Gate::answered`] says how the server answered.
    AwaitsUpgrade,
    /// The connection speaks another protocol.
    Tunnel,
    /// The stream is at its end, or was refused.
    Closed,
}

/// Passes HTTP/1 requests on, each head only once it is beyond doubt.
#[derive(Debug)]
pub struct Gate {
    held: BytesMut,
    passed: BytesMut,
    state: State,
    empty_lines: u8,
    refused: Option<Refused>,
}

/// The most empty lines before a request that are ignored (RFC 9112, 2.2); one more refuses it.
const MAX_EMPTY_LINES: u8 = 4;

/// Why and where a stream was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Why.
    pub why: HttpMalformed,
    /// True if the request's head had been passed on already: it is the request in progress that
    /// is broken, not a new one.
    pub in_body: bool,
}

#[derive(Debug)]
enum State {
    Head(Lines),
    Length { left: u64, upgrade: bool },
    Chunks { chunks: Chunks, upgrade: bool },
    Trailers { lines: Lines, upgrade: bool },
    Upgrade,
    Tunnel,
    Closed,
}

impl State {
    fn next_request() -> Self {
        Self::Head(Lines::default())
    }

    fn after_body(upgrade: bool) -> Self {
        if upgrade {
            Self::Upgrade
        } else {
            Self::next_request()
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            held: BytesMut::new(),
            passed: BytesMut::new(),
            state: State::next_request(),
            empty_lines: 0,
            refused: None,
        }
    }
}

impl Gate {
    /// Takes the next bytes from the client.
    pub fn push(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Closed) {
            self.held.extend_from_slice(bytes);
            self.advance();
        }
    }

    /// The client has ended its stream.
    pub fn end(&mut self) {
        let why = match self.position() {
            Position::InHead => Some(HttpMalformed::Truncated),
            _ => None,
        };
        match why {
            Some(why) => self.refuse(why),
            None => self.state = State::Closed,
        }
    }

    /// The server answered the request that asked for another protocol.
    pub fn answered(&mut self, upgraded: bool) {
        if matches!(self.state, State::Upgrade) {
            self.state = if upgraded {
                State::Tunnel
            } else {
                State::next_request()
            };
            self.advance();
        }
    }

    /// The bytes that have passed and were not taken yet.
    pub fn passed(&mut self) -> &mut BytesMut {
        &mut self.passed
    }

    /// Where the gate stands.
    #[must_use]
    pub fn position(&self) -> Position {
        match &self.state {
            State::Head(_) if self.held.is_empty() => Position::BetweenRequests,
            State::Head(_) => Position::InHead,
            State::Length { .. } | State::Chunks { .. } | State::Trailers { .. } => {
                Position::InBody
            }
            State::Upgrade => Position::AwaitsUpgrade,
            State::Tunnel => Position::Tunnel,
            State::Closed => Position::Closed,
        }
    }

    /// Why the stream was refused, if it was.
    #[must_use]
    pub fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }

    fn refuse(&mut self, why: HttpMalformed) {
        let in_body = self.position() == Position::InBody;
        self.refused = Some(Refused { why, in_body });
        self.state = State::Closed;
        self.held.clear();
    }

    fn advance(&mut self) {
        loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return,
                Err(why) => return self.refuse(why),
            }
        }
    }

    fn pass(&mut self, count: usize) {
        let part = self.held.split_to(count.min(self.held.len()));
        if self.passed.is_empty() {
            self.passed = part;
        } else {
            self.passed.extend_from_slice(&part);
        }
    }

    /// Moves on by one state. False if more bytes, or an answer, are needed.
    fn step(&mut self) -> Result<bool, HttpMalformed> {
        match &mut self.state {
            State::Head(lines) => {
                let Some(length) = lines.end(&self.held)? else {
                    if self.held.len() > MAX_HEAD {
                        return Err(HttpMalformed::HeadTooLong);
                    }
                    return Ok(false);
                };
                if length > MAX_HEAD {
                    return Err(HttpMalformed::HeadTooLong);
                }
                if length == 2 {
                    if self.empty_lines == MAX_EMPTY_LINES {
                        return Err(HttpMalformed::RequestLine("it is empty"));
                    }
                    self.empty_lines += 1;
                    drop(self.held.split_to(length));
                    self.state = State::next_request();
                    return Ok(true);
                }
                let head = head::check(self.held.get(..length).unwrap_or_default())?;
                self.pass(length);
                self.empty_lines = 0;
                let upgrade = head.upgrade;
                self.state = match head.framing {
                    Framing::Length(0) => State::after_body(upgrade),
                    Framing::Length(left) => State::Length { left, upgrade },
                    Framing::Chunked => State::Chunks {
                        chunks: Chunks::default(),
                        upgrade,
                    },
                };
                Ok(true)
            }
            State::Length { left, upgrade } => {
                let here = self.held.len();
                let count = usize::try_from(*left).map_or(here, |left| left.min(here));
                *left -= count as u64;
                let done = *left == 0;
                let after = State::after_body(*upgrade);
                self.pass(count);
                if done {
                    self.state = after;
                }
                Ok(done)
            }
            State::Chunks { chunks, upgrade } => {
                let (count, last) = chunks.advance(&self.held)?;
                let lines = Lines::default();
                let after = State::Trailers {
                    lines,
                    upgrade: *upgrade,
                };
                self.pass(count);
                if last {
                    self.state = after;
                }
                Ok(last)
            }
            State::Trailers { lines, upgrade } => {
                let Some(length) = lines.end(&self.held)? else {
                    if self.held.len() > MAX_TRAILERS {
                        return Err(HttpMalformed::TrailersTooLong);
                    }
                    return Ok(false);
                };
                if length > MAX_TRAILERS {
                    return Err(HttpMalformed::TrailersTooLong);
                }
                let after = State::after_body(*upgrade);
                head::check_trailers(self.held.get(..length).unwrap_or_default())?;
                self.pass(length);
                self.state = after;
                Ok(true)
            }
            State::Tunnel => {
                let count = self.held.len();
                self.pass(count);
                Ok(false)
            }
            State::Upgrade | State::Closed => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests;
