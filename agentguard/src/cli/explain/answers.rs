//! What servers of tools, and other agents, answered.

use agentguard_model::{AgentAnswer, ToolAnswer};

use crate::cli::output::counted;

/// What a server of tools said.
pub(super) fn answers(tool: &ToolAnswer) -> String {
    let mut words = String::new();
    for result in &tool.results {
        let id = result
            .id
            .as_deref()
            .map_or_else(String::new, |id| format!(" to {id}"));
        let what = match (result.error, result.is_error, result.incomplete) {
            (Some(code), ..) => format!("error {code}"),
            (None, true, _) => "a result that says that it failed".to_owned(),
            (None, false, true) => "a result that asks for more".to_owned(),
            (None, false, false) => "a result".to_owned(),
        };
        words.push_str(&format!(", {what}{id}"));
    }
    if let Some(agent) = &tool.agent {
        words.push_str(&said(agent));
    }
    if !tool.asked.is_empty() {
        words.push_str(&format!(", the server asks for {}", tool.asked.join(", ")));
    }
    if let Some(listed) = tool.listed {
        words.push_str(&format!(", {listed} tools listed"));
    }
    if !tool.left_out.is_empty() {
        words.push_str(&format!(", left out: {}", tool.left_out.join(", ")));
    }
    if let Some(why) = &tool.not_understood {
        words.push_str(&format!(", not all of it could be read: {why}"));
    }
    words
}

/// What another agent said.
fn said(agent: &AgentAnswer) -> String {
    let mut words = String::new();
    if let Some(reason) = &agent.reason {
        words.push_str(&format!(", for {reason}"));
    }
    if let Some(task) = &agent.task {
        words.push_str(&format!(", task {task}"));
    }
    if let Some(context) = &agent.context {
        words.push_str(&format!(", conversation {context}"));
    }
    if let Some(state) = &agent.state {
        words.push_str(&format!(", {state}"));
    }
    let counts = [
        (agent.messages, "message"),
        (agent.artifacts, "artifact"),
        (agent.updates, "update"),
    ];
    for (count, what) in counts {
        if count > 0 {
            words.push_str(&format!(", {}", counted(count, what)));
        }
    }
    if let Some(listed) = agent.listed {
        words.push_str(&format!(", {} listed", counted(listed, "task")));
    }
    words
}

#[cfg(test)]
mod tests {
    use agentguard_model::ToolResult;

    use super::*;

    #[test]
    fn what_an_agent_said_is_told_with_its_task_and_state() {
        let answer = ToolAnswer {
            results: vec![ToolResult {
                incomplete: true,
                ..ToolResult::default()
            }],
            agent: Some(Box::new(AgentAnswer {
                task: Some("t".to_owned()),
                context: Some("c".to_owned()),
                state: Some("TASK_STATE_INPUT_REQUIRED".to_owned()),
                artifacts: 1,
                updates: 2,
                ..AgentAnswer::default()
            })),
            ..ToolAnswer::default()
        };
        assert_eq!(
            answers(&answer),
            ", a result that asks for more, task t, conversation c, TASK_STATE_INPUT_REQUIRED, 1 artifact, 2 updates"
        );
        let error = ToolAnswer {
            results: vec![ToolResult {
                error: Some(404),
                ..ToolResult::default()
            }],
            agent: Some(Box::new(AgentAnswer {
                reason: Some("TASK_NOT_FOUND".to_owned()),
                ..AgentAnswer::default()
            })),
            not_understood: Some("it is cut".to_owned()),
            ..ToolAnswer::default()
        };
        assert_eq!(
            answers(&error),
            ", error 404, for TASK_NOT_FOUND, not all of it could be read: it is cut"
        );
    }
}
