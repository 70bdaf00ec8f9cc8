//! What the language has a place for and this version has not: refused, with what is missing.

use super::Report;
use crate::document::{RawMatch, RawRule, RuleAction};
use crate::yaml::{At, Place};

/// Where something stands.
fn place<T>(entry: &Option<At<T>>) -> Option<Place> {
    entry.as_ref().map(|entry| entry.place)
}

/// Refuses a rule that needs what is not there: it would not do what it says.
pub(super) fn refuse(raw: &RawRule, matches: &RawMatch, report: &mut Report) {
    let escalates = raw.action == Some(RuleAction::Escalate);
    let obliges = raw.obligations.as_ref().map(|it| &it.value);
    let oblige = |of: fn(&crate::document::RawObligations) -> Option<Place>| obliges.and_then(of);
    for (key, at, missing) in [
        (
            "action: escalate",
            escalates.then_some(raw.id.place),
            "this version has no approvals",
        ),
        (
            "data_class",
            place(&matches.data_class),
            "this version has no detectors",
        ),
        (
            "risk_over",
            place(&matches.risk_over),
            "this version has no risk score",
        ),
        (
            "alert",
            oblige(|it| place(&it.alert)),
            "this version sends no alerts",
        ),
        (
            "rate_class",
            oblige(|it| place(&it.rate_class)),
            "this version limits no rates",
        ),
    ] {
        let Some(at) = at else {
            continue;
        };
        let leave = if matches!(key, "alert" | "rate_class") {
            "it"
        } else {
            "the rule"
        };
        let hint = format!("{missing}; leave {leave} out until one does");
        report.error(at, format!("`{key}` is not there yet"), &hint);
    }
}
