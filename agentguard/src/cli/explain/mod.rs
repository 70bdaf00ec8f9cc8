//! `agentguard explain`: a decision as a story, for the person who was woken by it.
//!
//! What was attempted and by whom, what was decided and why, which rules said so, in which policy,
//! what became of it, and what would change it. Everything but the rule's own text comes from the
//! record.

mod advice;
mod answers;
mod budget;
mod call;
pub(super) mod changed;
mod contents;
mod excerpt;

use agentguard_control::api::{PolicyStatus, spelled};
use agentguard_model::{
    Action, ActionKind, Bytes, Decision, DecisionId, Layer, Messages, Mode, Outcome, Tool, Verdict,
};
use agentguard_policy::replay::Considerations;
use agentguard_policy::table::Near;
use clap::Args;

use super::Global;
use super::agent::mode;
use super::failure::Failure;
use super::output::{Output, printable};
use super::verdicts::destination;
use crate::config::sources;

/// Rules that did not decide, at most.
const NEAR: usize = 3;

/// Say why a decision was taken, and what would change it
#[derive(Args, Debug)]
pub(super) struct Explain {
    /// The decision, as `verdicts` prints it and refusals carry it
    #[arg(value_name = "DECISION_ID")]
    id: DecisionId,
    /// Print what was kept of the contents that passed under it, by a rule with `capture_body`, instead
    #[arg(long)]
    contents: bool,
}

pub(super) fn main(explain: &Explain, global: &Global, out: &mut Output) -> Result<(), Failure> {
    if explain.contents {
        let contents = global.ask(async |mut client| Ok(client.contents(explain.id).await?))?;
        return Ok(out.value(&contents, || lines(&contents::told(&contents)))?);
    }
    let (decision, in_force) = global.ask(async |mut client| {
        let decision = client.decision(explain.id).await?;
        // The story is whole without it.
        let policy = client.policy().await.ok();
        Ok((decision, policy.map(|policy| policy.status)))
    })?;
    Ok(out.value(&decision, || story(&decision, in_force.as_ref()))?)
}

/// Text that keeps its lines, made harmless for a terminal.
fn lines(text: &str) -> String {
    let lines = text.lines().map(|line| printable(line) + "\n");
    lines.collect()
}

/// The story. `in_force` is the policy in force now, where that is known.
fn story(decision: &Decision, in_force: Option<&PolicyStatus>) -> String {
    let mut story = Story::default();
    story.paragraph(&headline(decision));
    story.entry("what", &attempted(&decision.action));
    if let (ActionKind::LlmCall, Some(llm)) = (decision.action.kind, &decision.action.llm) {
        story.entry("", &call::asked(llm));
    }
    story.entry("who", &who(decision));
    for line in on_behalf(decision) {
        story.entry("", &line);
    }
    story.entry("when", &when(decision));
    story.entry(
        "verdict",
        &format!(
            "{}: {} ({})",
            decision.verdict, decision.reason.message, decision.reason.code
        ),
    );
    story.entry("enforced", &enforced(decision));
    let tool = decision.action.tool.as_ref();
    for line in tool
        .and_then(|tool| tool.change.as_deref())
        .into_iter()
        .flat_map(changed::lines)
    {
        story.line(&line);
    }
    let considered = considered(decision, in_force);
    rules(&mut story, decision, in_force, considered.as_ref());
    near(&mut story, decision, considered);
    for line in budget::lines(decision) {
        story.entry("budget", &line);
    }
    for finding in &decision.findings {
        story.entry(
            "finding",
            &format!(
                "{} found {} in {}",
                finding.detector, finding.class, finding.place
            ),
        );
    }
    story.entry(
        "policy",
        &policy(
            &decision.policy_version,
            in_force.map(|it| it.version.as_str()),
        ),
    );
    if let Some(outcome) = &decision.outcome {
        story.entry("outcome", &became(outcome));
        if let Some(answer) = &outcome.llm {
            story.entry("answered", &call::answered(answer));
        }
    }
    let advice = advice::of(decision);
    if let Some(words) = advice.words {
        story.entry("next", &words);
    }
    if let Some(rule) = advice.rule {
        story.verbatim(&rule);
    }
    story.text
}

