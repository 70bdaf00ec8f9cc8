//! What a client is told where nobody decided.

use agentguard_local::Unanswered;
use agentguard_model::{Reason, ReasonCode};
use agentguard_protocol::jsonrpc::Outline;
use agentguard_protocol::mcp::{AnswerReader, Claims, MessageReader, Questions};
use agentguard_protocol::refusal::Refusal;
use http::StatusCode;

use agentguard_local::api::MAX_LINE;

/// Refuses a message of the client's, to what waits for an answer in it; none where nothing does.
pub(super) fn undecided(line: &[u8], why: &Unanswered) -> Option<String> {
    let mut reader = MessageReader::new(2 * MAX_LINE);
    let read = reader.push(line);
    let read = read.and_then(|()| reader.finish("", &Claims::without_fields(), &[]));
    let questions = match read {
        Ok(sent) => {
            let questions = Questions::of(&sent.messages, sent.batch, true);
            if questions.is_empty() {
                return None;
            }
            questions
        }
        Err(_) => return Some(unread(Outline::of(line).id(), why)),
    };
    Some(refused(&questions, why))
}

/// Refuses a message that cannot be read, to who waits for this id.
pub(super) fn unread(id: Option<&str>, why: &Unanswered) -> String {
    refused(&Questions::unread(id), why)
}

/// What stands in the place of a message of the server's that is not passed on: an error to each request that it
/// answers.
pub(super) fn unpassed(line: &[u8], why: &Unanswered) -> Vec<String> {
    let mut reader = AnswerReader::default();
    reader.whole(line);
    let answered = reader.finish().results.into_iter();
    let reason = reason(why);
    let errors = answered.filter_map(|it| it.id).map(|id| {
        let message = serde_json::Value::from(reason.message.clone());
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":403,"message":{message},"data":{{"reason":"daemon_lost","decision":null}}}}}}"#)
    });
    errors.collect()
}

fn reason(why: &Unanswered) -> Reason {
    Reason::new(
        ReasonCode::DaemonLost,
        format!("Nobody decides on this, so that it is refused: {why}."),
    )
}

fn refused(questions: &Questions, why: &Unanswered) -> String {
    let reason = reason(why);
    let refusal = Refusal {
        status: StatusCode::FORBIDDEN,
        reason: &reason,
        decision: None,
        spent: None,
        retry_after: None,
    };
    let body = questions.refused(&refusal).into_body();
    String::from_utf8_lossy(&body).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> Unanswered {
        Unanswered::Silent {
            socket: "/run/agentguard/agents.sock".into(),
        }
    }

    #[test]
    fn what_waits_for_an_answer_is_told_that_nobody_decides() {
        let call = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a"}}"#;
        let told: serde_json::Value =
            serde_json::from_str(&undecided(call, &silent()).unwrap()).unwrap();
        assert_eq!(told["id"], 7);
        assert_eq!(told["result"]["isError"], true);
        assert_eq!(told["result"]["_meta"]["agentguard/reason"], "daemon_lost");
        let list = br#"{"jsonrpc":"2.0","id":"x","method":"tools/list"}"#;
        let told: serde_json::Value =
            serde_json::from_str(&undecided(list, &silent()).unwrap()).unwrap();
        assert_eq!(
            (&told["id"], &told["error"]["code"]),
            (&"x".into(), &403.into())
        );
        let notice = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(undecided(notice, &silent()), None);
        let twice = br#"{"id":8,"method":"tools/call","params":{"a":1,"a":2}}"#;
        let told = undecided(twice, &silent()).unwrap();
        assert!(
            told.starts_with(r#"{"jsonrpc":"2.0","id":8,"error":"#),
            "{told}"
        );
        assert!(
            undecided(b"no", &silent())
                .unwrap()
                .contains(r#""id":null"#)
        );
    }

    #[test]
    fn an_answer_that_is_not_passed_on_is_an_error_to_who_waits_for_it() {
        let answer = br#"{"jsonrpc":"2.0","id":"a","result":{"content":[]}}"#;
        let told = unpassed(answer, &silent());
        let told: serde_json::Value = serde_json::from_str(&told[0]).unwrap();
        assert_eq!(
            (&told["id"], &told["error"]["code"]),
            (&"a".into(), &403.into())
        );
        assert!(
            unpassed(
                br#"{"jsonrpc":"2.0","method":"notifications/message"}"#,
                &silent()
            )
            .is_empty()
        );
    }
}
