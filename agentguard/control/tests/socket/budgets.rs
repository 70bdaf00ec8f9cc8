//! Accounts of budgets.

use std::sync::Arc;

use agentguard_budget::{Charge, Ledger as _, Scope, Terms, Want};
use agentguard_control::ClientError;
use agentguard_control::api::ProblemCode;
use agentguard_control::budgets::{AccountState, BudgetQuery};
use agentguard_policy::{Document, compile};
use jiff::Timestamp;

use crate::world::{POLICY, World};

/// Has an account use this much.
fn uses(world: &World, scope: &str, amount: u64) {
    let policy = compile(&[Document {
        path: "policy.yaml".into(),
        text: POLICY.into(),
    }])
    .unwrap();
    let charge = Charge {
        budget: Arc::clone(&policy.budget("team").unwrap().budget),
        scope: Scope::from(scope),
        terms: Terms {
            fixed: amount,
            per_million: 0,
        },
        place: 0,
    };
    let want = Want {
        charges: vec![charge],
        ..Want::default()
    };
    let now = Timestamp::now().as_millisecond();
    let granted = world.ledger.reserves(&want, now).unwrap();
    world.ledger.settle(granted.id, Some(&[amount]), now);
}

#[tokio::test]
async fn accounts_are_told_as_the_ledger_has_them() {
    let world = World::new().await;
    let mut client = world.client().await;
    let told = client.budgets(&BudgetQuery::default()).await.unwrap();
    assert_eq!(told.accounts.len(), 1);
    assert_eq!(told.accounts[0].state, AccountState::Unused);
    // What an agent calls itself stands in a name as it is kept, and is asked for by that.
    let odd = "agent=coder,user=%24%28id%29";
    uses(&world, odd, 250);
    uses(&world, "agent=coder,user=ada", 900);
    let told = client.budgets(&BudgetQuery::default()).await.unwrap();
    let names: Vec<_> = told.accounts.iter().map(|it| &*it.account).collect();
    let name = format!("team/{odd}");
    assert_eq!(names, ["team/agent=coder,user=ada", &*name]);
    let shown = client.budget(&name).await.unwrap();
    assert_eq!((shown.used, shown.left), (250, Some(750)));
    assert_eq!(shown.policy.unwrap().source.file, "policy.yaml");
    let query = BudgetQuery {
        forecast: true,
        ..BudgetQuery::default()
    };
    let told = client.budgets(&query).await.unwrap();
    assert!(told.accounts.iter().all(|it| it.no_forecast.is_some()));
    match client.budget("team/agent=coder,user=ad").await {
        Err(ClientError::Refused(problem)) => {
            assert_eq!(problem.code, ProblemCode::NotFound);
            assert!(
                problem
                    .hint
                    .unwrap()
                    .contains("`team/agent=coder,user=ada`")
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_and_named() {
    let world = World::new().await;
    for (request, says) in [
        (
            "GET /v1/budgets?name=x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "there is no parameter `name`",
        ),
        (
            "GET /v1/budgets/account HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "`name` has to be given",
        ),
        (
            "GET /v1/budgets/account?name=a&name=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "`name` is given twice",
        ),
        (
            "POST /v1/budgets HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "this socket only answers questions",
        ),
    ] {
        let answer = world.raw(request).await;
        assert!(answer.contains(says), "{answer}");
    }
}
