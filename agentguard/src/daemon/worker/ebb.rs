//! When connections have gone that held much, or rest.

/// So many connections are some MiB.
const MANY: usize = 64;

/// How many connections there were.
#[derive(Debug)]
pub(super) struct Ebb {
    /// The most since it was last said that they have gone.
    most: usize,
}

impl Ebb {
    /// A start takes as much as many connections, and it has gone by the first time that is asked.
    pub(super) const fn of_a_start() -> Self {
        Self { most: MANY }
    }

    /// There are so many now that do not rest.
    pub(super) fn see(&mut self, connections: usize) {
        self.most = self.most.max(connections);
    }

    /// Whether half of them have gone, or more. Says it once.
    pub(super) fn has_come(&mut self, connections: usize) -> bool {
        self.see(connections);
        let come = self.most >= MANY && connections <= self.most / 2;
        if come {
            self.most = connections;
        }
        come
    }
}

#[cfg(test)]
mod tests {
    use super::Ebb;

    #[test]
    fn it_comes_once_when_half_of_many_have_gone() {
        let mut ebb = Ebb::of_a_start();
        assert!(ebb.has_come(0));
        for few in [63, 0] {
            assert!(!ebb.has_come(few));
        }
        ebb.see(5_000);
        assert!(!ebb.has_come(2_501));
        assert!(ebb.has_come(2_500));
        assert!(!ebb.has_come(2_500));
        assert!(ebb.has_come(10));
        assert!(!ebb.has_come(0));
    }
}
