//! Rules, one by one.

use std::collections::HashMap;

use agentguard_common::map::{TCP, UDP};
use agentguard_model::{Handling, Source};

use super::defaults::RuleDefaults;
use super::selector::Whom;
use super::{
    Known, MAX_RULES, MAX_STRING, Parsed, Report, changes, conditions, later, llm, local,
    operations, requests, selector, strategy, tool, values, wide,
};
use crate::conditions::Rollout;
use crate::diagnostic::quoted;
use crate::document::{RawAnswer, RawMatch, RawRule, RawTransport, RuleAction};
use crate::pattern::Ports;
use crate::rule::{Rule, RuleInfo};
use crate::special;
use crate::yaml::{At, Place};

/// All rules in order, and the column where each begins.
pub(super) fn rules(
    sources: &mut [Parsed],
    known: &Known<'_>,
    report: &mut Report,
) -> (Vec<Rule>, Vec<u32>) {
    let mut rules = Vec::new();
    let mut columns = Vec::new();
    let mut ids: HashMap<String, (String, u32)> = HashMap::new();
    let (mut denials, mut first_denial) = (0, None);
    for source in sources {
        report.path.clone_from(&source.path);
        let raw = source
            .document
            .as_mut()
            .map(|document| std::mem::take(&mut document.rules))
            .unwrap_or_default();
        for raw in raw {
            if rules.len() == MAX_RULES {
                report.error(raw.place, format!("more than {MAX_RULES} rules"), "a rule takes any number of hosts, ports and agents: `lists` and `groups` name them once");
                return (rules, columns);
            }
            let id = &raw.value.id;
            let position = (source.path.clone(), id.place.line);
            if let Some((path, line)) = ids.insert(id.value.clone(), position) {
                let hint = format!("it stands in {path}, line {line}, already");
                let message = format!("a second rule `{}`", quoted(&id.value));
                report.error(id.place, message, &hint);
            }
            if !source.is_whole(&raw) {
                report.in_part = true;
                said(&raw, 0, RuleAction::Allow, known, report);
                report.in_part = false;
                continue;
            }
            let Some(action) = raw.value.action else {
                let hint = "`action: allow`, `action: deny` or `action: modify`";
                report.error(raw.place, "missing key `action`", hint);
                continue;
            };
            let number = u32::try_from(rules.len()).map_or(u32::MAX, |n| n.saturating_add(1));
            columns.push(raw.place.column);
            if raw.value.mode.is_none() && action == RuleAction::Deny {
                denials += 1;
                first_denial.get_or_insert_with(|| (source.path.clone(), raw.place.line));
            }
            rules.push(rule(&raw, number, action, known, report));
        }
    }
    known
        .defaults
        .toothless(denials, first_denial.as_ref(), report);
    (rules, columns)
}

/// What a rule says with all that it says together.
fn rule(
    raw: &At<RawRule>,
    number: u32,
    action: RuleAction,
    known: &Known<'_>,
    report: &mut Report,
) -> Rule {
    let mut rule = said(raw, number, action, known, report);
    let raw = &raw.value;
    let nothing = RawMatch::default();
    let matches = raw.matches.as_ref().unwrap_or(&nothing);
    rule.transports = transports(raw, matches, &rule, known.defaults, report);
    rule.info.handling = handling(raw, &rule, known.defaults, report);
    what_only_names_have(raw, &rule, report);
    conditions::beside_match(raw, &rule, known, report);
    what_shows_no_request(matches, &rule, report);
    llm::where_is_none(matches, &rule, known, report);
    tool::where_is_none(matches, &rule, known, report);
    operations::that_are_none(matches, &rule, known, report);
    local::what_they_lack(raw, matches, known, report);
    if rule.allows() {
        wide::warn(matches, report);
    }
    rule
}

