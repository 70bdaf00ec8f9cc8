use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{CONNECTIONS, Listening, encode, serve};
use crate::{AgentVitals, BudgetVitals, MAX_ACCOUNTS, Vitals, parts};

fn figures() -> crate::Figures {
    let (_, figures, ..) = parts(false);
    let mut taken = agentguard_model::ResourceUsage::default();
    taken.cpu.used_us = 1_250_000;
    taken.memory = Some(agentguard_model::MemoryUsage {
        current: 4096,
        above_high: 3,
        oom_kills: 2,
        ..agentguard_model::MemoryUsage::default()
    });
    taken.pids = Some(agentguard_model::PidsUsage {
        refused: 5,
        ..agentguard_model::PidsUsage::default()
    });
    taken.io = Some(agentguard_model::IoUsage {
        read: 101,
        written: 22,
    });
    taken.pressure.memory = Some(agentguard_model::Pressure {
        some_us: 2_500_000,
        ..agentguard_model::Pressure::default()
    });
    figures.asks(Arc::new(move || Vitals {
        version: "0.1.0".to_owned(),
        policy: "a\"b\\c\nd".to_owned(),
        agents: vec![AgentVitals {
            name: "coder".to_owned(),
            quarantined: true,
            runs: 2,
            traffic: Some((1, 2, 3)),
            resources: Some(taken.clone()),
        }],
        budgets: accounts(),
        budget_accounts: 700,
        ..Vitals::default()
    }));
    figures
}

/// More than are told, the fullest first; the second has the label of the first, once that is cut.
fn accounts() -> Vec<BudgetVitals> {
    let account = |scope: String, used| BudgetVitals {
        budget: "day".to_owned(),
        scope,
        unit: "micro_usd".to_owned(),
        used,
        held: 7,
        limit: 5_000_000,
    };
    let long = format!("model={}", "x".repeat(200));
    let all = account(String::new(), 9000);
    let alike = [
        account(format!("{long}1"), 8000),
        account(format!("{long}2"), 7000),
    ];
    let others = (0..2 * MAX_ACCOUNTS).map(|n| account(format!("agent=a-{n}"), 1));
    std::iter::once(all).chain(alike).chain(others).collect()
}

async fn asked(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    head: &str,
) -> String {
    stream
        .write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[test]
fn figures_are_text_of_both_formats_with_what_others_wrote_escaped() {
    let figures = figures();
    let text = encode(&figures, false).unwrap();
    for line in [
        "# HELP agentguard_policy_info 1 for the policy in force",
        "# TYPE agentguard_policy_info gauge",
        r#"agentguard_policy_info{version="a\"b\\c\nd"} 1.0"#,
        r#"agentguard_agent_traffic_bytes_total{agent="coder",direction="sent"} 1"#,
        "agentguard_agents_quarantined 1.0",
        "agentguard_runs 2.0",
        "# TYPE agentguard_decision_duration_seconds histogram",
        r#"agentguard_telemetry_lost_total{what="spans"} 0"#,
        r#"agentguard_budget_used{budget="day",unit="micro_usd"} 9000.0"#,
        r#"agentguard_budget_held{budget="day",unit="micro_usd"} 7.0"#,
        r#"agentguard_budget_limit{budget="day",scope="agent=a-0",unit="micro_usd"} 5000000.0"#,
        "agentguard_budget_accounts 700.0",
        r#"agentguard_agent_memory_slowed{agent="coder"} 3.0"#,
        r#"agentguard_agent_memory_kills{agent="coder"} 2.0"#,
        r#"agentguard_agent_tasks_refused{agent="coder"} 5.0"#,
        r#"agentguard_agent_devices_bytes{agent="coder",direction="read"} 101.0"#,
        r#"agentguard_agent_devices_bytes{agent="coder",direction="written"} 22.0"#,
        r#"agentguard_agent_waiting_seconds{agent="coder",resource="memory"} 2.5"#,
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    assert!(!text.contains("# EOF"));
    // What the host does not tell is no 0.
    assert!(!text.contains(r#"resource="cpu""#) && !text.contains(r#"resource="io""#));
    // The fullest are told, and of two that look the same the fuller one.
    let used: Vec<&str> = text
        .lines()
        .filter(|it| it.starts_with("agentguard_budget_used{"))
        .collect();
    assert_eq!(used.len(), MAX_ACCOUNTS - 1);
    assert!(!text.contains("scope=\"_other\""));
    let long = used.iter().find(|it| it.contains("scope=\"model=x"));
    assert!(long.unwrap().ends_with(" 8000.0"), "{long:?}");
    let text = encode(&figures, true).unwrap();
    assert!(
        text.ends_with("# EOF\n")
            && text.contains("# UNIT agentguard_policy_loaded_timestamp_seconds seconds")
    );
    // Asked again it says the same: what is asked of the daemon is not added to what was.
    assert_eq!(text, encode(&figures, true).unwrap());
}

#[tokio::test]
async fn one_path_is_served_in_the_format_that_is_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let over = CancellationToken::new();
    let serving = tokio::spawn(serve(Listening::Tcp(listener), figures(), over.clone()));
    for (head, status, told) in [
        ("GET /metrics HTTP/1.1", "200", "text/plain; version=0.0.4"),
        (
            "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0",
            "200",
            "# EOF",
        ),
        ("GET /metrics?x=y HTTP/1.0", "200", "agentguard_runs 2"),
        ("HEAD /metrics HTTP/1.1", "200", "content-length"),
        ("POST /metrics HTTP/1.1", "405", "allow: GET"),
        ("GET / HTTP/1.1", "404", "/metrics"),
    ] {
        let mut stream = TcpStream::connect(place).await.unwrap();
        let answer = asked(&mut stream, head).await;
        assert!(
            answer.get(9..12) == Some(status) && answer.contains(told),
            "{head}: {answer}"
        );
    }
    over.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn those_who_ask_slowly_keep_nobody_out_for_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let over = CancellationToken::new();
    tokio::spawn(serve(Listening::Tcp(listener), figures(), over.clone()));
    let mut slow = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(place).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\n")
            .await
            .unwrap();
        slow.push(stream);
    }
    let mut stream = TcpStream::connect(place).await.unwrap();
    let asked = tokio::time::timeout(
        Duration::from_secs(20),
        asked(&mut stream, "GET /metrics HTTP/1.1"),
    );
    assert!(asked.await.unwrap().starts_with("HTTP/1.1 200"));
    over.cancel();
}

#[tokio::test]
async fn who_may_not_read_is_not_answered_at_a_socket() {
    let path = std::env::temp_dir().join(format!("metrics-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let may = Arc::new(AtomicBool::new(false));
    let over = CancellationToken::new();
    let judge = Arc::clone(&may);
    let judged = Listening::Unix(listener, Arc::new(move |_| judge.load(Ordering::SeqCst)));
    tokio::spawn(serve(judged, figures(), over.clone()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    assert!(read.is_err() || answer.is_empty(), "{answer:?}");
    may.store(true, Ordering::SeqCst);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert!(
        asked(&mut stream, "GET /metrics HTTP/1.1")
            .await
            .starts_with("HTTP/1.1 200")
    );
    over.cancel();
    std::fs::remove_file(&path).unwrap();
}
