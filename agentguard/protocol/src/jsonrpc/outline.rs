//! What a message that cannot be read seems to be: enough to answer who waits for it, and nothing is decided by it.

use super::MAX_WORD;

/// Looks through a message that is no JSON, has something twice or is too long, for the id that its sender waits for.
/// Keeps no more than a word of it.
#[derive(Debug, Default)]
pub struct Outline {
    depth: u32,
    text: Option<Escape>,
    place: Place,
    /// The name or the value in hand, as it is written.
    word: Vec<u8>,
    is_id: bool,
    ids: Vec<Vec<u8>>,
    /// Whether it asks for something.
    asks: bool,
}

/// Inside of a string: whether a backslash came before.
type Escape = bool;

/// Where it is, in the outermost object.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Place {
    /// Before it, or behind it.
    #[default]
    Outside,
    Name,
    Value,
}

impl Outline {
    /// Of a whole message.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        let mut outline = Self::default();
        outline.push(message);
        outline
    }

    /// Looks at a piece of it.
    pub fn push(&mut self, piece: &[u8]) {
        piece.iter().for_each(|byte| self.byte(*byte));
    }

    /// The id of what it asks, as it is written in JSON, if there is exactly one: of an answer, of a batch and of what
    /// has several nobody knows who waits.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        let [id] = self.ids.as_slice() else {
            return None;
        };
        let id = str::from_utf8(id).ok().filter(|_| self.asks)?;
        let value: serde_json::Value = serde_json::from_str(id).ok()?;
        (value.is_string() || value.is_number()).then_some(id)
    }

    fn byte(&mut self, byte: u8) {
        if let Some(escape) = &mut self.text {
            let ends = byte == b'"' && !*escape;
            *escape = byte == b'\\' && !*escape;
            if ends {
                self.text = None;
            }
            return self.keep(byte);
        }
        match byte {
            b'"' => {
                self.text = Some(false);
                self.keep(byte);
            }
            b'{' | b'[' => {
                self.keep(byte);
                self.depth = self.depth.saturating_add(1);
                if self.depth == 1 && byte == b'{' {
                    self.place = Place::Name;
                }
            }
            b'}' | b']' => {
                if self.depth == 1 {
                    self.member_ends();
                    self.place = Place::Outside;
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b',' if self.depth == 1 && self.place == Place::Value => {
                self.member_ends();
                self.place = Place::Name;
            }
            b':' if self.depth == 1 && self.place == Place::Name => {
                let name = std::mem::take(&mut self.word);
                self.is_id = name == b"\"id\"";
                self.asks |= name == b"\"method\"";
                self.place = Place::Value;
            }
            _ if byte.is_ascii_whitespace() => {}
            _ => self.keep(byte),
        }
    }

    fn member_ends(&mut self) {
        let word = std::mem::take(&mut self.word);
        // Two are as bad as more.
        if std::mem::take(&mut self.is_id) && self.ids.len() < 2 {
            self.ids.push(word);
        }
    }

    /// What is longer than a word, or deeper, is no id: it is cut, and no JSON then.
    fn keep(&mut self, byte: u8) {
        let meant = match self.place {
            Place::Outside => false,
            Place::Name => self.depth == 1,
            Place::Value => self.is_id,
        };
        if meant && self.word.len() <= MAX_WORD {
            self.word.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Outline;

    #[test]
    fn the_id_is_found_in_what_cannot_be_read() {
        let deep = "[".repeat(100_000);
        let long = format!(r#"{{"method":"a","id":"{}"}}"#, "x".repeat(300));
        for (message, id) in [
            (
                r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"a":"\ud800"}}"#,
                Some("7"),
            ),
            (
                r#"{"method":"tools/call","params":{"id":1,"a":[1,{"id":2}],"a":"\"}, \\"},"id": "x\"y" }"#,
                Some(r#""x\"y""#),
            ),
            (
                "{\"method\":\"a\",\"id\":1.5,\"params\":{\"a\":\"\u{1}",
                Some("1.5"),
            ),
            // Who waits for it cannot be told.
            (r#"{"method":"a","id":1,"id":2}"#, None),
            (r#"{"method":"a","id":1,"id":1}"#, None),
            (r#"[{"method":"a","id":1}]"#, None),
            (r#"{"result":{"method":"a"},"id":1}"#, None),
            (r#"{"method":"a","id":null}"#, None),
            (r#"{"method":"a","id":{"id":1}}"#, None),
            (r#"{"method":"a","id":[1]}"#, None),
            (r#"{"method":"a","ID":1}"#, None),
            (r#"{"method":"a"}"#, None),
            ("no", None),
            ("", None),
            (&deep, None),
            (&long, None),
        ] {
            let shown: String = message.chars().take(80).collect();
            assert_eq!(Outline::of(message.as_bytes()).id(), id, "{shown}");
        }
    }

    proptest! {
        #[test]
        fn it_is_found_wherever_it_stands_and_however_it_comes(
            id in prop_oneof![any::<i64>().prop_map(|id| id.to_string()), "[a-z\"\\\\{},:]{0,20}".prop_map(|id| serde_json::Value::from(id).to_string())],
            text in ".{0,20}", first: bool, cut in 0usize..200,
        ) {
            let params = serde_json::json!({"id": 5, "text": text, "list": [[text], {"id": text}]});
            let member = format!("\"id\" : {id}");
            let rest = format!("\"method\":\"tools/call\",\"params\":{params}");
            let message = match first {
                true => format!("{{{member},{rest}}}"),
                false => format!("{{{rest},{member}}}"),
            };
            let (one, other) = message.as_bytes().split_at(cut.min(message.len()));
            let mut outline = Outline::default();
            outline.push(one);
            outline.push(other);
            prop_assert_eq!(outline.id(), Some(&*id));
        }

        #[test]
        fn nothing_it_looks_at_is_kept(message in prop::collection::vec(any::<u8>(), 0..2000)) {
            let outline = Outline::of(&message);
            prop_assert!(outline.word.len() <= super::MAX_WORD + 1 && outline.ids.len() <= 2);
        }
    }
}
