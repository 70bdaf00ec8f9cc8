//! What a request says of its context in `baggage` (W3C Baggage, 2024-05).

use agentguard_model::Context;
use http::HeaderMap;
use percent_encoding::percent_decode_str;

/// The most bytes of a value that is told.
const MAX_VALUE: usize = 256;

/// The most members that are looked at (W3C Baggage, 3.3.2).
const MAX_MEMBERS: usize = 64;

/// What the members `user.id`, `session.id`, `workflow` and `purpose` say. One that is there twice with different values,
/// is too long or cannot be read says nothing.
#[must_use]
pub fn context(fields: &HeaderMap) -> Context {
    let mut context = Context::default();
    let mut unclear = [false; 4];
    let lines = fields.get_all("baggage").iter();
    let members = lines.filter_map(|line| line.to_str().ok());
    let members = members.flat_map(|line| line.split(','));
    for member in members.take(MAX_MEMBERS) {
        // Properties stand behind a `;`.
        let pair = member.split(';').next().unwrap_or_default();
        let Some((key, value)) = pair.split_once('=') else {
            continue;
        };
        let (place, unclear) = {
            let [user, session, workflow, purpose] = &mut unclear;
            match key.trim() {
                "user.id" => (&mut context.user, user),
                "session.id" => (&mut context.session, session),
                "workflow" => (&mut context.workflow, workflow),
                "purpose" => (&mut context.purpose, purpose),
                _ => continue,
            }
        };
        match self::value(value.trim()) {
            Some(value) if place.as_ref().is_none_or(|other| *other == value) => {
                *place = Some(value);
            }
            _ => *unclear = true,
        }
    }
    let [user, session, workflow, purpose] = unclear;
    Context {
        user: context.user.filter(|_| !user),
        session: context.session.filter(|_| !session),
        workflow: context.workflow.filter(|_| !workflow),
        purpose: context.purpose.filter(|_| !purpose),
        trace_id: None,
    }
}

fn value(text: &str) -> Option<String> {
    if text.len() > 3 * MAX_VALUE {
        return None;
    }
    let value = percent_decode_str(text).decode_utf8().ok()?;
    let fits = !value.is_empty() && value.len() <= MAX_VALUE;
    (fits && !value.chars().any(char::is_control)).then(|| value.into_owned())
}

#[cfg(test)]
mod tests {
    use agentguard_model::Context;
    use http::{HeaderMap, HeaderValue};

    use super::context;

    fn read(lines: &[&str]) -> Context {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append("baggage", HeaderValue::from_str(line).unwrap());
        }
        context(&fields)
    }

    #[test]
    fn members_are_read_in_any_line() {
        let read = read(&[
            "other=1, user.id=ann%20b ;ttl=5",
            "session.id = s-1,workflow=build,purpose=test",
        ]);
        let expected = Context {
            user: Some("ann b".to_owned()),
            session: Some("s-1".to_owned()),
            workflow: Some("build".to_owned()),
            purpose: Some("test".to_owned()),
            trace_id: None,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_not_clear_says_nothing() {
        let long = format!("user.id={}", "x".repeat(257));
        for lines in [
            &["user.id=ann,user.id=bob"][..],
            &["user.id=ann", "user.id=bob"],
            &["user.id=ann,user.id=bob,user.id=ann"],
            &["user.id=%ff"],
            &["user.id=%0a"],
            &["user.id="],
            &["USER.ID=ann"],
            &["user.id"],
            &[&long],
            &[],
        ] {
            assert_eq!(read(lines), Context::default(), "{lines:?}");
        }
        assert_eq!(read(&["user.id=ann,user.id=ann"]).user.unwrap(), "ann");
    }
}
