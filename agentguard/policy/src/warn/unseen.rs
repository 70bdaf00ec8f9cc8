//! Rules that have to see requests where none are seen.

use agentguard_common::map::{TCP, UDP};
use agentguard_model::{Handling, HostName};

use super::compare::{Comparisons, Place, Who};
use super::near::Allowances;
use super::{seen_from, warning};
use crate::diagnostic::Diagnostic;
use crate::index::Position;
use crate::pattern::{HostPattern, Ports};
use crate::rule::{Fit, Rule, Seen};
use crate::strategy::{Strategy, Towards};

/// The port of HTTPS.
const HTTPS: u16 = 443;

/// The ports that are registered for HTTP in the clear, where requests are seen without more.
const HTTP: [u16; 3] = [80, 8008, 8080];

/// Warns of allowances for the port of HTTPS alone that have to see a request, where no rule opens TLS for all that
/// they match.
pub(super) fn blind<'a>(
    rules: &'a [Rule],
    columns: &[u32],
    comparisons: &mut Comparisons<'a>,
) -> Vec<Diagnostic> {
    let https = Ports::new(vec![(HTTPS, HTTPS)]);
    let inspecting: Vec<&Rule> = rules.iter().filter(|rule| rule.inspects()).collect();
    let rules = rules.iter().zip(columns).filter(|(rule, _)| {
        rule.allows()
            && rule.needs_request()
            && rule.unread(&Seen::Tls) == Fit::NeedsRequest
            && rule.info.handling != Handling::Inspect
            && https.covers(&rule.ports)
            && !inspecting
                .iter()
                .any(|by| comparisons.reaches(by, rule, Who::Now))
            && comparisons.left > 0
    });
    let told = rules.map(|(rule, column)| {
        let message = format!(
            "rule `{}` looks at requests on port {HTTPS}, and sees none in TLS",
            rule.info.id
        );
        warning(rule, *column, message, "`handling: inspect` on this rule")
    });
    told.collect()
}

/// Warns of denials in force that have to see requests, and of what is to be changed in them, each with an allowance to
/// a destination of theirs that shows none: what is allowed there is denied.
pub(super) fn blinding<'a>(
    rules: &'a [Rule],
    columns: &[u32],
    strategy: Strategy,
    comparisons: &mut Comparisons<'a>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let inspecting: Vec<&Rule> = rules.iter().filter(|rule| rule.inspects()).collect();
    let allowances = Allowances::of(rules);
    let https = Ports::new(vec![(HTTPS, HTTPS)]);
    for ((position, rule), column) in (0..).zip(rules).zip(columns) {
        // What changes something on that port alone was told by itself.
        let denies = !rule.allows() || rule.changes.is_some() && !https.covers(&rule.ports);
        let is_blind = denies
            && rule.info.in_force()
            && rule.needs_request()
            && rule.unread(&Seen::Tls) == Fit::NeedsRequest;
        if !is_blind {
            continue;
        }
        let told = allowances.near(rule).into_iter().find_map(|at| {
            if !comparisons.spend(1) {
                return None;
            }
            let by = rules.get(at)?;
            let at = Position::try_from(at).ok()?;
            let closed = Closed::of(rule, by)?;
            if comparisons.shares(rule, by) {
                let is_closed = outranks(strategy, (position, rule), (at, by))
                    && !inspecting
                        .iter()
                        .any(|it| !comparisons.spend(1) || comparisons.reaches(it, by, Who::Now));
                return is_closed.then(|| closed.told(rule, by, None));
            }
            if !comparisons.share_agents(&rule.agents, &by.agents) {
                return None;
            }
            let places = comparisons.shared_places(rule, by)?;
            let part = places.into_iter().find(|place| {
                place.holds(|towards| counts(strategy, (position, rule), (at, by), towards))
                    && !inspecting
                        .iter()
                        .any(|it| comparisons.opens_at(it, place, closed.ports, [rule, by]))
            });
            part.map(|place| closed.told(rule, by, Some(place)))
        });
        if let Some((message, hint)) = told {
            found.push(warning(rule, *column, message, &hint));
        }
    }
    found
}

