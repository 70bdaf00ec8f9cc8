//! What opens a session, by its target.

use percent_encoding::percent_decode;

use crate::llm::{NotUnderstood, Word};

/// The parameters that name a model: `OpenAI`'s and Azure's, and that of Azure's dated versions.
const MODEL: [&str; 2] = ["model", "deployment"];

/// Those that say nothing of the session: Azure's.
const BESIDE: [&str; 2] = ["api-version", "api-key"];

/// The model that the query of a target asks for, if it names one.
///
/// # Errors
/// It names two, or has a parameter that is not known: some join a session that was made elsewhere (`call_id`), or
/// open one of another kind (`intent`).
pub fn model_of(query: &str) -> Result<Option<String>, NotUnderstood> {
    let mut model = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name)?;
        if BESIDE.contains(&name.as_str()) {
            continue;
        }
        if !MODEL.contains(&name.as_str()) {
            return Err(NotUnderstood::Parameter);
        }
        let mut word = Word::default();
        word.push(&decoded(value)?);
        if word.long {
            return Err(NotUnderstood::Long("model"));
        }
        let named = word.take().ok_or(NotUnderstood::Wrong("model"))?;
        if model.replace(named).is_some() {
            return Err(NotUnderstood::Wrong("model"));
        }
    }
    Ok(model)
}

/// A name or a value without its escapes (WHATWG URL, "application/x-www-form-urlencoded").
fn decoded(text: &str) -> Result<String, NotUnderstood> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode(spaced.as_bytes()).decode_utf8();
    let decoded = decoded.map_err(|_| NotUnderstood::Parameter)?;
    Ok(decoded.into_owned())
}
