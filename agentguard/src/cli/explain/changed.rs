//! What changed in the definition of a tool.

use agentguard_model::ToolChange;

/// A line for each part that changed, and one for each text that it was and is.
pub(in crate::cli) fn lines(change: &ToolChange) -> Vec<String> {
    let mut lines = Vec::new();
    for part in &change.parts {
        let pointer = match part.pointer.as_str() {
            "" => "all of it",
            pointer => pointer,
        };
        lines.push(format!("changed   {pointer}"));
        let texts = [("-", &part.before), ("+", &part.after)];
        for (sign, text) in texts {
            if let Some(text) = text {
                lines.push(format!("        {sign} {text}"));
            }
        }
    }
    if change.more > 0 {
        lines.push(format!("changed   {} more parts", change.more));
    }
    lines
}
