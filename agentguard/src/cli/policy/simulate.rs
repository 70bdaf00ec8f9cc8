//! `agentguard policy simulate`

use std::path::{Path, PathBuf};

use agentguard_control::api::{PolicyView, ProblemCode, spelled};
use agentguard_control::{Client, ClientError};
use agentguard_model::ReasonCode;
use agentguard_policy::Policy;
use agentguard_policy::replay::{By, Replay, State, Summary};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::past::{Looked, Past};
use super::{closed, compiled};
use crate::cli::Global;
use crate::cli::agent::mode;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Table, counted, printable};
use crate::cli::verdicts::moment;
use crate::config::sources;

/// Say what would change if recorded decisions were taken by another policy
#[derive(Args, Debug)]
pub(in crate::cli) struct Simulate {
    /// The other policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    #[command(flatten)]
    past: Past,
}

/// What a policy would change.
#[derive(Serialize)]
struct Simulated {
    policy: String,
    version: String,
    since: Timestamp,
    /// Whether everything since then was looked at.
    complete: bool,
    #[serde(flatten)]
    summary: Summary,
}

pub(super) fn simulate(
    simulate: &Simulate,
    global: &Global,
    out: &mut Output,
) -> Result<(), Failure> {
    let policy = compiled(&simulate.policy)?;
    let (looked, summary) = global.ask(async |mut client| {
        let in_force = in_force(&mut client).await?;
        let (looked, summary) =
            replayed(&policy, in_force.as_ref(), &simulate.past, &mut client).await?;
        simulate.past.say_unknown(looked, in_force.as_ref());
        Ok((looked, summary))
    })?;
    let simulated = Simulated {
        policy: simulate.policy.display().to_string(),
        version: policy.version().to_owned(),
        since: looked.since,
        complete: looked.complete,
        summary,
    };
    looked.say(simulated.summary.oldest);
    if !out.is_table() {
        return Ok(out.value(&simulated, String::new)?);
    }
    show(&simulated, &simulate.policy, out)
}

async fn replayed(
    policy: &Policy,
    in_force: Option<&PolicyView>,
    past: &Past,
    client: &mut Client,
) -> Result<(Looked, Summary), Failure> {
    let looked_at =
        in_force.map(|view| (view.status.version.clone(), view.recorded_headers.clone()));
    let closed = |ip, ranges: &[_], observing| closed(ip, ranges, observing).is_some();
    let mut replay = Replay::new(policy, looked_at, &closed);
    let of_now =
        in_force.and_then(|view| sources::of_version(&view.status.files, &view.status.version));
    if let Some(view) = in_force {
        let agents = view.agents.iter();
        let labels = agents.map(|agent| (agent.name.clone(), agent.labels.clone()));
        replay = replay.labelled(&view.status.version, labels);
    }
    if let Some(of_now) = &of_now {
        replay = replay.beside(of_now);
    }
    let mut summary = Summary::default();
    let looked = past
        .each(client, |decision| {
            summary.add(decision, replay.replay(decision));
        })
        .await?;
    Ok((looked, summary.sorted()))
}

