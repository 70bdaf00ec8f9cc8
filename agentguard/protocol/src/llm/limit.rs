//! The limit of a call, made lower before it is sent on: as many tokens as a budget has left for its answer.

use super::cut::set;
use super::{CallReader, Endpoint, InvokeForm, NotUnderstood};
use crate::json::Value;

/// The least that `OpenAI` takes for an answer of Responses.
const LEAST_OUTPUT: u64 = 16;

/// The least that Anthropic takes for what is thought, which has to be less than the limit.
const LEAST_THINKING: u64 = 1024;

/// The least that every model of Google's takes for what is thought, where it is to think.
const LEAST_THOUGHTS: u64 = 512;

/// What Completions of `OpenAI`'s have for a limit where none is named.
const COMPLETIONS: u64 = 16;

/// What Converse passes on to the model as it is.
const PASSED: &str = "additionalModelRequestFields";

/// Why the limit of a call cannot be made lower.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unlimited {
    /// Vectors, numbers of tokens, and what is fetched.
    #[error("its answer has no length that could be limited")]
    NoLength,
    /// Many calls, answered later.
    #[error("calls of a batch have limits of their own, and are answered later")]
    Batch,
    /// A session: what it says is limited in each of its responses.
    #[error("a session of Realtime has no limit that its opening names")]
    Session,
    /// It asks for more answers than there are tokens.
    #[error("it asks for {answers} answers, and only {tokens} tokens are left for them")]
    Answers {
        /// How many answers it asks for.
        answers: u32,
        /// How many tokens there are for all of them.
        tokens: u64,
    },
    /// The API takes no limit as low as this.
    #[error("its API takes no less than {least} for `{field}`, and only {tokens} tokens are left")]
    Least {
        /// The member.
        field: &'static str,
        /// The least that it takes.
        least: u64,
        /// How many tokens there are for an answer.
        tokens: u64,
    },
    /// A member is none that could be limited.
    #[error("`{0}` is not what the API takes there")]
    Wrong(&'static str),
    /// It refuses what names one.
    #[error("its API takes no limit of output")]
    Unknown,
    /// It is not read, so that nobody knows what it asks for.
    #[error(transparent)]
    NotUnderstood(#[from] NotUnderstood),
    /// What was limited reads as if it were not.
    #[error("it would still ask for more")]
    Still,
}

/// Whether an API refuses each call that names a limit of output: `ChatGPT`'s own, which Codex calls, and what makes a
/// conversation of Responses shorter. `host` and `path` are those that are called, in small letters.
#[must_use]
pub fn takes_none(host: &str, path: &str) -> bool {
    let own = host.strip_suffix("chatgpt.com");
    own.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        || path.trim_end_matches('/').ends_with("/responses/compact")
}

/// Makes the limit of a call lower, so that all its answers together have no more than so many tokens: those that are seen,
/// and those that are not. A limit that is low enough already stays, and where there is none this is one. Whether anything
/// was changed.
///
/// `provider`: as the record names it. `OpenAI`'s own models take another member than others that speak Chat Completions do.
///
/// # Errors
/// Why that is not possible; the document is of no use any more.
pub fn limit(
    endpoint: Endpoint,
    provider: &str,
    document: &mut Value,
    tokens: u64,
) -> Result<bool, Unlimited> {
    let members = match endpoint {
        Endpoint::MessageBatches | Endpoint::Batches => return Err(Unlimited::Batch),
        Endpoint::Realtime | Endpoint::RealtimeBeside => return Err(Unlimited::Session),
        endpoint if endpoint.is_unread() => return Err(NotUnderstood::Form.into()),
        endpoint => Members::of(endpoint).ok_or(Unlimited::NoLength)?,
    };
    // What is asked for is what the reader of calls says: the two never differ about which member counts.
    let call = read(endpoint, document)?;
    let answers = call.demand.answers.max(1);
    let each = tokens / u64::from(answers);
    if each == 0 {
        return Err(Unlimited::Answers { answers, tokens });
    }
    let own = matches!(provider, "openai" | "azure_openai");
    let changed = members.limit(document, each, own)?;
    if changed {
        let most = read(endpoint, document)?.max_output_tokens;
        if most.is_none_or(|most| most > each) {
            return Err(Unlimited::Still);
        }
    }
    Ok(changed)
}

fn read(endpoint: Endpoint, document: &Value) -> Result<super::Call, NotUnderstood> {
    let mut reader = CallReader::new(endpoint);
    reader.push(document.written().as_bytes())?;
    reader.finish()
}

/// Which members of a form limit its answers.
#[derive(Clone, Copy, Debug)]
enum Members {
    Chat,
    Completions,
    Responses,
    Messages,
    Gemini,
    Ollama,
    Cohere,
    Converse,
}

impl Members {
    const fn of(endpoint: Endpoint) -> Option<Self> {
        Some(match endpoint {
            Endpoint::ChatCompletions
            | Endpoint::Invoke {
                form: InvokeForm::Chat,
                ..
            } => Self::Chat,
            Endpoint::Completions => Self::Completions,
            Endpoint::Responses => Self::Responses,
            Endpoint::Messages
            | Endpoint::PredictMessages { .. }
            | Endpoint::Invoke {
                form: InvokeForm::Messages,
                ..
            } => Self::Messages,
            Endpoint::GenerateContent { .. } => Self::Gemini,
            Endpoint::OllamaChat | Endpoint::OllamaGenerate => Self::Ollama,
            Endpoint::CohereChat | Endpoint::CohereGenerate => Self::Cohere,
            Endpoint::Converse { .. } => Self::Converse,
            _ => return None,
        })
    }

    /// `own`: the call goes to `OpenAI`'s own models.
    fn limit(self, document: &mut Value, most: u64, own: bool) -> Result<bool, Unlimited> {
        match self {
            Self::Chat => {
                let names = ["max_completion_tokens", "max_tokens"];
                let mut changed = false;
                for name in names {
                    changed |= lower(document, name, most)?;
                }
                if !names.iter().any(|name| is_there(document, name)) {
                    let [newer, older] = names;
                    set(document, if own { newer } else { older }, number(most));
                    changed = true;
                }
                if changed && let Some(reasoning) = object(document, "reasoning") {
                    below(reasoning, "max_tokens", "reasoning.max_tokens", most)?;
                }
                Ok(changed)
            }
            // More than it would have by itself is no lower limit.
            Self::Completions if own && !is_there(document, "max_tokens") => {
                put(document, "max_tokens", most.min(COMPLETIONS))
            }
            Self::Completions => put(document, "max_tokens", most),
            Self::Responses => {
                let field = "max_output_tokens";
                let changed = put(document, field, most)?;
                if changed && own && most < LEAST_OUTPUT {
                    return Err(Unlimited::Least {
                        field,
                        least: LEAST_OUTPUT,
                        tokens: most,
                    });
                }
                Ok(changed)
            }
            Self::Messages => {
                let mut changed = put(document, "max_tokens", most)?;
                if let Some(Value::Array(others)) = document.get_mut("fallbacks") {
                    for other in others {
                        changed |= lower(other, "max_tokens", most)?;
                    }
                }
                if changed {
                    thinking(document, most)?;
                }
                Ok(changed)
            }
            Self::Gemini => gemini(document, most),
            Self::Ollama => put(inside(document, "options")?, "num_predict", most),
            Self::Cohere => {
                let changed = put(document, "max_tokens", most)?;
                if changed && let Some(thinking) = object(document, "thinking") {
                    lower(thinking, "token_budget", most)?;
                }
                Ok(changed)
            }
            Self::Converse => {
                let passed = object(document, PASSED).map(|it| {
                    let changed = lower(it, "max_tokens", most);
                    changed.map(|changed| (changed, count(it, "max_tokens")))
                });
                let (lowered, own) = passed.transpose()?.unwrap_or_default();
                // Of one that is passed on nobody says whether it counts; a higher one beside it would.
                let most_here = own.map_or(most, |own| own.min(most));
                let config = inside(document, "inferenceConfig")?;
                let changed = put(config, "maxTokens", most_here)? || lowered;
                if changed && let Some(passed) = object(document, PASSED) {
                    thinking(passed, most)?;
                }
                Ok(changed)
            }
        }
    }
}

/// In a request of Gemini's, whose members go by two names, one of which is there.
fn gemini(document: &mut Value, most: u64) -> Result<bool, Unlimited> {
    let config = either(document, ["generationConfig", "generation_config"]);
    let config = inside(document, config)?;
    let limit = either(config, ["maxOutputTokens", "max_output_tokens"]);
    let changed = put(config, limit, most)?;
    let thoughts = either(config, ["thinkingConfig", "thinking_config"]);
    if changed && let Some(thoughts) = object(config, thoughts) {
        // They are a part of the output, so that it is short without them; but where they take all of it nothing is said.
        for name in ["thinkingBudget", "thinking_budget"] {
            if count(thoughts, name).is_some_and(|budget| budget > LEAST_THOUGHTS) {
                lower(thoughts, name, most.max(LEAST_THOUGHTS))?;
            }
        }
    }
    Ok(changed)
}

/// Keeps what a model of Anthropic's may think below the limit, as its API has it.
fn thinking(document: &mut Value, most: u64) -> Result<(), Unlimited> {
    for name in ["thinking", "reasoning_config"] {
        if let Some(thinking) = object(document, name) {
            below(thinking, "budget_tokens", "thinking.budget_tokens", most)?;
        }
    }
    Ok(())
}

/// Keeps a budget of thoughts below a limit.
fn below(object: &mut Value, name: &str, field: &'static str, most: u64) -> Result<(), Unlimited> {
    let Some(budget) = count(object, name) else {
        return Ok(());
    };
    let room = most.saturating_sub(1);
    if budget <= room {
        return Ok(());
    }
    if room < LEAST_THINKING {
        return Err(Unlimited::Least {
            field,
            least: LEAST_THINKING,
            tokens: most,
        });
    }
    set(object, name, number(room));
    Ok(())
}

/// Makes a limit lower, or sets it where there is none. Whether it was changed.
fn put(object: &mut Value, name: &'static str, most: u64) -> Result<bool, Unlimited> {
    if is_there(object, name) {
        return lower(object, name, most);
    }
    set(object, name, number(most));
    Ok(true)
}

/// Makes a limit lower, where there is one. Below nothing it is none: as many as there are.
fn lower(object: &mut Value, name: &'static str, most: u64) -> Result<bool, Unlimited> {
    match object.get_mut(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Number(limit)) if limit.parse().is_ok_and(|limit: u64| limit <= most) => {
            Ok(false)
        }
        Some(limit @ Value::Number(_)) => {
            *limit = number(most);
            Ok(true)
        }
        Some(_) => Err(Unlimited::Wrong(name)),
    }
}

/// Whether an object has a member that says something.
fn is_there(object: &Value, name: &str) -> bool {
    object.get(name).is_some_and(|it| *it != Value::Null)
}

/// The one of two names that an object has a member by; the first where it has none.
fn either(object: &Value, names: [&'static str; 2]) -> &'static str {
    let [first, other] = names;
    match is_there(object, first) || object.get(other).is_none() {
        true => first,
        false => other,
    }
}

/// A member that is an object.
fn object<'a>(document: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let member = document.get_mut(name);
    member.filter(|it| matches!(it, Value::Object(_)))
}

/// A member that is an object, which is made where there is none.
fn inside<'a>(document: &'a mut Value, name: &'static str) -> Result<&'a mut Value, Unlimited> {
    if !is_there(document, name) {
        set(document, name, Value::Object(Vec::new()));
    }
    object(document, name).ok_or(Unlimited::Wrong(name))
}

fn number(number: u64) -> Value {
    Value::Number(number.to_string().into())
}

fn count(object: &Value, name: &str) -> Option<u64> {
    match object.get(name) {
        Some(Value::Number(number)) => number.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
