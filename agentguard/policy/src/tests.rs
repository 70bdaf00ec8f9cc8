mod a2a;
mod agreement;
mod budgets;
mod by_path;
mod changes;
mod conditions;
mod defaults;
mod docs;
mod groups;
mod hidden;
mod inspects;
mod kernel_lines;
mod limits;
mod llm;
mod local;
mod named;
mod quota;
mod random;
mod refusals;
mod replay;
mod resources;
mod sources;
mod steps;
mod strategies;
mod table;
mod tool;
mod unread;
mod verdicts;
mod warnings;

use agentguard_model::{AgentName, HostName, Llm, LlmOperation};

use crate::{AgentPolicy, Document, Policy, compile};

fn document(text: &str) -> Document {
    Document {
        path: "p.yaml".to_owned(),
        text: text.to_owned(),
    }
}

#[track_caller]
pub(crate) fn policy(text: &str) -> Policy {
    match compile(&[document(text)]) {
        Ok(policy) => policy,
        Err(found) => panic!("{found}\nin:\n{text}"),
    }
}

#[track_caller]
pub(crate) fn agent<'a>(policy: &'a Policy, name: &str) -> &'a AgentPolicy {
    let name: AgentName = name.parse().unwrap();
    policy.agent(&name).unwrap()
}

fn host(text: &str) -> HostName {
    text.parse().unwrap()
}

/// A call of a language model that asks for nothing else.
fn llm_call(provider: &str, model: Option<&str>) -> Llm {
    Llm {
        provider: provider.to_owned(),
        operation: LlmOperation::Chat,
        model: model.map(str::to_owned),
        stream: false,
        max_output_tokens: None,
        tools: Vec::new(),
        asks: Vec::new(),
        asks_unread: false,
        not_understood: None,
    }
}
