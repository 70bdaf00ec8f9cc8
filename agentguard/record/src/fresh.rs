//! What was written last, as the index needs it: the writer knows it, so that the indexer does not have to read it from the
//! log.

use std::sync::Mutex;

use crate::index::Rows;
use crate::segment::Position;
use crate::shared::lock;

/// How many rows wait for the indexer at most, of some 100 bytes each. Where there are more, it is behind, and reads them
/// all from the log. A step takes what came in 50 ms.
const MOST: usize = 4_096;

/// The rows of a stretch of the log that ends where the log does.
#[derive(Debug)]
pub(crate) struct Fresh(Mutex<Stretch>);

#[derive(Debug)]
struct Stretch {
    from: Position,
    to: Position,
    rows: Rows,
}

/// Where the indexer goes on.
#[derive(Debug)]
pub(crate) enum Next {
    /// With these, up to there.
    Rows(Rows, Position),
    /// With what the log says, up to there.
    Log(Position),
}

impl Fresh {
    /// None, of a log that ends at `end`.
    pub(crate) const fn none(end: Position) -> Self {
        Self(Mutex::new(Stretch::empty(end)))
    }

    /// The rows of what was appended to the log last, which ends at `to` with it, and can be read.
    pub(crate) fn add(&self, rows: Rows, to: Position) {
        let mut stretch = lock(&self.0);
        stretch.rows.append(rows);
        stretch.to = to;
        if stretch.rows.len() > MOST {
            *stretch = Stretch::empty(to);
        }
    }

    /// What comes next for an index of all before `at`. None: that is all.
    pub(crate) fn next(&self, at: Position) -> Option<Next> {
        let mut stretch = lock(&self.0);
        if at.number != stretch.from.number {
            return Some(Next::Log(stretch.from));
        }
        let to = stretch.to;
        let taken = std::mem::replace(&mut *stretch, Stretch::empty(to));
        (taken.rows.len() > 0).then_some(Next::Rows(taken.rows, to))
    }
}

impl Stretch {
    const fn empty(at: Position) -> Self {
        Self {
            from: at,
            to: at,
            rows: Rows::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fresh, MOST, Next};
    use crate::index::{Row, Rows};
    use crate::segment::{Location, Position};

    fn at(number: u64) -> Position {
        Position {
            number,
            segment: 1,
            offset: 8 + 100 * number,
        }
    }

    /// Adds the entries between two numbers.
    fn add(fresh: &Fresh, from: u64, to: u64) {
        let mut rows = Rows::new();
        for number in from..to {
            let Position {
                segment, offset, ..
            } = at(number);
            rows.add(Location { segment, offset }, number, 0, Row::Notice);
        }
        fresh.add(rows, at(to));
    }

    fn next(fresh: &Fresh, number: u64) -> Option<(Option<usize>, u64)> {
        Some(match fresh.next(at(number))? {
            Next::Rows(rows, to) => (Some(rows.len()), to.number),
            Next::Log(to) => (None, to.number),
        })
    }

    #[test]
    fn what_was_written_since_is_there_and_what_was_before_is_in_the_log() {
        let fresh = Fresh::none(at(5));
        assert_eq!(next(&fresh, 5), None);
        add(&fresh, 5, 7);
        add(&fresh, 7, 8);
        assert_eq!(next(&fresh, 1), Some((None, 5)));
        assert_eq!(next(&fresh, 5), Some((Some(3), 8)));
        assert_eq!(next(&fresh, 8), None);
        // It could not be added to the index.
        add(&fresh, 8, 9);
        assert_eq!(next(&fresh, 5), Some((None, 8)));
        assert_eq!(next(&fresh, 8), Some((Some(1), 9)));
    }

    #[test]
    fn an_indexer_that_is_behind_reads_the_log() {
        let fresh = Fresh::none(at(0));
        let many = MOST as u64;
        add(&fresh, 0, many);
        add(&fresh, many, many + 1);
        assert_eq!(next(&fresh, 0), Some((None, many + 1)));
        add(&fresh, many + 1, many + 2);
        assert_eq!(next(&fresh, 0), Some((None, many + 1)));
        assert_eq!(next(&fresh, many + 1), Some((Some(1), many + 2)));
    }
}
