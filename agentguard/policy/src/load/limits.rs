//! Limits of loops and runaways, and circuit breakers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agentguard_model::limit::{Breaker, Circuit, Limit, LimitKind, Rate};
use agentguard_model::{Mode, Source};

use super::selector::{self, Whom};
use super::values::{empty, list, pattern};
use super::{Known, MAX_STRING, Parsed, Report, budgets, llm};
use crate::diagnostic::quoted;
use crate::document::{
    RawBreaker, RawCharged, RawChargedTool, RawCircuit, RawCounted, RawDepth, RawLimit,
};
use crate::limit::{BreakerRule, LimitRule, Says, Scope};
use crate::yaml::{At, Place};

/// The most limits and breakers of a policy, together. More are refused: each call is counted by all that it belongs to.
const MAX_LIMITS: usize = 256;

/// The most calls, failures and agents of a limit. More are refused: a limit that is never met is none.
const MAX_CALLS: u64 = 1_000_000;

/// The most calls that a breaker looks at.
const MAX_WINDOW: u64 = 64;

/// The longest time of a limit or a breaker: a day. A longer one is refused: what is counted is forgotten with the daemon,
/// and what is to hold for longer is a budget.
const MAX_TIME: u64 = 86_400;

const WITHIN: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(30);

/// The limits and breakers of all documents.
pub(super) fn limits(
    sources: &mut [Parsed],
    known: &Known<'_>,
    report: &mut Report,
) -> (Vec<LimitRule>, Vec<BreakerRule>) {
    let (mut limits, mut breakers) = (Vec::new(), Vec::new());
    let mut ids: HashMap<String, (String, u32)> = HashMap::new();
    for source in sources {
        report.path.clone_from(&source.path);
        let (of_limits, of_breakers) = match source.document.as_mut() {
            Some(document) => (
                std::mem::take(&mut document.limits),
                std::mem::take(&mut document.breakers),
            ),
            None => continue,
        };
        for raw in of_limits {
            if !is_new(&raw.value.id, "limit", &mut ids, report) {
                return (limits, breakers);
            }
            // What is wrong with one that is not whole was told.
            if source.is_whole(&raw) {
                limits.extend(limit(&raw, known, report));
            }
        }
        for raw in of_breakers {
            if !is_new(&raw.value.id, "breaker", &mut ids, report) {
                return (limits, breakers);
            }
            if source.is_whole(&raw) {
                breakers.extend(breaker(&raw.value, known, report));
            }
        }
    }
    (limits, breakers)
}

/// Notes an id. Whether there may be more.
fn is_new(
    id: &At<String>,
    what: &str,
    ids: &mut HashMap<String, (String, u32)>,
    report: &mut Report,
) -> bool {
    if ids.len() == MAX_LIMITS {
        let message = format!("more than {MAX_LIMITS} limits and breakers");
        let hint = "one limit has an account for each agent, user or model with `per`";
        report.error(id.place, message, hint);
        return false;
    }
    let position = (report.path().to_owned(), id.place.line);
    if let Some((path, line)) = ids.insert(id.value.clone(), position) {
        let hint = format!("it stands in {path}, line {line}, already");
        let message = format!("a second {what} `{}`", quoted(&id.value));
        report.error(id.place, message, &hint);
    }
    true
}

fn limit(raw: &At<RawLimit>, known: &Known<'_>, report: &mut Report) -> Option<LimitRule> {
    let place = raw.place;
    let raw = &raw.value;
    let id = budgets::id(&raw.id, "limit", "like `no-loops`", report);
    let kind = kind(raw, place, report);
    let per = budgets::per(raw.per.as_ref(), report);
    let counted = counted(raw, kind.as_ref(), report);
    let scope = scope(
        &Whom {
            agents: raw.agents.as_ref(),
            groups: raw.groups.as_ref(),
            labels: raw.labels.as_ref(),
            what: "the limit",
        },
        (raw.llm.as_ref(), raw.tool.as_ref()),
        counted,
        known,
        report,
    );
    let says = says(&raw.id, raw.mode, raw.reason.as_ref(), report);
    Some(LimitRule {
        limit: Arc::new(Limit {
            id: id?,
            kind: kind?,
            per: per?.into(),
        }),
        says,
        scope,
    })
}

