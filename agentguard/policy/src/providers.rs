//! Where providers of language models answer, and in which form.

use std::collections::HashMap;
use std::sync::LazyLock;

use agentguard_model::{HostName, LlmApi, Provider};

use crate::pattern::{HostPattern, Wildcard};
use crate::policy::Policy;

/// The providers that need no document: name, form and hosts.
const BUILT_IN: [(&str, LlmApi, &[&str]); 13] = [
    ("openai", LlmApi::Openai, &["api.openai.com", "chatgpt.com"]),
    (
        "azure_openai",
        LlmApi::Openai,
        &[
            "*.openai.azure.com",
            "*.services.ai.azure.com",
            "*.cognitiveservices.azure.com",
        ],
    ),
    (
        "anthropic",
        LlmApi::Anthropic,
        &["api.anthropic.com", "claude.googleapis.com"],
    ),
    ("mistral", LlmApi::Openai, &["api.mistral.ai"]),
    ("xai", LlmApi::Openai, &["api.x.ai"]),
    ("groq", LlmApi::Openai, &["api.groq.com"]),
    ("deepseek", LlmApi::Openai, &["api.deepseek.com"]),
    ("openrouter", LlmApi::Openai, &["openrouter.ai"]),
    ("together", LlmApi::Openai, &["api.together.xyz"]),
    (
        "gemini",
        LlmApi::Gemini,
        &["generativelanguage.googleapis.com"],
    ),
    ("vertex", LlmApi::Gemini, &["aiplatform.googleapis.com"]),
    ("bedrock", LlmApi::Bedrock, &[]),
    (
        "cohere",
        LlmApi::Cohere,
        &["api.cohere.com", "api.cohere.ai"],
    ),
];

/// Hosts of those, of which there is one for each region: in a label, `*` stands for any run of characters.
const REGIONAL: [(&str, &str); 10] = [
    ("openai", "*.api.openai.com"),
    ("xai", "*.api.x.ai"),
    ("anthropic", "aws-external-anthropic.*.api.aws"),
    ("vertex", "*-aiplatform.googleapis.com"),
    ("vertex", "aiplatform.*.rep.googleapis.com"),
    ("bedrock", "bedrock-runtime.*.amazonaws.com"),
    ("bedrock", "bedrock-runtime-fips.*.amazonaws.com"),
    ("bedrock", "bedrock-runtime.*.api.aws"),
    ("bedrock", "bedrock-runtime-fips.*.api.aws"),
    ("bedrock", "bedrock-mantle.*.api.aws"),
];

static BY_REGION: LazyLock<Vec<Regional>> = LazyLock::new(|| {
    let regional = REGIONAL.iter().filter_map(|(name, hosts)| {
        let (_, api, _) = BUILT_IN.iter().find(|(built_in, ..)| built_in == name)?;
        Some(Regional {
            labels: hosts.split('.').map(Wildcard::new).collect(),
            provider: Provider {
                name: (*name).to_owned(),
                api: *api,
            },
        })
    });
    regional.collect()
});

/// Hosts of a provider that has one for each region.
#[derive(Debug)]
struct Regional {
    labels: Vec<Wildcard>,
    provider: Provider,
}

impl Regional {
    fn has(&self, host: &HostName) -> bool {
        let labels = host.as_str().split('.');
        labels.clone().count() == self.labels.len() && self.ends_with(host)
    }

    /// Whether there is one at one of the names that a pattern matches.
    fn meets(&self, pattern: &HostPattern) -> bool {
        match pattern {
            HostPattern::Exact(name) => self.has(name),
            HostPattern::Below(name) => {
                name.as_str().split('.').count() < self.labels.len() && self.ends_with(name)
            }
        }
    }

    /// Whether labels of a name, from the last one, are labels of these hosts.
    fn ends_with(&self, name: &HostName) -> bool {
        let labels = name.as_str().rsplit('.').zip(self.labels.iter().rev());
        labels
            .into_iter()
            .all(|(label, own)| own.matches(label.as_bytes()))
    }
}

static TABLE: LazyLock<Hosts> = LazyLock::new(|| {
    let mut table = Hosts::default();
    for (name, api, hosts) in BUILT_IN {
        let provider = Provider {
            name: name.to_owned(),
            api,
        };
        for pattern in hosts.iter().filter_map(|host| host.parse().ok()) {
            table.add(pattern, &provider);
        }
    }
    table
});

