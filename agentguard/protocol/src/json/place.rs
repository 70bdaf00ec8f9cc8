//! Between the items of a list that comes piece by piece.

/// How much of a document that is one list has come, or has gone, where that ends with no item under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Nothing but space.
    Before,
    /// Its bracket, and nothing behind it.
    Opened,
    /// An item, and no comma behind it.
    Behind,
    /// An item, and the comma behind it.
    Next,
    /// All of it. What is no list, but has come to its end, is there as well.
    Over,
}

impl Place {
    /// What stands behind this place where `item` is to be the list's last one: with it the list is over. Nothing stands
    /// behind a list that is.
    #[must_use]
    pub fn ends_with(self, item: &[u8]) -> Vec<u8> {
        let before: &[u8] = match self {
            Self::Before => b"[",
            Self::Opened | Self::Next => b"",
            Self::Behind => b",",
            Self::Over => return Vec::new(),
        };
        [before, item, b"]"].concat()
    }
}
