//! What a rule says beside flow and request.

use std::collections::{BTreeMap, HashSet};

use jiff::tz::TimeZone;

use super::selector::misspelt;
use super::tool::type_of;
use super::values::{empty, list_bounds};
use super::{Known, MAX_STRING, Parsed, Report};
use crate::conditions::{Conditions, Days, Declared, Part, Rollout, Times, When, hours};
use crate::diagnostic::{nearest, quoted};
use crate::document::{RawMatch, RawRule, RawTime};
use crate::pattern::{HostPattern, Wildcard};
use crate::rule::Rule;
use crate::yaml::{At, Place, within};

/// The most regular expressions of a policy. More are refused.
pub(super) const MAX_REGEXES: usize = 500;

/// The most switches of a policy. More are refused.
const MAX_SWITCHES: usize = 64;

/// The switches of all documents, each with how it is unless an operator sets it.
pub(super) fn switches(sources: &[Parsed], report: &mut Report) -> BTreeMap<String, bool> {
    let mut switches = BTreeMap::new();
    for source in sources {
        report.path.clone_from(&source.path);
        let Some(document) = &source.document else {
            continue;
        };
        for (name, declared) in &document.switches {
            let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.len() <= 32
                && name
                    .bytes()
                    .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_');
            if !is_name {
                let message = format!("`{}` is not the name of a switch", quoted(name));
                let hint = "at most 32 characters a-z 0-9 _, the first a letter";
                report.error(declared.place, message, hint);
            }
            if switches.len() == MAX_SWITCHES {
                let message = format!("more than {MAX_SWITCHES} switches");
                report.error(
                    declared.place,
                    message,
                    "one switch can stand in any number of rules",
                );
                return switches;
            }
            if switches.insert(name.clone(), declared.value).is_some() {
                let message = format!("a second switch `{}`", quoted(name));
                report.error(declared.place, message, "one document declares it");
            }
        }
    }
    switches
}

/// Warns of those that no rule looks at.
pub(super) fn unused_switches(sources: &[Parsed], rules: &[Rule], report: &mut Report) {
    let expressions = rules
        .iter()
        .filter_map(|rule| rule.conditions.when.as_ref());
    let used: HashSet<&str> = expressions.flat_map(When::switches).collect();
    for source in sources {
        report.path.clone_from(&source.path);
        let declared = source.document.iter().flat_map(|it| &it.switches);
        for (name, declared) in declared.filter(|(name, _)| !used.contains(name.as_str())) {
            let hint = format!(
                "to set it changes nothing; `switches.{name}` in the `when` of a rule looks at it"
            );
            report.warn(
                declared.place,
                format!("no rule looks at the switch `{name}`"),
                &hint,
            );
        }
    }
}

/// What a rule says beside flow and request.
pub(super) fn conditions(
    raw: &RawRule,
    matches: &RawMatch,
    known: &Known<'_>,
    report: &mut Report,
) -> Conditions {
    let mut conditions = Conditions::default();
    for (part, list) in [
        (Part::User, &matches.user),
        (Part::Session, &matches.session),
        (Part::Workflow, &matches.workflow),
        (Part::Purpose, &matches.purpose),
    ] {
        if let Some(list) = list {
            list_bounds(part.key(), list, report);
            let patterns = list.value.iter().filter_map(|entry| pattern(entry, report));
            conditions.context.push((part, patterns.collect()));
        }
    }
    conditions.times = matches.time.as_ref().and_then(|time| times(time, report));
    conditions.when = raw
        .when
        .as_ref()
        .and_then(|text| when(text, matches, known, report));
    conditions.rollout = raw.rollout.as_ref().and_then(|raw| {
        let percent = &raw.value.percent;
        let rollout = Rollout::percent(percent.value);
        if rollout.is_none() {
            let message = format!("`percent: {}` is more than all", percent.value);
            report.error(percent.place, message, "a whole number from 0 to 100");
        }
        if percent.value == 0 {
            report.warn(
                percent.place,
                "`percent: 0`: the rule is in force for no session",
                "raise it to put the rule in force for some; `mode: shadow` says that it is on paper alone",
            );
        }
        rollout
    });
    conditions
}

