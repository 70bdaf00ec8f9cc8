//! What is charged to budgets of places, workflows and tools.

use std::sync::Arc;

use agentguard_budget::Embedded;
use agentguard_model::{Context, Labels, ReasonCode, Tool};
use jiff::Timestamp;
use tempfile::TempDir;

use super::{Memory, asked, client, deciding, last, target};
use crate::{Accounting, Client, Decided, Decider, Target};

/// With a ledger in a directory that has to be kept.
fn charging(policy: &str) -> (Decider<Memory>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Embedded::open(directory.path(), Timestamp::now()).unwrap();
    let decider = deciding(policy).charging(Arc::new(Accounting::new(Arc::new(ledger))));
    (decider, directory)
}

/// A TLS connection, a request and bytes of no known kind each go to a place, and the third place is one too many.
#[tokio::test]
async fn of_three_destinations_the_third_is_refused_whatever_goes_there() {
    let policy = "
version: 1
agents: [{name: coder}, {name: watched}]
rules:
  - {id: names, match: {host: ['*.example']}, action: allow}
  - {id: net, match: {cidr: [192.0.2.0/24]}, action: allow}
budgets: [{id: places, unit: destinations, limit: 2, window: day, per: [agent]}]
";
    let raw = Target {
        host: None,
        ip: Some("192.0.2.7".parse().unwrap()),
        port: 22,
    };
    let (tls, plain) = (target("a.example", 443), target("b.example", 80));
    let all = [&tls, &plain, &raw];
    // Each of them may be the one that is too many.
    for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
        let (decider, _ledger) = charging(policy);
        let goes = async |agent: u32, place: usize| -> Decided {
            let client = client(agent);
            match place {
                1 => {
                    decider
                        .request(&client, all[1], &[], &asked("GET", "/"))
                        .await
                }
                _ => {
                    decider
                        .connection(&client, all[place], &[], place == 0)
                        .await
                }
            }
        };
        // Where it went before it may go again.
        for place in [order[0], order[1], order[0], order[1]] {
            let decided = goes(1, place).await;
            assert!(decided.allowed, "{order:?} {place}: {:?}", decided.reason);
        }
        let decided = goes(1, order[2]).await;
        assert!(!decided.allowed, "{order:?}");
        assert_eq!(decided.reason.code, ReasonCode::BudgetExhausted);
        assert_eq!(last(&decider).matched[0].rule, "places");
        assert!(goes(1, order[0]).await.allowed, "{order:?}");
        assert!(goes(2, order[2]).await.allowed, "another agent: {order:?}");
    }
    // Another port is another place.
    let (decider, _ledger) = charging(policy);
    for (port, allowed) in [(443, true), (80, true), (8443, false), (443, true)] {
        let target = target("a.example", port);
        let decided = decider.connection(&client(1), &target, &[], false).await;
        assert_eq!(decided.allowed, allowed, "{port}");
    }
}

#[tokio::test]
async fn each_workflow_and_each_tool_has_its_account() {
    let policy = |per: &str| {
        format!(
            "
version: 1
tool_servers: [{{name: files, api: mcp_stdio}}, {{name: notes, api: mcp_stdio}}]
agents: [{{name: coder}}]
rules: [{{id: all, match: {{tool: {{name: ['*']}}}}, action: allow}}]
budgets: [{{id: one, unit: tool_calls, limit: 1, window: lifetime, per: [{per}]}}]
"
        )
    };
    let uses = async |decider: &Decider<Memory>, run: u32, server: &str, name: &str| {
        let client = Client { run, ..client(1) };
        let decided = decider.local(&client, call(server, name)).await;
        match decided.allowed {
            true => Some(last(decider).budget[0].scope.clone()),
            false => {
                assert_eq!(decided.reason.code, ReasonCode::BudgetExhausted);
                None
            }
        }
    };
    let named = |workflow: &str| Context {
        workflow: Some(workflow.to_owned()),
        ..Context::default()
    };
    let (decider, _ledger) = charging(&policy("workflow"));
    for (run, workflow) in [(5, "release"), (6, "nightly"), (7, "release")] {
        let directory = decider.directory();
        directory.run(run, named(workflow), Labels::default());
    }
    for (run, scope) in [
        (5, Some("workflow=release")),
        (6, Some("workflow=nightly")),
        // Another run of the same.
        (7, None),
        // Nobody has named one.
        (0, Some("workflow=")),
        (0, None),
    ] {
        let got = uses(&decider, run, "files", "read").await;
        assert_eq!(got.as_deref(), scope, "{run}");
    }

    let (decider, _ledger) = charging(&policy("tool"));
    for (server, name, scope) in [
        ("files", "read", Some("tool=files/read")),
        ("files", "list", Some("tool=files/list")),
        ("notes", "read", Some("tool=notes/read")),
        ("files", "read", None),
        ("notes", "read", None),
    ] {
        let got = uses(&decider, 0, server, name).await;
        assert_eq!(got.as_deref(), scope, "{server} {name}");
    }
}

fn call(server: &str, name: &str) -> Tool {
    Tool {
        server: server.to_owned(),
        method: Some("tools/call".to_owned()),
        name: Some(name.to_owned()),
        ..Tool::default()
    }
}
