//! Pictures that are in a call themselves, of which providers say how much they count at most; and how long its caches are
//! kept.
//!
//! What is no picture for sure stays a medium of any length. The bytes of one are those that its provider decodes and no
//! model reads as text: only where its form has them, in a part that says that it is one.

use super::{DemandSink, Field, Form};
use crate::json::{Event, Kind, Part};
use crate::llm::names::bare_in;

/// A part of content, which may be a picture.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// How many steps it is within its call.
    depth: usize,
    /// Whether it says that it is one.
    is: bool,
    plain: bool,
    bytes: u64,
}

/// What a call says of the caches that it writes.
#[derive(Debug, Default)]
pub(super) struct Caches {
    some: bool,
    /// Whether one is kept for longer than five minutes, or for a time that nobody knows.
    long: bool,
}

impl Caches {
    pub(super) const fn are_short(&self) -> bool {
        self.some && !self.long
    }

    pub(super) fn kept(&mut self, word: &str) {
        self.long |= word != "5m";
    }
}

impl DemandSink {
    /// A part of content begins, or ends, in the forms of `OpenAI` and Anthropic: where they have pictures, which is not
    /// in what a model gave to a tool. That is read as text, whatever it looks like.
    pub(super) fn part_of_content(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        if event == Event::End(Kind::Object) {
            return self.picture_ends(steps);
        }
        let is_part = match (self.form, steps) {
            (Form::Chat, [Key("messages"), Item(_), Key("content"), Item(_)])
            | (Form::Responses, [Key("input"), Item(_), Key("content" | "output"), Item(_)]) => {
                true
            }
            (Form::Anthropic, [Key("messages"), Item(_), Key("content"), Item(_), rest @ ..]) => {
                matches!(rest, [] | [Key("content"), Item(_)])
            }
            _ => false,
        };
        if is_part && event == Event::Begin(Kind::Object) {
            self.picture_begins(steps);
        }
    }

    pub(super) fn picture_begins(&mut self, steps: &[Part<'_>]) {
        self.picture = Some(Picture {
            depth: steps.len(),
            ..Picture::default()
        });
    }

    /// What has begun last ends. What has another part within it is no picture.
    pub(super) fn picture_ends(&mut self, steps: &[Part<'_>]) {
        let ended = self.picture.take_if(|it| it.depth == steps.len());
        let Some(picture) = ended.filter(|it| it.is && it.bytes > 0) else {
            return;
        };
        let demand = &mut self.demand;
        demand.pictures = demand.pictures.saturating_add(1);
        demand.picture_bytes = demand.picture_bytes.saturating_add(picture.bytes);
        if picture.plain {
            demand.plain_pictures = demand.plain_pictures.saturating_add(1);
        }
    }

    /// Whether the part that may be a picture is so many steps within its call.
    pub(super) fn is_at(&self, depth: usize) -> bool {
        self.picture.as_ref().is_some_and(|it| it.depth == depth)
    }

    /// Begins to read what a picture has in itself, at these steps from behind the first of the call on. Whether it is that.
    pub(super) fn of_picture(&mut self, steps: &[Part<'_>]) -> bool {
        use Part::Key;
        let (below, field) = match (self.form, steps) {
            (Form::Anthropic, [.., Key("source"), Key("data")]) => (2, Field::Bytes),
            (Form::Chat, [.., Key("image_url"), Key("url")]) => (2, Field::Picture),
            (Form::Chat, [.., Key("image_url"), Key("detail")]) => (2, Field::Detail),
            (Form::Responses, [.., Key("image_url")]) => (1, Field::Picture),
            (Form::Responses, [.., Key("detail")]) => (1, Field::Detail),
            _ => return false,
        };
        let own = self.is_at((steps.len() + 1).saturating_sub(below));
        if own {
            self.begin(field, Event::Begin(Kind::Text));
        }
        own
    }

    /// What the part says that it is.
    pub(super) fn kind(&mut self, word: &str) {
        let is = match self.form {
            Form::Anthropic => word == "image",
            Form::Chat => word == "image_url",
            Form::Responses => word == "input_image",
            _ => false,
        };
        if let Some(picture) = &mut self.picture {
            picture.is = is;
        }
    }

    /// Which type its bytes are of: one of those that Gemini and Converse look at as pictures.
    pub(super) fn mime(&mut self, word: &str) {
        let is = matches!(
            word,
            "image/png" | "image/jpeg" | "image/webp" | "image/heic" | "image/heif"
        );
        if let Some(picture) = &mut self.picture {
            picture.is = is;
        }
    }

    /// It is one by its place.
    pub(super) fn is_picture(&mut self) {
        if let Some(picture) = &mut self.picture {
            picture.is = true;
        }
    }

    pub(super) fn detail(&mut self, word: &str) {
        if let Some(picture) = &mut self.picture {
            picture.plain = matches!(word, "low" | "high");
        }
    }

    pub(super) fn bytes(&mut self) {
        if let Some(picture) = &mut self.picture {
            picture.bytes = picture.bytes.saturating_add(self.length);
        }
    }

    /// What a call of Anthropic's says of its caches, wherever it says it. Of one without a time it is five minutes.
    pub(super) fn cached(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        if self.form != Form::Anthropic {
            return;
        }
        let is = |key: &str, names: &[&str]| {
            let mut name = [0; _];
            names.contains(&bare_in(key, &mut name))
        };
        let around = ["cachecontrol", "caching"];
        match (steps, event) {
            (_, Event::Null | Event::Text(_) | Event::End(_)) => {}
            ([.., Part::Key(cache), Part::Key(ttl)], event)
                if is(cache, &around) && is(ttl, &["ttl"]) =>
            {
                match event {
                    Event::Begin(Kind::Text) => self.begin(Field::Kept, event),
                    _ => self.caches.long = true,
                }
            }
            ([.., Part::Key(cache)], event) if is(cache, &around) => {
                self.caches.some = true;
                self.caches.long |= event != Event::Begin(Kind::Object);
            }
            _ => {}
        }
    }
}
