//! The kernel's verdicts, into the record.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentguard_common::event::{Event, kind, reason};
use agentguard_decision::Decider;
use agentguard_keeper::gate::view::{Events, Told};
use agentguard_keeper::message::ToKeeper;
use agentguard_model::{AgentId, DecisionId, ReasonCode};
use agentguard_record::Gap;
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Recorded;
use super::gate::Gate;
use super::link::Link;
use super::real_names::NamesBehind;
use super::sequences::{Missing, Sequences};

/// Direct flows whose end is awaited. Beyond it the oldest ends without its byte counts in the
/// record.
const OPEN_FLOWS: usize = 65_536;
/// Why numbers are missing.
const OVERFLOW: &str =
    "The kernel's ring buffer was full, or an agent had more in it than its share.";
/// Events that wait for the record.
const WAITING: usize = 4096;
/// How long after it was told to look the keeper is not told again.
const AGAIN: Duration = Duration::from_millis(20);
/// How long the thread rests where it has found some events: others come meanwhile, and the kernel need not wake
/// it for each.
const REST: Duration = Duration::from_micros(500);
/// How many events are too many to rest after: an agent has room for five hundred to a thousand that nobody has read.
const CROWD: usize = 64;
/// How often the waiting thread looks whether it is still wanted.
const LOOK_UP: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Reads events until told to stop. A thread waits for the ring buffer, since its descriptor is not
/// the runtime's; when the record is slower than the kernel the thread waits, the ring buffer fills,
/// and the kernel's numbers show what was lost.
pub(super) fn consume(
    events: Events,
    decider: Decider<Recorded>,
    behind: NamesBehind,
    gate: Arc<Gate>,
    link: Link,
    direct: Arc<AtomicUsize>,
    shutdown: CancellationToken,
) -> std::io::Result<impl Future<Output = ()> + Send> {
    let (sender, mut received) = mpsc::channel(WAITING);
    std::thread::Builder::new()
        .name("kernel-events".into())
        .spawn(move || read(events, &sender))?;
    let mut consumer = Consumer {
        decider,
        behind,
        gate,
        link,
        looked: None,
        sequences: Sequences::default(),
        open: OpenFlows {
            count: direct,
            ..OpenFlows::default()
        },
        gaps: Gaps::default(),
    };
    Ok(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return consumer.tell_gaps(),
                _ = tick.tick() => {
                    consumer.give_up();
                    consumer.tell_gaps();
                    continue;
                }
                event = received.recv() => event,
            };
            match event {
                Some(told) => consumer.take(told).await,
                None => return,
            }
        }
    })
}

/// Ends when nobody wants events any more.
#[expect(
    clippy::disallowed_methods,
    reason = "it rests in order to let time pass, and waits for nothing"
)]
fn read(mut events: Events, sender: &mpsc::Sender<Told>) {
    loop {
        let mut found = 0_usize;
        for event in events.by_ref() {
            if sender.blocking_send(event).is_err() {
                return;
            }
            found = found.saturating_add(1);
        }
        if found > 0 {
            if found < CROWD {
                std::thread::sleep(REST);
            }
            continue;
        }
        let descriptor = events.descriptor();
        let mut poll = [PollFd::new(&descriptor, PollFlags::IN)];
        // Woken by an event, or to see whether anyone is still there.
        let _ = rustix::event::poll(&mut poll, Some(&LOOK_UP));
        if sender.is_closed() {
            return;
        }
    }
}

struct Consumer {
    decider: Decider<Recorded>,
    behind: NamesBehind,
    gate: Arc<Gate>,
    link: Link,
    /// When the keeper was last told to look.
    looked: Option<Instant>,
    sequences: Sequences,
    open: OpenFlows,
    gaps: Gaps,
}

/// What is missing and was not told yet, by processor and reason: it is told once a second, so that a
/// flood of events cannot fill the disk with what it crowds out.
#[derive(Default)]
struct Gaps(BTreeMap<(u32, String), Lost>);

/// Events that are missing.
struct Lost {
    from: u64,
    to: u64,
    count: u64,
}

impl Gaps {
    fn note(&mut self, missing: &Missing, why: &str) {
        let (from, to) = (*missing.numbers.start(), *missing.numbers.end());
        let count = to.saturating_sub(from).saturating_add(1);
        let lost = self.0.entry((missing.cpu, why.to_owned()));
        let lost = lost.or_insert(Lost { from, to, count: 0 });
        lost.from = lost.from.min(from);
        lost.to = lost.to.max(to);
        lost.count = lost.count.saturating_add(count);
    }

