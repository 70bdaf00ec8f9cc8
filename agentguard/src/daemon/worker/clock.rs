//! When the hour of a rule comes, what is under way is decided again.
//!
//! Between two moments that [`Policy::next_change`] names the clock changes no verdict, so nothing is looked at
//! there. Where no rule looks at the clock, this sleeps until there is another policy.

use std::sync::Arc;
use std::time::Duration;

use agentguard_decision::Policies;
use agentguard_policy::Policy;
use jiff::Timestamp;
use tokio::sync::watch;

/// How long it sleeps at most while a rule looks at the clock: the clock of the host may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);

/// What is to be done next.
#[derive(Debug, Eq, PartialEq)]
enum Next {
    /// What is under way is decided again.
    Again,
    /// The clock is looked at after this.
    Sleep(Duration),
    /// The clock changes nothing under this policy.
    Nothing,
}

/// Has what is under way decided again whenever the clock may have changed a verdict. `renewed`: a moment
/// before the policy in force was put there. Ends when nobody can renew it any more.
pub(super) async fn follow(policies: Arc<Policies>, renewed: watch::Receiver<Timestamp>) {
    let current = || policies.current();
    turn(current, Timestamp::now, renewed, || policies.touch()).await;
}

async fn turn(
    policy: impl Fn() -> Arc<Policy>,
    now: impl Fn() -> Timestamp,
    mut renewed: watch::Receiver<Timestamp>,
    again: impl Fn(),
) {
    // Everything that is under way was decided at this moment or later.
    let mut since = *renewed.borrow_and_update();
    loop {
        let time = now();
        let pause = match next(&policy(), since, time) {
            Next::Again => {
                again();
                since = time;
                continue;
            }
            Next::Sleep(pause) => Some(pause),
            Next::Nothing => None,
        };
        let slept = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = slept => {}
            changed = renewed.changed() => {
                if changed.is_err() {
                    return;
                }
                since = *renewed.borrow_and_update();
            }
        }
    }
}

/// What is to be done where everything was last decided at `since`, or later.
fn next(policy: &Policy, since: Timestamp, now: Timestamp) -> Next {
    let Some(change) = policy.next_change(since) else {
        return Next::Nothing;
    };
    // A clock that was set back is in a time for which nothing was decided.
    if now < since || now >= change {
        return Next::Again;
    }
    let left = Duration::try_from(change - now).unwrap_or(LOOK);
    Next::Sleep(left.min(LOOK))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::time::Duration;

    use agentguard_policy::{Document, Policy, compile};
    use jiff::Timestamp;
    use tokio::sync::watch;
    use tokio::time::{Instant, sleep};

    use super::{Next, next, turn};

    fn policy(condition: &str) -> Policy {
        let text = format!(
            "version: 1\nswitches: {{freeze: false}}\nagents: [{{name: coder}}]\nrules:\n  - \
             {{id: it, match: {{host: [api.example.com], transport: [tcp]{condition}, action: deny}}\n"
        );
        let path = "policy.yaml".to_owned();
        compile(&[Document { path, text }]).unwrap()
    }

    /// Closed from 08:00 to 18:00 UTC.
    fn by_hours() -> Policy {
        policy(r#", time: {hours: ["08:00-18:00"]}}"#)
    }

    fn at(text: &str) -> Timestamp {
        format!("2026-03-04T{text}Z").parse().unwrap()
    }

    #[test]
    fn it_waits_for_the_hour_at_most_a_minute_at_a_time_and_for_nothing_where_no_rule_has_one() {
        let minute = Duration::from_secs(60);
        let hours = by_hours();
        for (since, now, expected) in [
            ("07:00:00", "07:00:00", Next::Sleep(minute)),
            (
                "07:00:00",
                "07:59:58.5",
                Next::Sleep(Duration::from_millis(1500)),
            ),
            ("07:00:00", "08:00:00", Next::Again),
            ("08:00:00", "08:00:00", Next::Sleep(minute)),
            // Set forward over the hour, then back.
            ("07:00:00", "18:30:00", Next::Again),
            ("18:30:00", "07:00:00", Next::Again),
            ("18:30:00", "18:29:59", Next::Again),
        ] {
            assert_eq!(
                next(&hours, at(since), at(now)),
                expected,
                "{since} to {now}"
            );
        }
        let minutes = policy("}, when: time.minute < 30");
        assert_eq!(
            next(&minutes, at("07:00:10"), at("07:00:20")),
            Next::Sleep(Duration::from_secs(40))
        );
        assert_eq!(next(&minutes, at("07:00:10"), at("07:01:00")), Next::Again);
        let never = policy("}, when: switches.freeze");
        assert_eq!(next(&never, at("07:00:00"), at("18:00:00")), Next::Nothing);
        assert_eq!(next(&never, at("18:00:00"), at("07:00:00")), Next::Nothing);
    }

    /// Runs the task for some hours from 07:00 on and gives when it had things decided again, in seconds,
    /// and how often it looked at the clock.
    async fn seen(
        first: Policy,
        hours: u64,
        then: impl AsyncFnOnce(&dyn Fn(Policy)),
    ) -> (Vec<u64>, usize) {
        let begun = Instant::now();
        let now = || at("07:00:00") + begun.elapsed();
        let (renewed, told) = watch::channel(now());
        let current = RefCell::new(Arc::new(first));
        let put = |policy| {
            let before = now();
            *current.borrow_mut() = Arc::new(policy);
            renewed.send_replace(before);
        };
        let again = RefCell::new(Vec::new());
        let looked = RefCell::new(0);
        let clock = || {
            *looked.borrow_mut() += 1;
            now()
        };
        let all = async {
            then(&put).await;
            tokio::time::sleep_until(begun + Duration::from_secs(hours * 3600)).await;
        };
        tokio::select! {
            () = turn(|| current.borrow().clone(), clock, told, || {
                again.borrow_mut().push(begun.elapsed().as_secs());
            }) => panic!("it ended"),
            () = all => {}
        }
        (again.take(), looked.take())
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_decided_again_when_the_hour_comes_and_not_before() {
        let (again, looked) = seen(by_hours(), 12, async |_| {}).await;
        assert_eq!(again, [3600, 11 * 3600]);
        assert!(looked > 12 * 60, "once a minute: {looked}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_does_not_look_at_the_clock_wakes_nobody_until_one_that_does_comes() {
        let never = || policy("}, when: switches.freeze");
        let (again, looked) = seen(never(), 12, async |_| {}).await;
        assert_eq!((again.as_slice(), looked), ([].as_slice(), 1));
        let (again, _) = seen(never(), 12, async |put| {
            sleep(Duration::from_secs(1800)).await;
            put(by_hours());
            sleep(Duration::from_secs(9 * 3600)).await;
            put(never());
        })
        .await;
        assert_eq!(again, [3600]);
    }

    /// The hour comes after the policy and before the task has woken.
    #[tokio::test(start_paused = true)]
    async fn an_hour_that_comes_while_a_policy_is_put_in_force_is_not_missed() {
        let (again, _) = seen(policy("}, when: switches.freeze"), 2, async |put| {
            sleep(Duration::from_secs(3599)).await;
            put(by_hours());
            // The task has no turn meanwhile.
            tokio::time::advance(Duration::from_secs(1)).await;
        })
        .await;
        assert_eq!(again, [3600]);
    }
}
