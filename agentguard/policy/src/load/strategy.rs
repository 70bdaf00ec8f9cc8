//! Which rules decide, and where each stands.

use super::{Known, Parsed, Report};
use crate::document::RawRule;
use crate::strategy::Strategy;
use crate::yaml::At;

/// Which rules decide: said once, since it is about all of them.
pub(super) fn strategy(sources: &[Parsed], report: &mut Report) -> Strategy {
    let mut found: Option<(&str, &At<Strategy>)> = None;
    for source in sources {
        report.path.clone_from(&source.path);
        let said = source.document.as_ref().and_then(|it| it.strategy.as_ref());
        let Some(said) = said else {
            continue;
        };
        if let Some((path, first)) = found {
            let hint = format!("it stands in {path}, line {}, already", first.place.line);
            report.error(said.place, "a second `strategy`", &hint);
            continue;
        }
        found = Some((&source.path, said));
    }
    found.map_or_else(Strategy::default, |(_, strategy)| strategy.value)
}

/// The priority of a rule; one that says nothing is refused.
pub(super) fn priority(raw: &RawRule, known: &Known<'_>, report: &mut Report) -> i32 {
    let Some(priority) = &raw.priority else {
        return 0;
    };
    if known.strategy != Strategy::PriorityFirstMatch && !known.partial {
        report.error(
            priority.place,
            "`priority` says nothing here: the order of rules does not matter",
            "`strategy: priority_first_match` at the top, or leave it out",
        );
    }
    priority.value
}