/// What it stops: one thing.
fn kind(raw: &RawLimit, place: Place, report: &mut Report) -> Option<LimitKind> {
    let written = [
        ("rate", raw.rate.as_ref().map(|it| it.place)),
        ("repeats", raw.repeats.as_ref().map(|it| it.place)),
        ("retries", raw.retries.as_ref().map(|it| it.place)),
        ("no_progress", raw.no_progress.as_ref().map(|it| it.place)),
        ("depth", raw.depth.as_ref().map(|it| it.place)),
    ];
    let mut written = written
        .into_iter()
        .filter_map(|(name, place)| Some((name, place?)));
    let Some((first, _)) = written.next() else {
        let hint = "`rate`, `repeats`, `retries`, `no_progress` or `depth`";
        report.error(place, "a limit that limits nothing", hint);
        return None;
    };
    if let Some((second, place)) = written.next() {
        let message = format!("a limit of `{first}`, and of `{second}`");
        report.error(place, message, "write two limits, each with an id");
        return None;
    }
    if let Some(rate) = &raw.rate {
        let calls = number("calls", &rate.value.calls, MAX_CALLS, report);
        let every = time("every", &rate.value.every, report);
        let burst = rate.value.burst.as_ref();
        let burst = burst.map_or(calls, |it| number("burst", it, MAX_CALLS, report));
        return Some(LimitKind::Rate(Rate {
            calls: calls?,
            every: every?,
            burst: burst?,
        }));
    }
    if let Some(repeats) = &raw.repeats {
        let calls = number("calls", &repeats.value.calls, MAX_CALLS, report);
        let within = time("within", &repeats.value.within, report);
        return Some(LimitKind::Repeats {
            calls: calls?,
            within: within?,
        });
    }
    if let Some(retries) = &raw.retries {
        let failures = number("failures", &retries.value.failures, MAX_CALLS, report);
        let within = time("within", &retries.value.within, report);
        return Some(LimitKind::Retries {
            failures: failures?,
            within: within?,
        });
    }
    if let Some(progress) = &raw.no_progress {
        let calls = number("calls", &progress.value.calls, MAX_CALLS, report);
        let within = time("within", &progress.value.within, report);
        return Some(LimitKind::NoProgress {
            calls: calls?,
            within: within?,
        });
    }
    let RawDepth { calls, agents } = &raw.depth.as_ref()?.value;
    let calls = number("calls", calls, MAX_CALLS, report);
    let agents = agents.as_ref();
    let agents = agents.map_or(calls, |it| number("agents", it, MAX_CALLS, report));
    Some(LimitKind::Depth {
        calls: calls?,
        agents: agents?,
    })
}

/// Which of calls, calls of tools and requests it counts.
fn counted(raw: &RawLimit, kind: Option<&LimitKind>, report: &mut Report) -> [bool; 3] {
    let (llm, tool) = (raw.llm.is_some(), raw.tool.is_some());
    let depth = matches!(kind, Some(LimitKind::Depth { .. }));
    let Some(of) = &raw.of else {
        if depth && let Some(llm) = &raw.llm {
            let hint =
                "`tool` says which servers are agents; those with `api: a2a`, if it is absent";
            report.error(llm.place, "`llm` is not for `depth`", hint);
        }
        return match (llm, tool) {
            (false, false) => [!depth, true, false],
            (llm, tool) => [llm, tool, false],
        };
    };
    if of.value.is_empty() {
        empty("of", of, report);
    }
    let has = |what: RawCounted| of.value.iter().find(|it| it.value == what);
    if depth && let Some(wrong) = of.value.iter().find(|it| it.value != RawCounted::ToolCalls) {
        let hint = "leave `of` out: agents are called as tools are";
        report.error(wrong.place, "`depth` counts calls of agents", hint);
    }
    if let Some(requests) = has(RawCounted::Requests)
        && kind.is_some_and(|it| !matches!(it, LimitKind::Rate(_)))
    {
        let hint =
            "`calls`, `tool_calls`, or both: of other requests nobody knows what they ask for";
        report.error(requests.place, "`requests` are for `rate`", hint);
    }
    if let Some(requests) = has(RawCounted::Requests)
        && (llm || tool || of.value.len() > 1)
    {
        let hint = "`requests` are all that there are: leave `llm`, `tool` and the others out";
        report.error(requests.place, "`requests` beside some of them", hint);
    }
    let (calls, tools) = (has(RawCounted::Calls), has(RawCounted::ToolCalls));
    if let Some(llm) = raw.llm.as_ref().filter(|_| calls.is_none()) {
        let hint = "`of: [calls]`, or leave `of` out";
        report.error(llm.place, "`llm` is for `calls`", hint);
    }
    if let Some(tool) = raw.tool.as_ref().filter(|_| tools.is_none()) {
        let hint = "`of: [tool_calls]`, or leave `of` out";
        report.error(tool.place, "`tool` is for `tool_calls`", hint);
    }
    [
        calls.is_some(),
        tools.is_some(),
        has(RawCounted::Requests).is_some(),
    ]
}