/// What a rule says, part by part.
fn said(
    raw: &At<RawRule>,
    number: u32,
    action: RuleAction,
    known: &Known<'_>,
    report: &mut Report,
) -> Rule {
    let source = Source {
        file: report.path.clone(),
        line: raw.place.line,
    };
    let raw = &raw.value;
    let id_is_valid = (1..=64).contains(&raw.id.value.len())
        && raw
            .id
            .value
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    if !id_is_valid {
        report.error(
            raw.id.place,
            format!(
                "`{}` is not a rule's id: 1 to 64 characters a-z 0-9 . _ -",
                quoted(&raw.id.value)
            ),
            "like `deny-metadata`",
        );
    }
    if let Some(reason) = &raw.reason
        && (reason.value.len() > MAX_STRING || reason.value.trim().is_empty())
    {
        let message = format!("a reason has 1 to {MAX_STRING} bytes");
        report.error(
            reason.place,
            message,
            "a sentence for the person who meets it, or leave it out",
        );
    }

    let nothing = RawMatch::default();
    let matches = raw.matches.as_ref().unwrap_or(&nothing);
    later::refuse(raw, matches, report);
    let mut rule = Rule {
        info: RuleInfo {
            number,
            id: raw.id.value.clone(),
            source,
            action,
            handling: Handling::Splice,
            mode: raw.mode.unwrap_or_else(|| known.defaults.mode()),
            rollout: None,
            reason: raw.reason.as_ref().map(|r| r.value.trim().to_owned()),
            log: raw.obligations.as_ref().and_then(|it| it.value.log),
        },
        agents: selector::selector(
            &Whom {
                agents: raw.agents.as_ref(),
                groups: raw.groups.as_ref(),
                labels: raw.labels.as_ref(),
                what: "the rule",
            },
            known,
            report,
        ),
        priority: strategy::priority(raw, known, report),
        hosts: values::list("host", matches.host.as_ref(), report, values::host),
        cidrs: values::list("cidr", matches.cidr.as_ref(), report, values::net),
        written: 0,
        ports: known.defaults.ports(action),
        transports: 0,
        request: requests::request(raw.action, matches, known, report),
        conditions: conditions::conditions(raw, matches, known, report),
        changes: changes::changes(raw, matches, known, report),
        captures: captures(raw, report),
        cuts: cuts(raw, matches, report),
        addresses: raw.addresses.as_ref().map(|a| a.value),
        ranges: values::list(
            "resolved_ranges",
            raw.resolved_ranges.as_ref(),
            report,
            values::net,
        ),
    };
    rule.info.rollout = rule.conditions.rollout.map(Rollout::share);
    rule.written = rule.cidrs.len();
    if !rule.allows() {
        let ways: Vec<_> = rule.cidrs.iter().flat_map(special::ways_to).collect();
        rule.cidrs.extend(ways.into_iter().flatten());
    }
    if let Some(list) = &matches.port {
        values::list_bounds("port", list, report);
        rule.ports = values::ports(list, report);
    }
    if local::narrow(&mut rule, &known.tool_servers) && matches.port.is_none() {
        rule.ports = Ports::all();
    }
    rule
}

fn transports(
    raw: &RawRule,
    matches: &RawMatch,
    rule: &Rule,
    defaults: &RuleDefaults,
    report: &mut Report,
) -> u8 {
    let Some(list) = &matches.transport else {
        if let Some(transports) = defaults.transports(rule) {
            return transports;
        }
        // A denial without a word on transport means the destination, however it is reached.
        if !rule.allows() && !rule.needs_request() && !rule.is_static() {
            // Neither is safe to assume: both cannot be had, and one is less than it seems to say.
            report.error(
                raw.id.place,
                "a denial with `when`, `time`, `rollout` or a part of the context has to say `transport`",
                "`transport: [tcp]`; datagrams are decided by the kernel, which knows none of these: deny them by a rule of their own",
            );
        }
        return if rule.allows() || rule.needs_request() {
            TCP
        } else {
            TCP | UDP
        };
    };
    if list.value.is_empty() {
        values::empty("transport", list, report);
    }
    let mut transports = 0;
    for entry in &list.value {
        transports |= match entry.value {
            RawTransport::Tcp => TCP,
            RawTransport::Udp => UDP,
        };
        if rule.needs_request() && transports & UDP != 0 {
            report.error(
                entry.place,
                "a rule over `udp` cannot look at requests",
                "HTTP/3 is not decoded; leave `udp` out, and clients fall back to TCP",
            );
        } else if !rule.is_static() && transports & UDP != 0 {
            report.error(
                entry.place,
                "a rule over `udp` cannot have `when`, `time`, `rollout` or a part of the context",
                "datagrams are decided by the kernel, which knows none of these",
            );
        }
    }
    transports
}

