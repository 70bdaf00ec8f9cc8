//! What a call had of its budgets, and what it has used.

use agentguard_model::{BudgetLine, Decision, OvershootCause};

/// A line for each budget that a call was charged to.
pub(super) fn lines(decision: &Decision) -> impl Iterator<Item = String> {
    decision
        .budget
        .iter()
        .map(|line| told(line, ended(decision, line)))
}

/// What became of it, once that is known.
fn ended<'d>(decision: &'d Decision, line: &BudgetLine) -> Option<&'d BudgetLine> {
    let is_of = |it: &&BudgetLine| {
        it.budget == line.budget && it.scope == line.scope && it.unit == line.unit
    };
    decision.outcome.as_ref()?.budget.iter().find(is_of)
}

fn told(line: &BudgetLine, ended: Option<&BudgetLine>) -> String {
    let mut words = line.budget.clone();
    if !line.scope.is_empty() {
        words.push_str(&format!(" of {}", line.scope));
    }
    words.push_str(&format!(": {} reserved", line.unit.amount(line.reserved)));
    if line.counted {
        words.push_str(", with its input counted, which had too little room by its bytes");
    }
    if line.hidden {
        words.push_str(", all that it may write, since some of that may not be shown");
    }
    if let Some(tokens) = line.clamped {
        words.push_str(&format!(
            "; no more was left, so that its limit was lowered to {tokens} tokens of output"
        ));
    }
    if line.over {
        words.push_str("; more than the budget allows, which was not enforced");
    }
    if let Some(model) = &line.price_of {
        words.push_str(&format!("; priced as {model}"));
    }
    let Some(ended) = ended else {
        return words;
    };
    if ended.reserved != line.reserved {
        let reserved = ended.unit.amount(ended.reserved);
        words.push_str(&format!("; {reserved} in the end"));
    }
    if let Some(settled) = ended.settled {
        words.push_str(&format!("; {} used", ended.unit.amount(settled)));
    }
    if let Some(more) = ended.overshoot {
        let more = ended.unit.amount(more);
        words.push_str(&format!(", of which {more} were not reserved"));
    }
    if let Some(cause) = ended.overshoot_cause {
        words.push_str(&format!(": {}", why(cause)));
    }
    words
}

const fn why(cause: OvershootCause) -> &'static str {
    match cause {
        OvershootCause::Reported => "its provider reports them all the same",
        OvershootCause::WrittenBehind => {
            "its provider wrote on behind the end that the answer had here"
        }
        OvershootCause::Unseen => {
            "what its provider wrote on could not be looked at, and may be all that it may write"
        }
        OvershootCause::Withheld => {
            "its answer was there as a whole when too little was left, and was not passed on"
        }
        OvershootCause::OtherCall => "its answer may be that to another call, which costs more",
    }
}
