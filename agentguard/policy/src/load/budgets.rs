//! Budgets: how much of what, by whom, in which time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agentguard_model::budget::{Budget, Dimension, Reached, Unit, Window};
use agentguard_model::{Mode, Source};
use jiff::tz::TimeZone;

use super::requests::{SIZES, bytes};
use super::selector::{self, Whom};
use super::values::{list, list_bounds, pattern};
use super::{Known, MAX_STRING, Parsed, Report, llm};
use crate::budget::{BudgetRule, Soft};
use crate::diagnostic::{nearest, quoted};
use crate::document::{RawBudget, RawSoft, RawWindow};
use crate::yaml::At;

/// The most budgets of a policy. More are refused: each call is charged to all that it belongs to.
const MAX_BUDGETS: usize = 256;

/// The largest limit: a number that every reader of JSON takes as it is (RFC 8259, 6). A larger one is refused.
pub const MAX_LIMIT: u64 = (1 << 53) - 1;

/// The longest sliding window: 366 days. A longer one is refused.
const MAX_LENGTH: u64 = 366 * 86_400;

/// The shortest one: a minute. A shorter one is refused.
const MIN_LENGTH: u64 = 60;

/// From how much of a limit on a soft one holds that does not say it, in percent.
const AT: u8 = 80;

/// For how many seconds a call may be held up by a soft limit, at most: the hook of an agent waits for twenty. More is
/// refused.
const MAX_SLOW: u64 = 10;

/// The words for what tells accounts apart, but for labels.
const DIMENSIONS: [(&str, Dimension); 8] = [
    ("agent", Dimension::Agent),
    ("user", Dimension::User),
    ("session", Dimension::Session),
    ("workflow", Dimension::Workflow),
    ("provider", Dimension::Provider),
    ("model", Dimension::Model),
    ("tool", Dimension::Tool),
    ("host", Dimension::Host),
];

/// The budgets of all documents.
pub(super) fn budgets(
    sources: &mut [Parsed],
    known: &Known<'_>,
    report: &mut Report,
) -> Vec<BudgetRule> {
    let mut budgets = Vec::new();
    let mut ids: HashMap<String, (String, u32)> = HashMap::new();
    for source in sources {
        report.path.clone_from(&source.path);
        let raw = source
            .document
            .as_mut()
            .map(|document| std::mem::take(&mut document.budgets))
            .unwrap_or_default();
        for raw in raw {
            if ids.len() == MAX_BUDGETS {
                let message = format!("more than {MAX_BUDGETS} budgets");
                let hint = "one budget has an account for each agent, user or model with `per`";
                report.error(raw.place, message, hint);
                return budgets;
            }
            let id = &raw.value.id;
            let position = (source.path.clone(), id.place.line);
            if let Some((path, line)) = ids.insert(id.value.clone(), position) {
                let hint = format!("it stands in {path}, line {line}, already");
                let message = format!("a second budget `{}`", quoted(&id.value));
                report.error(id.place, message, &hint);
            }
            // What is wrong with one that is not whole was told.
            if source.is_whole(&raw) {
                budgets.extend(budget(&raw.value, known, report));
            }
        }
    }
    budgets
}

