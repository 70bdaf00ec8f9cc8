//! The providers' SDKs of Python and Node, as they are called to use up budgets.

use std::ffi::OsString;
use std::path::Path;

use agentguard_tests::{Origin, World, address, client};
use anyhow::Result;
use serde_json::json;

use crate::providers::{BEDROCK, COHERE, GEMINI, OLLAMA, OPENAI};
use crate::room::Room;

pub(crate) const ANTHROPIC: &str = "api.anthropic.com";

pub(crate) const HOSTS: [&str; 6] = [OPENAI, ANTHROPIC, GEMINI, OLLAMA, BEDROCK, COHERE];

/// Claude Haiku 4.5, as Bedrock calls it.
pub(crate) const HAIKU: &str = "anthropic.claude-haiku-4-5-20251001-v1:0";

/// An SDK, with what it calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sdk {
    /// Of `node`, else of Python.
    node: bool,
    /// As the scripts call it.
    api: &'static str,
    pub(crate) host: &'static str,
    model: &'static str,
}

impl Sdk {
    pub(crate) const fn python(api: &'static str, host: &'static str, model: &'static str) -> Self {
        let node = false;
        Self {
            node,
            api,
            host,
            model,
        }
    }

    pub(crate) const fn node(api: &'static str, host: &'static str, model: &'static str) -> Self {
        let node = true;
        Self {
            node,
            api,
            host,
            model,
        }
    }

    /// The words that make a script make calls: `how` is how many words are said, the limit, the form, and how many calls;
    /// none where the SDK is missing and may be.
    pub(crate) fn words(self, how: &str) -> Result<Option<Vec<OsString>>> {
        let script = |name: &str| {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("clients")
                .join(name)
                .into_os_string()
        };
        let mut words = if self.node {
            let Some((node, packages)) = client::node_packages()? else {
                return Ok(None);
            };
            vec![node.into(), script("budget_sdk.mjs"), packages.into()]
        } else {
            let Some(python) = client::python()? else {
                return Ok(None);
            };
            vec![python.into(), script("budget_sdk.py")]
        };
        words.extend([self.api, self.model].map(OsString::from));
        words.extend(how.split(' ').map(OsString::from));
        Ok(Some(words))
    }
}

/// A world with all providers.
pub(crate) fn world(name: &str) -> Result<World> {
    let origin = Origin::at(&address::origin(0x10));
    let origin = HOSTS.iter().fold(origin, |origin, host| origin.site(host));
    World::new(name).origin(origin).start()
}

/// A guard that lets them be called as far as `more` lets them, which are further parts of its policy.
pub(crate) fn open<'w>(world: &'w World, more: &str) -> Result<Room<'w>> {
    let hosts = HOSTS.join(", ");
    let policy = format!(
        "
version: 1
providers:
  - {{ name: cellar, api: ollama, hosts: [{OLLAMA}] }}
agents:
  - name: coder
rules:
  - id: models
    match: {{ host: [{hosts}], port: [443] }}
    action: allow
    handling: inspect
{more}
"
    );
    // Models of one's own have no price elsewhere.
    let prices = "
version: 1
models:
  - {models: ['qwen3:8b', 'qwen3:4b'], providers: [cellar], input: 0.1, output: 0.2, context: 32768, hidden: never}
";
    let file = world.directory().join("prices.yaml");
    std::fs::write(&file, prices)?;
    let upstreams = json!([{ "host": HOSTS, "ca": world.ca_file() }]);
    let guard = world.guard().policy(&policy).setting("prices", json!(file));
    Ok(Room::of(
        world,
        guard.setting("upstreams", upstreams).start()?,
    ))
}
