//! `agentguard verdicts`

use agentguard_control::ClientError;
use agentguard_control::api::{DEFAULT_LIMIT, Line, MAX_LIMIT, VerdictQuery, spelled};
use agentguard_model::{Action, ActionKind, AgentName, Decision, Transport, Verdict};
use agentguard_record::Gap;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::Timestamp;

use super::Global;
use super::failure::Failure;
use super::output::{Format, Output, Table, printable, say, streamed};
use super::since::Since;

/// The columns of the table.
const HEADER: &[&str] = &[
    "TIME",
    "AGENT",
    "VERDICT",
    "KIND",
    "DESTINATION",
    "REASON",
    "ID",
];

/// Which of them gives way on a narrow terminal: the destination.
const FLEXIBLE: usize = 4;

/// Widths while following, where later rows are not known.
const WIDTHS: &[usize] = &[20, 12, 10, 12, 40, 16, 26];

/// The words for an action's kind, as JSON has them.
const KINDS: [(&str, ActionKind); 14] = [
    ("connect", ActionKind::Connect),
    ("datagram", ActionKind::Datagram),
    ("inbound", ActionKind::Inbound),
    ("socket", ActionKind::Socket),
    ("device", ActionKind::Device),
    ("process", ActionKind::Process),
    ("dns_query", ActionKind::DnsQuery),
    ("http_request", ActionKind::HttpRequest),
    ("llm_call", ActionKind::LlmCall),
    ("tool_call", ActionKind::ToolCall),
    ("tool_definition", ActionKind::ToolDefinition),
    ("resource", ActionKind::Resource),
    ("administration", ActionKind::Administration),
    ("budget", ActionKind::Budget),
];

/// The words for a verdict, as JSON has them.
const VERDICTS: [(&str, Verdict); 4] = [
    ("allow", Verdict::Allow),
    ("deny", Verdict::Deny),
    ("modify", Verdict::Modify),
    ("escalate", Verdict::Escalate),
];

/// List decisions, newest last
#[derive(Args, Debug)]
pub(super) struct Verdicts {
    /// Of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    /// With this verdict
    #[arg(long, value_parser = word(VERDICTS))]
    verdict: Option<Verdict>,
    /// On this kind of action
    #[arg(long, value_parser = word(KINDS))]
    kind: Option<ActionKind>,
    /// Not older than this: 90s, 10m, 3h, 2d, 1w, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
    /// The newest so many, at most 10000 [default: 100; with --follow 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LIMIT)))]
    limit: Option<u32>,
    /// Go on with new ones as they are recorded
    #[arg(long)]
    follow: bool,
}

/// Reads one of these words; clap lists them in its help and its errors.
fn word<T: Copy + Send + Sync + 'static, const N: usize>(
    words: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words.map(|(word, _)| word)).try_map(move |given| {
        words
            .iter()
            .find_map(|(word, value)| (*word == given).then_some(*value))
            .ok_or("no such word")
    })
}

pub(super) fn main(verdicts: Verdicts, global: &Global, out: &mut Output) -> Result<(), Failure> {
    if verdicts.follow && out.format == Format::Json {
        return Err(
            Failure::usage("--follow has no end, and one JSON document would have to")
                .hint("use -o jsonl: one document a line"),
        );
    }
    let query = VerdictQuery {
        agent: verdicts.agent,
        verdict: verdicts.verdict,
        kind: verdicts.kind,
        since: verdicts.since.map(|since| since.resolve(Timestamp::now())),
        before: None,
        limit: verdicts.limit,
        follow: verdicts.follow,
    };
    global.ask(async |client| {
        if query.follow {
            follow(client, &query, out).await
        } else {
            once(client, &query, out).await
        }
    })
}

async fn once(
    mut client: agentguard_control::Client,
    query: &VerdictQuery,
    out: &mut Output,
) -> Result<(), Failure> {
    let decisions = client.verdicts(query).await?;
    out.list(&decisions, || {
        let mut table = Table::new(HEADER, FLEXIBLE);
        for decision in &decisions {
            table.row(&cells(decision));
        }
        table
    })?;
    if decisions.is_empty() {
        say_if_unknown(&mut client, query).await;
    }
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if out.format == Format::Table && u32::try_from(decisions.len()) == Ok(limit) {
        say(&format!(
            "these are the newest {limit}; --limit shows more, --since and --agent narrow"
        ));
    }
    Ok(())
}