fn budget(raw: &RawBudget, known: &Known<'_>, report: &mut Report) -> Option<BudgetRule> {
    let id = id(&raw.id, "budget", "like `team-day`", report);
    let unit = raw.unit.value;
    let limit = limit(unit, &raw.limit, report);
    let window = window(raw, report);
    let zone = zone(raw, report);
    let per = per(raw.per.as_ref(), report);
    let whom = Whom {
        agents: raw.agents.as_ref(),
        groups: raw.groups.as_ref(),
        labels: raw.labels.as_ref(),
        what: "the budget",
    };
    let agents = selector::selector(&whom, known, report);
    let calls = raw
        .llm
        .as_ref()
        .map(|it| llm::charged(&it.value, known, report));
    let tool = raw.tool.as_ref().map(|it| &it.value);
    let named = |key, of: Option<&At<Vec<At<String>>>>, report: &mut Report| {
        list(key, of, report, |entry, report| {
            pattern(entry, report, "like `search` or `files-*`")
        })
    };
    let servers = named("server", tool.and_then(|it| it.server.as_ref()), report);
    let tools = named("name", tool.and_then(|it| it.name.as_ref()), report);
    what_it_counts(raw, report);
    who_is_stopped(raw, report);
    let soft = raw.soft.as_ref().and_then(|it| soft(raw, it, report));
    if let Some(reason) = &raw.reason
        && reason.value.len() > MAX_STRING
    {
        let message = format!("`reason` is longer than {MAX_STRING} bytes");
        report.error(reason.place, message, "a sentence is enough");
    }
    let (path, line) = (report.path().to_owned(), raw.id.place.line);
    Some(BudgetRule {
        budget: Arc::new(Budget {
            id: id?,
            unit,
            limit: limit?,
            window: window?,
            zone: zone?,
            per: per?.into(),
            reached: raw.reached,
            on_loss: raw.on_loss,
        }),
        source: Source { file: path, line },
        mode: raw.mode.unwrap_or(Mode::Enforce),
        reason: raw.reason.as_ref().map(|it| it.value.clone()),
        soft,
        agents,
        calls: calls.unwrap_or_default(),
        servers,
        tools,
    })
}

/// An id. `what`: of what it is, as `like` this.
pub(super) fn id(id: &At<String>, what: &str, like: &str, report: &mut Report) -> Option<Arc<str>> {
    let text = id.value.as_str();
    let valid = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    if !valid {
        let message = format!(
            "`{}` is not the id of a {what}: 1 to 64 characters a-z 0-9 . _ -",
            quoted(text)
        );
        report.error(id.place, message, like);
    }
    valid.then(|| text.into())
}

/// A number, money or a time, as the unit has it.
fn limit(unit: Unit, raw: &At<String>, report: &mut Report) -> Option<u64> {
    let text = raw.value.trim();
    let amount = match amount(unit, text) {
        Ok(amount) => amount,
        Err(hint) => {
            let message = format!("`limit: {}` is no amount of `{unit}`", quoted(text));
            report.error(raw.place, message, hint);
            return None;
        }
    };
    if amount > MAX_LIMIT {
        let message = format!("`limit: {}` is more than there can be", quoted(text));
        let hint = format!("the largest one is {MAX_LIMIT}; leave the budget out for no limit");
        report.error(raw.place, message, &hint);
        return None;
    }
    if amount == 0 {
        let hint = "a rule with `action: deny` says so, and why; a budget has something to spend";
        report.error(raw.place, "a budget of nothing", hint);
        return None;
    }
    Some(amount)
}

/// An amount as it is written where a unit is counted: a number, `$0.50` of money, `90s` of time, `10MiB`. In the unit.
///
/// # Errors
/// It is none of this unit: what one is like.
pub fn amount(unit: Unit, text: &str) -> Result<u64, &'static str> {
    let (amount, like) = match unit {
        Unit::MicroUsd => (
            money(text),
            "like `$25` or `$0.50`: dollars, with up to six decimals",
        ),
        Unit::WallTime => (
            seconds(text).and_then(|it| it.checked_mul(1000)),
            "like `90s`, `30m` or `8h`",
        ),
        Unit::BytesOut | Unit::BytesIn => (bytes(text), SIZES),
        _ => (number(text), "a whole number, like 200000"),
    };
    amount.ok_or(like)
}