fn breaker(raw: &RawBreaker, known: &Known<'_>, report: &mut Report) -> Option<BreakerRule> {
    let id = budgets::id(&raw.id, "breaker", "like `upstreams`", report);
    let failures = number("failures", &raw.failures, MAX_WINDOW, report);
    let of = raw.of.as_ref();
    let of = of.map_or(failures, |it| number("of", it, MAX_WINDOW, report));
    if let (Some(failures), Some(all), Some(raw)) = (failures, of, &raw.of)
        && all < failures
    {
        let message = format!("{failures} failures among {all} calls");
        let hint = "`of` is at least `failures`; leave it out for failures in a row";
        report.error(raw.place, message, hint);
    }
    let timed = |key, of: Option<&At<String>>, else_: Duration, report: &mut Report| {
        of.map_or(Some(else_), |it| time(key, it, report))
    };
    let within = timed("within", raw.within.as_ref(), WITHIN, report);
    let wait = timed("wait", raw.wait.as_ref(), WAIT, report);
    let probes = raw.probes.as_ref();
    let probes = probes.map_or(Some(1), |it| number("probes", it, MAX_WINDOW, report));
    let per = budgets::per(raw.per.as_ref(), report);
    let circuit = match raw.circuit.value {
        RawCircuit::Upstream => Circuit::Upstream,
        RawCircuit::Tool => Circuit::Tool,
    };
    if let Some(llm) = raw.llm.as_ref().filter(|_| circuit == Circuit::Tool) {
        let hint = "`circuit: upstream`, or leave `llm` out";
        report.error(llm.place, "`llm` is not for `circuit: tool`", hint);
    }
    let counted = match (circuit, raw.llm.is_some(), raw.tool.is_some()) {
        (Circuit::Tool, _, _) => [false, true, false],
        (Circuit::Upstream, false, false) => [true, true, true],
        (Circuit::Upstream, llm, tool) => [llm, tool, false],
    };
    let scope = scope(
        &Whom {
            agents: raw.agents.as_ref(),
            groups: raw.groups.as_ref(),
            labels: raw.labels.as_ref(),
            what: "the breaker",
        },
        (raw.llm.as_ref(), raw.tool.as_ref()),
        counted,
        known,
        report,
    );
    let says = says(&raw.id, raw.mode, raw.reason.as_ref(), report);
    Some(BreakerRule {
        breaker: Arc::new(Breaker {
            id: id?,
            circuit,
            failures: failures?,
            of: of?,
            within: within?,
            wait: wait?,
            probes: probes?,
            per: per?.into(),
        }),
        says,
        scope,
    })
}

fn scope(
    whom: &Whom<'_>,
    (llm, tool): (Option<&At<RawCharged>>, Option<&At<RawChargedTool>>),
    [calls, tool_calls, requests]: [bool; 3],
    known: &Known<'_>,
    report: &mut Report,
) -> Scope {
    let tool = tool.map(|it| &it.value);
    let named = |key, of: Option<&At<Vec<At<String>>>>, report: &mut Report| {
        list(key, of, report, |entry, report| {
            pattern(entry, report, "like `search` or `files-*`")
        })
    };
    Scope {
        agents: selector::selector(whom, known, report),
        calls,
        tool_calls,
        requests,
        llm: llm
            .map(|it| llm::charged(&it.value, known, report))
            .unwrap_or_default(),
        servers: named("server", tool.and_then(|it| it.server.as_ref()), report),
        tools: named("name", tool.and_then(|it| it.name.as_ref()), report),
    }
}

fn says(
    id: &At<String>,
    mode: Option<Mode>,
    reason: Option<&At<String>>,
    report: &mut Report,
) -> Says {
    if let Some(reason) = reason
        && reason.value.len() > MAX_STRING
    {
        let message = format!("`reason` is longer than {MAX_STRING} bytes");
        report.error(reason.place, message, "a sentence is enough");
    }
    Says {
        source: Source {
            file: report.path().to_owned(),
            line: id.place.line,
        },
        mode: mode.unwrap_or(Mode::Enforce),
        reason: reason.map(|it| it.value.clone()),
    }
}

fn number(key: &str, entry: &At<u64>, most: u64, report: &mut Report) -> Option<u32> {
    let number = u32::try_from(entry.value).ok();
    let number = number.filter(|it| (1..=most).contains(&u64::from(*it)));
    if number.is_none() {
        let message = format!("`{key}: {}` is not a number from 1 to {most}", entry.value);
        let hint = "a rule with `action: deny` refuses all; leave the limit out for none";
        report.error(entry.place, message, hint);
    }
    number
}

fn time(key: &str, entry: &At<String>, report: &mut Report) -> Option<Duration> {
    let text = entry.value.trim();
    let seconds = budgets::seconds(text).filter(|it| (1..=MAX_TIME).contains(it));
    if seconds.is_none() {
        let message = format!(
            "`{key}: {}` is not a time from a second to a day",
            quoted(text)
        );
        let hint = "like `10s`, `5m` or `24h`; what is to hold for longer is a budget";
        report.error(entry.place, message, hint);
    }
    seconds.map(Duration::from_secs)
}
