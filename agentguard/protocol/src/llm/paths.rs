//! Paths that name a model beside what is to be done with it.
//!
//! Whatever some server takes for one of these is one: an encoded slash is a slash, case is not looked at, and what
//! stands behind a `;` is cut off.

use agentguard_model::LlmApi;
use http::{HeaderMap, Method};

use crate::api::http::names_another_method;

use super::{Endpoint, InvokeForm, MAX_WORD, NotUnderstood, Retrieved};

/// Where a request goes, by its canonical path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The model that the path names, decoded. What an API has as a prefix before all models (`models/`) is no
    /// part of it.
    pub model: Option<String>,
    /// The model that it names in the place of that, as the content has to name it, too, where it names one.
    engine: Option<String>,
    /// Which answers are fetched there by a request without content, where nothing is called by it.
    kept: Option<Retrieved>,
    /// Whether its server takes another method than the request has, where that names one (`X-HTTP-Method-Override`):
    /// Google's.
    overrides: bool,
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
            LlmApi::Bedrock => bedrock(&segments),
            LlmApi::Cohere => cohere(&segments),
        };
        let overrides = api == LlmApi::Gemini;
        if let Some(own) = own {
            return Some(Self { overrides, ..own });
        }
        // All speak these two forms, below other paths than their own.
        let spoken = [LlmApi::Anthropic, LlmApi::Openai];
        let endpoint = spoken.iter().find_map(|api| Endpoint::of(*api, path));
        let endpoint = endpoint.or_else(|| passed_on(api, &segments))?;
        let (model, engine) = match deployment(&segments) {
            // Another server may have its form there, and take the model that the content names.
            Some((named, true)) => (None, Some(named)),
            Some((named, false)) => (Some(named), None),
            None => (None, engine(&segments)),
        };
        // Who makes a response may give it its id with some servers: one like a word of paths.
        let below = segments
            .len()
            .checked_sub(2)
            .and_then(|at| segments.get(at));
        let response = below.is_some_and(|it| it.eq_ignore_ascii_case("responses"));
        Some(Self {
            endpoint,
            model,
            engine,
            kept: match endpoint.keeps() {
                None if response => Some(Retrieved::Response),
                kept => kept,
            },
            overrides,
        })
    }

    /// One in a provider's own form.
    fn own(endpoint: Endpoint, model: Option<String>) -> Self {
        Self {
            endpoint,
            model,
            engine: None,
            kept: endpoint.keeps(),
            overrides: false,
        }
    }

    /// Whether a query names another model than the one that is called: some servers go by it (LiteLLM).
    #[must_use]
    pub fn names_another(query: &str, called: Option<&str>) -> bool {
        let mut named = query.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text: &str| {
                let spaced = text.replace('+', " ");
                let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy();
                decoded.into_owned()
            };
            let is_model = decoded(name).eq_ignore_ascii_case("model");
            is_model.then(|| decoded(value))
        });
        named.any(|name| !name.is_empty() && Some(name.as_str()) != called)
    }

    /// Whether the method of a request with these fields and this query may be another for the server: then nobody knows
    /// what is asked for.
    #[must_use]
    pub fn is_overridden(&self, fields: &HeaderMap, query: Option<&str>) -> bool {
        self.overrides && names_another_method(fields, query)
    }

    /// What a request of a method to it is, if it is a call: what has no content is none, unless it opens a WebSocket or
    /// fetches what is kept of calls before. `overridden`: see [`Self::is_overridden`]; whatever its method is, it is one then.
    #[must_use]
    pub fn called(self, method: &Method, websocket: bool, overridden: bool) -> Option<Self> {
        let quiet = matches!(*method, Method::HEAD | Method::OPTIONS | Method::GET);
        let by_path_alone = self.endpoint.by_path_alone() && *method != Method::OPTIONS;
        if self.overrides && overridden && *method != Method::OPTIONS {
            return Some(self);
        }
        match (self.endpoint, self.kept) {
            // There nothing is called, and no answer told.
            (Endpoint::Retrieved(_), _)
                if matches!(*method, Method::HEAD | Method::OPTIONS | Method::DELETE) =>
            {
                None
            }
            // What is sent to them is kept as well.
            (Endpoint::Retrieved(Retrieved::Kept), _) if !quiet && !websocket => None,
            // What is sent there may be told as well, or be a call of another server's.
            (Endpoint::Retrieved(_), _) => Some(self),
            (_, Some(kept)) if *method == Method::GET && !websocket => Some(Self {
                endpoint: Endpoint::Retrieved(kept),
                ..self
            }),
            _ => (websocket || !quiet || by_path_alone).then_some(self),
        }
    }

    /// The model that is called, where the content names `named`.
    ///
    /// # Errors
    /// Path and content name two: which of them a server takes is not known. Or the name is longer than
    /// [`MAX_WORD`].
    pub fn model(&self, named: Option<String>) -> Result<Option<String>, NotUnderstood> {
        let of_path = self.model.as_ref().or(self.engine.as_ref());
        let Some(model) = of_path else {
            return Ok(named);
        };
        if model.len() > MAX_WORD {
            return Err(NotUnderstood::Long("model"));
        }
        let has_to_agree = self.engine.is_some();
        let agrees = |named: &str| named == model || !has_to_agree && bare(named) == model;
        match named {
            // A deployment is what is called, whatever the content says.
            Some(_) if self.endpoint.is_openai() && !has_to_agree => Ok(Some(model.clone())),
            Some(named) if !agrees(&named) => Err(NotUnderstood::OfPath),
            _ => Ok(Some(model.clone())),
        }
    }
}