fn pattern(entry: &At<String>, report: &mut Report) -> Option<Wildcard> {
    let text = entry.value.as_str();
    if text.is_empty() || text.len() > MAX_STRING || text.chars().any(char::is_control) {
        let message = format!("a pattern has 1 to {MAX_STRING} bytes and no control characters");
        let hint = "like `ada` or `nightly-*`";
        report.error(entry.place, message, hint);
        return None;
    }
    Some(Wildcard::new(text))
}

fn when(
    text: &At<String>,
    matches: &RawMatch,
    known: &Known<'_>,
    report: &mut Report,
) -> Option<When> {
    if text.value.trim().is_empty() {
        report.error(
            text.place,
            "`when` is empty",
            "leave it out to match always",
        );
        return None;
    }
    let meant = matches.tool.as_ref().map(|it| &it.value);
    let declared = Declared {
        switches: &known.switches,
        regexes: &known.regexes,
        type_of: &|pointer| type_of(pointer, meant, known),
    };
    match When::new(&text.value, &declared) {
        Ok(when) => {
            who_is_meant(&when, text, known, report);
            for doubt in when.doubts() {
                let place = place(text, doubt.at, known, report);
                let message = format!("`{}`: {}", quoted(text.value.trim()), doubt.message);
                report.warn(place, message, &doubt.hint);
            }
            Some(when)
        }
        Err(found) => {
            for error in found {
                let place = place(text, error.at, known, report);
                let message = format!("`{}`: {}", quoted(text.value.trim()), error.message);
                report.error(place, message, &error.hint);
            }
            None
        }
    }
}

/// Where a part of an expression stands in the document.
fn place(text: &At<String>, at: usize, known: &Known<'_>, report: &Report) -> Place {
    let document = known.texts.get(report.path()).copied().unwrap_or_default();
    within(document, text.place, &text.value, at)
}

/// Agents that an expression names and that are not there, and labels that are probably misspelt.
fn who_is_meant(when: &When, text: &At<String>, known: &Known<'_>, report: &mut Report) {
    // What seems to be missing may stand in what could not be read.
    if known.partial {
        return;
    }
    let place = |about: &str, report: &Report| {
        let at = text.value.find(about).unwrap_or(0);
        place(text, at, known, report)
    };
    for name in when.agents() {
        if !known.by_name.contains_key(name.as_str()) {
            let message = format!("no agent is called `{}`", quoted(name));
            report.error(place(name, report), message, &known.hint_on_agent(name));
        }
    }
    for (names, kind, declared, key) in [
        (
            when.providers(),
            "provider",
            Vec::from_iter(known.providers.names()),
            "providers",
        ),
        (
            when.servers(),
            "server of tools",
            Vec::from_iter(known.tool_servers.iter().map(|it| it.name.as_str())),
            "tool_servers",
        ),
    ] {
        for name in names.iter().filter(|it| !declared.contains(&it.as_str())) {
            let hint = nearest(name, declared.iter().copied()).map_or_else(
                || format!("a {kind} is declared under `{key}`, with its hosts"),
                |near| format!("did you mean `{near}`?"),
            );
            let message = format!("no {kind} is called `{}`", quoted(name));
            report.warn(place(name, report), message, &hint);
        }
    }
    // A run may have labels of its own: only what is like one that the policy knows is told.
    let values = when.label_values().iter().cloned();
    let keys = when.labels().iter().map(|key| (key.clone(), String::new()));
    for (key, value) in keys.chain(values) {
        let is_key = known.agents.iter().any(|it| it.labels.contains_key(&key));
        if is_key == value.is_empty() {
            continue;
        }
        let about = if is_key { value.clone() } else { key.clone() };
        if let Some(hint) = misspelt(&[(key, value)], known) {
            let message = format!("`{}` is probably misspelt", quoted(&about));
            report.warn(place(&about, report), message, &hint);
        }
    }
}

