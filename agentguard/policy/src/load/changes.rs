//! What a rule changes in what it allows.

use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};

use super::requests::NOT_PASSED_ON;
use super::values::empty;
use super::{Known, MAX_STRING, Report, edits};
use crate::changes::Changes;
use crate::diagnostic::quoted;
use crate::document::{RawMatch, RawRule, RuleAction};
use crate::yaml::Place;

/// The most fields that one rule changes. More are refused.
const MAX_FIELDS: usize = 64;

/// Fields that say how the content is coded, or that the guard itself looks at and writes.
const FIXED: [HeaderName; 2] = [
    header::CONTENT_ENCODING,
    HeaderName::from_static("http2-settings"),
];

/// What a rule changes; nothing, if it only allows or denies.
pub(super) fn changes(
    raw: &RawRule,
    matches: &RawMatch,
    known: &Known<'_>,
    report: &mut Report,
) -> Option<Arc<Changes>> {
    let Some(changes) = &raw.modify else {
        if raw.action == Some(RuleAction::Modify) && !report.in_part {
            let hint = "`modify: {headers: {drop: [cookie]}}`";
            report.error(raw.id.place, "`action: modify` without `modify`", hint);
        }
        return None;
    };
    if raw
        .action
        .is_some_and(|action| action != RuleAction::Modify)
    {
        report.error(
            changes.place,
            "`modify` is for `action: modify`",
            "`action: modify`, or leave `modify` out",
        );
        return None;
    }
    let mut read = Changes::default();
    let headers = changes.value.headers.as_ref();
    if let Some(list) = headers.and_then(|it| it.value.drop.as_ref()) {
        if list.value.is_empty() {
            empty("drop", list, report);
        }
        for entry in &list.value {
            read.dropped
                .extend(field(&entry.value, entry.place, report));
        }
    }
    if let Some(set) = headers.and_then(|it| it.value.set.as_ref()) {
        if set.value.is_empty() {
            empty("set", set, report);
        }
        for (name, value) in &set.value {
            let name = field(name, value.place, report);
            let written = value.value.as_str();
            let visible = written.trim() == written && written.is_ascii();
            let text = HeaderValue::from_str(written).ok();
            let text = text.filter(|text| visible && text.len() <= MAX_STRING);
            if text.is_none() {
                let message = format!("a field has at most {MAX_STRING} visible ASCII characters");
                let hint = "write it as it goes over the wire, without a space at its ends; what is not ASCII percent-encoded";
                report.error(value.place, message, hint);
            }
            if let Some((name, text)) = name.zip(text) {
                if read.set.iter().any(|(other, _)| *other == name) {
                    let message = format!("`{name}` is set twice");
                    report.error(value.place, message, "upper and lower case are the same");
                }
                read.set.push((name, text));
            }
        }
    }
    if read.dropped.len() + read.set.len() > MAX_FIELDS {
        let message = format!("a rule changes at most {MAX_FIELDS} fields");
        report.error(changes.place, message, "make two rules of it");
    }
    let both = read
        .set
        .iter()
        .find(|(name, _)| read.dropped.contains(name));
    if let Some((name, _)) = both {
        let message = format!("`{name}` is dropped and set");
        report.error(
            changes.place,
            message,
            "`set` alone replaces what was there",
        );
    }
    let content = &changes.value;
    read.edits = edits::edits(content, report);
    edits::where_contents_are_read(content, matches, known, report);
    let other = content.redact.is_some() || content.clamp.is_some() || content.json_patch.is_some();
    if read == Changes::default() && !other && !report.in_part {
        let hint = "`modify: {headers: {drop: [cookie], set: {x-agent: coder}}}`, or `modify: {clamp: {/max_tokens: 4096}}`";
        report.error(changes.place, "`modify` changes nothing", hint);
    }
    Some(Arc::new(read))
}

fn field(text: &str, place: Place, report: &mut Report) -> Option<HeaderName> {
    let Ok(name) = HeaderName::try_from(text) else {
        let message = format!("`{}` is not the name of a header field", quoted(text));
        report.error(place, message, "like `cookie`");
        return None;
    };
    if text.contains('*') {
        let message = format!("`{}` is one field of that name", quoted(text));
        report.error(place, message, "fields are named one by one here");
        return None;
    }
    let fixed = NOT_PASSED_ON.contains(&name)
        || FIXED.contains(&name)
        || name.as_str().starts_with("sec-websocket-");
    if fixed {
        let message = format!("`{name}` cannot be changed");
        let hint = "it frames the message or says where it goes, and is the guard's own to write";
        report.error(place, message, hint);
        return None;
    }
    Some(name)
}
