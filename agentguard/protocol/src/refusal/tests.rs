use agentguard_model::budget::{Spent, Unit};
use agentguard_model::{LlmApi, Reason, ReasonCode, Tool};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{Refusal, is_git, is_grpc, status};
use crate::api::a2a;
use crate::api::graphql::Asker;
use crate::eventstream;
use crate::llm::{Endpoint, Stream};
use crate::mcp::Questions;

#[test]
fn a_call_of_grpc_is_refused_in_its_status() {
    let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
    let reason = Reason::new(ReasonCode::RuleDeny, "100 % nein, für\nalle");
    for (status, grpc) in [(403, "7"), (502, "14"), (400, "13")] {
        let refusal = Refusal {
            status: StatusCode::from_u16(status).unwrap(),
            reason: &reason,
            decision: Some(id),
            spent: None,
            retry_after: None,
        };
        let response = refusal.grpc_response();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(is_grpc(response.headers()));
        assert_eq!(response.headers().get("grpc-status").unwrap(), grpc);
        assert_eq!(
            response.headers().get("grpc-message").unwrap(),
            "100 %25 nein, f%C3%BCr%0Aalle (agentguard explain 01ARZ3NDEKTSV4RRFFQ69G5FAV)"
        );
        assert!(response.body().is_empty());
    }
}