    fn take(&mut self) -> impl Iterator<Item = Gap> {
        let now = Timestamp::now();
        std::mem::take(&mut self.0)
            .into_iter()
            .map(move |((cpu, why), lost)| Gap {
                source: format!("kernel/cpu{cpu}"),
                lost: lost.count,
                from: Some(lost.from),
                to: Some(lost.to),
                time: now,
                message: Some(why),
            })
    }
}

impl Consumer {
    async fn take(&mut self, told: Told) {
        let Told { event, unix } = told;
        let event = &event;
        self.watch_for_gaps(event);
        self.watch_for_strangers(event);
        if event.kind == kind::CLOSED {
            if let Some((id, since)) = self.open.close(event.socket) {
                self.decider.kernel_closed(id, event, since);
            }
            return;
        }
        // Who comes from outside has not asked for a name.
        let host = (event.kind != kind::INBOUND)
            .then(|| self.behind.of(AgentId(event.agent), event.remote.into()))
            .flatten();
        let exe = self.gate.executable(event.pid);
        match self.decider.kernel(event, host, unix, exe).await {
            Ok(id) => {
                if event.kind == kind::FLOW && event.denied == 0 {
                    self.open.open(event.socket, id);
                }
            }
            // Its effect is there: say that its record is not. Where writing fails, the record does
            // so itself.
            Err(refused) if refused.reason.code == ReasonCode::RecordFailed => {}
            Err(refused) => {
                let missing = Missing {
                    cpu: event.cpu,
                    numbers: event.sequence..=event.sequence,
                };
                self.gaps.note(&missing, &refused.reason.message);
            }
        }
    }

    /// Has the keeper look at once for what the gate does not know: a container that has just come.
    fn watch_for_strangers(&mut self, event: &Event) {
        let strange = matches!(event.reason, reason::NO_LISTENER | reason::NO_AGENT);
        if strange && self.looked.is_none_or(|looked| looked.elapsed() > AGAIN) {
            self.looked = Some(Instant::now());
            self.link.mention(ToKeeper::Look);
        }
    }

    fn watch_for_gaps(&mut self, event: &Event) {
        let missing = self
            .sequences
            .came(event.cpu, event.sequence, Instant::now());
        if let Some(missing) = missing {
            self.gaps.note(&missing, OVERFLOW);
        }
    }

    fn give_up(&mut self) {
        for missing in self.sequences.given_up(Instant::now()) {
            self.gaps.note(&missing, OVERFLOW);
        }
    }

    fn tell_gaps(&mut self) {
        for gap in self.gaps.take() {
            tracing::warn!(
                lost = gap.lost,
                why = gap.message,
                "verdicts of the kernel are missing in the record"
            );
            self.decider.recorder().record().gap(gap);
        }
    }
}

/// Direct flows by their sockets.
#[derive(Default)]
struct OpenFlows {
    flows: HashMap<u64, (DecisionId, Instant)>,
    order: std::collections::VecDeque<u64>,
    /// How many there are, for others to see.
    count: Arc<AtomicUsize>,
}

impl OpenFlows {
    fn open(&mut self, socket: u64, id: DecisionId) {
        if self.flows.insert(socket, (id, Instant::now())).is_none() {
            self.order.push_back(socket);
        }
        while self.order.len() > OPEN_FLOWS {
            if let Some(oldest) = self.order.pop_front() {
                self.flows.remove(&oldest);
            }
        }
        self.count.store(self.flows.len(), Ordering::Relaxed);
    }

    fn close(&mut self, socket: u64) -> Option<(DecisionId, Instant)> {
        let closed = self.flows.remove(&socket);
        self.count.store(self.flows.len(), Ordering::Relaxed);
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::{Gaps, Missing};

    #[test]
    fn what_is_missing_of_a_processor_for_one_reason_is_one_gap() {
        let mut gaps = Gaps::default();
        let missing = |cpu, from, to| Missing {
            cpu,
            numbers: from..=to,
        };
        gaps.note(&missing(0, 10, 12), "full");
        gaps.note(&missing(0, 20, 20), "full");
        gaps.note(&missing(0, 30, 30), "share");
        gaps.note(&missing(1, 5, 9), "full");
        let told: Vec<_> = gaps
            .take()
            .map(|gap| (gap.source, gap.lost, gap.from, gap.to, gap.message))
            .collect();
        let gap = |cpu: &str, lost, from, to, why: &str| {
            let source = format!("kernel/{cpu}");
            (source, lost, Some(from), Some(to), Some(why.to_owned()))
        };
        assert_eq!(
            told,
            [
                gap("cpu0", 4, 10, 20, "full"),
                gap("cpu0", 1, 30, 30, "share"),
                gap("cpu1", 5, 5, 9, "full"),
            ]
        );
        assert_eq!(gaps.take().count(), 0);
    }
}
