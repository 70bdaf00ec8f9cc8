//! Content as it is kept beside the record.

use std::ops::ControlFlow;

use agentguard_model::contents::{Content, Kept, MAX_KEPT};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use super::{Codings, Decoder};

/// The beginning of content on its way, to be kept: as much of it as [`MAX_KEPT`] says, as it is sent.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    bytes: Vec<u8>,
    size: u64,
    codings: Option<Codings>,
}

impl Beginning {
    /// Of content with these fields. Codings that are not known are left on.
    pub fn is_of(&mut self, fields: &HeaderMap) {
        let codings = Codings::read(fields).ok();
        self.codings = codings.filter(|codings| !codings.is_identity());
    }

    /// Takes what comes next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.size = self.size.saturating_add(bytes.len() as u64);
        let room = MAX_KEPT.saturating_sub(self.bytes.len());
        let (kept, _) = bytes.split_at(room.min(bytes.len()));
        self.bytes.extend_from_slice(kept);
    }

    /// Takes what another one has: no more than that kept comes behind.
    pub fn add(&mut self, other: &Self) {
        self.push(&other.bytes);
        let left_out = other.size.saturating_sub(other.bytes.len() as u64);
        self.size = self.size.saturating_add(left_out);
    }

    /// What is kept of it: without its codings, as far as these can be taken off. None where nothing came.
    #[must_use]
    pub fn kept(&self) -> Option<Content> {
        if self.size == 0 {
            return None;
        }
        let mut cut = self.size > self.bytes.len() as u64;
        let decoded = self.codings.as_ref().map(|codings| self.decoded(codings));
        // What is none of what it says it is, is kept as it is.
        let decoded = decoded.filter(|decoded| !decoded.is_empty());
        let bytes = match &decoded {
            Some(decoded) => {
                cut |= decoded.len() == MAX_KEPT;
                decoded
            }
            None => &self.bytes,
        };
        Some(Content {
            kept: text(bytes, cut).map_or_else(
                || Kept::Base64(STANDARD.encode(bytes)),
                |text| Kept::Text(text.to_owned()),
            ),
            size: self.size,
            cut,
        })
    }

    /// As far as it can be decoded: a stream of which the end is missing is its beginning.
    fn decoded(&self, codings: &Codings) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut decoder = Decoder::new(codings, u64::MAX);
        let _ = decoder.push(&self.bytes, &mut |piece: &[u8]| {
            let room = MAX_KEPT.saturating_sub(plain.len());
            let (kept, _) = piece.split_at(room.min(piece.len()));
            plain.extend_from_slice(kept);
            match plain.len() == MAX_KEPT {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        plain
    }
}

/// A text; where it is cut, up to its last whole character.
fn text(bytes: &[u8], cut: bool) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(broken) if cut && broken.error_len().is_none() => {
            let whole = bytes.get(..broken.valid_up_to())?;
            std::str::from_utf8(whole).ok()
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn kept(bytes: &[u8], coding: Option<&'static str>) -> Content {
        let mut fields = HeaderMap::new();
        if let Some(coding) = coding {
            fields.insert("content-encoding", coding.parse().unwrap());
        }
        let mut beginning = Beginning::default();
        beginning.is_of(&fields);
        for piece in bytes.chunks(1000) {
            beginning.push(piece);
        }
        beginning.kept().unwrap()
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_text_is_kept_as_it_is_and_other_bytes_in_base64() {
        let whole = kept("grüße".as_bytes(), None);
        assert_eq!(whole.kept, Kept::Text("grüße".to_owned()));
        assert_eq!((whole.size, whole.cut), (7, false));
        let bytes = kept(&[0xff, 0], None);
        assert_eq!(bytes.kept, Kept::Base64("/wA=".to_owned()));
        assert!(Beginning::default().kept().is_none());
        // Half a character is no text, unless the rest of it was cut off.
        assert_eq!(
            kept(&[b'a', 0xc3], None).kept,
            Kept::Base64("YcM=".to_owned())
        );
    }

    #[test]
    fn no_more_than_the_beginning_is_kept() {
        let long = "ü".repeat(MAX_KEPT);
        let odd = format!("a{long}");
        for (text, length) in [(&long, MAX_KEPT), (&odd, MAX_KEPT - 1)] {
            let content = kept(text.as_bytes(), None);
            let Kept::Text(beginning) = &content.kept else {
                panic!("{content:?}");
            };
            assert_eq!(beginning.len(), length);
            assert!(text.starts_with(beginning.as_str()));
            assert_eq!((content.size, content.cut), (text.len() as u64, true));
        }
    }

    #[test]
    fn what_is_coded_is_kept_as_what_it_says() {
        let plain = kept(&packed(b"hello"), Some("gzip"));
        assert_eq!(
            (plain.kept, plain.cut),
            (Kept::Text("hello".to_owned()), false)
        );
        // What decodes to much, too.
        let bomb = kept(&packed(&vec![b'x'; 10 << 20]), Some("gzip"));
        let Kept::Text(text) = bomb.kept else {
            panic!("it is a text");
        };
        assert_eq!((text.len(), bomb.cut), (MAX_KEPT, true));
        let unknown = kept(b"hello", Some("other"));
        assert_eq!(unknown.kept, Kept::Text("hello".to_owned()));
        let broken = kept(b"hello", Some("gzip"));
        assert_eq!(broken.kept, Kept::Text("hello".to_owned()));
    }
}
