//! What operators have done to the guard, on its way to the record.

use std::time::Duration;

use super::Recorded;
use agentguard_decision::{Change, Decider};
use agentguard_keeper::message::{Deed, Done, ToKeeper};
use jiff::Timestamp;

use super::link::Link;

/// How long after a refusal of the record it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// From when on a record says that it comes late, in seconds.
const LATE: i64 = 5;

/// Records one, as soon as that is possible, and tells the keeper. A worker that ends in between leaves
/// it to the next one, which may record it once more.
pub(super) async fn note(deed: Deed, decider: Decider<Recorded>, link: Link) {
    loop {
        match decider.changed(change(&deed, Timestamp::now())).await {
            Ok(_) => {
                let number = deed.number;
                return link.tell(ToKeeper::Recorded { number }).await;
            }
            Err(refused) => {
                tracing::debug!(%refused, "a change is not recorded yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn change(deed: &Deed, now: Timestamp) -> Change {
    let (uid, agent) = (deed.uid, deed.agent.as_ref());
    let name = agent.map_or_else(|| "an agent".to_owned(), ToString::to_string);
    let (done, mut message) = match &deed.done {
        Done::Quarantined { reason, frozen } => {
            let stopped = if *frozen {
                " and its processes were stopped"
            } else {
                ""
            };
            let why = because(reason.as_deref());
            (
                "quarantine",
                format!("{name} was quarantined{stopped}, by uid {uid}{why}"),
            )
        }
        Done::Released => (
            "release",
            format!("{name} was released from quarantine, by uid {uid}"),
        ),
        Done::Switched { name, on, reason } => {
            let how = match on {
                Some(true) => "set on",
                Some(false) => "set off",
                None => "left to the policy again",
            };
            let why = because(reason.as_deref());
            (
                "switch",
                format!("the switch {name} was {how}, by uid {uid}{why}"),
            )
        }
        Done::Adopted {
            cgroup,
            closed,
            tolerated,
            past,
        } => {
            let goes_on = match tolerated {
                0 => String::new(),
                more => format!("; {more} connections that were there go on"),
            };
            let past = match past.as_slice() {
                [] => String::new(),
                past => format!(
                    "; what is open in it and sends past the gate goes on: {}",
                    past.join(", ")
                ),
            };
            (
                "adopt",
                format!(
                    "the cgroup {cgroup} was put under the gate as {name}, by uid {uid}, and {closed} \
                     sockets that were open in it were closed{goes_on}{past}"
                ),
            )
        }
        Done::Detached { cgroups } => (
            "detach_all",
            format!(
                "the gate was taken off everything ({cgroups} cgroups) while no daemon ran, by uid \
                 {uid}: what agents sent from then until the next start is not in the record"
            ),
        ),
    };
    let time = i64::try_from(deed.time)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    if let Some(time) = time.filter(|time| now.as_second() - time.as_second() > LATE) {
        message.push_str(&format!(" (done at {time}, recorded later)"));
    }
    Change {
        done: done.to_owned(),
        message,
        uid,
        agent: deed.agent.clone(),
    }
}

/// What stands behind who did it, if they said why.
fn because(reason: Option<&str>) -> String {
    let why = reason.map(|reason| format!(": {reason}"));
    why.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Deed, Done, Timestamp, change};

    #[test]
    fn each_deed_is_told_with_who_did_it_and_when_if_that_is_long_ago() {
        let deed = |done| Deed {
            number: 1,
            time: 1_800_000_000,
            uid: 1000,
            agent: Some("coder".parse().unwrap()),
            done,
        };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let reason = Some("ticket 42".to_owned());
        let quarantined = deed(Done::Quarantined {
            reason,
            frozen: true,
        });
        let told = change(&quarantined, at(1_800_000_001));
        assert_eq!(told.done, "quarantine");
        assert_eq!(
            told.message,
            "coder was quarantined and its processes were stopped, by uid 1000: ticket 42"
        );
        for (on, reason, message) in [
            (
                Some(true),
                Some("ticket 42"),
                "the switch freeze was set on, by uid 1000: ticket 42",
            ),
            (
                Some(false),
                None,
                "the switch freeze was set off, by uid 1000",
            ),
            (
                None,
                None,
                "the switch freeze was left to the policy again, by uid 1000",
            ),
        ] {
            let name = "freeze".to_owned();
            let reason = reason.map(str::to_owned);
            let switched = deed(Done::Switched { name, on, reason });
            let told = change(&switched, at(1_800_000_001));
            assert_eq!(
                (told.done.as_str(), told.message.as_str()),
                ("switch", message)
            );
        }
        let told = change(&deed(Done::Released), at(1_800_000_060));
        assert_eq!(
            told.message,
            "coder was released from quarantine, by uid 1000 (done at 2027-01-15T08:00:00Z, recorded \
             later)"
        );
    }
}
