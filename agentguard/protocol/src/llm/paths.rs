//! Paths that name a model beside what is to be done with it.
//!
//! Whatever some server takes for one of these is one: an encoded slash is a slash, case is not looked at, and what
//! stands behind a `;` is cut off.

use agentguard_model::LlmApi;

use super::{Endpoint, MAX_WORD, NotUnderstood};

/// Where a request goes, by its canonical path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The model that the path names, decoded. What an API has as a prefix before all models (`models/`) is no
    /// part of it.
    pub model: Option<String>,
}

impl Route {
    /// The route of a request, by its canonical path. None where it is for something else.
    #[must_use]
    pub fn of(api: LlmApi, path: &str) -> Option<Self> {
        let segments = segments(path);
        let own = match api {
            LlmApi::Openai | LlmApi::Anthropic => None,
            LlmApi::Gemini => google(&segments),
            LlmApi::Ollama => ollama(&segments),
        };
        if own.is_some() {
            return own;
        }
        // Who has a form of their own speaks others too, below other paths.
        let spoken: &[LlmApi] = match api {
            LlmApi::Openai | LlmApi::Gemini => &[LlmApi::Openai],
            LlmApi::Anthropic => &[LlmApi::Anthropic],
            LlmApi::Ollama => &[LlmApi::Openai, LlmApi::Anthropic],
        };
        let endpoint = spoken.iter().find_map(|api| Endpoint::of(*api, path))?;
        Some(Self {
            endpoint,
            model: deployment(&segments),
        })
    }

    /// The model that is called, where the content names `named`.
    ///
    /// # Errors
    /// Path and content name two: which of them a server takes is not known. Or the name is longer than
    /// [`MAX_WORD`].
    pub fn model(&self, named: Option<String>) -> Result<Option<String>, NotUnderstood> {
        let Some(model) = &self.model else {
            return Ok(named);
        };
        if model.len() > MAX_WORD {
            return Err(NotUnderstood::Long("model"));
        }
        if self.endpoint.is_openai() {
            // A deployment is what is called, whatever the content says.
            return Ok(Some(model.clone()));
        }
        match named {
            Some(named) if named != *model && bare(&named) != model => {
                Err(NotUnderstood::Wrong("model"))
            }
            _ => Ok(Some(model.clone())),
        }
    }
}

/// A model of Google's without what stands before its name.
fn bare(name: &str) -> &str {
    match name.rsplit_once("/models/") {
        Some((_, name)) => name,
        None => name.strip_prefix("models/").unwrap_or(name),
    }
}

/// The segments of a path, decoded; none of them is empty.
fn segments(path: &str) -> Vec<String> {
    let path = path.replace("%2F", "/").replace("%2f", "/");
    let segments = path.split('/').map(|segment| {
        let segment = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
        segment.split(';').next().unwrap_or_default().to_owned()
    });
    segments.filter(|segment| !segment.is_empty()).collect()
}

/// Azure's deployments, and what is deployed at an endpoint of Vertex AI: there `openapi` stands for all models.
fn deployment(segments: &[String]) -> Option<String> {
    let mut pairs = segments.windows(2).filter_map(|pair| match pair {
        [before, name] => Some((before.as_str(), name.as_str())),
        _ => None,
    });
    pairs.find_map(|(before, name)| match before {
        "deployments" => Some(name.to_owned()),
        "endpoints" if name != "openapi" => Some(format!("endpoints/{name}")),
        _ => None,
    })
}

/// The Gemini API and Vertex AI: `…/models/MODEL:generateContent`, and the names of their methods in gRPC.
fn google(segments: &[String]) -> Option<Route> {
    let (last, before) = segments.split_last()?;
    let is_service = before
        .last()
        .is_some_and(|it| it.to_ascii_lowercase().starts_with("google."));
    let (id, method) = match last.rsplit_once(':') {
        Some(named) => named,
        None if is_service => ("", last.as_str()),
        None if last.eq_ignore_ascii_case("interactions") => {
            return Some(Route {
                endpoint: Endpoint::Interactions,
                model: None,
            });
        }
        None => return None,
    };
    let model = google_model(before, id);
    let of_anthropic = model.of("anthropic");
    let endpoint = match method.to_ascii_lowercase().as_str() {
        "generatecontent" => Endpoint::GenerateContent { stream: false },
        "streamgeneratecontent" => Endpoint::GenerateContent { stream: true },
        "counttokens" => Endpoint::ContentTokens,
        "embedcontent" | "batchembedcontents" => Endpoint::EmbedContent,
        "predict" if id.to_ascii_lowercase().contains("embedding") => Endpoint::EmbedContent,
        // Its clients name the model in the content there.
        "rawpredict" if of_anthropic && id.eq_ignore_ascii_case("count-tokens") => {
            return Some(Route {
                endpoint: Endpoint::MessagesTokens,
                model: None,
            });
        }
        "rawpredict" if of_anthropic => Endpoint::PredictMessages { stream: false },
        "streamrawpredict" if of_anthropic => Endpoint::PredictMessages { stream: true },
        "rawpredict" => Endpoint::Predict { stream: false },
        "streamrawpredict" => Endpoint::Predict { stream: true },
        _ => return None,
    };
    Some(Route {
        endpoint,
        model: model.named(endpoint),
    })
}

/// A model of Google's, and whose it is.
struct GoogleModel<'a> {
    /// Empty where no publisher is named.
    publisher: &'a str,
    /// The collection, where it is not `models`.
    kind: &'a str,
    id: &'a str,
}

fn google_model<'a>(before: &'a [String], id: &'a str) -> GoogleModel<'a> {
    let kind = before.last().map_or("", String::as_str);
    if !kind.eq_ignore_ascii_case("models") {
        return GoogleModel {
            publisher: "",
            kind,
            id,
        };
    }
    let publisher = match before {
        [.., publishers, publisher, _] if publishers.eq_ignore_ascii_case("publishers") => {
            publisher
        }
        _ => "",
    };
    GoogleModel {
        publisher,
        kind: "",
        id,
    }
}

impl GoogleModel<'_> {
    fn of(&self, publisher: &str) -> bool {
        self.publisher.eq_ignore_ascii_case(publisher)
    }

    /// As rules name it: a model of Google's own by its id alone, and so one of Anthropic's where it is spoken to
    /// in Anthropic's form; another with what stands before it, like `meta/llama-x` or `tunedModels/x`.
    fn named(&self, endpoint: Endpoint) -> Option<String> {
        let Self {
            publisher,
            kind,
            id,
        } = *self;
        let own = publisher.is_empty()
            || self.of("google")
            || self.of("anthropic") && matches!(endpoint, Endpoint::PredictMessages { .. });
        match (id, kind) {
            ("", _) => None,
            (id, "") if own => Some(id.to_owned()),
            (id, "") => Some(format!("{publisher}/{id}")),
            (id, kind) => Some(format!("{kind}/{id}")),
        }
    }
}

/// Ollama's own: `…/api/chat` and its like.
fn ollama(segments: &[String]) -> Option<Route> {
    let (last, before) = segments.split_last()?;
    if !before.last()?.eq_ignore_ascii_case("api") {
        return None;
    }
    let endpoint = match last.to_ascii_lowercase().as_str() {
        "chat" => Endpoint::OllamaChat,
        "generate" => Endpoint::OllamaGenerate,
        "embed" | "embeddings" => Endpoint::OllamaEmbed,
        _ => return None,
    };
    Some(Route {
        endpoint,
        model: None,
    })
}