/// Lines with a label on the left. Everything that goes in is made harmless for a terminal.
#[derive(Default)]
struct Story {
    text: String,
}

impl Story {
    fn paragraph(&mut self, words: &str) {
        self.text.push_str(&printable(words));
        self.text.push_str("\n\n");
    }

    fn entry(&mut self, label: &str, words: &str) {
        self.text
            .push_str(&format!("{label:<9} {}\n", printable(words)));
    }

    /// A line that has its label.
    fn line(&mut self, line: &str) {
        self.text.push_str(&format!("{}\n", printable(line)));
    }

    /// Lines that keep their form, indented.
    fn verbatim(&mut self, lines: &str) {
        for line in lines.lines() {
            self.text
                .push_str(&format!("            {}\n", printable(line)));
        }
    }
}

fn headline(decision: &Decision) -> String {
    if decision.layer == Layer::Operator {
        return format!(
            "an operator changed the guard: {}",
            destination(&decision.action)
        );
    }
    let agent = decision
        .agent
        .as_ref()
        .map_or_else(|| "a process of no agent".into(), |a| a.name.to_string());
    let what = match (decision.verdict, decision.enforced) {
        (Verdict::Allow, _) => "was allowed",
        (Verdict::Modify, true) => "was allowed, with changes",
        (Verdict::Modify, false) => "was allowed, and would have been changed",
        (Verdict::Deny, true) => "was refused",
        (Verdict::Deny, false) => "passed, and would have been refused",
        (Verdict::Escalate, true) => "was held for a person",
        (Verdict::Escalate, false) => "passed, and would have been held for a person",
    };
    let times = if decision.count > 1 {
        format!(", {} times", decision.count)
    } else {
        String::new()
    };
    format!("{agent} {what}{times}: {}", destination(&decision.action))
}

fn attempted(action: &Action) -> String {
    let noun = match action.kind {
        ActionKind::Connect => "a connection to",
        ActionKind::Datagram => "a first datagram to",
        ActionKind::Inbound => "a flow from outside, from",
        ActionKind::Socket => "the making of a socket (family/type/protocol)",
        ActionKind::Device => "the opening of a device,",
        ActionKind::Process => "the use of another process:",
        ActionKind::DnsQuery => "the resolution of",
        ActionKind::HttpRequest => "the HTTP request",
        ActionKind::LlmCall => "a call to a language model at",
        ActionKind::ToolCall => "a call to a tool at",
        ActionKind::ToolDefinition => "a list of tools from",
        ActionKind::Resource => "what it takes of the host, at its limit",
        ActionKind::Budget => "how much is used of a budget,",
        ActionKind::Administration => "a change to the guard itself",
    };
    let local = action.tool.is_some() && action.host.is_none() && action.ip.is_none();
    let mut words = match local {
        true => "a message on the agent's own host".to_owned(),
        false => format!("{noun} {}", destination(action)),
    };
    if let (Some(_), Some(ip)) = (&action.host, action.ip) {
        words.push_str(&format!(" (dialled as {ip})"));
    }
    if let Some(query) = &action.query {
        words.push_str(&format!(", query {query}"));
    }
    for (name, value) in &action.headers {
        words.push_str(&format!(", {name}: {value}"));
    }
    if let Some(body) = action.body {
        words.push_str(&format!(", {body} bytes of content"));
    }
    if let Some(tool) = &action.tool {
        words.push_str(&message(tool));
    }
    if let Some(llm) = &action.llm {
        words.push_str(&match (&llm.model, &llm.not_understood) {
            _ if action.kind == ActionKind::HttpRequest => {
                format!(", for calls of {}, each decided by itself", llm.provider)
            }
            (Some(model), _) => format!(", model {model} of {}", llm.provider),
            (None, Some(_)) => format!(", a call of {} that could not be read", llm.provider),
            (None, None) => format!(", a call of {} that names no model", llm.provider),
        });
    }
    format!("{words} ({})", spelled(action.kind))
}