/// The policy in force; none for somebody who may not read it.
pub(super) async fn in_force(client: &mut Client) -> Result<Option<PolicyView>, Failure> {
    match client.policy().await {
        Ok(view) => Ok(Some(view)),
        Err(ClientError::Refused(problem)) if problem.code == ProblemCode::Forbidden => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn show(simulated: &Simulated, policy: &Path, out: &mut Output) -> Result<(), Failure> {
    let Simulated {
        summary, version, ..
    } = simulated;
    let totals = &summary.totals;
    out.text(&format!(
        "candidate  {}, version {version}\nrecord     {}\n",
        printable(&policy.display().to_string()),
        span(
            simulated.since,
            (summary.decisions, totals.attempts),
            (summary.oldest, summary.newest)
        ),
    ))?;
    if !summary.groups.is_empty() {
        let mut table = Table::new(
            &[
                "AGENT",
                "WAS",
                "WOULD BE",
                "KIND",
                "DESTINATION",
                "BEFORE",
                "AFTER",
                "COUNT",
                "EXAMPLES",
            ],
            4,
        );
        for group in &summary.groups {
            table.row(&[
                group
                    .agent
                    .as_ref()
                    .map_or("-".to_owned(), ToString::to_string),
                state(group.was),
                state(group.would_be),
                spelled(group.kind),
                group.destination.clone(),
                by(&group.before),
                by(&group.after),
                group.count.to_string(),
                joined(&group.examples),
            ]);
        }
        out.text("")?;
        out.table(&table)?;
    }
    let mut text = format!(
        "\nunchanged         {}\nchanged           {}, of which {} said otherwise, {} done otherwise\ncannot be told    {}\nnot the policy's  {}\n",
        totals.unchanged,
        totals.changed,
        totals.said_otherwise,
        totals.done_otherwise,
        totals.cannot_tell,
        totals.not_the_policys,
    );
    if summary.ungrouped > 0 {
        text.push_str(&format!(
            "not listed        {}: too many groups\n",
            summary.ungrouped
        ));
    }
    out.text(&text)?;
    if !summary.untold.is_empty() {
        let mut table = Table::new(&["COUNT", "CANNOT BE TOLD BECAUSE", "EXAMPLES"], 1);
        for untold in &summary.untold {
            table.row(&[
                untold.count.to_string(),
                untold.why.clone(),
                joined(&untold.examples),
            ]);
        }
        out.text("")?;
        out.table(&table)?;
    }
    Ok(())
}

/// What was looked at, in words.
pub(super) fn span(
    since: Timestamp,
    (decisions, attempts): (u64, u64),
    (oldest, newest): (Option<Timestamp>, Option<Timestamp>),
) -> String {
    let of = format!(
        "{}, {}",
        counted(decisions, "decision"),
        counted(attempts, "attempt")
    );
    match (oldest, newest) {
        (Some(oldest), Some(newest)) => {
            format!("{of}, from {} to {}", moment(oldest), moment(newest))
        }
        _ => format!("{of} since {}", moment(since)),
    }
}

/// What was said; in parentheses what was not done.
fn state(state: State) -> String {
    if state.verdict != agentguard_model::Verdict::Allow && !state.enforced {
        format!("({})", state.verdict)
    } else {
        state.verdict.to_string()
    }
}

/// A rule and where it stands, or a reason. Of a rule also what it is counted apart by: that it is on paper, and a reason
/// that does not go without saying.
pub(super) fn by(by: &By) -> String {
    let Some(rule) = &by.rule else {
        return by.reason.to_string();
    };
    let mut text = format!("{} ({}:{})", rule.rule, rule.source.file, rule.source.line);
    if let Some(on_paper) = rule.on_paper {
        text.push_str(&format!(", {}", mode(on_paper)));
    }
    if !matches!(
        by.reason,
        ReasonCode::RuleAllow | ReasonCode::RuleDeny | ReasonCode::RuleModify
    ) {
        text.push_str(&format!(", {}", by.reason));
    }
    text
}

pub(super) fn joined(ids: &[agentguard_model::DecisionId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(" ")
}

#[cfg(test)]
mod tests {
    use agentguard_model::{Matched, Mode, ReasonCode, Source};
    use agentguard_policy::replay::By;

    use super::by;

    /// What is counted apart looks apart.
    #[test]
    fn rules_are_told_with_what_tells_them_apart() {
        let told = |on_paper, reason| {
            let source = Source {
                file: "p.yaml".to_owned(),
                line: 4,
            };
            let rule = Matched {
                engine: "rules".to_owned(),
                rule: "a".to_owned(),
                source,
                on_paper,
            };
            by(&By {
                rule: Some(rule),
                reason,
            })
        };
        assert_eq!(told(None, ReasonCode::RuleDeny), "a (p.yaml:4)");
        assert_eq!(
            told(None, ReasonCode::EngineError),
            "a (p.yaml:4), engine_error"
        );
        assert_eq!(
            told(Some(Mode::Shadow), ReasonCode::RuleDeny),
            "a (p.yaml:4), shadow"
        );
        assert_eq!(
            told(Some(Mode::Observe), ReasonCode::NeedsInspection),
            "a (p.yaml:4), observe, needs_inspection"
        );
        let none = By {
            rule: None,
            reason: ReasonCode::NoRule,
        };
        assert_eq!(by(&none), "no_rule");
    }
}
