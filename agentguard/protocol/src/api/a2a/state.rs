//! What becomes of a task, by the names that 1.0 has for that.

/// Each in the order of Protocol Buffers, from 1, with the name that 0.x has for it.
const STATES: [(&str, &str); 8] = [
    ("TASK_STATE_SUBMITTED", "submitted"),
    ("TASK_STATE_WORKING", "working"),
    ("TASK_STATE_COMPLETED", "completed"),
    ("TASK_STATE_FAILED", "failed"),
    ("TASK_STATE_CANCELED", "canceled"),
    ("TASK_STATE_INPUT_REQUIRED", "input-required"),
    ("TASK_STATE_REJECTED", "rejected"),
    ("TASK_STATE_AUTH_REQUIRED", "auth-required"),
];

/// How 0.3 spells one of them over HTTP.
const CANCELLED: &str = "TASK_STATE_CANCELLED";

/// The state of this name; one that is not known is as it is.
pub(super) fn state(name: String) -> String {
    if name == CANCELLED {
        return "TASK_STATE_CANCELED".to_owned();
    }
    let mut states = STATES.iter();
    let known = states.find(|(_, older)| *older == name);
    known.map_or(name, |(name, _)| (*name).to_owned())
}

/// The state that Protocol Buffers have this number for, which JSON may have in its place.
pub(super) fn state_of_number(number: &str) -> Option<String> {
    let index: usize = number.parse().ok()?;
    let (name, _) = STATES.get(index.checked_sub(1)?)?;
    Some((*name).to_owned())
}

/// Whether an agent says with it that it did not do what it was asked for.
pub(super) fn has_failed(state: &str) -> bool {
    matches!(state, "TASK_STATE_FAILED" | "TASK_STATE_REJECTED")
}

/// Whether an agent waits with it for something else.
pub(super) fn asks_for_more(state: &str) -> bool {
    matches!(
        state,
        "TASK_STATE_INPUT_REQUIRED" | "TASK_STATE_AUTH_REQUIRED"
    )
}
