//! `agentguard hook claude-code`: what Claude Code runs before it uses a tool (`PreToolUse`), and goes by.
//!
//! It reads one event as JSON from standard input, asks the daemon about the tool as about a call of a server of tools,
//! and answers in the hook's own form (Claude Code, "Hooks reference"): `permissionDecision` with a reason. Other events
//! pass without an answer.
//!
//! **Invariant:** what cannot be read or asked about is denied. What is allowed is left to Claude Code's own rules: the
//! guard takes from what it may do and gives nothing.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use agentguard_local::Client;
use agentguard_local::api::MAX_LINE;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::failure::Failure;

/// The code by which a hook denies whatever else it says.
const BLOCKS: u8 = 2;

/// The event that is decided.
const BEFORE_USE: &str = "PreToolUse";

/// Agents that ask before they use a tool.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Answer a hook of Claude Code: decide on a tool before it is used
    ///
    /// For `PreToolUse` in Claude Code's settings, as a hook of type `command`. Reads the event from standard input and
    /// writes the answer to standard output. Denies where the daemon cannot be asked. Events other than `PreToolUse` pass
    /// without an answer.
    ClaudeCode(HookArgs),
}

/// Whom the policy knows the tools by.
#[derive(Debug, clap::Args)]
pub(crate) struct HookArgs {
    /// The tools as the policy calls them, with `api: hook`
    #[arg(long, value_name = "NAME", default_value = "claude-code")]
    server: String,
}

/// An event, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Event {
    hook_event_name: String,
    #[serde(default)]
    tool_name: Option<String>,
    #[serde(default)]
    tool_input: Option<Value>,
}

/// Answers one event. `socket`: where agents ask.
///
/// # Errors
/// What it denies cannot be said in any other way.
pub(crate) fn main(args: &HookArgs, socket: &Path) -> Result<ExitCode, Failure> {
    match decide(args, socket) {
        Ok(Verdict::Passes) => Ok(ExitCode::SUCCESS),
        Ok(Verdict::Changed(input)) => {
            // Nothing is said of permission, so that Claude Code's own rules go on.
            let answer = json!({"hookSpecificOutput": {
                "hookEventName": BEFORE_USE,
                "updatedInput": input,
            }});
            say(
                &answer,
                "what the policy changes in its input cannot be said",
            )
        }
        Ok(Verdict::Denied(why)) => {
            let answer = json!({"hookSpecificOutput": {
                "hookEventName": BEFORE_USE,
                "permissionDecision": "deny",
                "permissionDecisionReason": why,
            }});
            say(&answer, &why)
        }
        Err(why) => Err(denied(&why)),
    }
}

/// Says an answer. `why` it is denied where it cannot be said: unsaid it would deny nothing.
fn say(answer: &Value, why: &str) -> Result<ExitCode, Failure> {
    let said = writeln!(std::io::stdout(), "{answer}");
    said.map_err(|_| denied(why))?;
    Ok(ExitCode::SUCCESS)
}

/// What was decided on a tool.
enum Verdict {
    /// It may be used, or it is no use of a tool.
    Passes,
    /// It may be used with this input.
    Changed(Value),
    /// It may not: why.
    Denied(String),
}

/// What denies whatever else is said: Claude Code shows the words to its model.
pub(crate) fn denied(why: &str) -> Failure {
    Failure::Said {
        text: format!("The guard does not decide on this tool, so that it is denied: {why}"),
        code: BLOCKS,
    }
}

/// What is decided on the tool.
///
/// # Errors
/// Nobody decided.
fn decide(args: &HookArgs, socket: &Path) -> Result<Verdict, String> {
    let Some(message) = message(&read()?)? else {
        return Ok(Verdict::Passes);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let mut client = Client::new(socket, &args.server);
    let answer = runtime.block_on(client.sent(message.into()));
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.allowed {
        return match &answer.changed {
            Some(changed) => input(changed).map(Verdict::Changed),
            None => Ok(Verdict::Passes),
        };
    }
    let mut why = answer.reason.message;
    if let Some(id) = answer.decision {
        why.push_str(&format!(" (agentguard explain {id})"));
    }
    Ok(Verdict::Denied(why))
}

/// The input of a tool, out of the call that stands for its use.
fn input(call: &str) -> Result<Value, String> {
    let call: Value = serde_json::from_str(call)
        .map_err(|error| format!("what the policy changes cannot be read: {error}"))?;
    let input = call.pointer("/params/arguments");
    input
        .cloned()
        .ok_or_else(|| "what the policy changes has no input".to_owned())
}

/// The event. One that is longer than a message may be is none.
fn read() -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let most = u64::try_from(MAX_LINE)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let read = std::io::stdin().lock().take(most).read_to_end(&mut text);
    read.map_err(|error| format!("the event cannot be read: {error}"))?;
    match text.len() > MAX_LINE {
        true => Err(format!("the event has more than {} MiB", MAX_LINE >> 20)),
        false => Ok(text),
    }
}

/// The call that stands for a tool's use; none of an event of another kind.
fn message(text: &[u8]) -> Result<Option<String>, String> {
    let event: Event = serde_json::from_slice(text)
        .map_err(|error| format!("the event is none that can be read: {error}"))?;
    if event.hook_event_name != BEFORE_USE {
        return Ok(None);
    }
    let name = event.tool_name.ok_or("the event names no tool")?;
    let arguments = event.tool_input.unwrap_or_else(|| json!({}));
    let call = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": name, "arguments": arguments},
    });
    Ok(Some(call.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_to_be_used_is_a_call() {
        let event = br#"{"session_id":"a","hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":{"command":"ls"}}"#;
        let call: Value = serde_json::from_str(&message(event).unwrap().unwrap()).unwrap();
        assert_eq!(
            call["params"],
            json!({"name": "Bash", "arguments": {"command": "ls"}})
        );
        let other = br#"{"hook_event_name":"PostToolUse","tool_name":"Bash"}"#;
        assert_eq!(message(other), Ok(None));
        for broken in [&b"no"[..], b"{}", br#"{"hook_event_name":"PreToolUse"}"#] {
            assert!(message(broken).is_err());
        }
    }
}
