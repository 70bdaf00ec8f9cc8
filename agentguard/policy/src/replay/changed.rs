//! Whether the same would be changed in something as was.

use agentguard_model::{Changed, Decision, Verdict};

use super::worlds::Said;
use crate::changes::{Values, digest};
use crate::sentence;

/// Between what was recorded and what would be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Differ {
    /// Whether other changes would be made.
    pub(super) made: bool,
    /// Whether other ones would be in enforce mode.
    pub(super) on_paper: bool,
}

/// Whether a decision changed something else than a candidate would. `then`: what is known of what was said with it.
///
/// # Errors
/// Why it cannot be told.
pub(super) fn compared(
    decision: &Decision,
    said: &Said,
    then: impl FnOnce() -> Option<Vec<Said>>,
) -> Result<Differ, &'static str> {
    let was = decision.changes.as_deref();
    let sentence = sentence::changes(&decision.reason);
    let by_sentence = decision.verdict == Verdict::Modify || sentence.is_some();
    if was.is_none() && by_sentence {
        return as_told(decision, sentence, said);
    }
    let none = Changed::default();
    let Changed { made, on_paper } = was.unwrap_or(&none);
    let differ = Differ {
        made: *made != digest(&said.made),
        on_paper: *on_paper != digest(&said.on_paper),
    };
    if differ != Differ::default() || values(said).iter().all(Values::is_empty) {
        return Ok(differ);
    }
    let mut then = then().unwrap_or_default();
    then.retain(|it| *made == digest(&it.made) && *on_paper == digest(&it.on_paper));
    match then.as_slice() {
        [first, others @ ..] if others.iter().all(|it| values(it) == values(first)) => {
            let [[made, on_paper], [made_then, on_paper_then]] = [values(said), values(first)];
            Ok(Differ {
                made: made != made_then,
                on_paper: on_paper != on_paper_then,
            })
        }
        _ => Err("the values that rules set are not recorded, and may be other ones"),
    }
}

/// The values that are set, and those that would be in enforce mode.
fn values(said: &Said) -> [Values<'_>; 2] {
    [Values::of(&said.made), Values::of(&said.on_paper)]
}

/// The same where only the sentence of a decision has what was changed, without values and not more than the first changes.
fn as_told(
    decision: &Decision,
    sentence: Option<&str>,
    said: &Said,
) -> Result<Differ, &'static str> {
    let none = said.made.is_empty() && said.on_paper.is_empty();
    if !none && sentence == said.told.as_deref() {
        return Err(
            "an earlier version of the guard recorded no more than a sentence on what was changed",
        );
    }
    let was_made = decision.enforced || decision.verdict == Verdict::Deny;
    Ok(Differ {
        made: was_made || !said.made.is_empty(),
        on_paper: !was_made || !said.on_paper.is_empty(),
    })
}
