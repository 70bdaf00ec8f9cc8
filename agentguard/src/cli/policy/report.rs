//! `agentguard policy report`

use agentguard_control::api::{PolicyView, spelled};
use agentguard_model::{Mode, Verdict};
use agentguard_policy::report::{Difference, OnPaper, Report};
use jiff::Timestamp;
use serde::Serialize;

use super::past::Past;
use super::simulate::{by, in_force, joined, span};
use crate::cli::Global;
use crate::cli::agent::mode;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Table, say};
use crate::cli::verdicts::moment;

/// What the modes keep from being done.
#[derive(Serialize)]
struct Reported {
    since: Timestamp,
    /// Whether everything since then was looked at.
    complete: bool,
    #[serde(flatten)]
    report: Report,
}

pub(super) fn report(past: &Past, global: &Global, out: &mut Output) -> Result<(), Failure> {
    let (looked, report, known) = global.ask(async |mut client| {
        let in_force = in_force(&mut client).await?;
        let on_paper = in_force.as_ref().map(on_paper);
        let mut report = Report::default();
        let looked = past
            .each(&mut client, |decision| {
                report.add(decision, on_paper.as_ref());
            })
            .await?;
        past.say_unknown(looked, in_force.as_ref());
        Ok((looked, report.sorted(), on_paper.is_some()))
    })?;
    looked.say(report.oldest);
    if !known {
        say(
            "what rules on paper would have allowed is told to root, and whoever may read the policy",
        );
    }
    let reported = Reported {
        since: looked.since,
        complete: looked.complete,
        report,
    };
    if !out.is_table() {
        return Ok(out.value(&reported, String::new)?);
    }
    show(&reported, out)
}

/// The rules that allow something and are not in force, or not for all sessions.
fn on_paper(view: &PolicyView) -> OnPaper {
    let rules = view.rules.iter().filter(|rule| {
        let in_part = rule.rollout.is_some_and(|share| share < 100);
        rule.action != Verdict::Deny && (rule.mode != Mode::Enforce || in_part)
    });
    let allowances = rules.map(|rule| match rule.mode {
        // It is in force for other sessions.
        Mode::Enforce => (rule.id.clone(), Mode::Shadow),
        mode => (rule.id.clone(), mode),
    });
    OnPaper {
        version: view.status.version.clone(),
        allowances: allowances.collect(),
    }
}

fn show(reported: &Reported, out: &mut Output) -> Result<(), Failure> {
    let report = &reported.report;
    out.text(&format!(
        "record  {}",
        span(
            reported.since,
            (report.decisions, report.attempts),
            (report.oldest, report.newest)
        )
    ))?;
    for (title, differences) in [
        (
            "went on, and would be denied in enforce mode",
            &report.would_be_denied,
        ),
        (
            "went on, and would be changed in enforce mode where it was not",
            &report.would_be_modified,
        ),
        (
            "was denied, and would be allowed by a rule in enforce mode",
            &report.would_be_allowed,
        ),
    ] {
        let total: u64 = differences
            .iter()
            .fold(0, |sum, it| sum.saturating_add(it.count));
        out.text(&format!("\n{total} {title}"))?;
        if !differences.is_empty() {
            out.table(&table(differences))?;
        }
    }
    if report.ungrouped > 0 {
        out.text(&format!(
            "\nnot listed: {}, in too many groups",
            report.ungrouped
        ))?;
    }
    if report.of_earlier_policies > 0 {
        out.text(&format!(
            "\nnot told: {} that were denied under earlier policies, on paper perhaps not",
            report.of_earlier_policies
        ))?;
    }
    Ok(())
}

fn table(differences: &[Difference]) -> Table {
    let mut table = Table::new(
        &[
            "AGENT",
            "MODE",
            "BY",
            "KIND",
            "DESTINATION",
            "COUNT",
            "FIRST",
            "LAST",
            "EXAMPLES",
        ],
        4,
    );
    for it in differences {
        table.row(&[
            it.agent
                .as_ref()
                .map_or("-".to_owned(), ToString::to_string),
            mode(it.mode).to_owned(),
            by(&it.by),
            spelled(it.kind),
            it.destination.clone(),
            it.count.to_string(),
            moment(it.first),
            moment(it.last),
            joined(&it.examples),
        ]);
    }
    table
}
