//! What is wrong with cgroups at each look, told when it begins and when it is over: a look is taken every
//! second, and a log that says the same each time hides the rest.

use std::collections::BTreeSet;

/// Kept of one look, at most. An agent may make as many cgroups as it likes.
const KEPT: usize = 64;

/// What is wrong at one look, a sentence each.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Complaints {
    all: BTreeSet<String>,
    /// How many more there were.
    more: usize,
}

impl Complaints {
    pub(super) fn add(&mut self, what: String) {
        if self.all.contains(&what) {
            return;
        }
        if self.all.len() < KEPT {
            self.all.insert(what);
        } else {
            self.more += 1;
        }
    }

    /// Takes the place of what the last look found, and logs what is different.
    pub(super) fn replace(&mut self, now: Self) {
        let (begun, over) = self.difference(&now);
        for what in begun {
            tracing::warn!("{what}");
        }
        for what in over {
            tracing::info!("no longer so: {what}");
        }
        if (now.more > 0) != (self.more > 0) {
            tracing::warn!(more = now.more, "more of this is not told");
        }
        *self = now;
    }

    /// What is new, and what is no longer so.
    fn difference<'a>(&'a self, now: &'a Self) -> (Vec<&'a String>, Vec<&'a String>) {
        let begun = now.all.difference(&self.all).collect();
        // Behind the bound it may only not have been kept.
        let over = self.all.difference(&now.all);
        (begun, over.filter(|_| now.more == 0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{Complaints, KEPT};

    fn look(complaints: &[&str]) -> Complaints {
        let mut look = Complaints::default();
        for what in complaints {
            look.add((*what).to_owned());
        }
        look
    }

    #[test]
    fn what_is_wrong_is_told_when_it_begins_and_when_it_is_over() {
        let mut last = Complaints::default();
        let mut told = Vec::new();
        for now in [
            &["a", "b", "a"][..],
            &["a", "b"],
            &["b"],
            &["b"],
            &[],
            &["a"],
        ] {
            let now = look(now);
            let (begun, over) = last.difference(&now);
            told.push(format!("{begun:?} {over:?}"));
            last.replace(now);
        }
        let expected = [
            r#"["a", "b"] []"#,
            "[] []",
            r#"[] ["a"]"#,
            "[] []",
            r#"[] ["b"]"#,
            r#"["a"] []"#,
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn however_much_is_wrong_little_is_kept() {
        let mut look = Complaints::default();
        for number in 0..10_000 {
            look.add(number.to_string());
        }
        assert_eq!((look.all.len(), look.more), (KEPT, 10_000 - KEPT));
    }
}
