//! A record with many decisions, for measurements: `fill DIRECTORY COUNT [QUERIES]`.
//!
//! They are those of one hour and one agent, `coder`: of sixteen, eight requests inside TLS to `h0.example`
//! to `h999.example`, each with its method and path, four flows there, two names asked for, and two flows that no rule allowed.
//! Then the newest [`ASKED_FOR`] are asked for, as often as is said.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use agentguard_decision::Recorder as _;
use agentguard_model::{
    Action, ActionKind, Agent, Bytes, Context, Decision, DecisionId, Labels, Layer, Mode, Outcome,
    Reason, ReasonCode, Transport, Verdict,
};
use agentguard_record::{Options, Query, Quota, Record};
use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::Timestamp;
use ulid::Ulid;

/// Over how long they are spread, until now.
const SPAN: Duration = Duration::from_secs(3600);
/// How many are written at once.
const AT_ONCE: usize = 512;
/// How many decisions a query is for.
const ASKED_FOR: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, count, queries) = match arguments.as_slice() {
        [directory, count] => (directory, count, "0"),
        [directory, count, queries] => (directory, count, queries.as_str()),
        _ => return Err("usage: fill DIRECTORY COUNT [QUERIES]".into()),
    };
    let (count, queries): (u32, u32) = (count.parse()?, queries.parse()?);
    let options = Options {
        quota: Quota {
            entries_per_second: u32::MAX,
            burst: u32::MAX,
            bytes_per_day: u64::MAX,
        },
        max_bytes: None,
        ..Options::default()
    };
    let record = Record::open(Path::new(directory), options)?;
    let first = Timestamp::now().checked_sub(SPAN)?;
    let mut written = stream::iter(0..count)
        .map(|n| write(&record, first, n, count))
        .buffered(AT_ONCE);
    while let Some(done) = written.next().await {
        done?;
    }
    drop(written);
    for _ in 0..queries {
        let query = Query {
            limit: ASKED_FOR,
            ..Query::default()
        };
        if record.query(query).await?.len() != ASKED_FOR.min(usize::try_from(count)?) {
            return Err("not all that was asked for".into());
        }
    }
    record.close().await;
    Ok(())
}

async fn write(
    record: &Record,
    first: Timestamp,
    n: u32,
    count: u32,
) -> Result<(), Box<dyn Error>> {
    let time = first.checked_add(SPAN.mul_f64(f64::from(n) / f64::from(count)))?;
    let decision = decision(time, n)?;
    let outcome = (decision.verdict == Verdict::Allow).then_some(Outcome {
        bytes: Bytes {
            sent: 800,
            received: 12_000,
        },
        messages: None,
        duration_ms: 90,
        status: None,
        llm: None,
        tool: None,
        budget: Vec::new(),
        error: None,
    });
    let id = record.write(Box::new(decision)).await?;
    if let Some(outcome) = outcome {
        record.outcome(id, outcome);
    }
    Ok(())
}

fn decision(time: Timestamp, n: u32) -> Result<Decision, Box<dyn Error>> {
    let millis = u64::try_from(time.as_millisecond())?;
    let name = format!("h{}.example", n / 16 % 1000);
    let to = |kind| -> Result<Action, Box<dyn Error>> {
        Ok(Action {
            host: Some(name.parse()?),
            port: Some(443),
            transport: Some(Transport::Tcp),
            ..Action::new(kind)
        })
    };
    let (layer, action) = match n % 16 {
        0..8 => (
            Layer::Proxy,
            Action {
                method: Some(if n.is_multiple_of(2) { "GET" } else { "POST" }.to_owned()),
                path: Some(format!("/v1/items/{n}")),
                tls: true,
                ..to(ActionKind::HttpRequest)?
            },
        ),
        8..12 => (Layer::Kernel, to(ActionKind::Connect)?),
        12 | 13 => (
            Layer::Dns,
            Action {
                method: Some("A".to_owned()),
                port: Some(53),
                ..to(ActionKind::DnsQuery)?
            },
        ),
        // Each to another port: equal ones are counted together.
        _ => (
            Layer::Kernel,
            Action {
                port: Some(u16::try_from(1024 + n % 60_000)?),
                ..to(ActionKind::Connect)?
            },
        ),
    };
    let allowed = n % 16 < 14;
    Ok(Decision {
        id: DecisionId(Ulid::from_parts(millis, u128::from(n))),
        time,
        agent: Some(Agent {
            name: "coder".parse()?,
            labels: Labels::new(),
        }),
        context: Context::default(),
        process: None,
        layer,
        action,
        verdict: if allowed {
            Verdict::Allow
        } else {
            Verdict::Deny
        },
        enforced: true,
        mode: Mode::Enforce,
        reason: if allowed {
            Reason::new(ReasonCode::RuleAllow, "Rule api allows it.")
        } else {
            Reason::new(ReasonCode::NoRule, "No rule allows it.")
        },
        matched: Vec::new(),
        changes: None,
        budget: Vec::new(),
        findings: Vec::new(),
        count: 1,
        last: None,
        latency_us: 9,
        trace_parent: None,
        policy_version: "0123456789ab".to_owned(),
        outcome: None,
    })
}
