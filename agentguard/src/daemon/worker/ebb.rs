//! When connections have gone that held much, or rest.

/// So many connections are some MiB.
const MANY: usize = 64;

/// How many connections there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connections {
    /// That do not rest: each holds more than one that does.
    pub(super) awake: usize,
    pub(super) all: usize,
}

/// How many connections there were.
#[derive(Debug)]
pub(super) struct Ebb {
    /// The most of each since it was last said that they have gone.
    most: Connections,
}

impl Ebb {
    /// A start takes as much as many connections, and it has gone by the first time that is asked.
    pub(super) const fn of_a_start() -> Self {
        let most = Connections {
            awake: MANY,
            all: MANY,
        };
        Self { most }
    }

    /// There are so many now.
    pub(super) fn see(&mut self, now: Connections) {
        self.most.awake = self.most.awake.max(now.awake);
        self.most.all = self.most.all.max(now.all);
    }

    /// Whether half of them have gone, or rest, or more. Says it once.
    pub(super) fn has_come(&mut self, now: Connections) -> bool {
        self.see(now);
        let come = |most: &mut usize, now: usize| {
            let come = *most >= MANY && now <= *most / 2;
            if come {
                *most = now;
            }
            come
        };
        let rest = come(&mut self.most.awake, now.awake);
        let gone = come(&mut self.most.all, now.all);
        rest || gone
    }
}

#[cfg(test)]
mod tests {
    use super::{Connections, Ebb};

    const fn awake(awake: usize) -> Connections {
        Connections { awake, all: awake }
    }

    #[test]
    fn it_comes_once_when_half_of_many_have_gone() {
        let mut ebb = Ebb::of_a_start();
        assert!(ebb.has_come(awake(0)));
        for few in [63, 0] {
            assert!(!ebb.has_come(awake(few)));
        }
        ebb.see(awake(5_000));
        assert!(!ebb.has_come(awake(2_501)));
        assert!(ebb.has_come(awake(2_500)));
        assert!(!ebb.has_come(awake(2_500)));
        assert!(ebb.has_come(awake(10)));
        assert!(!ebb.has_come(awake(0)));
    }

    #[test]
    fn it_comes_when_many_rest_and_again_when_those_have_gone() {
        let mut ebb = Ebb::of_a_start();
        assert!(ebb.has_come(awake(0)));
        ebb.see(awake(5_000));
        let resting = |all| Connections { awake: 0, all };
        assert!(ebb.has_come(resting(5_000)));
        assert!(!ebb.has_come(resting(5_000)));
        assert!(ebb.has_come(resting(0)));
        assert!(!ebb.has_come(resting(0)));
    }
}