/// A whole number, as nobody would read it otherwise.
fn number(text: &str) -> Option<u64> {
    let plain = !text.is_empty()
        && text.bytes().all(|it| it.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// Dollars, in millionths.
fn money(text: &str) -> Option<u64> {
    let text = text.strip_prefix('$')?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 6 || text.ends_with('.') || !part.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let micro: u64 = format!("{part:0<6}").parse().ok()?;
    number(whole)?.checked_mul(1_000_000)?.checked_add(micro)
}

/// A time, in seconds.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (amount, unit) = text.split_at_checked(digits)?;
    let factor = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number(amount)?.checked_mul(factor)
}

fn window(raw: &RawBudget, report: &mut Report) -> Option<Window> {
    let sliding = raw.window.value == RawWindow::Sliding;
    let length = match (&raw.length, sliding) {
        (None, true) => {
            let hint = "how long it is: `length: 1h`";
            report.error(raw.window.place, "a sliding window has a `length`", hint);
            return None;
        }
        (Some(length), false) => {
            let hint = "leave it out, or say `window: sliding`";
            report.error(length.place, "`length` is for `window: sliding`", hint);
            return None;
        }
        (length, _) => length.as_ref(),
    };
    Some(match raw.window.value {
        RawWindow::Minute => Window::Minute,
        RawWindow::Hour => Window::Hour,
        RawWindow::Day => Window::Day,
        RawWindow::Week => Window::Week,
        RawWindow::Month => Window::Month,
        RawWindow::Lifetime => Window::Lifetime,
        RawWindow::Sliding => {
            let length = length?;
            let seconds = seconds(length.value.trim());
            let fits = seconds.filter(|it| (MIN_LENGTH..=MAX_LENGTH).contains(it));
            let Some(seconds) = fits else {
                let message = format!(
                    "`length: {}` is not a time from a minute to 366 days",
                    quoted(length.value.trim())
                );
                report.error(length.place, message, "like `15m`, `24h` or `30d`");
                return None;
            };
            Window::Sliding(Duration::from_secs(seconds))
        }
    })
}

fn zone(raw: &RawBudget, report: &mut Report) -> Option<Option<Arc<str>>> {
    let Some(zone) = &raw.zone else {
        return Some(None);
    };
    if TimeZone::get(&zone.value).is_err() {
        let message = format!("`{}` is not a time zone", quoted(&zone.value));
        report.error(zone.place, message, "as IANA names it: `Europe/Berlin`");
        return None;
    }
    if !matches!(
        raw.window.value,
        RawWindow::Day | RawWindow::Week | RawWindow::Month
    ) {
        let hint = "leave it out: only days, weeks and months begin somewhere else";
        report.error(
            zone.place,
            "`zone` is for `window: day`, `week` and `month`",
            hint,
        );
        return None;
    }
    Some(Some(zone.value.as_str().into()))
}

pub(super) fn per(
    per: Option<&At<Vec<At<String>>>>,
    report: &mut Report,
) -> Option<Vec<Dimension>> {
    let Some(list) = per else {
        return Some(Vec::new());
    };
    list_bounds("per", list, report);
    let mut per: Vec<Dimension> = Vec::new();
    for entry in &list.value {
        let text = entry.value.as_str();
        let label = text.strip_prefix("label.").filter(|it| !it.is_empty());
        let known = DIMENSIONS.iter().find(|(name, _)| *name == text);
        let dimension = match (label, known) {
            (Some(label), _) if label.len() <= MAX_STRING => Dimension::Label(label.to_owned()),
            (None, Some((_, dimension))) => dimension.clone(),
            _ => {
                let names = DIMENSIONS.iter().map(|(name, _)| *name);
                let hint = match nearest(text, names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "`agent`, `user`, `session`, `workflow`, `label.NAME`, `provider`, `model`, `tool` or `host`".to_owned(),
                };
                let message = format!("`{}` tells no accounts apart", quoted(text));
                report.error(entry.place, message, &hint);
                return None;
            }
        };
        if per.contains(&dimension) {
            let message = format!("`{}` stands here twice", quoted(text));
            report.error(entry.place, message, "once is enough");
            return None;
        }
        per.push(dimension);
    }
    Some(per)
}

/// Whoever calls next is stopped by an account that is spent, and not who spent it, where several share it: all do the one
/// for what is beyond the most accounts of a budget, which agents can bring about by what they name.
fn who_is_stopped(raw: &RawBudget, report: &mut Report) {
    let per = || raw.per.iter().flat_map(|it| &it.value);
    let own = per().any(|it| it.value == "agent");
    let named = per().any(|it| {
        let it = it.value.as_str();
        !matches!(it, "agent" | "provider") && !it.starts_with("label.")
    });
    if raw.reached == Reached::Freeze && (!own || named) {
        let hint = "`per: [agent]`, with labels or `provider` beside it at most, so that nobody is stopped for what another has used";
        report.error(
            raw.id.place,
            "`reached: freeze` is for accounts that each agent has for itself",
            hint,
        );
    }
}

/// What is done before it is spent.
fn soft(budget: &RawBudget, raw: &At<RawSoft>, report: &mut Report) -> Option<Soft> {
    let unit = budget.unit.value;
    if unit == Unit::ConcurrentCalls {
        let hint = "leave it out: they are held, and nothing of them is used up";
        report.error(raw.place, "`soft` is not for calls at the same time", hint);
        return None;
    }
    let endless = budget.window.value == RawWindow::Lifetime;
    if raw.value.forecast && (endless || unit == Unit::WallTime) {
        let hint = "leave it out: `agentguard budget forecast` says when it will be spent";
        let message = "`forecast` is for what may be spent before a window ends";
        report.error(raw.place, message, hint);
        return None;
    }
    let percent = match &raw.value.at {
        None => AT,
        Some(at) => {
            let text = at.value.trim();
            let share = text.strip_suffix('%').map(str::trim_end).and_then(number);
            let share = share.and_then(|it| u8::try_from(it).ok());
            let Some(percent) = share.filter(|it| (1..=100).contains(it)) else {
                let message = format!("`at: {}` is no part of a limit", quoted(text));
                report.error(at.place, message, "`1%` to `100%`, like `80%`");
                return None;
            };
            percent
        }
    };
    let slow = match &raw.value.slow {
        None => None,
        Some(slow) => {
            let text = slow.value.trim();
            let Some(time) = seconds(text).filter(|it| (1..=MAX_SLOW).contains(it)) else {
                let message = format!(
                    "`slow: {}` is not a time from 1 to 10 seconds",
                    quoted(text)
                );
                report.error(slow.place, message, "like `2s`");
                return None;
            };
            Some(Duration::from_secs(time))
        }
    };
    Some(Soft {
        percent,
        header: raw.value.header,
        slow,
        forecast: raw.value.forecast,
    })
}

/// What is charged has to be what is counted.
fn what_it_counts(raw: &RawBudget, report: &mut Report) {
    let unit = raw.unit.value;
    let of_tools = unit == Unit::ToolCalls;
    let of_both = matches!(unit, Unit::Destinations | Unit::WallTime) || unit.is_bytes();
    if let Some(llm) = &raw.llm
        && of_tools
    {
        let hint = "`tool` says which calls of tools are charged";
        report.error(
            llm.place,
            "`llm` is for units of calls of language models",
            hint,
        );
    }
    if let Some(tool) = &raw.tool
        && !of_tools
    {
        let hint = "`unit: tool_calls`, or leave `tool` out";
        report.error(tool.place, "`tool` is for `unit: tool_calls`", hint);
    }
    if raw.llm.is_some() && of_both {
        let place = raw.llm.as_ref().map_or(raw.id.place, |it| it.place);
        let message = format!("`{unit}` is counted of all that goes on, not of some calls");
        report.error(place, message, "leave `llm` out");
    }
    if unit == Unit::ConcurrentCalls && raw.window.value != RawWindow::Lifetime {
        let hint = "`window: lifetime`: they count while they are under way";
        report.error(
            raw.window.place,
            "calls at the same time have no window",
            hint,
        );
    }
    let of = |name: &str| {
        let mut per = raw.per.iter().flat_map(|it| &it.value);
        per.find(|it| it.value == name).map(|it| it.place)
    };
    for (name, wrong) in [
        ("tool", !of_tools && !of_both),
        ("provider", of_tools),
        ("model", of_tools),
    ] {
        if let Some(place) = of(name).filter(|_| wrong) {
            let message = format!("`{name}` says nothing of `{unit}`");
            report.error(place, message, "leave it out of `per`");
        }
    }
}