/// Says that nobody has the name that was asked for. One that the policy had once has decisions
/// still, so it is no error.
async fn say_if_unknown(client: &mut agentguard_control::Client, query: &VerdictQuery) {
    let Some(name) = &query.agent else {
        return;
    };
    // Without an answer it is not said.
    if let Ok(agents) = client.agents().await
        && agents.iter().all(|agent| agent.name != *name)
    {
        say(&format!(
            "no agent of the policy is named {name}; `agentguard agent list` shows those that are"
        ));
    }
}

async fn follow(
    mut client: agentguard_control::Client,
    query: &VerdictQuery,
    out: &mut Output,
) -> Result<(), Failure> {
    say_if_unknown(&mut client, query).await;
    let mut lines = client.follow(query).await?;
    if out.format == Format::Table {
        let header: Vec<String> = HEADER.iter().map(|name| (*name).to_owned()).collect();
        out.text(&streamed(&header, WIDTHS))?;
    }
    while let Some(line) = lines.next().await? {
        match line {
            Line::Decision(decision) | Line::Counted(decision) => match out.format {
                Format::Table => out.text(&streamed(&cells(&decision), WIDTHS))?,
                Format::Json | Format::Jsonl => out.line(&decision)?,
            },
            Line::Gap(gap) => say(&gap_words(&gap)),
            Line::Refused(problem) => return Err(ClientError::Refused(problem).into()),
        }
    }
    Err(Failure::refused(
        "the daemon ended the answer because it stops",
    ))
}

/// What is missing at this point of the stream, in words.
pub(super) fn gap_words(gap: &Gap) -> String {
    let how_many = match gap.lost {
        0 => "an unknown number".to_owned(),
        lost => lost.to_string(),
    };
    let why = gap
        .message
        .as_ref()
        .map_or_else(String::new, |message| format!(": {message}"));
    printable(&format!(
        "warning: gap at {}: {how_many} lost by {}{why}",
        moment(gap.time),
        gap.source
    ))
}

/// A decision as a row.
fn cells(decision: &Decision) -> Vec<String> {
    vec![
        moment(decision.time),
        agent(decision),
        verdict(decision),
        spelled(decision.action.kind),
        destination(&decision.action),
        reason(decision),
        decision.id.to_string(),
    ]
}

/// To the second; the JSON forms have it whole.
pub(super) fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn agent(decision: &Decision) -> String {
    decision
        .agent
        .as_ref()
        .map_or_else(|| "-".to_owned(), |agent| agent.name.to_string())
}

/// The verdict's word, and whether it was only noted.
fn verdict(decision: &Decision) -> String {
    let word = decision.verdict.to_string();
    if decision.enforced || decision.verdict == Verdict::Allow {
        word
    } else {
        format!("({word})")
    }
}

fn reason(decision: &Decision) -> String {
    let code = decision.reason.code.to_string();
    if decision.count > 1 {
        format!("{code} ×{}", decision.count)
    } else {
        code
    }
}

/// Where an action goes, on one line.
pub(super) fn destination(action: &Action) -> String {
    let host = match (&action.host, action.ip) {
        (Some(name), _) => Some(name.to_string()),
        (None, Some(ip)) if ip.is_ipv6() && action.port.is_some() => Some(format!("[{ip}]")),
        (None, Some(ip)) => Some(ip.to_string()),
        (None, None) => None,
    };
    if let (None, None, Some(tool)) = (&host, action.port, &action.tool) {
        // On the agent's own host.
        let what = tool.name.as_ref().or(tool.method.as_ref());
        return match what {
            Some(what) => format!("{} {what}", tool.server),
            None => tool.server.clone(),
        };
    }
    let mut place = host.unwrap_or_default();
    // The port of a query is that of a resolver, and says nothing.
    if let Some(port) = action.port.filter(|_| action.kind != ActionKind::DnsQuery) {
        place.push_str(&format!(":{port}"));
        if action.transport == Some(Transport::Udp) {
            place.push_str("/udp");
        }
    }
    match (&action.method, &action.path) {
        // What CONNECT asks for is no path.
        (Some(method), Some(path)) if !path.starts_with('/') => {
            format!("{method} {place} {path}")
        }
        (Some(method), Some(path)) => format!("{method} {place}{path}"),
        (Some(method), None) if place.is_empty() => method.clone(),
        (Some(method), None) => format!("{place} {method}"),
        (None, Some(path)) => format!("{place}{path}"),
        (None, None) if place.is_empty() => "-".to_owned(),
        (None, None) => place,
    }
}