/// Warns of denials in force that look at requests, and of what is to be changed in them, each with an allowance of
/// datagrams to a destination of theirs: HTTP/3 goes by that, and no request is seen in it.
pub(super) fn passed_by<'a>(
    rules: &'a [Rule],
    columns: &[u32],
    comparisons: &mut Comparisons<'a>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let datagrams: Vec<&Rule> = rules
        .iter()
        .filter(|rule| {
            let passes = rule.allows() && rule.info.in_force() && !rule.anywhere();
            passes && rule.transports & UDP != 0
        })
        .collect();
    if datagrams.is_empty() {
        return found;
    }
    let denials = rules
        .iter()
        .filter(|rule| !rule.allows() && rule.is_static());
    let denials: Vec<&Rule> = denials.filter(|rule| rule.info.in_force()).collect();
    for (rule, column) in rules.iter().zip(columns) {
        let looks = (!rule.allows() || rule.changes.is_some())
            && rule.info.in_force()
            && rule.needs_request()
            && (rule.request.protocols.is_empty() || rule.request.protocols.names_requests());
        // Where the calls go that are meant is not said there.
        let is_meant = rule.request.llm.is_none() && rule.request.tool.is_none();
        if !looks || rule.anywhere() && !is_meant {
            continue;
        }
        let told = datagrams.iter().find_map(|by| {
            if !comparisons.spend(1) {
                return None;
            }
            let shared = rule.ports.shared(&by.ports);
            // On other ports it is HTTP/3 where a rule says that requests are meant there.
            let port = match shared.contains(HTTPS) {
                true => HTTPS,
                false if rule.ports == Ports::all() => return None,
                false => shared.ranges().first()?.0,
            };
            if !comparisons.share_agents(&rule.agents, &by.agents) {
                return None;
            }
            let place = comparisons.shared_places(rule, by)?.first().copied()?;
            let is_denied = denials.iter().any(|it| {
                it.transports & UDP != 0
                    && comparisons.opens_at(it, &place, (port, port), [rule, by])
            });
            (!is_denied).then_some((by, place, port))
        });
        if let Some((by, place, port)) = told {
            let (id, other) = (&rule.info.id, &by.info.id);
            let message = format!(
                "rule `{id}` looks at requests, and rule `{other}` ({}) lets datagrams to `{place}`, port {port}, pass: no request is seen in them, and HTTP/3 goes by the rule",
                seen_from(rule, by)
            );
            let hint = format!(
                "leave `udp` out of rule `{other}`: clients of HTTP/3 fall back to TCP; or let it be for other destinations or ports"
            );
            found.push(warning(rule, *column, message, &hint));
        }
    }
    found
}

/// Warns of allowances that leave TLS closed at addresses which are not public, beside one that opens it for the same
/// names: that is done before it is known which address is dialled.
pub(super) fn opened_elsewhere<'a>(
    rules: &'a [Rule],
    columns: &[u32],
    comparisons: &mut Comparisons<'a>,
) -> Vec<Diagnostic> {
    let opening: Vec<&Rule> = rules.iter().filter(|rule| rule.inspects()).collect();
    let mut found = Vec::new();
    for (rule, column) in rules.iter().zip(columns) {
        let leaves_closed = rule.allows()
            && rule.info.in_force()
            && rule.info.handling == Handling::Splice
            && !rule.hosts.is_empty()
            && !rule.ranges.is_empty();
        if !leaves_closed || comparisons.left == 0 {
            continue;
        }
        let opens = opening.iter().find(|by| {
            comparisons.spend(1)
                && !rule.ports.shared(&by.ports).is_empty()
                && comparisons.shares(by, rule)
                && !comparisons.opens_all(by, rule)
        });
        if let Some(by) = opens.filter(|_| comparisons.left > 0) {
            let (id, other, place) = (&rule.info.id, &by.info.id, seen_from(rule, by));
            let message = format!(
                "rule `{id}` leaves TLS closed at addresses of its `resolved_ranges`, and rule `{other}` ({place}) opens it for the same names: it is opened at all of them, since that is done before it is known which one is dialled"
            );
            found.push(warning(
                rule,
                *column,
                message,
                "give both the same `handling`, or let them be for different names or ports",
            ));
        }
    }
    found
}