/// Where a server of `OpenAI`'s form has the others' own forms, too, and passes calls on (LiteLLM).
fn passed_on(api: LlmApi, segments: &[String]) -> Option<Endpoint> {
    if !matches!(api, LlmApi::Openai | LlmApi::Anthropic) {
        return None;
    }
    // Other things are named like what Google keeps.
    let google_s = google(segments).filter(|it| !matches!(it.endpoint, Endpoint::Retrieved(_)));
    let own = google_s
        .or_else(|| ollama(segments))
        .or_else(|| bedrock(segments))
        .or_else(|| cohere(segments));
    own.map(|_| Endpoint::OtherForm)
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
        let segment = segment.split(';').next().unwrap_or_default();
        segment.trim().to_owned()
    });
    segments.filter(|segment| !segment.is_empty()).collect()
}

/// What a path names beside its endpoint: a deployment of Azure's (its name may have slashes where `LiteLLM` answers), and
/// what is deployed at an endpoint of Vertex AI, where `openapi` stands for all models. True: it may as well be the form
/// of another server's, which stands where a name does.
fn deployment(segments: &[String]) -> Option<(String, bool)> {
    let is = |segment: &str, name: &str| segment.eq_ignore_ascii_case(name);
    let rest = before_endpoint(segments)?;
    for (at, segment) in rest.iter().enumerate() {
        let name = rest.get(at + 1..).unwrap_or_default();
        let found = if is(segment, "deployments") {
            // What else stands before the endpoint is the form.
            let form = |it: &&String| is(it, "extensions") || is(it, "openai") || is_version(it);
            let behind = name.iter().skip(1).rev().take_while(form).count();
            let name = name.get(..name.len() - behind).unwrap_or_default();
            let first = name.first();
            // `LiteLLM` has whose a model is before its name.
            let is_owner = |it: &str| is(it, "openai") || is(it, "anthropic");
            let is_form = |it: &String| may_be_form(it) && !is_owner(it);
            let form = name.iter().any(is_form) || name.iter().all(|it| may_be_form(it));
            first.map(|_| (name.join("/"), form))
        } else if is(segment, "endpoints") {
            let name = name.first().filter(|name| *name != "openapi");
            name.map(|name| (format!("endpoints/{name}"), may_be_form(name)))
        } else {
            None
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The model of an engine, as `OpenAI` had them before. Others have their own behind `engines`, of which the content names
/// the model: the two have to agree.
fn engine(segments: &[String]) -> Option<String> {
    let rest = before_endpoint(segments)?;
    let at = rest
        .iter()
        .position(|it| it.eq_ignore_ascii_case("engines"))?;
    let name = rest.get(at + 1..)?;
    (!name.is_empty() && !name.iter().any(|it| is_version(it))).then(|| name.join("/"))
}

/// What stands before the endpoint.
fn before_endpoint(segments: &[String]) -> Option<&[String]> {
    let long = [
        "chat",
        "agents",
        "responses",
        "messages",
        "realtime",
        "live",
    ];
    let is_kind = |it: &str| ["deployments", "engines"].contains(&it.to_ascii_lowercase().as_str());
    // What stands behind one of these words is a name, `chat` too; and so is the second of two.
    let is_name = match segments {
        [.., before, kind, _, _] => is_kind(kind) && !is_kind(before),
        [kind, _, _] => is_kind(kind),
        _ => false,
    };
    let length = match segments {
        _ if is_name => 1,
        [.., before, _] if long.iter().any(|name| before.eq_ignore_ascii_case(name)) => 2,
        _ => 1,
    };
    segments.get(..segments.len().checked_sub(length)?)
}

/// `v1` and its like.
fn is_version(segment: &str) -> bool {
    let digits = segment.strip_prefix(['v', 'V']).unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The same, `v1beta2` and `v2.1` among them.
fn may_be_version(segment: &str) -> bool {
    let segment = segment.to_ascii_lowercase();
    let number = segment.strip_prefix('v').unwrap_or_default();
    let rest = number.replacen("alpha", "", 1).replacen("beta", "", 1);
    let is_number = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    number.starts_with(|it: char| it.is_ascii_digit()) && rest.bytes().all(is_number)
}

/// Whether a segment may be a part of an API's paths, rather than the name of what is called.
fn may_be_form(segment: &str) -> bool {
    let words = [
        "agents",
        "anthropic",
        "api",
        "batches",
        "chat",
        "completions",
        "deployments",
        "embeddings",
        "endpoints",
        "engines",
        "extensions",
        "inference",
        "live",
        "messages",
        "models",
        "openai",
        "realtime",
        "responses",
    ];
    may_be_version(segment) || words.iter().any(|word| segment.eq_ignore_ascii_case(word))
}

/// The Gemini API and Vertex AI: `…/models/MODEL:generateContent`, and the names of their methods in gRPC.
fn google(segments: &[String]) -> Option<Route> {
    let (last, before) = segments.split_last()?;
    // Whole requests, in the parts of one.
    if segments
        .first()
        .is_some_and(|it| it.eq_ignore_ascii_case("batch"))
    {
        return Some(Route::own(Endpoint::Interactions, None));
    }
    let is_service = before
        .last()
        .is_some_and(|it| it.to_ascii_lowercase().starts_with("google."));
    let (id, method) = match last.rsplit_once(':') {
        Some(named) => named,
        None if is_service => ("", last.as_str()),
        None => return google_kept(before, last),
    };
    let model = google_model(before, id);
    let of_anthropic = model.of("anthropic");
    let endpoint = match method.to_ascii_lowercase().as_str() {
        "generatecontent" => Endpoint::GenerateContent { stream: false },
        "streamgeneratecontent" => Endpoint::GenerateContent { stream: true },
        "counttokens" => Endpoint::ContentTokens,
        "embedcontent" | "batchembedcontents" => Endpoint::EmbedContent,
        // Many calls, or a file of them.
        "batchgeneratecontent" | "asyncbatchembedcontent" => Endpoint::Interactions,
        // Answers in other forms.
        "generateanswer" | "serverstreamingpredict" => Endpoint::Interactions,
        "predict" if id.to_ascii_lowercase().contains("embedding") => Endpoint::EmbedContent,
        // Its clients name the model in the content there.
        "rawpredict" if of_anthropic && id.eq_ignore_ascii_case("count-tokens") => {
            return Some(Route::own(Endpoint::MessagesTokens, None));
        }
        "rawpredict" if of_anthropic => Endpoint::PredictMessages { stream: false },
        "streamrawpredict" if of_anthropic => Endpoint::PredictMessages { stream: true },
        "rawpredict" | "directrawpredict" => Endpoint::Predict { stream: false },
        "streamrawpredict" | "streamdirectrawpredict" => Endpoint::Predict { stream: true },
        _ => return None,
    };
    Some(Route::own(endpoint, model.named(endpoint)))
}

/// Interactions, and answers that are kept: `…/interactions/ID`, `…/batches/ID`.
fn google_kept(before: &[String], last: &str) -> Option<Route> {
    let is = |segment: Option<&String>, name: &str| {
        segment.is_some_and(|segment| segment.eq_ignore_ascii_case(name))
    };
    let collection = before.last();
    let above = before.len().checked_sub(2).and_then(|at| before.get(at));
    // Those of `OpenAI`'s form have their answers in files.
    let batches = is(collection, "batches") && !is(above, "openai");
    let endpoint = match () {
        () if last.eq_ignore_ascii_case("interactions") => Endpoint::Interactions,
        () if is(collection, "interactions") || is(above, "interactions") || batches => {
            Endpoint::Retrieved(Retrieved::Interaction)
        }
        () if last.eq_ignore_ascii_case("batches") && !is(collection, "openai") => {
            Endpoint::Retrieved(Retrieved::Interaction)
        }
        () => return None,
    };
    Some(Route::own(endpoint, None))
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
    Some(Route::own(endpoint, None))
}

/// Bedrock's: `…/model/MODEL/converse` and its like. The name of a model may have slashes.
fn bedrock(segments: &[String]) -> Option<Route> {
    let begin = segments
        .iter()
        .position(|segment| segment.eq_ignore_ascii_case("model"))?;
    let (last, name) = segments.get(begin + 1..)?.split_last()?;
    let model = name.join("/");
    if model.is_empty() {
        return None;
    }
    let invoke = |stream| Endpoint::Invoke {
        stream,
        form: invoke_form(&model),
    };
    let endpoint = match last.to_ascii_lowercase().as_str() {
        "converse" => Endpoint::Converse { stream: false },
        "converse-stream" => Endpoint::Converse { stream: true },
        "count-tokens" => Endpoint::BedrockTokens,
        "invoke" => invoke(false),
        "invoke-with-response-stream" => invoke(true),
        // Speech in both directions at once.
        "invoke-with-bidirectional-stream" => Endpoint::Invoke {
            stream: true,
            form: InvokeForm::Other,
        },
        _ => return None,
    };
    Some(Route::own(endpoint, Some(model)))
}

/// Where models of Bedrock may be called from, before the vendor's name (inference profiles).
const REGIONS: [&str; 10] = [
    "us", "us-gov", "eu", "apac", "ap", "jp", "au", "ca", "sa", "global",
];

/// The form of a model, by its name: `VENDOR.NAME`, or that of an inference profile or of a resource that ends
/// with it. What a resource with another name is, its account knows.
fn invoke_form(model: &str) -> InvokeForm {
    let name = match model.split_once('/') {
        None if model.starts_with("arn:") => return InvokeForm::Other,
        None => model,
        Some((resource, name))
            if resource.starts_with("arn:aws")
                && (resource.ends_with(":foundation-model")
                    || resource.ends_with(":inference-profile")) =>
        {
            name
        }
        Some(_) => return InvokeForm::Other,
    };
    let name = match name.split_once('.') {
        Some((region, rest)) if REGIONS.contains(&region) => rest,
        _ => name,
    };
    match name.split_once('.') {
        Some(("anthropic", _)) => InvokeForm::Messages,
        Some(("openai", _)) => InvokeForm::Chat,
        Some(("amazon" | "cohere" | "twelvelabs", name)) if name.contains("embed") => {
            InvokeForm::Embeddings
        }
        _ => InvokeForm::Other,
    }
}

/// Cohere's: `…/v2/chat` and its like.
fn cohere(segments: &[String]) -> Option<Route> {
    let (last, before) = segments.split_last()?;
    if !["v1", "v2"].contains(&before.last()?.to_ascii_lowercase().as_str()) {
        return None;
    }
    let endpoint = match last.to_ascii_lowercase().as_str() {
        "chat" => Endpoint::CohereChat,
        "generate" => Endpoint::CohereGenerate,
        "embed" => Endpoint::CohereEmbed,
        _ => return None,
    };
    Some(Route::own(endpoint, None))
}