#[cfg(test)]
mod tests {
    use super::{KINDS, VERDICTS, cells, destination, spelled};
    use agentguard_model::{Action, ActionKind, Decision, Transport};

    #[test]
    fn destinations_as_people_say_them() {
        let bare = Action::new(ActionKind::Connect);
        let port = |port| Some(port);
        for (action, shown) in [
            (bare.clone(), "-"),
            (
                Action {
                    host: Some("api.example".parse().unwrap()),
                    port: port(443),
                    transport: Some(Transport::Tcp),
                    ..bare.clone()
                },
                "api.example:443",
            ),
            (
                Action {
                    ip: Some("2001:db8::1".parse().unwrap()),
                    port: port(443),
                    transport: Some(Transport::Udp),
                    ..bare.clone()
                },
                "[2001:db8::1]:443/udp",
            ),
            (
                Action {
                    kind: ActionKind::HttpRequest,
                    host: Some("api.example".parse().unwrap()),
                    port: port(80),
                    method: Some("DELETE".into()),
                    path: Some("/v1/x".into()),
                    ..bare.clone()
                },
                "DELETE api.example:80/v1/x",
            ),
            (
                Action {
                    kind: ActionKind::DnsQuery,
                    host: Some("api.example".parse().unwrap()),
                    port: port(53),
                    method: Some("A,AAAA".into()),
                    ..bare.clone()
                },
                "api.example A,AAAA",
            ),
            (
                Action {
                    kind: ActionKind::Socket,
                    method: Some("packet/raw/0".into()),
                    ..bare
                },
                "packet/raw/0",
            ),
        ] {
            assert_eq!(destination(&action), shown);
        }
    }

    #[test]
    fn a_row_says_what_was_only_noted_and_what_stands_for_many() {
        let decision: Decision = serde_json::from_value(serde_json::json!({
            "id": "01JD6Z7Q0000000000000000AB", "time": "2026-11-22T04:08:03.9Z",
            "agent": {"name": "coder"}, "context": {}, "layer": "kernel",
            "action": {"kind": "connect", "ip": "192.0.2.1", "port": 22, "transport": "tcp"},
            "verdict": "deny", "enforced": false, "mode": "shadow",
            "reason": {"code": "no_rule", "message": "no rule allows it"},
            "count": 12, "latency_us": 1, "policy_version": "0123456789ab",
        }))
        .unwrap();
        assert_eq!(
            cells(&decision),
            [
                "2026-11-22T04:08:03Z",
                "coder",
                "(deny)",
                "connect",
                "192.0.2.1:22",
                "no_rule ×12",
                "01JD6Z7Q0000000000000000AB"
            ]
        );
    }

    /// A kind that is added to the model is added to `KINDS`, or this does not compile.
    #[test]
    fn every_kind_can_be_asked_for_by_the_word_that_json_has() {
        for (word, kind) in KINDS {
            assert_eq!(word, spelled(kind));
            match kind {
                ActionKind::Connect
                | ActionKind::Datagram
                | ActionKind::Inbound
                | ActionKind::Socket
                | ActionKind::Device
                | ActionKind::Process
                | ActionKind::DnsQuery
                | ActionKind::HttpRequest
                | ActionKind::LlmCall
                | ActionKind::ToolCall
                | ActionKind::ToolDefinition
                | ActionKind::Resource
                | ActionKind::Administration
                | ActionKind::Budget => {}
            }
        }
        let distinct: std::collections::HashSet<_> = KINDS.iter().map(|(_, kind)| kind).collect();
        assert_eq!(distinct.len(), KINDS.len());
        for (word, verdict) in VERDICTS {
            assert_eq!(word, verdict.to_string());
        }
    }
}