/// What of an allowance a denial closes that has to see requests.
struct Closed {
    /// The port of HTTPS, if it is one of them; else the first ones.
    ports: (u16, u16),
    /// Whether nothing looks at it, by its handling.
    direct: bool,
    /// Whether all that is no HTTP is denied, and not TLS alone.
    other: bool,
}

impl Closed {
    /// As far as ports, transports and handling say.
    fn of(denial: &Rule, allowance: &Rule) -> Option<Self> {
        let direct = allowance.info.handling == Handling::Direct;
        let shows_none = allowance.allows()
            && allowance.info.in_force()
            && allowance.transports & denial.transports & TCP != 0
            && allowance.info.handling != Handling::Inspect
            && !allowance.needs_request()
            && !allowance.anywhere();
        if !shows_none {
            return None;
        }
        let shared = denial.ports.shared(&allowance.ports);
        let is_http = |(first, last): &(u16, u16)| first == last && HTTP.contains(first);
        let mut ranges = shared.ranges().iter().copied();
        let ports = if shared.contains(HTTPS) {
            (HTTPS, HTTPS)
        } else {
            ranges.find(|ports| direct || !is_http(ports))?
        };
        let other = denial.unread(&Seen::Never) == Fit::NeedsRequest;
        Some(Self {
            ports,
            direct,
            other,
        })
    }

    /// The message and the hint. `part`: where it is so, if not at all destinations.
    fn told(&self, denial: &Rule, allowance: &Rule, part: Option<Place<'_>>) -> (String, String) {
        let (id, other) = (&denial.info.id, &allowance.info.id);
        let place = seen_from(denial, allowance);
        let ports = match self.ports {
            (first, last) if first == last => format!("port {first}"),
            (first, last) => format!("ports {first} to {last}"),
        };
        let how = if self.direct {
            "as `direct`"
        } else {
            "without opening TLS"
        };
        let what = if self.other && (self.direct || self.ports.0 != HTTPS) {
            "all of that TLS, and all that is no HTTP,"
        } else {
            "all of that TLS"
        };
        let whereto = part.map(|place| format!(" to `{place}`"));
        let whereto = whereto.unwrap_or_default();
        let inspect = format!("`handling: inspect` on rule `{other}`");
        let hint = if self.ports.0 == HTTPS {
            inspect
        } else {
            format!(
                "{inspect} if HTTP is spoken there; else name in rule `{id}` the ports that it means, as `port: [80, {HTTPS}]`"
            )
        };
        let message = format!(
            "rule `{id}` has to see the requests that rule `{other}` ({place}) allows on {ports} {how}: {what}{whereto} is denied"
        );
        (message, hint)
    }
}

/// Whether a denial counts beside an allowance, to all names that this is for, or to all of its ranges.
fn outranks(strategy: Strategy, denial: (Position, &Rule), allowance: (Position, &Rule)) -> bool {
    if !strategy.ranks() {
        return true;
    }
    let (_, allows) = allowance;
    let mut hosts = allows.hosts.iter();
    if allows.hosts.is_empty() {
        let mut ranges = allows.written_ranges().iter();
        return ranges.all(|net| counts(strategy, denial, allowance, Towards::Addresses(*net)));
    }
    hosts.all(|host| match host {
        HostPattern::Exact(name) => counts(strategy, denial, allowance, Towards::Name(name, None)),
        // One of those that are meant.
        HostPattern::Below(suffix) => {
            let name = format!("a.{suffix}").parse::<HostName>();
            name.is_ok_and(|name| counts(strategy, denial, allowance, Towards::Name(&name, None)))
        }
    })
}

fn counts(
    strategy: Strategy,
    (position, denial): (Position, &Rule),
    (at, allowance): (Position, &Rule),
    towards: Towards<'_>,
) -> bool {
    strategy.rank(position, denial, towards) >= strategy.rank(at, allowance, towards)
}
