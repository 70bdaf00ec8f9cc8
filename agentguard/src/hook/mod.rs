//! `agentguard hook claude-code`: what Claude Code runs before it uses a tool (`PreToolUse`), and goes by.
//!
//! It reads one event as JSON from standard input, asks the daemon about the tool as about a call of a server of tools,
//! and answers in the hook's own form (Claude Code, "Hooks reference"): `permissionDecision` with a reason. Other events
//! pass without an answer. With `--http` it does so for each event that is posted to it: see [`http`].
//!
//! **Invariant:** what cannot be read or asked about is denied. What is allowed is left to Claude Code's own rules: the
//! guard takes from what it may do and gives nothing.

mod http;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use agentguard_local::Client;
use agentguard_local::api::MAX_LINE;
use agentguard_protocol::json::Value;
use serde::Deserialize;
use serde_json::json;

use crate::cli::failure::Failure;

/// The code by which a hook denies whatever else it says.
const BLOCKS: u8 = 2;

/// The event that is decided.
const BEFORE_USE: &str = "PreToolUse";

/// How much memory a document may take: that of any tool's input but one of millions of values.
const ROOM: usize = 8 * MAX_LINE;

/// Agents that ask before they use a tool.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Answer a hook of Claude Code: decide on a tool before it is used
    ///
    /// For `PreToolUse` in Claude Code's settings, as a hook of type `command`. Reads the event from standard input and
    /// writes the answer to standard output. Denies where the daemon cannot be asked. Events other than `PreToolUse` pass
    /// without an answer.
    ///
    /// With `--http`, for a hook of type `http`: answers the events that are posted to an address of loopback until it is
    /// ended. Start it beside Claude Code, under the same `agentguard run`, and have the settings say
    /// `"onFailure": "block"`: without that, tools are used where nobody answers.
    ClaudeCode(HookArgs),
}

/// Whom the policy knows the tools by.
#[derive(Debug, clap::Args)]
pub(crate) struct HookArgs {
    /// The tools as the policy calls them, with `api: hook`
    #[arg(long, value_name = "NAME", default_value = "claude-code")]
    server: String,

    /// Answer events over HTTP, at this address of loopback; with port 0 at one that is free, which it prints
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
}

/// What an event is. What else is in one that is not decided is nobody's affair.
#[derive(Deserialize)]
struct Kind {
    hook_event_name: String,
}

/// Answers one event, or with `--http` all that come. `socket`: where agents ask.
///
/// # Errors
/// What it denies cannot be said in any other way; or it cannot answer where it is to.
pub(crate) fn main(args: &HookArgs, socket: &Path) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| denied(&format!("cannot start the runtime: {error}")))?;
    if let Some(at) = args.http {
        return runtime.block_on(http::serve(at, args.server.clone(), socket.to_owned()));
    }
    let mut client = Client::new(socket, &args.server);
    let decided = read().map(|event| runtime.block_on(decide(&mut client, &event)));
    match decided.and_then(|decided| decided) {
        Ok(verdict) => match verdict.answer() {
            Some(answer) => say(&answer, &verdict),
            None => Ok(ExitCode::SUCCESS),
        },
        Err(why) => Err(denied(&why)),
    }
}

/// Says an answer. One that cannot be said denies by its code: unsaid it would deny nothing.
fn say(answer: &str, verdict: &Verdict) -> Result<ExitCode, Failure> {
    let why = match verdict {
        Verdict::Denied(why) => why,
        Verdict::Passes | Verdict::Changed(_) => {
            "what the policy changes in its input cannot be said"
        }
    };
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

impl Verdict {
    /// In the hook's own form. Of what passes nothing is said, so that Claude Code's own rules go on; nor is anything of
    /// permission where the input is changed.
    fn answer(&self) -> Option<String> {
        let output = match self {
            Self::Passes => return None,
            Self::Changed(input) => {
                let input = input.written();
                format!(r#"{{"hookEventName":"{BEFORE_USE}","updatedInput":{input}}}"#)
            }
            Self::Denied(why) => json!({
                "hookEventName": BEFORE_USE,
                "permissionDecision": "deny",
                "permissionDecisionReason": why,
            })
            .to_string(),
        };
        Some(format!(r#"{{"hookSpecificOutput":{output}}}"#))
    }
}

/// What denies whatever else is said: Claude Code shows the words to its model.
pub(crate) fn denied(why: &str) -> Failure {
    Failure::Said {
        text: undecided(why),
        code: BLOCKS,
    }
}

fn undecided(why: &str) -> String {
    format!("The guard does not decide on this tool, so that it is denied: {why}")
}

/// What is decided on the tool.
///
/// # Errors
/// Nobody decided.
async fn decide(client: &mut Client, event: &[u8]) -> Result<Verdict, String> {
    let Some(message) = message(event)? else {
        return Ok(Verdict::Passes);
    };
    let answer = client.sent(message.into()).await;
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
    let call = Value::read(call.as_bytes(), ROOM)
        .map_err(|error| format!("what the policy changes cannot be read: {error}"))?;
    let input = call.get("params").and_then(|it| it.get("arguments"));
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
    let kind: Kind = serde_json::from_slice(text)
        .map_err(|error| format!("the event is none that can be read: {error}"))?;
    if kind.hook_event_name != BEFORE_USE {
        return Ok(None);
    }
    let event = Value::read(text, ROOM)
        .map_err(|fault| format!("the event is none that can be read: {fault}"))?;
    let member = |name| event.get(name).and_then(Value::text);
    let name = member("tool_name").ok_or("the event names no tool")?;
    let name = Value::Text(name.into()).written();
    let none = Value::Object(Vec::new());
    let arguments = event.get("tool_input").unwrap_or(&none).written();
    Ok(Some(format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":{name},"arguments":{arguments}}}}}"#
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_to_be_used_is_a_call() {
        let event = br#"{"session_id":"a","hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":{"command":"ls"}}"#;
        let call: serde_json::Value =
            serde_json::from_str(&message(event).unwrap().unwrap()).unwrap();
        assert_eq!(
            call["params"],
            json!({"name": "Bash", "arguments": {"command": "ls"}})
        );
        let other = br#"{"hook_event_name":"PostToolUse","tool_name":"Bash"}"#;
        assert_eq!(message(other), Ok(None));
        let odd = br#"{"hook_event_name":"PostToolUse","tool_response":{"a":"\ud83d","a":2}}"#;
        assert_eq!(message(odd), Ok(None));
        let twice = br#"{"hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":{"a":{"b":1,"b":2}}}"#;
        for broken in [
            &b"no"[..],
            b"{}",
            br#"{"hook_event_name":"PreToolUse"}"#,
            twice,
        ] {
            assert!(message(broken).is_err());
        }
    }

    #[test]
    fn numbers_stay_as_they_are_written() {
        let event = br#"{"hook_event_name":"PreToolUse","tool_name":"a","tool_input":{"n":12345678901234567890123,"x":1.10}}"#;
        let call = message(event).unwrap().unwrap();
        let changed = Verdict::Changed(input(&call).unwrap());
        let said = changed.answer().unwrap();
        let input = r#""updatedInput":{"n":12345678901234567890123,"x":1.10}}"#;
        assert!(said.contains(input), "{said}");
    }
}