/// An expression that cannot hold where the rule's own `match` does.
pub(super) fn beside_match(raw: &RawRule, rule: &Rule, known: &Known<'_>, report: &mut Report) {
    let (Some(text), Some(when)) = (&raw.when, &rule.conditions.when) else {
        return;
    };
    let port = when.possible("destination.port");
    let host = when.possible("destination.host");
    let method = when.possible("request.method");
    let is_host = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(name) => host.has_text(name.as_str()),
        HostPattern::Below(_) => host.texts().is_none_or(|mut texts| {
            texts.any(|text| text.parse().is_ok_and(|name| pattern.matches(&name)))
        }),
    };
    let (ports, hosts, methods) = (rule.ports.ranges(), &rule.hosts, &rule.request.methods);
    for (variable, key, holds) in [
        (
            "destination.port",
            "port",
            ports
                .iter()
                .any(|(first, last)| port.has_number_in(*first, *last)),
        ),
        (
            "destination.host",
            "host",
            // A range is about what is dialled bare too, which has no name.
            hosts.is_empty() || !rule.cidrs.is_empty() || hosts.iter().any(is_host),
        ),
        (
            "request.method",
            "method",
            methods.is_empty() || methods.iter().any(|it| method.has_text(it)),
        ),
    ] {
        if !holds {
            let at = text.value.find(variable).unwrap_or(0);
            let message = format!(
                "`{}`: it never holds where `{key}` of the rule's `match` does",
                quoted(text.value.trim())
            );
            let hint =
                format!("have `{variable}` and `{key}` say the same, or take one of the two out");
            report.warn(place(text, at, known, report), message, &hint);
        }
    }
}

fn times(time: &At<RawTime>, report: &mut Report) -> Option<Times> {
    let raw = &time.value;
    if raw.days.is_none() && raw.hours.is_none() && !report.in_part {
        let hint = "`time: {days: [mon-fri], hours: [\"08:00-18:00\"], zone: Europe/Berlin}`";
        report.error(time.place, "`time` says neither `days` nor `hours`", hint);
    }
    let mut days = if raw.days.is_some() {
        Days::NONE
    } else {
        Days::ALL
    };
    if let Some(list) = &raw.days {
        list_bounds("days", list, report);
        for entry in &list.value {
            if !days.add(&entry.value) {
                let message = format!("`{}` is not a day or a run of days", quoted(&entry.value));
                report.error(entry.place, message, "like `mon`, `mon-fri` or `fri-sun`");
            }
        }
    }
    let mut windows = Vec::new();
    if let Some(list) = &raw.hours {
        if list.value.is_empty() {
            empty("hours", list, report);
        }
        if list.value.len() > 24 {
            report.error(
                list.place,
                "more than 24 windows",
                "windows that touch are one: \"08:00-18:00\"",
            );
        }
        for entry in list.value.iter().take(24) {
            match hours(&entry.value) {
                Some(window) => windows.push(window),
                None => {
                    let message = format!("`{}` is not a window of time", quoted(&entry.value));
                    let hint = "like \"08:00-18:00\" or, over midnight, \"22:00-06:00\"; the end of the day is 24:00";
                    report.error(entry.place, message, hint);
                }
            }
        }
    }
    let whole = windows.len() == raw.hours.as_ref().map_or(0, |list| list.value.len());
    let zone = match &raw.zone {
        None => Some(TimeZone::UTC),
        Some(zone) => {
            let found = TimeZone::get(&zone.value).ok();
            if found.is_none() {
                let message = format!("`{}` is not a time zone", quoted(&zone.value));
                report.error(zone.place, message, "as IANA names it: `Europe/Berlin`");
            }
            found
        }
    };
    let times = Times::new(days, windows, zone?);
    if whole && (raw.days.is_some() || raw.hours.is_some()) {
        when_it_holds(&times, time, report);
    }
    Some(times)
}

/// Warns of a window that closes nothing.
fn when_it_holds(times: &Times, time: &At<RawTime>, report: &mut Report) {
    if times.are_always() {
        let hint = "leave `time` out, or say when the rule is to hold";
        let message = "`time` holds always: on every day, at every hour";
        report.warn(time.place, message, hint);
    } else if let Some(hours) = &time.value.hours
        && times.are_all_day()
    {
        let hint = "leave `hours` out, or say from when to when";
        report.warn(hours.place, "`hours` are the whole day", hint);
    }
}
