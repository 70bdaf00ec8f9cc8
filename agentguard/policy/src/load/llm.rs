//! What a rule says of calls of language models.

use agentguard_model::LlmOperation;

use super::values::{list, pattern};
use super::{Known, Report};
use crate::diagnostic::{nearest, quoted};
use crate::document::{RawCharged, RawLlm, RawMatch, RuleAction};
use crate::llm::{LlmMatch, OPERATIONS};
use crate::pattern::Wildcard;
use crate::rule::Rule;
use crate::yaml::At;

/// What a rule says of calls of language models. `action`: what it does with them.
pub(super) fn llm(
    action: Option<RuleAction>,
    raw: &RawLlm,
    known: &Known<'_>,
    report: &mut Report,
) -> LlmMatch {
    let max_output_over = raw.max_output_over.as_ref();
    if let Some(entry) = max_output_over
        && action.is_some_and(|action| action != RuleAction::Deny)
    {
        report.error(
            entry.place,
            "`max_output_over` is for a rule that denies",
            "an `allow` for the calls, and a `deny` with `max_output_over` beside it",
        );
    }
    if let Some(list) = &raw.tool_calls
        && action.is_some_and(|action| action != RuleAction::Deny)
    {
        report.error(
            list.place,
            "`tool_calls` is for a rule that denies",
            "an `allow` for the calls, and a `deny` with `tool_calls` beside it; which tools may be offered at all is `tools`",
        );
    }
    let providers = list("provider", raw.provider.as_ref(), report, provider);
    if let Some(list) = &raw.provider {
        who_is_meant(list, known, report);
    }
    LlmMatch {
        providers,
        operations: list("operation", raw.operation.as_ref(), report, operation),
        models: list("model", raw.model.as_ref(), report, named),
        tools: list("tools", raw.tools.as_ref(), report, named),
        tool_calls: list("tool_calls", raw.tool_calls.as_ref(), report, named),
        max_output_over: max_output_over.map(|entry| entry.value),
    }
}

/// Which calls a budget is charged with.
pub(super) fn charged(raw: &RawCharged, known: &Known<'_>, report: &mut Report) -> LlmMatch {
    let providers = list("provider", raw.provider.as_ref(), report, provider);
    if let Some(list) = &raw.provider {
        who_is_meant(list, known, report);
    }
    LlmMatch {
        providers,
        models: list("model", raw.model.as_ref(), report, named),
        ..LlmMatch::default()
    }
}

/// Warns of a rule for calls where no provider answers: what goes there is no call, whatever it says.
pub(super) fn where_is_none(
    matches: &RawMatch,
    rule: &Rule,
    known: &Known<'_>,
    report: &mut Report,
) {
    let Some(raw) = matches.llm.as_ref().filter(|_| !known.partial) else {
        return;
    };
    // Behind an address that is denied there may be any name.
    let by_address = !rule.cidrs.is_empty() && !rule.allows();
    if rule.anywhere() || by_address {
        return;
    }
    if rule.hosts.iter().any(|it| known.providers.meet(it)) {
        return elsewhere(raw, rule, known, report);
    }
    report.warn(
        raw.place,
        "no provider answers where this rule is for, so that nothing there is a call of a language model",
        "a provider is declared under `providers`, with its hosts; a bare address has none",
    );
}

/// Warns of a rule for calls of providers that answer elsewhere than where it is for.
fn elsewhere(raw: &At<RawLlm>, rule: &Rule, known: &Known<'_>, report: &mut Report) {
    let (Some(written), Some(llm)) = (&raw.value.provider, &rule.request.llm) else {
        return;
    };
    let is_meant = |name: &str| llm.providers.iter().any(|it| it.matches(name.as_bytes()));
    let meets = |it| known.providers.meet_named(it, &llm.providers);
    // Of those that are not there that was told.
    if rule.hosts.iter().any(meets) || !known.providers.names().any(is_meant) {
        return;
    }
    report.warn(
        written.place,
        "none of these providers answers where this rule is for, so that nothing there is a call of one",
        "name in `host` where they answer, or here the provider of that host; or leave one of the two out",
    );
}

/// A name of a model or of a tool.
fn named(entry: &At<String>, report: &mut Report) -> Option<Wildcard> {
    pattern(entry, report, "like `small-model` or `small-*`")
}

/// A name of a provider.
fn provider(entry: &At<String>, report: &mut Report) -> Option<Wildcard> {
    let text = entry.value.as_str();
    let is_name = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-*".contains(&b));
    if !is_name {
        let message = format!(
            "`{}` is no provider's name: a-z 0-9 . _ -, and `*` for any run of them",
            quoted(text)
        );
        let hint = if text.contains('.') || text.contains('/') {
            "a provider goes by its name, like `openai`; its hosts stand under `providers`"
        } else {
            "like `openai`, in lower case"
        };
        report.error(entry.place, message, hint);
        return None;
    }
    Some(Wildcard::new(text))
}

/// Providers that are not there.
fn who_is_meant(list: &At<Vec<At<String>>>, known: &Known<'_>, report: &mut Report) {
    // What seems to be missing may stand in what could not be read.
    if known.partial || report.in_part {
        return;
    }
    for entry in &list.value {
        let pattern = Wildcard::new(&entry.value);
        let mut names = known.providers.names();
        if names.any(|name| pattern.matches(name.as_bytes())) {
            continue;
        }
        let hint = nearest(&entry.value, known.providers.names()).map_or_else(
            || "a provider is declared under `providers`, with its hosts".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        let message = format!("no provider is called `{}`", quoted(&entry.value));
        report.warn(entry.place, message, &hint);
    }
}

fn operation(entry: &At<String>, report: &mut Report) -> Option<LlmOperation> {
    let text = entry.value.as_str();
    let known = OPERATIONS.iter().find(|(name, _)| *name == text);
    if known.is_none() {
        let names = OPERATIONS.map(|(name, _)| name);
        let near = nearest(&text.to_ascii_lowercase(), names);
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("one of {}", names.join(", ")),
        };
        let message = format!("`{}` is no operation of a language model", quoted(text));
        report.error(entry.place, message, &hint);
    }
    known.map(|(_, operation)| *operation)
}
