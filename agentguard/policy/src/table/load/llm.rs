//! Calls of language models in tests.

use agentguard_model::{HostName, Llm, LlmOperation};

use super::Checking;
use crate::diagnostic::{nearest, quoted};
use crate::table::document::RawCall;
use crate::yaml::At;

impl Checking<'_> {
    /// A call, unless something is wrong with it. `told`: something is wrong with where it goes.
    pub(super) fn llm(
        &mut self,
        raw: &At<RawCall>,
        host: Option<&HostName>,
        told: bool,
    ) -> Option<Llm> {
        let call = &raw.value;
        let provider = match &call.provider {
            Some(name) => self.provider(name),
            None => host
                .and_then(|host| self.policy.provider(host))
                .map(|provider| provider.name.clone()),
        };
        if provider.is_none() && call.provider.is_none() && !told && !self.partial {
            let message = "no provider of language models answers there, so it is no call of one";
            let hint = "providers stand under `providers` of the policy, with their hosts; `provider: openai` says it here";
            self.error(raw.place, message, hint);
        }
        let not_understood = call.not_understood.as_ref().filter(|it| it.value);
        let more = call.stream
            || call.max_output_tokens.is_some()
            || !call.tools.is_empty()
            || !call.asks.is_empty();
        let says = more || call.model.is_some();
        // Of a session the model is named where it is opened.
        let session = call.operation == LlmOperation::Realtime;
        let opening = more || call.model.is_some() && !session;
        if let (Some(opens), true) = (
            call.opens.as_ref().filter(|it| it.value),
            opening || not_understood.is_some(),
        ) {
            let message = "what opens a connection for calls says nothing of one of them";
            let hint = "leave all but `operation` and `provider` out, and `model` of a session (`realtime`); or make it a test of a call";
            self.error(opens.place, message, hint);
            return None;
        }
        if let (Some(not_understood), true) = (not_understood, says) {
            let message =
                "of a call that cannot be read nothing is known but provider and operation";
            let hint = "leave `model`, `stream`, `max_output_tokens`, `tools` and `asks` out";
            self.error(not_understood.place, message, hint);
            return None;
        }
        Some(Llm {
            provider: provider?,
            operation: call.operation,
            model: call.model.clone(),
            stream: call.stream,
            max_output_tokens: call.max_output_tokens,
            tools: call.tools.clone(),
            asks: call.asks.clone(),
            asks_unread: false,
            not_understood: not_understood.map(|_| "the test says so".to_owned()),
        })
    }

    fn provider(&mut self, raw: &At<String>) -> Option<String> {
        let providers = self.policy.providers();
        if providers.names().any(|name| name == raw.value) {
            return Some(raw.value.clone());
        }
        let hint = nearest(&raw.value, providers.names()).map_or_else(
            || "providers stand under `providers` of the policy".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        let message = format!("the policy has no provider `{}`", quoted(&raw.value));
        self.error(raw.place, message, &hint);
        None
    }
}
