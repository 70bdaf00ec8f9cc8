//! Providers of language models: who answers where.

use std::collections::HashMap;

use agentguard_model::Provider;

use super::values::{host, is_name, list};
use super::{Parsed, Report};
use crate::diagnostic::quoted;
use crate::providers::Providers;

/// The most providers of a policy. More are refused.
const MAX_PROVIDERS: usize = 64;

/// The most hosts that they have together. More are refused.
const MAX_HOSTS: usize = 256;

/// The providers of all documents, beside those that are built in.
pub(super) fn providers(sources: &[Parsed], report: &mut Report) -> Providers {
    let mut providers = Providers::default();
    let mut names: HashMap<&str, (&str, u32)> = HashMap::new();
    let mut hosts = 0;
    for source in sources {
        report.path.clone_from(&source.path);
        let document = source.document.as_ref();
        for raw in document.map_or(&[][..], |it| &it.providers) {
            if names.len() == MAX_PROVIDERS {
                let message = format!("more than {MAX_PROVIDERS} providers");
                let hint = "hosts at which the same API is spoken can be one provider";
                report.error(raw.place, message, hint);
                return providers;
            }
            let whole = source.is_whole(raw);
            let raw = &raw.value;
            let name = raw.name.value.as_str();
            if !is_name(name) {
                let message = format!(
                    "`{}` is not a provider's name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit",
                    quoted(name)
                );
                report.error(raw.name.place, message, "like `openai` or `our-models`");
            }
            let place = raw.name.place;
            if let Some((path, line)) = names.insert(name, (&source.path, place.line)) {
                let message = format!("a second provider `{}`", quoted(name));
                let hint = format!("it stands in {path}, line {line}, already");
                report.error(place, message, &hint);
            }
            // What is wrong with one that is not whole was told.
            if !whole {
                continue;
            }
            hosts += raw.hosts.value.len();
            if hosts > MAX_HOSTS {
                let message = format!("providers have more than {MAX_HOSTS} hosts");
                let hint = "a pattern such as `*.example.org` stands for many names";
                report.error(raw.hosts.place, message, hint);
                return providers;
            }
            let provider = Provider {
                name: name.to_owned(),
                api: raw.api,
            };
            if raw.hosts.value.is_empty() {
                let hint = "where it answers, like `hosts: [models.example.org]`";
                report.error(raw.hosts.place, "`hosts` is empty", hint);
                continue;
            }
            let patterns = list("hosts", Some(&raw.hosts), report, host);
            // With one that is wrong the places are no more those of the patterns.
            if patterns.len() != raw.hosts.value.len() {
                continue;
            }
            for (entry, pattern) in raw.hosts.value.iter().zip(patterns) {
                let Some(other) = providers.add(pattern, &provider) else {
                    continue;
                };
                let message = format!("`{}` has a provider already", quoted(&entry.value));
                let hint = format!("it is one of `{}`", other.name);
                report.error(entry.place, message, &hint);
            }
        }
    }
    providers
}
