//! What a decision costs: `decisions describe DIRECTORY`, `decisions measure` and `decisions repeat CASE COUNT`.
//!
//! `describe` writes each case as `CASE.json`, for whoever is measured beside us: its rules, and calls with
//! what the rules say of them. `measure` times the same calls here and prints each figure as a line of
//! JSON: `case`, `subject`, `metric`, `unit`, `value`. `cargo xtask bench policy` runs both. `repeat` takes so many
//! decisions of one case, for `cargo xtask instructions`.

mod made;

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use agentguard_model::Verdict;
use agentguard_policy::{AgentPolicy, Document, Policy, compile};
use serde_json::json;

use made::{CASES, Call, Case};

/// Calls that are timed for one figure.
const TIMED: usize = 200_000;
/// One without rules for its calls, and the same with a hundred times as many: goals compare these.
const GROWTH: [&str; 2] = ["policy-100-miss", "policy-10000-miss"];
/// The name under which those two are compared.
const GROWN: &str = "policy-growth-miss";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [task, directory] if task == "describe" => describe(Path::new(directory)),
        [task] if task == "measure" => measure(),
        [task, case, count] if task == "repeat" => repeat(case, count.parse()?),
        _ => Err(
            "usage: decisions describe DIRECTORY | decisions measure | decisions repeat CASE COUNT"
                .into(),
        ),
    }
}

fn describe(directory: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(directory)?;
    for case in CASES {
        let text = serde_json::to_string(&case.description())?;
        std::fs::write(directory.join(format!("{}.json", case.name)), text)?;
    }
    Ok(())
}

fn measure() -> Result<(), Box<dyn Error>> {
    for case in CASES {
        let policy = compiled(case)?;
        let agent = made::AGENT.parse()?;
        let agent = policy.agent(&agent).ok_or("no agent")?;
        let calls = case.calls()?;
        check(case, &policy, agent, &calls)?;
        let [p50, p99] = timed(&policy, agent, &calls)?;
        for (metric, value) in [("p50", p50), ("p99", p99)] {
            sample(case.name, "agentguard", metric, value);
            match GROWTH.iter().position(|name| *name == case.name) {
                Some(0) => sample(GROWN, "hundred_rules", metric, value),
                Some(_) => sample(GROWN, "agentguard", metric, value),
                None => {}
            }
        }
    }
    Ok(())
}

fn repeat(case: &str, count: usize) -> Result<(), Box<dyn Error>> {
    let case = CASES.iter().find(|known| known.name == case);
    let case = case.ok_or("no such case")?;
    let policy = compiled(case)?;
    let agent = made::AGENT.parse()?;
    let agent = policy.agent(&agent).ok_or("no agent")?;
    let calls = case.calls()?;
    check(case, &policy, agent, &calls)?;
    for call in calls.iter().cycle().take(count) {
        drop(black_box(policy.decide(agent, black_box(&call.facts()))));
    }
    Ok(())
}

fn compiled(case: &Case) -> Result<Policy, Box<dyn Error>> {
    let document = Document {
        path: format!("{}.yaml", case.name),
        text: case.policy(),
    };
    Ok(compile(&[document]).map_err(|found| found.to_string())?)
}

/// Whether each call is decided as its description says: else something else would be measured.
fn check(
    case: &Case,
    policy: &Policy,
    agent: &AgentPolicy,
    calls: &[Call],
) -> Result<(), Box<dyn Error>> {
    for call in calls {
        let ruling = policy.decide(agent, &call.facts());
        if (ruling.verdict == Verdict::Allow) != call.allowed {
            let message = &ruling.reason.message;
            return Err(format!("{}: not as described: {message}", case.name).into());
        }
    }
    Ok(())
}

/// The median and the 99th percentile of single calls in ns. What reading the clock takes is in it.
fn timed(policy: &Policy, agent: &AgentPolicy, calls: &[Call]) -> Result<[f64; 2], Box<dyn Error>> {
    let mut times = Vec::with_capacity(TIMED);
    for call in calls.iter().cycle().take(TIMED) {
        let facts = call.facts();
        let begun = Instant::now();
        let ruling = black_box(policy.decide(agent, black_box(&facts)));
        times.push(begun.elapsed().as_nanos());
        drop(ruling);
    }
    times.sort_unstable();
    let mut figures = [0.0; 2];
    for (figure, part) in figures.iter_mut().zip([50, 99]) {
        let time = times.get(times.len() * part / 100).ok_or("no times")?;
        *figure = f64::from(u32::try_from(*time)?);
    }
    Ok(figures)
}

fn sample(case: &str, subject: &str, metric: &str, ns: f64) {
    let line = json!({
        "case": case, "subject": subject, "metric": metric, "unit": "us", "value": ns / 1e3,
    });
    println!("{line}");
}