/// A message to a server of tools, behind where it goes.
fn message(tool: &Tool) -> String {
    let mut words = match (&tool.name, &tool.method) {
        (Some(name), _) => format!(", tool {name} of {}", tool.server),
        (None, Some(method)) => format!(", {method} to {}", tool.server),
        (None, None) if tool.answers.is_empty() => format!(", to {}", tool.server),
        (None, None) => format!(
            ", to {}, an answer to {}",
            tool.server,
            tool.answers.join(" or ")
        ),
    };
    if tool.name.is_some() && !tool.answers.is_empty() {
        words.push_str(&format!(
            ", with an answer to {}",
            tool.answers.join(" or ")
        ));
    }
    for argument in &tool.values {
        words.push_str(&format!(
            ", {}: {}",
            argument.pointer,
            argument.values.join(", ")
        ));
    }
    if let Some(why) = &tool.not_understood {
        words.push_str(&format!(", which could not be read: {why}"));
    }
    words
}

fn who(decision: &Decision) -> String {
    if decision.layer == Layer::Operator {
        return match &decision.agent {
            Some(agent) => format!("an operator, about agent {}", agent.name),
            None => "an operator".to_owned(),
        };
    }
    let agent = decision.agent.as_ref().map_or_else(
        || "no agent that the kernel could tell".to_owned(),
        |agent| {
            let labels: Vec<String> = agent
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            match labels.is_empty() {
                true => format!("agent {}", agent.name),
                false => format!("agent {} ({})", agent.name, labels.join(", ")),
            }
        },
    );
    let process = decision.process.as_ref().map_or_else(
        || "by a process that was not seen".to_owned(),
        |process| {
            let exe = process
                .exe
                .as_ref()
                .map_or_else(String::new, |exe| format!(", {exe}"));
            format!(
                "by {} (pid {}, uid {}{exe})",
                process.comm, process.pid, process.uid
            )
        },
    );
    format!("{agent}, {process}")
}

fn on_behalf(decision: &Decision) -> Vec<String> {
    let context = &decision.context;
    [
        ("user", &context.user),
        ("session", &context.session),
        ("workflow", &context.workflow),
        ("purpose", &context.purpose),
        ("trace", &context.trace_id),
    ]
    .into_iter()
    .filter_map(|(what, value)| Some(format!("{what} {}", value.as_ref()?)))
    .collect()
}

fn when(decision: &Decision) -> String {
    let place = match decision.layer {
        Layer::Kernel => "in the kernel",
        Layer::Dns => "by the resolver",
        Layer::Proxy => "by the proxy",
        Layer::Hook => "by the agent's hook",
        Layer::Operator => "by an operator",
    };
    let mut words = format!(
        "{}, decided {place} in {} µs",
        decision.time, decision.latency_us
    );
    if let Some(last) = decision.last {
        words.push_str(&format!("; the last of {} at {last}", decision.count));
    }
    words
}

fn enforced(decision: &Decision) -> String {
    match (decision.enforced, decision.verdict) {
        (true, _) => format!("yes, in mode {}", mode(decision.mode)),
        (false, Verdict::Allow) => format!("nothing to enforce, in mode {}", mode(decision.mode)),
        (false, _) => match decision.mode {
            Mode::Observe => "no: mode observe records and lets pass".into(),
            Mode::Shadow => "no: mode shadow records what would have happened and lets pass".into(),
            Mode::Enforce => {
                "no, although the mode is enforce: it had happened before it was decided".into()
            }
        },
    }
}

