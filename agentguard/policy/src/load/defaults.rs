//! What holds where agents and rules do not say otherwise.

use agentguard_common::map::{TCP, UDP};
use agentguard_model::{Handling, Mode};

use super::{Parsed, Report, values};
use crate::document::{
    NotUnderstood, RawDefaults, RawRule, RawRuleDefaults, RawTransport, RuleAction,
};
use crate::pattern::Ports;
use crate::rule::Rule;
use crate::yaml::{At, Place};

/// What holds where agents and rules do not say otherwise.
pub(super) struct Defaults {
    pub(super) mode: Mode,
    pub(super) handling: Handling,
    pub(super) not_understood: NotUnderstood,
    pub(super) rule: RuleDefaults,
}

/// What rules say that do not say otherwise.
///
/// A denial never becomes narrower by a default: `port` and `transport` are for allowances alone.
#[derive(Debug, Default)]
pub(super) struct RuleDefaults {
    handling: Option<Handling>,
    ports: Option<Ports>,
    transports: Option<u8>,
    mode: Option<(Mode, String, Place)>,
    /// The report's note on where they stand.
    origin: u32,
}

/// Reads them from the one document in which they stand.
pub(super) fn defaults(sources: &[Parsed], report: &mut Report) -> Defaults {
    let mut found: Option<(&str, &At<RawDefaults>)> = None;
    let mut resolved = Defaults {
        mode: Mode::Enforce,
        handling: Handling::Splice,
        not_understood: NotUnderstood::default(),
        rule: RuleDefaults::default(),
    };
    for source in sources {
        report.path.clone_from(&source.path);
        let Some(document) = &source.document else {
            continue;
        };
        if document.version.value != 1 && source.is_whole(&document.version) {
            report.error(
                document.version.place,
                format!("version {} is not known", document.version.value),
                "this version of the guard reads `version: 1`",
            );
        }
        let Some(defaults) = &document.defaults else {
            continue;
        };
        if let Some((path, first)) = found {
            let hint = format!("they stand in {path}, line {}, already", first.place.line);
            report.error(defaults.place, "a second `defaults`", &hint);
            continue;
        }
        found = Some((&source.path, defaults));
        resolved.mode = defaults.value.mode.unwrap_or_default();
        resolved.not_understood = defaults.value.not_understood.unwrap_or_default();
        if let Some(handling) = &defaults.value.default_handling {
            resolved.handling = values::default_handling(handling, report);
        }
        if let Some(raw) = &defaults.value.rule {
            resolved.rule = RuleDefaults::read(raw, source.is_whole(raw), report);
        }
    }
    resolved
}

impl RuleDefaults {
    /// `whole`: nothing in them was told already.
    fn read(raw: &At<RawRuleDefaults>, whole: bool, report: &mut Report) -> Self {
        let RawRuleDefaults {
            handling,
            port,
            transport,
            mode,
        } = &raw.value;
        Self {
            handling: *handling,
            ports: port.as_ref().map(|list| {
                if whole {
                    values::list_bounds("port", list, report);
                }
                values::ports(list, report)
            }),
            transports: transport.as_ref().map(|list| {
                if list.value.is_empty() && whole {
                    values::empty("transport", list, report);
                }
                list.value.iter().fold(0, |all, entry| {
                    all | match entry.value {
                        RawTransport::Tcp => TCP,
                        RawTransport::Udp => UDP,
                    }
                })
            }),
            mode: mode
                .as_ref()
                .map(|mode| (mode.value, report.path().to_owned(), mode.place)),
            origin: report.note("`defaults`", raw.place, false),
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
            .as_ref()
            .map(|(mode, ..)| *mode)
            .unwrap_or_default()
    }

    /// The ports of a rule that names none.
    pub(super) fn ports(&self, action: RuleAction) -> Ports {
        match &self.ports {
            Some(ports) if action != RuleAction::Deny => ports.clone(),
            _ => Ports::all(),
        }
    }

    /// The transports of an allowance that names none, if there are any for it: what looks at requests
    /// is TCP, and what allows any destination shall not come to allow more than it says.
    pub(super) fn transports(&self, rule: &Rule) -> Option<u8> {
        self.transports
            .filter(|_| rule.allows() && rule.is_static() && !rule.anywhere())
    }

    /// The handling of an allowance that names none, if there is one for it: a rule over UDP alone is
    /// `direct` anyway, and one over both transports can only be that.
    pub(super) fn handling(&self, rule: &Rule) -> Option<Handling> {
        self.handling.filter(|handling| {
            rule.allows() && (rule.transports & UDP == 0 || *handling == Handling::Direct)
        })
    }

    /// A rule's place, with the note that what is meant there stands under `defaults`.
    pub(super) fn place(&self, rule: &RawRule) -> Place {
        Place {
            origin: self.origin,
            ..rule.id.place
        }
    }

    /// Tells how many denials are on paper only by these. `denials`: those that do not say their mode, with where the
    /// first of them is.
    pub(super) fn toothless(
        &self,
        denials: usize,
        first: Option<&(String, u32)>,
        report: &mut Report,
    ) {
        let Some((mode, path, place)) = &self.mode else {
            return;
        };
        let Some((file, line)) = first.filter(|_| *mode != Mode::Enforce) else {
            return;
        };
        report.path.clone_from(path);
        let message = match denials {
            1 => format!("by this mode a denial denies on paper only: {file}, line {line}"),
            _ => format!(
                "by this mode {denials} denials deny on paper only, the first of them in {file}, line {line}"
            ),
        };
        report.warn(*place, message, "`mode: enforce` on those that are to deny");
    }
}