fn handling(raw: &RawRule, rule: &Rule, defaults: &RuleDefaults, report: &mut Report) -> Handling {
    let Some(entry) = &raw.handling else {
        if let Some(handling) = defaults.handling(rule) {
            direct_and_more(handling, rule, defaults.place(raw), report);
            return handling;
        }
        if rule.allows() && rule.transports == TCP | UDP && rule.is_static() {
            let place = raw
                .matches
                .as_ref()
                .and_then(|m| m.transport.as_ref())
                .map_or_else(|| defaults.place(raw), |list| list.place);
            report.error(
                place,
                "datagrams cannot be spliced, so this rule has no handling for both transports",
                "`handling: direct`, or one rule for each transport",
            );
        }
        return if rule.transports == UDP {
            Handling::Direct
        } else {
            Handling::Splice
        };
    };
    if !rule.allows() {
        report.error(
            entry.place,
            "a denial has no `handling`",
            "leave `handling` out: nothing is passed on",
        );
        return Handling::Splice;
    }
    let handling = entry.value;
    let protocols = rule.request.protocols;
    if handling == Handling::Inspect && !protocols.is_empty() && !protocols.names_requests() {
        report.error(
            entry.place,
            "`inspect` opens TLS, and this `protocol` is about nothing that is inside",
            "add `http` to `protocol`, or `handling: splice`",
        );
    }
    direct_and_more(handling, rule, entry.place, report);
    let unfit = match handling {
        Handling::Direct => None,
        Handling::Splice => Some("datagrams cannot be spliced"),
        Handling::Inspect => Some("datagrams cannot be inspected"),
    };
    // Of one that looks at requests that was told.
    if let Some(message) = unfit
        && rule.transports & UDP != 0
        && rule.is_static()
    {
        report.error(
            entry.place,
            message,
            "`handling: direct`, or leave `udp` out",
        );
    }
    handling
}

/// Whether contents of what a rule allows are kept. Of what is denied none have left, or come.
fn captures(raw: &RawRule, report: &mut Report) -> bool {
    let obliges = raw.obligations.as_ref();
    if let Some(empty) = obliges.filter(|it| it.value.is_empty()) {
        let hint = "leave it out, or say to what it obliges: `{log: warn}`";
        report.error(empty.place, "`obligations` is empty", hint);
    }
    let Some(capture) = obliges.and_then(|it| it.value.capture_body.as_ref()) else {
        return false;
    };
    if raw.action == Some(RuleAction::Deny) {
        report.error(
            capture.place,
            "`capture_body` is for rules that allow: of what is denied nothing is sent",
            "leave it out; the record has what was attempted",
        );
    }
    capture.value
}

/// Whether tool calls that a rule denies are cut out of the answer that asks for them.
fn cuts(raw: &RawRule, matches: &RawMatch, report: &mut Report) -> bool {
    let Some(answer) = &raw.answer else {
        return false;
    };
    let llm = matches.llm.as_ref();
    let looks = llm.is_some_and(|llm| llm.value.tool_calls.is_some());
    if raw.action.is_some_and(|it| it != RuleAction::Deny) || !looks {
        report.error(
            answer.place,
            "`answer` is for a rule that denies tool calls which a model asks for",
            "`action: deny` with `tool_calls` under `llm`, or leave it out",
        );
    }
    answer.value == RawAnswer::Cut
}

/// What the kernel alone decides can depend on nothing else.
fn direct_and_more(handling: Handling, rule: &Rule, place: Place, report: &mut Report) {
    if handling != Handling::Direct || rule.is_static() {
        return;
    }
    let message = if rule.needs_request() {
        "`direct` cannot go with what looks at requests: nothing looks at a direct flow"
    } else {
        "`direct` cannot go with `when`, `time`, `rollout` or a part of the context: the kernel knows none of these"
    };
    report.error(place, message, "`handling: splice`");
}

/// A rule that needs a request and is for what shows none would never match.
fn what_shows_no_request(matches: &RawMatch, rule: &Rule, report: &mut Report) {
    let protocols = rule.request.protocols;
    let needs = rule.has_to_see();
    if let Some(list) = &matches.protocol
        && needs
        && !protocols.is_empty()
        && !protocols.names_requests()
    {
        report.error(
            list.place,
            "the rest of this rule looks at requests, and this `protocol` shows none",
            "add `http` to `protocol`, or make two rules of it",
        );
    }
}

/// `addresses` and `resolved_ranges` speak of names that a rule allows.
fn what_only_names_have(raw: &RawRule, rule: &Rule, report: &mut Report) {
    let names = rule.allows() && (rule.anywhere() || !rule.hosts.is_empty());
    if names {
        if let Some(list) = &raw.resolved_ranges {
            for (entry, net) in list.value.iter().zip(&rule.ranges) {
                let widest = if net.addr().is_ipv4() { 8 } else { 7 };
                if net.prefix_len() < widest {
                    report.warn(
                        entry.place,
                        format!("`{net}` is wider than any special range, so it permits none"),
                        "name the range that is meant, like `10.0.0.0/8`",
                    );
                } else {
                    wide::permitted(net, entry, report);
                }
            }
        }
        return;
    }
    for (key, place) in [
        ("addresses", raw.addresses.as_ref().map(|a| a.place)),
        (
            "resolved_ranges",
            raw.resolved_ranges.as_ref().map(|r| r.place),
        ),
    ] {
        if let Some(place) = place {
            report.error(
                place,
                format!("`{key}` is for a rule that allows names"),
                "leave it out: addresses of a rule itself go under `cidr`",
            );
        }
    }
}
