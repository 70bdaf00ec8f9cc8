//! Which addresses did not answer lately.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Addresses remembered. Beyond it, those whose time is over go, then the one that failed first: it
/// is tried in its order again.
const REMEMBERED: usize = 1024;

/// Addresses, with their ports, that failed a short while ago: they are tried after the others, and
/// in their order if all did. What one agent met helps the others too; it costs nobody more than the
/// order.
pub(crate) struct Health {
    /// For how long an address counts as ill.
    lasts: Duration,
    /// Until when each does. A plain lock: held for a look-up of a few addresses.
    ill: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Health {
    pub(crate) fn new(lasts: Duration) -> Self {
        Self {
            lasts,
            ill: Mutex::default(),
        }
    }

    /// The same addresses, those that failed lately at the end.
    pub(crate) fn order(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let now = Instant::now();
        let ill = self.ill();
        let is_well = |address: &&SocketAddr| ill.get(*address).is_none_or(|until| *until <= now);
        let (well, ill): (Vec<_>, Vec<_>) = addresses.iter().partition(is_well);
        well.into_iter().chain(ill).copied().collect()
    }

    /// It did not answer.
    pub(crate) fn failed(&self, address: SocketAddr) {
        let now = Instant::now();
        let mut ill = self.ill();
        if ill.len() >= REMEMBERED && !ill.contains_key(&address) {
            ill.retain(|_, until| *until > now);
        }
        if ill.len() >= REMEMBERED && !ill.contains_key(&address) {
            let first = ill.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(first, _)| *first) {
                ill.remove(&first);
            }
        }
        ill.insert(address, now + self.lasts);
    }

    /// It answered.
    pub(crate) fn answered(&self, address: SocketAddr) {
        self.ill().remove(&address);
    }

    fn ill(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.ill.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::time::advance;

    use super::{Health, REMEMBERED};

    const LASTS: Duration = Duration::from_secs(30);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_tried_last_until_it_answers_or_its_time_is_over() {
        let health = Health::new(LASTS);
        let [one, two, three] = [1, 2, 3].map(address);
        let order = || health.order(&[one, two, three]);
        assert_eq!(order(), [one, two, three]);
        health.failed(one);
        assert_eq!(order(), [two, three, one]);
        health.failed(three);
        assert_eq!(order(), [two, one, three]);
        health.failed(two);
        // Never not at all.
        assert_eq!(order(), [one, two, three]);
        health.answered(two);
        assert_eq!(order(), [two, one, three]);
        advance(LASTS).await;
        assert_eq!(order(), [one, two, three]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_first_makes_place() {
        let health = Health::new(LASTS);
        let many = u16::try_from(REMEMBERED).unwrap();
        for port in 1..=many {
            health.failed(address(port));
            advance(Duration::from_millis(1)).await;
        }
        health.failed(address(0));
        assert_eq!(health.ill().len(), REMEMBERED);
        let told = health.order(&[address(2), address(1)]);
        assert_eq!(told, [address(1), address(2)]);
        // Those whose time is over go first.
        advance(LASTS).await;
        health.failed(address(many + 1));
        assert_eq!(health.ill().len(), 1);
    }
}