#[test]
fn a_call_of_a_language_model_is_refused_as_its_provider_would() {
    let reason = Reason::new(ReasonCode::RuleDeny, "not \"that\" model");
    let refusal = Refusal {
        status: StatusCode::FORBIDDEN,
        reason: &reason,
        decision: Some("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap()),
        spent: None,
        retry_after: None,
    };
    let told = r#"not \"that\" model (agentguard explain 01ARZ3NDEKTSV4RRFFQ69G5FAV)"#;
    for (api, body) in [
        (
            LlmApi::Openai,
            format!(
                r#"{{"error":{{"message":"{told}","type":"invalid_request_error","param":null,"code":"rule_deny"}}}}"#
            ),
        ),
        (
            LlmApi::Anthropic,
            format!(
                r#"{{"type":"error","error":{{"type":"permission_error","message":"{told}"}},"request_id":"01ARZ3NDEKTSV4RRFFQ69G5FAV"}}"#
            ),
        ),
        (
            LlmApi::Gemini,
            format!(
                r#"{{"error":{{"code":403,"message":"{told}","status":"PERMISSION_DENIED"}}}}"#
            ),
        ),
        (LlmApi::Ollama, format!(r#"{{"error":"{told}"}}"#)),
        (LlmApi::Bedrock, format!(r#"{{"message":"{told}"}}"#)),
        (LlmApi::Cohere, format!(r#"{{"message":"{told}"}}"#)),
    ] {
        let response = refusal.llm_response(api);
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.body(), &body);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["x-should-retry"], "false");
        assert!(response.headers().contains_key("x-agentguard-decision"));
        let kind = response.headers().get("x-amzn-errortype");
        assert_eq!(
            kind.is_some_and(|kind| kind == "AccessDeniedException"),
            api == LlmApi::Bedrock
        );
    }
    let event = format!(
        r#"{{"type":"error","status":403,"error":{{"message":"{told}","type":"invalid_request_error","param":null,"code":"rule_deny"}}}}"#
    );
    assert_eq!(refusal.turn_event(None), event.as_bytes());
    let in_lane = event.replacen(r#""error","#, r#""error","stream_id":"a","#, 1);
    assert_eq!(refusal.turn_event(Some("a")), in_lane.as_bytes());
    let fault = format!(
        r#""error":{{"message":"{told}","type":"invalid_request_error","param":null,"code":"rule_deny","event_id":"event_7"}}"#
    );
    let id = refusal.decision.unwrap();
    let event = format!(r#"{{"type":"error","event_id":"event_{id}",{fault}}}"#);
    assert_eq!(refusal.session_event(Some("event_7")), event.as_bytes());
}

#[test]
fn a_stream_ends_with_an_event_that_its_client_takes_for_an_error() {
    let reason = Reason::new(ReasonCode::RuleDeny, "no more");
    let refusal = Refusal {
        status: StatusCode::FORBIDDEN,
        reason: &reason,
        decision: None,
        spent: None,
        retry_after: None,
    };
    for (endpoint, event) in [
        (
            Endpoint::ChatCompletions,
            "data: {\"error\":{\"message\":\"no more\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"rule_deny\"}}\n\n",
        ),
        (
            Endpoint::Responses,
            "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"object\":\"response\",\"status\":\"failed\",\"error\":{\"code\":\"invalid_prompt\",\"message\":\"no more\"},\"output\":[]},\"error\":{\"message\":\"no more\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"rule_deny\"}}\n\n",
        ),
        (
            Endpoint::Messages,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"permission_error\",\"message\":\"no more\"},\"request_id\":null}\n\n",
        ),
        (
            Endpoint::CohereChat,
            "event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"ERROR\",\"error\":\"no more\"}}\n\n",
        ),
    ] {
        let said = refusal.stream_event(endpoint, Stream::Events);
        assert_eq!(String::from_utf8(said).unwrap(), event);
    }
    let line = refusal.stream_event(Endpoint::OllamaChat, Stream::Lines);
    assert_eq!(line, b"{\"error\":\"no more\"}\n");
    let list = Endpoint::GenerateContent { stream: true };
    let item = refusal.stream_event(list, Stream::List);
    let error = r#"{"error":{"code":403,"message":"no more","status":"PERMISSION_DENIED"}}"#;
    assert_eq!(item, error.as_bytes());
    let converse = Endpoint::Converse { stream: true };
    let message = refusal.stream_event(converse, Stream::Messages);
    let [message] = eventstream::messages(&message).unwrap()[..] else {
        panic!("it is one");
    };
    assert_eq!(message.head.message, Some("exception"));
    assert_eq!(message.head.exception, Some("validationException"));
    assert_eq!(message.payload, b"{\"message\":\"no more\"}");
}

#[test]
fn git_is_told_in_a_line_of_text() {
    let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
    let reason = Reason::new(ReasonCode::RuleDeny, "nicht\u{1b}[2J\nfür dich");
    let refusal = Refusal {
        status: StatusCode::FORBIDDEN,
        reason: &reason,
        decision: Some(id),
        spent: None,
        retry_after: None,
    };
    let problem = refusal.response();
    let response = refusal.text_response();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let line = "nicht [2J für dich (agentguard explain 01ARZ3NDEKTSV4RRFFQ69G5FAV)\n".as_bytes();
    assert_eq!(response.body(), line);
    let mut fields = response.headers().clone();
    assert_eq!(fields["content-type"], "text/plain; charset=utf-8");
    assert_eq!(fields["content-length"], line.len().to_string().as_str());
    // All else is as in any refusal.
    for name in ["content-type", "content-length"] {
        fields.insert(name, problem.headers()[name].clone());
    }
    assert_eq!(&fields, problem.headers());
}

#[test]
fn git_s_first_request_is_known_by_its_target() {
    for (target, expected) in [
        ("/a/b.git/info/refs?service=git-upload-pack", true),
        ("/info/refs?service=git-receive-pack", true),
        (
            "https://host.example/a/info/refs?x=y&service=git-upload-pack",
            true,
        ),
        ("/a/info/refs", false),
        ("/a/info/refs?service=upload", false),
        ("/a/info/refs?q=service=git-upload-pack", false),
        ("/a/refs?service=git-upload-pack", false),
        ("/a/git-receive-pack", false),
    ] {
        assert_eq!(is_git(&target.parse().unwrap()), expected, "{target}");
    }
}

#[test]
fn a_problem_document_rfc_9457_3() {
    let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
    let reason = Reason::new(ReasonCode::NoRule, "no rule allows \"it\"\n");
    let refusal = Refusal {
        status: StatusCode::FORBIDDEN,
        reason: &reason,
        decision: Some(id),
        spent: None,
        retry_after: None,
    };
    let body = r#"{"title":"Forbidden","status":403,"detail":"no rule allows \"it\"\n","code":"no_rule","decision":"01ARZ3NDEKTSV4RRFFQ69G5FAV","message":"no rule allows \"it\"\n (agentguard explain 01ARZ3NDEKTSV4RRFFQ69G5FAV)"}"#;
    assert_eq!(refusal.response().body(), body);
    let expected = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\ncache-control: no-store\r\n\
         x-should-retry: false\r\nx-agentguard-decision: 01ARZ3NDEKTSV4RRFFQ69G5FAV\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(String::from_utf8(refusal.last_bytes()).unwrap(), expected);

    let reason = Reason::new(ReasonCode::UpstreamUnreachable, "not now");
    let passing = Refusal {
        reason: &reason,
        ..refusal.clone()
    };
    assert!(!passing.response().headers().contains_key("x-should-retry"));
    let reason = Reason::new(ReasonCode::PolicyChanged, "connect again");
    let elsewhere = Refusal {
        status: StatusCode::MISDIRECTED_REQUEST,
        reason: &reason,
        ..refusal.clone()
    };
    assert_eq!(elsewhere.response().headers()["x-should-retry"], "true");

    let unrecorded = Refusal {
        decision: None,
        ..refusal
    };
    let body = r#"{"title":"Forbidden","status":403,"detail":"no rule allows \"it\"\n","code":"no_rule","message":"no rule allows \"it\"\n"}"#;
    assert_eq!(unrecorded.response().body(), body);
}

fn spent() -> Spent {
    Spent {
        budget: "daily".to_owned(),
        scope: "agent=coder".to_owned(),
        unit: Unit::Tokens,
        limit: 1000,
        used: 990,
        held: 10,
        resets_at: Some("2026-11-29T00:00:00Z".parse().unwrap()),
        retry_after: None,
    }
}

const WHAT: &str = "budget `daily` of agent=coder has used 990 tokens of 1000 tokens, and holds 10 tokens for calls under way; it is reset at 2026-11-29T00:00:00Z";

const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Refuses for this reason, with a budget.
fn for_want<T>(code: ReasonCode, spent: Option<&Spent>, told: impl FnOnce(&Refusal<'_>) -> T) -> T {
    let reason = Reason::new(code, "Too little is left.");
    told(&Refusal {
        // As of what a rule denies in the middle of something.
        status: StatusCode::FORBIDDEN,
        reason: &reason,
        decision: Some(ID.parse().unwrap()),
        spent,
        retry_after: None,
    })
}

#[test]
fn the_status_of_a_refusal_is_that_of_its_reason() {
    for (code, expected) in [
        (ReasonCode::RuleDeny, 403),
        (ReasonCode::BudgetExhausted, 429),
        (ReasonCode::BudgetHeld, 429),
        (ReasonCode::RateLimited, 429),
        (ReasonCode::RetryStorm, 429),
        (ReasonCode::RepeatedCall, 403),
        (ReasonCode::NoProgress, 403),
        (ReasonCode::ChainTooDeep, 403),
        (ReasonCode::CircuitOpen, 503),
        (ReasonCode::LedgerFailed, 503),
    ] {
        assert_eq!(status(code).as_u16(), expected, "{code}");
    }
}

#[test]
fn a_budget_that_is_spent_is_told_as_each_provider_would_and_not_tried_again() {
    let account = spent();
    let told = format!("Too little is left: {WHAT} (agentguard explain {ID})");
    let budget = json!({ "budget": "daily", "scope": "agent=coder", "unit": "tokens", "limit": 1000,
        "used": 990, "held": 10, "resets_at": "2026-11-29T00:00:00Z" });
    let google = [
        json!({ "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "QUOTA_EXHAUSTED",
            "domain": "agentguard" }),
        json!({ "@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [
            { "subject": "agent=coder", "description": WHAT, "quotaId": "daily", "quotaValue": "1000" }] }),
    ];
    for (api, status, body) in [
        (
            LlmApi::Openai,
            429,
            json!({ "error": { "message": told, "type": "usage_limit_reached", "param": null,
                "code": "insufficient_quota", "reason": "budget_exhausted", "resets_at": 1_795_910_400,
                "budget": budget } }),
        ),
        (
            LlmApi::Anthropic,
            429,
            json!({ "type": "error", "error": { "type": "rate_limit_error", "message": told,
                "budget": budget }, "request_id": ID }),
        ),
        (
            LlmApi::Gemini,
            429,
            json!({ "error": { "code": 429, "message": told, "status": "RESOURCE_EXHAUSTED",
                "details": google } }),
        ),
        (
            LlmApi::Ollama,
            429,
            json!({ "error": told, "budget": budget }),
        ),
        (
            LlmApi::Bedrock,
            400,
            json!({ "message": told, "budget": budget }),
        ),
        (
            LlmApi::Cohere,
            402,
            json!({ "message": told, "budget": budget }),
        ),
    ] {
        let response = for_want(ReasonCode::BudgetExhausted, Some(&account), |it| {
            it.llm_response(api)
        });
        assert_eq!(response.status(), status, "{api:?}");
        assert_eq!(json(response.body()), body);
        let fields = response.headers();
        assert_eq!(fields["x-should-retry"], "false");
        assert!(!fields.contains_key("retry-after"));
        let kind = fields
            .get("x-amzn-errortype")
            .map(|it| it.to_str().unwrap());
        let expected = (api == LlmApi::Bedrock).then_some("ServiceQuotaExceededException");
        assert_eq!(kind, expected);
        let shown = fields.get("x-codex-promo-message");
        let shown = shown.map(|it| it.to_str().unwrap().to_owned());
        assert_eq!(shown, (api == LlmApi::Openai).then(|| told.clone()));
    }
    let problem = for_want(ReasonCode::BudgetExhausted, Some(&account), |it| {
        it.response()
    });
    assert_eq!(problem.status(), 429);
    assert_eq!(problem.headers()["x-should-retry"], "false");
    let body = json(problem.body());
    assert_eq!(body["budget"], budget);
    assert_eq!(body["message"], told);
    assert_eq!(body["code"], "budget_exhausted");
}

#[test]
fn limits_and_breakers_say_when_to_come_again_where_that_is_worth_it() {
    for (code, status, wait, again) in [
        (ReasonCode::RateLimited, 429, Some("9"), None),
        (ReasonCode::RetryStorm, 429, Some("9"), None),
        (ReasonCode::CircuitOpen, 503, Some("9"), None),
        (ReasonCode::RepeatedCall, 403, None, Some("false")),
        (ReasonCode::NoProgress, 403, None, Some("false")),
        (ReasonCode::ChainTooDeep, 403, None, Some("false")),
    ] {
        let reason = Reason::new(code, "Too often.");
        let refusal = Refusal {
            status: StatusCode::FORBIDDEN,
            reason: &reason,
            decision: Some(ID.parse().unwrap()),
            spent: None,
            retry_after: Some(9),
        };
        for api in [
            LlmApi::Openai,
            LlmApi::Anthropic,
            LlmApi::Gemini,
            LlmApi::Ollama,
            LlmApi::Bedrock,
            LlmApi::Cohere,
        ] {
            let response = refusal.llm_response(api);
            assert_eq!(response.status(), status, "{code} {api:?}");
            let field = |name: &str| Some(response.headers().get(name)?.to_str().unwrap());
            assert_eq!(field("retry-after"), wait, "{code}");
            assert_eq!(field("x-should-retry"), again, "{code}");
            let body = String::from_utf8(response.body().to_vec()).unwrap();
            assert_eq!(body.contains("try again in 9 s"), wait.is_some(), "{body}");
        }
        let response = refusal.response();
        assert_eq!(response.status(), status, "{code}");
        let problem: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(problem["code"], code.to_string());
        let pushback = refusal.grpc_response();
        let pushback = pushback.headers().get("grpc-retry-pushback-ms");
        assert_eq!(pushback.is_some(), wait.is_some());
    }
}

#[test]
fn what_passes_in_a_moment_is_tried_again_then() {
    let late = Spent {
        retry_after: Some(7),
        ..spent()
    };
    let now = Spent {
        retry_after: Some(0),
        ..spent()
    };
    for (code, account, seconds) in [
        (ReasonCode::RateLimited, Some(&late), "7"),
        (ReasonCode::RateLimited, Some(&now), "1"),
        (ReasonCode::RateLimited, None, "1"),
        (ReasonCode::BudgetHeld, Some(&late), "7"),
        (ReasonCode::BudgetHeld, None, "5"),
    ] {
        for api in [
            LlmApi::Openai,
            LlmApi::Anthropic,
            LlmApi::Gemini,
            LlmApi::Ollama,
            LlmApi::Bedrock,
            LlmApi::Cohere,
        ] {
            let response = for_want(code, account, |it| it.llm_response(api));
            assert_eq!(response.status(), 429, "{api:?}");
            let fields = response.headers();
            assert_eq!(fields["retry-after"], seconds, "{code} {api:?}");
            assert!(!fields.contains_key("x-should-retry"));
            assert!(!fields.contains_key("x-codex-promo-message"));
            let again = format!("; try again in {seconds} s (agentguard explain");
            let body = String::from_utf8(response.body().to_vec()).unwrap();
            assert!(body.contains(&again), "{body}");
            if api == LlmApi::Bedrock {
                assert_eq!(fields["x-amzn-errortype"], "ThrottlingException");
                let milliseconds = format!("{seconds}000");
                assert_eq!(fields["x-amz-retry-after"], milliseconds.as_str());
            }
        }
        let body = for_want(code, account, |it| it.llm_response(LlmApi::Openai));
        let error = &json(body.body())["error"];
        assert_eq!(error["code"], "rate_limit_exceeded");
        assert_eq!(error["reason"], code.to_string());
        assert_eq!(error.get("resets_at"), None);
        let body = for_want(code, account, |it| it.llm_response(LlmApi::Gemini));
        let error = &json(body.body())["error"];
        let details = error["details"].as_array().unwrap();
        let delay = format!("{seconds}s");
        assert_eq!(
            details.last().unwrap()["retryDelay"].as_str(),
            Some(&*delay)
        );
    }
    let failed = for_want(ReasonCode::LedgerFailed, None, |it| {
        it.llm_response(LlmApi::Openai)
    });
    assert_eq!(failed.status(), 503);
    assert!(!failed.headers().contains_key("x-should-retry"));
}

#[test]
fn a_stream_that_runs_into_its_budget_ends_so_that_it_is_not_begun_again() {
    let account = spent();
    let exhausted = |told: &dyn Fn(&Refusal<'_>) -> Vec<u8>| {
        for_want(ReasonCode::BudgetExhausted, Some(&account), told)
    };
    let limited =
        |told: &dyn Fn(&Refusal<'_>) -> Vec<u8>| for_want(ReasonCode::RateLimited, None, told);
    let data = |event: Vec<u8>| {
        let text = String::from_utf8(event).unwrap();
        let (_, data) = text.split_once("data: ").unwrap();
        json(data.as_bytes())
    };
    let responses = |it: &Refusal<'_>| it.stream_event(Endpoint::Responses, Stream::Events);
    let event = data(exhausted(&responses));
    assert_eq!(event["type"], "response.failed");
    assert_eq!(event["response"]["error"]["code"], "invalid_prompt");
    let failed = data(for_want(ReasonCode::LedgerFailed, None, responses));
    assert_eq!(failed["response"]["error"]["code"], "server_error");
    assert_eq!(failed["error"]["type"], "server_error");
    let message = event["response"]["error"]["message"].as_str().unwrap();
    assert!(message.contains(WHAT), "{message}");
    assert_eq!(event["error"]["code"], "insufficient_quota");
    let event = data(limited(&responses));
    assert_eq!(event["response"]["error"]["code"], "rate_limit_exceeded");
    let message = event["response"]["error"]["message"].as_str().unwrap();
    assert!(message.contains("try again in 1 s"), "{message}");

    let messages = |it: &Refusal<'_>| it.stream_event(Endpoint::Messages, Stream::Events);
    let event = data(exhausted(&messages));
    assert_eq!(event["error"]["type"], "rate_limit_error");
    assert_eq!(event["error"]["budget"]["limit"], 1000);

    let converse = Endpoint::Converse { stream: true };
    let messages = |it: &Refusal<'_>| it.stream_event(converse, Stream::Messages);
    for (event, kind) in [
        (exhausted(&messages), "validationException"),
        (limited(&messages), "throttlingException"),
    ] {
        let [message] = eventstream::messages(&event).unwrap()[..] else {
            panic!("it is one");
        };
        assert_eq!(message.head.exception, Some(kind));
    }
    let lines = |it: &Refusal<'_>| it.stream_event(Endpoint::OllamaChat, Stream::Lines);
    assert_eq!(json(&exhausted(&lines))["budget"]["used"], 990);
}

#[test]
fn turns_and_sessions_are_told_of_budgets_in_events_of_theirs() {
    let account = spent();
    let told =
        |code, event: fn(&Refusal<'_>) -> Vec<u8>| json(&for_want(code, Some(&account), event));
    let event = told(ReasonCode::BudgetExhausted, |it| it.turn_event(None));
    assert_eq!(event["type"], "error");
    assert_eq!(event["status"], 429);
    assert_eq!(event["error"]["type"], "usage_limit_reached");
    assert_eq!(event["error"]["resets_at"], 1_795_910_400);
    let shown = event["headers"]["x-codex-promo-message"].as_str().unwrap();
    assert!(shown.contains(WHAT), "{shown}");
    let event = told(ReasonCode::RateLimited, |it| it.turn_event(None));
    assert_eq!(event["type"], "response.failed");
    assert_eq!(event["response"]["error"]["code"], "rate_limit_exceeded");
    let event = told(ReasonCode::BudgetExhausted, |it| {
        it.session_event(Some("event_7"))
    });
    assert_eq!(event["error"]["event_id"], "event_7");
    assert_eq!(event["error"]["code"], "insufficient_quota");
    assert_eq!(event["error"]["budget"]["budget"], "daily");
}

#[test]
fn calls_of_grpc_are_told_whether_to_come_back() {
    let late = Spent {
        retry_after: Some(7),
        ..spent()
    };
    for (code, pushback) in [
        (ReasonCode::BudgetExhausted, "-1"),
        (ReasonCode::RateLimited, "7000"),
        (ReasonCode::BudgetHeld, "7000"),
    ] {
        let response = for_want(code, Some(&late), |it| it.grpc_response());
        assert_eq!(response.headers()["grpc-status"], "8");
        assert_eq!(response.headers()["grpc-retry-pushback-ms"], pushback);
    }
    let failed = for_want(ReasonCode::LedgerFailed, None, |it| it.grpc_response());
    assert_eq!(failed.headers()["grpc-status"], "14");
    assert!(!failed.headers().contains_key("grpc-retry-pushback-ms"));
}

#[test]
fn tools_are_answered_that_a_budget_is_spent() {
    let account = spent();
    let call = Tool {
        id: Some("7".to_owned()),
        method: Some("tools/call".to_owned()),
        ..Tool::default()
    };
    let calls = [call];
    let said = |questions: Questions| {
        let response = for_want(ReasonCode::BudgetExhausted, Some(&account), |it| {
            questions.refused(it)
        });
        assert_eq!(response.status(), 200);
        json(response.body())
    };
    let result = &said(Questions::of(&calls, false, true))["result"];
    assert_eq!(result["isError"], true);
    assert_eq!(result["_meta"]["agentguard/budget"]["limit"], 1000);
    let text = result["content"][0]["text"].as_str().unwrap();
    assert!(text.contains(WHAT), "{text}");
    let error = &said(Questions::of_json_rpc(&calls, false))["error"];
    assert_eq!(error["code"], 429);
    assert_eq!(error["data"]["budget"]["scope"], "agent=coder");

    let asker = Asker::new(&HeaderMap::new(), false);
    let response = for_want(ReasonCode::BudgetExhausted, Some(&account), |it| {
        asker.refused(it)
    });
    assert_eq!(response.status(), 200);
    let error = &json(response.body())["errors"][0]["extensions"];
    assert_eq!(error["code"], "budget_exhausted");
    assert_eq!(error["budget"]["used"], 990);

    let response = for_want(ReasonCode::BudgetExhausted, Some(&account), a2a::refused);
    assert_eq!(response.status(), 429);
    let body = json(response.body());
    assert_eq!(body["error"]["status"], "RESOURCE_EXHAUSTED");
    assert_eq!(body["budget"]["budget"], "daily");
}

#[test]
fn what_a_reason_says_itself_is_not_said_twice() {
    let account = spent();
    let reason = Reason::new(
        ReasonCode::BudgetExhausted,
        format!("No, since {WHAT}. Ask ops."),
    );
    let refusal = Refusal {
        status: status(reason.code),
        reason: &reason,
        decision: None,
        spent: Some(&account),
        retry_after: None,
    };
    assert_eq!(refusal.message(), reason.message);
    // Names of budgets and scopes may be any text; fields may not.
    let reason = Reason::new(ReasonCode::BudgetExhausted, "für\n\"x\"");
    let refusal = Refusal {
        reason: &reason,
        spent: None,
        retry_after: None,
        ..refusal
    };
    let response = refusal.llm_response(LlmApi::Openai);
    assert_eq!(response.headers()["x-codex-promo-message"], "f?r?\"x\"");
}