/// Providers by host.
#[derive(Debug, Default)]
struct Hosts {
    /// By exact name.
    exact: HashMap<Box<str>, Provider>,
    /// By the name below which they answer.
    below: HashMap<Box<str>, Provider>,
    all: Vec<HostPattern>,
}

impl Hosts {
    /// Adds a host of a provider; the one that has it already, if there is one.
    fn add(&mut self, pattern: HostPattern, provider: &Provider) -> Option<Provider> {
        let (map, name) = match &pattern {
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Below(name) => (&mut self.below, name),
        };
        let before = map.insert(name.as_str().into(), provider.clone());
        self.all.push(pattern);
        before
    }

    /// Who answers at a host: by its name, then by the longest name that it is below.
    fn of(&self, host: &HostName) -> Option<&Provider> {
        if let Some(exact) = self.exact.get(host.as_str()) {
            return Some(exact);
        }
        if self.below.is_empty() {
            return None;
        }
        let mut rest = host.as_str();
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(below) = self.below.get(suffix) {
                return Some(below);
            }
            rest = suffix;
        }
        None
    }

    /// Whether there is a provider at one of the names that a pattern matches.
    fn meets(&self, pattern: &HostPattern) -> bool {
        match pattern {
            HostPattern::Exact(name) => self.of(name).is_some(),
            HostPattern::Below(_) => self.meet(pattern, |_| true),
        }
    }

    /// Whether one that is meant has hosts of which a pattern covers some, or that cover it.
    fn meet(&self, pattern: &HostPattern, is_meant: impl Fn(&Provider) -> bool) -> bool {
        let provider = |own: &HostPattern| match own {
            HostPattern::Exact(name) => self.exact.get(name.as_str()),
            HostPattern::Below(name) => self.below.get(name.as_str()),
        };
        let mut all = self.all.iter();
        all.any(|own| {
            (own.covers(pattern) || pattern.covers(own)) && provider(own).is_some_and(&is_meant)
        })
    }
}

/// The providers of a policy: those of its documents, which come first, and those that are built in.
#[derive(Debug, Default)]
pub(crate) struct Providers {
    hosts: Hosts,
    names: Vec<String>,
}

impl Providers {
    /// Adds a host of a provider of a document; the one that has it already, if there is one.
    pub(crate) fn add(&mut self, pattern: HostPattern, provider: &Provider) -> Option<Provider> {
        if !self.names.contains(&provider.name) {
            self.names.push(provider.name.clone());
        }
        self.hosts.add(pattern, provider)
    }

    fn of(&self, host: &HostName) -> Option<&Provider> {
        let built_in = || {
            let regional = || BY_REGION.iter().find(|it| it.has(host));
            TABLE.of(host).or_else(|| regional().map(|it| &it.provider))
        };
        self.hosts.of(host).or_else(built_in)
    }

    /// Whether there is a provider at one of the names that a pattern matches.
    pub(crate) fn meet(&self, pattern: &HostPattern) -> bool {
        self.hosts.meets(pattern)
            || TABLE.meets(pattern)
            || BY_REGION.iter().any(|it| it.meets(pattern))
    }

    /// Whether one of these names answers at one of the names that a pattern matches.
    pub(crate) fn meet_named(&self, pattern: &HostPattern, names: &[Wildcard]) -> bool {
        let is_meant = |it: &Provider| names.iter().any(|own| own.matches(it.name.as_bytes()));
        match pattern {
            HostPattern::Exact(name) => self.of(name).is_some_and(is_meant),
            HostPattern::Below(_) => {
                let mut regional = BY_REGION.iter();
                self.hosts.meet(pattern, is_meant)
                    || TABLE.meet(pattern, is_meant)
                    || regional.any(|it| is_meant(&it.provider) && it.meets(pattern))
            }
        }
    }

    /// All names of providers.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let built_in = BUILT_IN.iter().map(|(name, ..)| *name);
        self.names.iter().map(String::as_str).chain(built_in)
    }
}

impl Policy {
    /// The provider of language models that answers at a host, if one does: of a document's, then of those
    /// that are built in; by the name itself, then by the longest name that it is below.
    #[must_use]
    pub fn provider(&self, host: &HostName) -> Option<&Provider> {
        self.providers().of(host)
    }
}