/// Which rules were considered, if the policy can be read that decided.
fn considered(decision: &Decision, in_force: Option<&PolicyStatus>) -> Option<Considerations> {
    let policy = sources::of_version(&in_force?.files, &decision.policy_version)?;
    policy.considered(decision)
}

fn rules(
    story: &mut Story,
    decision: &Decision,
    in_force: Option<&PolicyStatus>,
    considered: Option<&Considerations>,
) {
    let first = in_force.and_then(|policy| policy.files.first());
    let matched = match decision.matched.len() {
        0 => "none matched".to_owned(),
        count => format!("{count} matched"),
    };
    match considered {
        Some(Considerations { rules, here }) => story.entry(
            "rules",
            &format!(
                "{rules} for this agent, {} of them for this destination; {matched}",
                here.len()
            ),
        ),
        None if decision.matched.is_empty() => story.entry("rules", &matched),
        None => {}
    }
    for matched in &decision.matched {
        let on_paper = matched
            .on_paper
            .map_or_else(String::new, |by| format!(", on paper: mode {}", mode(by)));
        story.entry(
            "rule",
            &format!(
                "`{}` at {}:{} ({}){on_paper}",
                matched.rule, matched.source.file, matched.source.line, matched.engine
            ),
        );
        match excerpt::of(&matched.source, &decision.policy_version, first) {
            excerpt::Excerpt::Same(lines) => story.verbatim(&lines),
            excerpt::Excerpt::Changed => story.entry(
                "",
                "the file has changed since, so its text is not shown here",
            ),
            excerpt::Excerpt::Unreadable => {}
        }
    }
}

/// Which of the rules for this destination did not decide, and why: those first that say otherwise.
fn near(story: &mut Story, decision: &Decision, considered: Option<Considerations>) {
    let denied = decision.verdict == Verdict::Deny;
    let mut near = considered.map_or_else(Vec::new, |it| it.here);
    near.retain(|rule| {
        decision
            .matched
            .iter()
            .all(|matched| matched.rule != rule.rule)
    });
    near.sort_by_key(|rule| (rule.action == Verdict::Deny) == denied);
    for rule in near.iter().take(NEAR) {
        story.entry(
            "near",
            &format!(
                "`{}` at {}:{} would {}, but {}",
                rule.rule,
                rule.source.file,
                rule.source.line,
                rule.action,
                but(rule)
            ),
        );
    }
    if near.len() > NEAR {
        story.entry(
            "",
            &format!("and {} more for this destination", near.len() - NEAR),
        );
    }
}

fn but(rule: &Near) -> String {
    if !rule.failed.is_empty() {
        format!("does not match: {}", rule.failed.join(", "))
    } else if rule.needs_request {
        "looks at the request, which was not seen".to_owned()
    } else if rule.overruled {
        "one of a higher rank decided".to_owned()
    } else {
        "other rules decided".to_owned()
    }
}

fn policy(version: &str, in_force: Option<&str>) -> String {
    match in_force {
        Some(now) if now == version => format!("version {version}, still in force"),
        Some(now) => {
            format!("version {version}; version {now} is in force now, and may decide otherwise")
        }
        None => format!("version {version}"),
    }
}

fn became(outcome: &Outcome) -> String {
    let Bytes { sent, received } = outcome.bytes;
    let mut words = format!("{sent} bytes sent, {received} received");
    if let Some(Messages { sent, received }) = outcome.messages {
        words.push_str(&format!("; {sent} messages sent, {received} received"));
    }
    words.push_str(&format!(", over after {} ms", outcome.duration_ms));
    if let Some(status) = outcome.status {
        words.push_str(&format!(", HTTP status {status}"));
    }
    if let Some(tool) = &outcome.tool {
        words.push_str(&answers::answers(tool));
    }
    if let Some(error) = &outcome.error {
        words.push_str(&format!("; {error}"));
    }
    words
}

#[cfg(test)]
mod tests;
