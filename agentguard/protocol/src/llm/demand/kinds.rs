//! Types of tools, items and parts of content, and what they ask for.

/// Who runs a tool.
pub(super) enum Whose {
    Client,
    /// Its client where it says so, else the provider.
    Either,
    Provider,
}

/// Whose a tool of this type is.
pub(super) fn whose(kind: &str) -> Whose {
    // Anthropic's have a date behind their names.
    const DATED: [&str; 4] = ["bash_", "text_editor_", "computer_", "memory_"];
    match kind {
        "function" | "custom" | "namespace" | "local_shell" | "apply_patch" | "computer"
        | "computer-preview" => Whose::Client,
        "shell" | "tool_search" => Whose::Either,
        kind if DATED.iter().any(|it| kind.starts_with(it)) => Whose::Client,
        _ => Whose::Provider,
    }
}

/// Items of the input of Responses that have in them all that they are about. What others found or made is kept by the
/// provider, and the model reads it again.
pub(super) const ITEMS: [&str; 24] = [
    "message",
    "reasoning",
    "compaction",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "computer_call",
    "computer_call_output",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "tool_search_call",
    "tool_search_output",
    "additional_tools",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_tool_call_output",
    "compaction_trigger",
];

/// Whether a part of this type is text, or something whose own parts are looked at.
pub(super) fn is_text(kind: &str) -> bool {
    let known = matches!(
        kind,
        "text"
            | "input_text"
            | "output_text"
            | "summary_text"
            | "reasoning_text"
            | "refusal"
            | "thinking"
            | "redacted_thinking"
            | "reasoning"
            | "tool_use"
            | "server_tool_use"
            | "mcp_tool_use"
            | "tool_reference"
            | "tool_addition"
            | "tool_removal"
            | "mcp_tool_listing"
            | "compaction"
            | "fallback"
            | "reference"
    );
    // Of results it is their content that has pictures.
    known || kind.ends_with("_result") || kind.ends_with("_error") || kind.ends_with("_output")
}
